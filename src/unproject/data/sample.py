"""The bundled sample: three seconds in a living room, filmed by hand, while a ball rolls and a toy digger works.

`python -m unproject.data.sample` writes `assets/sample.mp4` and its truth `assets/sample_truth.npz` anew (some
minutes; the video depends on the build of the H.264 encoder in its last bits).
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from unproject.data.capture import Sensor, expose
from unproject.data.living_room import living_room
from unproject.data.paths import CameraPath
from unproject.data.scene import World
from unproject.data.synthetic import render
from unproject.geometry.camera import intrinsics_from_focal

WIDTH, HEIGHT, FRAMES, FPS = 640, 360, 90, 30
FOCAL_PX = 500.0
DEPTH_EVERY = 15
"""Every how many frames the truth holds a depth map."""


def sample_path() -> CameraPath:
    """A step and a half to the right and forward, with a hand's trembling."""

    def rows(*values: Sequence[float]) -> Tensor:
        return torch.tensor([values])

    tau = math.tau
    return CameraPath(
        centre=torch.tensor([[0.0, 0.2, 1.42]]),
        focus=torch.tensor([[-0.05, 3.3, 0.62]]),
        sway=rows(
            (0.62, 0.22, 0.06),
            (0.03, 0.02, 0.035),
            (0.012, 0.008, 0.010),
            (0.002, 0.002, 0.0025),
            (0.001, 0.001, 0.0012),
        ),
        sway_phase=rows((-1.35, -1.35, -0.4), (0.3, 1.2, 2.0), (2.0, 0.7, 4.0), (0.1, 3.0, 5.0), (2.2, 0.4, 1.0)),
        wander=rows((0.25, 0.0, 0.06), (0.06, 0.0, 0.05), (0.03, 0.0, 0.025), (0.007, 0.0, 0.008), (0.003, 0.0, 0.004)),
        wander_phase=rows((-0.9, 0.0, 1.0), (1.9, 0.0, 0.2), (4.0, 0.0, 2.9), (0.6, 0.0, 3.3), (5.0, 0.0, 1.4)),
        roll=torch.tensor([[0.012, 0.010, 0.006, 0.0015, 0.001]]),
        rate=torch.tensor([[0.9, 0.75 * tau, 1.4 * tau, 3.1 * tau, 5.3 * tau]]),
    )


def sample_times() -> tuple[Tensor, Tensor]:
    """Times [1, FRAMES] and intrinsics [1, FRAMES, 3, 3] of the clip."""
    times = torch.arange(FRAMES, dtype=torch.float32)[None] / FPS
    return times, intrinsics_from_focal(torch.full_like(times, FOCAL_PX), WIDTH, HEIGHT)


def write_sample(folder: Path) -> None:
    """Film the room into `sample.mp4` and write `sample_truth.npz` beside it."""
    world, path = living_room(), sample_path()
    times, intrinsics = sample_times()
    sensor = Sensor(exposure_s=0.014, samples=8, jpeg_quality=None)
    with av.open(str(folder / "sample.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "slower"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for number in range(FRAMES):
            one = slice(number, number + 1)
            photo = expose(world, path, times[:, one], intrinsics[:, one], HEIGHT, WIDTH, sensor, seed=number)
            pixels = (photo[0, 0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    _write_truth(world, path, folder / "sample_truth.npz")


def _write_truth(world: World, path: CameraPath, file: Path) -> None:
    times, intrinsics = sample_times()
    some = torch.arange(0, FRAMES, DEPTH_EVERY)
    truth = render(world, path, times[:, some], intrinsics[:, some], HEIGHT, WIDTH)
    np.savez_compressed(
        file,
        times=times[0].numpy(),
        intrinsics=intrinsics[0].numpy(),
        world_from_cam=path.world_from_cam(times)[0].numpy(),
        depth_frames=some.numpy(),
        depth=truth.depth[0].numpy().astype(np.float16),
        motion=truth.motion[0].numpy(),
    )


if __name__ == "__main__":
    write_sample(Path(str(files("unproject") / "assets")))
