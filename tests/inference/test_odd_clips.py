"""Clips that go wrong in the field, from file to folder: what can honestly be given is given, and the rest is said."""

from collections.abc import Callable

import numpy as np
import odd_clips
import pytest
import torch
from odd_clips import Shot
from track_world import similarity_error

from unproject import Reconstruction, cli
from unproject.errors import PARTIAL
from unproject.geometry import rigid

Reconstruct = Callable[[np.ndarray], tuple[int, Reconstruction]]


@pytest.fixture
def reconstruct(tmp_path, write_video) -> Reconstruct:
    """The verb on a video of these frames: its exit code, and its result as read back."""

    def run(images: np.ndarray) -> tuple[int, Reconstruction]:
        clip = write_video(tmp_path / "clip.mp4", list(images), options={"crf": "8", "preset": "veryfast"})
        code = cli.main(["reconstruct", str(clip), "-o", str(tmp_path / "out")])
        found = Reconstruction.load(tmp_path / "out")
        assert len(found.maps) == len(found.frames) == len(images)
        assert torch.isfinite(found.depth).all()
        assert (code == PARTIAL) == (found.provenance["state"] == "partial")
        return code, found

    return run


def said(found: Reconstruction, words: str) -> bool:
    return any(words in note for note in found.provenance["notes"])


def valid_share(found: Reconstruction) -> float:
    return float(found.valid.float().mean())


def turned_deg(found: Reconstruction, shot: Shot, frames: slice = slice(None)) -> float:
    """The largest error of rotation, relative to the first of ``frames``."""
    pose, true = found.world_from_cam[frames], torch.as_tensor(shot.world_from_cam[frames])
    relative, expected = (rigid.inverse(one[0]) @ one for one in (pose.double(), true))
    cosine = ((relative[:, :3, :3] * expected[:, :3, :3]).sum((1, 2)) - 1) / 2
    return float(cosine.clamp(-1, 1).arccos().rad2deg().max())


def misplaced(found: Reconstruction, shot: Shot, frames: slice = slice(None)) -> float:
    """Error of the camera's places, as a share of their spread."""
    return similarity_error(found.world_from_cam[frames, :3, 3].double().numpy(), shot.world_from_cam[frames, :3, 3])


def focal_off(found: Reconstruction, shot: Shot) -> float:
    return float(np.abs(found.intrinsics[:, 0, 0].numpy() / shot.focal_px - 1).max())


def test_a_camera_that_only_turns(reconstruct) -> None:
    shot = odd_clips.only_turning(16).every(2)
    code, found = reconstruct(shot.images)
    assert code == PARTIAL and said(found, "only turns")
    assert found.cameras.found.all() and not found.world_from_cam[:, :3, 3].any()
    assert turned_deg(found, shot) < 0.3 and focal_off(found, shot) < 0.05
    assert not valid_share(found) and found.sparse is None


def test_a_camera_at_rest_sees_who_moves(reconstruct) -> None:
    shot = odd_clips.at_rest(10, moving=True)
    code, found = reconstruct(shot.images)
    assert code == PARTIAL and said(found, "stands still")
    assert found.cameras.found.all() and turned_deg(found, shot) < 0.2
    assert not valid_share(found)
    assert 0.01 < (found.motion > 0.5).float().mean() < 0.3


@pytest.mark.parametrize(
    ("film", "step", "limit_deg"),
    [(odd_clips.one_wall, 3, 4.0), (odd_clips.forward, 1, 1.0)],  # a plane hardly tells turns from steps
    ids=["one plane", "straight ahead"],
)
def test_what_hardly_tells_the_focal_length(film, step, limit_deg, reconstruct) -> None:
    """The angle loss would let it run off to nothing there, and the cameras with it."""
    shot = film(8 * step).every(step)
    code, found = reconstruct(shot.images)
    assert code == 0 and found.cameras.found.all()
    assert focal_off(found, shot) < 0.3  # .1 or .23 straight ahead, by processor
    assert turned_deg(found, shot) < limit_deg and misplaced(found, shot) < 0.08
    assert valid_share(found) > 0.4


def test_two_frames(reconstruct) -> None:
    shot = odd_clips.moving_camera(2)
    code, found = reconstruct(shot.images)
    assert code == 0 and found.cameras.found.all()
    assert turned_deg(found, shot) < 1
    assert valid_share(found) > 0.3


def test_one_frame(reconstruct) -> None:
    code, found = reconstruct(odd_clips.moving_camera(1).images)
    assert code == PARTIAL and said(found, "a single frame") and said(found, "no camera could be found")
    assert not found.cameras.found.any() and not valid_share(found)


@pytest.mark.parametrize("images", [odd_clips.black(5), odd_clips.snow(5)], ids=["black", "noise"])
def test_nothing_to_follow(images, reconstruct) -> None:
    code, found = reconstruct(images)
    assert code == PARTIAL and said(found, "no two frames share enough points")
    assert not found.cameras.found.any() and torch.isnan(found.world_from_cam).all()
    assert not valid_share(found) and not found.tracks.visible.any()


def test_an_image_too_small_for_anything(reconstruct) -> None:
    code, found = reconstruct(odd_clips.snow(4)[:, :8, :10])
    assert code == PARTIAL and not found.cameras.found.any()


def test_two_scenes_are_two_worlds(reconstruct) -> None:
    shot = odd_clips.two_scenes(6)
    code, found = reconstruct(shot.images)
    assert code == PARTIAL and said(found, "2 parts") and said(found, "no common scale")
    component = found.cameras.component.tolist()
    assert component in ([0] * 6 + [1] * 6, [1] * 6 + [0] * 6)
    for part in (slice(0, 6), slice(6, 12)):
        assert turned_deg(found, shot, part) < 1 and misplaced(found, shot, part) < 0.1
    assert valid_share(found) > 0.4


def test_rest_before_a_walk(reconstruct) -> None:
    shot = odd_clips.rest_then_walk(4, 8)
    code, found = reconstruct(shot.images)
    assert code == 0 and found.cameras.found.all()
    assert turned_deg(found, shot) < 1 and misplaced(found, shot) < 0.05


def test_what_the_camera_carries_does_not_hold_it(reconstruct) -> None:
    """A third of the image never moves, and is most of what can be followed."""
    shot = odd_clips.gripper(16).every(2)
    code, found = reconstruct(shot.images)
    assert code == 0 and found.cameras.found.all()
    assert turned_deg(found, shot) < 1 and misplaced(found, shot) < 0.05
    assert (found.motion[:, -found.motion.shape[1] // 4 :] > 0.5).float().mean() > 0.5
