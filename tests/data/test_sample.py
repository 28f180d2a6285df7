from dataclasses import dataclass
from importlib.resources import files

import av
import numpy as np
import pytest
import torch

from unproject.data.sample import DEPTH_EVERY, FPS, FRAMES, HEIGHT, WIDTH, sample_path, sample_times
from unproject.geometry.camera import pixel_grid
from unproject.geometry.flow import covisible, induced_flow, sample
from unproject.geometry.rigid import inverse, rotation_angle, so3_exp

ASSETS = files("unproject") / "assets"


@dataclass(frozen=True)
class Sample:
    frames: torch.Tensor
    seconds: list[float]
    truth: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def clip():
    with av.open(str(ASSETS / "sample.mp4")) as container:
        frames = list(container.decode(video=0))
    with np.load(str(ASSETS / "sample_truth.npz")) as arrays:
        truth = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    pixels = torch.from_numpy(np.stack([frame.to_ndarray(format="rgb24") for frame in frames]))
    return Sample(pixels / 255, [float(frame.pts * frame.time_base) for frame in frames], truth)


def warp_error(clip, first, second, pose_error=0.0):
    """Median colour difference of static pixels, second frame warped to the first by the truth."""
    a, b = first * DEPTH_EVERY, second * DEPTH_EVERY
    turn = torch.eye(4)
    turn[:3, :3] = so3_exp(torch.tensor([0.0, pose_error, 0.0]))
    target_from_source = inverse(clip.truth["world_from_cam"][b] @ turn) @ clip.truth["world_from_cam"][a]
    depth, other = clip.truth["depth"][[first, second]].float()
    camera = clip.truth["intrinsics"][a]
    flow, known = induced_flow(depth, camera, camera, target_from_source)
    known = known & ~clip.truth["motion"][first] & covisible(depth, other, camera, camera, target_from_source, 0.01)
    warped, inside = sample(clip.frames[b], pixel_grid(HEIGHT, WIDTH) + flow)
    return (warped - clip.frames[a]).abs().mean(-1)[known & inside].median()


def test_the_clip_is_three_seconds_of_video_and_its_truth_has_the_same_frames(clip):
    assert clip.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert np.allclose(clip.seconds, np.arange(FRAMES) / FPS, atol=1e-4)
    assert np.allclose(clip.truth["times"], clip.seconds, atol=1e-4)
    assert clip.truth["world_from_cam"].shape == (FRAMES, 4, 4)
    assert clip.truth["intrinsics"].shape == (FRAMES, 3, 3)
    assert all(torch.isfinite(value.float()).all() for value in clip.truth.values())
    sizes = [len((ASSETS / name).read_bytes()) for name in ("sample.mp4", "sample_truth.npz")]
    assert sizes[0] < 1_500_000 and sizes[1] < 1_000_000


def test_the_truth_explains_the_video_and_a_wrong_pose_does_not(clip):
    assert warp_error(clip, 0, 2) < 0.03
    assert warp_error(clip, 0, 2, pose_error=0.01) > 1.5 * warp_error(clip, 0, 2)


def test_the_hand_moves_on_a_smooth_path_and_things_move_before_it(clip):
    poses = clip.truth["world_from_cam"]
    assert torch.allclose(poses, sample_path().world_from_cam(sample_times()[0])[0], atol=1e-5)
    assert (poses[-1, :3, 3] - poses[0, :3, 3]).norm() > 0.8
    assert poses[:, :3, 3].diff(dim=0).norm(dim=-1).max() < 0.05
    assert rotation_angle(poses[:-1, :3, :3].mT @ poses[1:, :3, :3]).max() < 0.02
    assert clip.truth["motion"].float().mean((1, 2)).min() > 0.01
