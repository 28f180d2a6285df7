"""Time and memory against the length of a video: `python -m benchmarks.long_video`.

A camera walks to and fro through one rendered room for as long as is asked; each length is reconstructed in a process
of its own and compared with the truth. Seconds per frame and peak memory should not grow with the number of frames.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.clips import Clip
from benchmarks.run import machine
from benchmarks.solvers import ours
from unproject.data.synthetic import handheld, render, sample_world
from unproject.evaluation import metrics
from unproject.geometry.camera import intrinsics_from_focal

FPS, HEIGHT, WIDTH, FOCAL_PX = 30.0, 240, 320, 280.0
CROSSING_S = 4.0
"""Seconds in which the camera crosses its part of the room; then it turns back."""


def walk(folder: Path, frames: int, seed: int) -> Clip:
    """The first ``frames`` frames as PNG files in ``folder``, and their poses in metres."""
    world = sample_world(seed, moving=False)
    path = handheld(world.stage, seed, duration_s=CROSSING_S)
    poses, files = [], []
    for times in (torch.arange(frames) / FPS).split(50):
        intrinsics = intrinsics_from_focal(torch.full((1, len(times)), FOCAL_PX), WIDTH, HEIGHT)
        shown = render(world, path, times[None], intrinsics, HEIGHT, WIDTH)
        for image in (shown.images[0] * 255).round().byte().permute(0, 2, 3, 1).numpy():
            files.append(folder / f"{len(files):06d}.png")
            cv2.imwrite(str(files[-1]), np.ascontiguousarray(image[..., ::-1]))
        poses.append(shown.world_from_cam[0].double())
    return Clip(name=f"walk_{frames}", files=tuple(files), ordered=True, unit="m", world_from_cam=torch.cat(poses))


def main() -> None:
    """Print one row per length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print("| frames | found | ATE [m] | path [m] | read, solve, depth [s] | s/frame | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for frames in options.frames:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            clip = walk(Path(folder), frames, options.seed)
            solved = ours(clip, Path(folder))
        ate = metrics.ate(solved.world_from_cam, clip.world_from_cam)
        length = clip.world_from_cam[:, :3, 3].diff(dim=0).norm(dim=1).sum()
        stages = ", ".join(f"{seconds:.0f}" for seconds in solved.stages_s.values())
        print(
            f"| {frames} | {solved.found} | {ate:.4f} | {length:.1f} | {stages} "
            f"| {solved.seconds / frames:.3f} | {solved.peak_mib:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
