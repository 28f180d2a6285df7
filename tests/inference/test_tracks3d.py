"""3D tracks: points at rest stay, moving ones follow the dense depth, nothing is more certain than it should be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from solved_world import HEIGHT, WIDTH, rows, solved_at, true_cameras
from track_world import make_world

from unproject.geometry import camera, rigid
from unproject.inference import tracks3d
from unproject.types import FrameMaps, Tracks

VIEWS = 6
SHRINK = 4.0


def maps_of(depth: float = 4.0, motion: float = 0.0) -> FrameMaps:
    shape = (int(HEIGHT / SHRINK), int(WIDTH / SHRINK))
    return FrameMaps(
        depth=torch.full(shape, depth),
        valid=torch.ones(shape, dtype=torch.bool),
        confidence=torch.full(shape, 0.9),
        motion=torch.full(shape, motion),
        to_original=torch.diag(torch.tensor([SHRINK, SHRINK, 1.0])),
    )


@pytest.fixture
def world():
    return make_world(VIEWS, 60, noise_px=0.0)


def lifted(world, maps: FrameMaps, parts: list) -> tuple:
    lifter = tracks3d.TrackLifter(world.tracks, parts, true_cameras(world))
    for index in range(VIEWS):
        lifter.add(index, maps)
    return lifter.finish(), lifter.names


def test_points_at_rest_are_the_solved_ones_at_all_times(world) -> None:
    tracks, names = lifted(world, maps_of(), [solved_at(world, np.arange(VIEWS), world.prior())])
    assert not tracks.moving.any()
    for xyz in tracks.xyz:
        np.testing.assert_allclose(xyz, world.points[names], atol=1e-6)
    assert (tracks.confidence == 1).all()


def test_moving_points_are_lifted_by_the_maps(world) -> None:
    """On pixels that move: along the pixel's ray at the map's depth, hardly trusted."""
    tracks, _ = lifted(world, maps_of(3.0, motion=1.0), [solved_at(world, np.arange(VIEWS), world.prior())])
    assert tracks.moving.all()
    assert tracks.confidence.max() <= tracks3d.MOVING_CONFIDENCE
    cameras = true_cameras(world)
    for index in range(VIEWS):
        local = rigid.transform(rigid.inverse(cameras.world_from_cam[index]), tracks.xyz[index].double())
        np.testing.assert_allclose(local[:, 2], 3.0, atol=1e-4)
        uv = camera.project(local, cameras.intrinsics[index])
        np.testing.assert_allclose(uv, tracks.uv[index], atol=1e-2)


def test_tracks_that_the_cameras_do_not_explain_count_as_moving(world) -> None:
    solved = solved_at(world, np.arange(VIEWS), world.prior())
    solved = replace(solved, good=(solved.seen.point >= 20) | (solved.seen.view < 2))
    tracks, names = lifted(world, maps_of(), [solved])
    np.testing.assert_array_equal(tracks.moving, names < 20)


def test_without_a_solution_everything_rests_on_the_maps(world) -> None:
    tracks, _ = lifted(world, maps_of(), [])
    assert tracks.moving.all()
    assert torch.isfinite(tracks.xyz).all()


def test_unseen_moments_are_filled_in_and_not_trusted(world) -> None:
    gap = (world.tracks.track.numpy() == 0) & np.isin(world.tracks.view.numpy(), [0, 3])
    part = rows(world.tracks, ~gap)
    lifter = tracks3d.TrackLifter(part, [], true_cameras(world))
    for index in range(VIEWS):
        lifter.add(index, maps_of(3.0 + index))
    tracks = lifter.finish()
    assert tracks.visible[:, 0].tolist() == [False, True, True, False, True, True]
    assert (tracks.confidence[[0, 3], 0] == 0).all()
    np.testing.assert_array_equal(tracks.xyz[0, 0], tracks.xyz[1, 0])  # held before it was seen
    np.testing.assert_allclose(tracks.xyz[3, 0], (tracks.xyz[2, 0] + tracks.xyz[4, 0]) / 2, atol=1e-5)


def test_frames_without_a_camera_are_skipped(world) -> None:
    cameras = true_cameras(world)
    found = torch.ones(VIEWS, dtype=torch.bool)
    found[2] = False
    pose = cameras.world_from_cam.clone()
    pose[2] = torch.nan
    lifter = tracks3d.TrackLifter(world.tracks, [], replace(cameras, found=found, world_from_cam=pose))
    for index in range(VIEWS):
        lifter.add(index, maps_of())
    tracks = lifter.finish()
    assert torch.isfinite(tracks.xyz).all()
    assert (tracks.confidence[2] == 0).all()


def test_every_part_of_a_clip_keeps_tracks() -> None:
    """A rest at the start holds a thousand points for long; the walk after it is not forgotten."""
    rest = [(track, view) for track in range(1200) for view in range(100)]
    walk = [(1200 + track, 100 + track // 2 + step) for track in range(790) for step in range(5)]
    track, view = np.array(rest + walk).T
    tracks = Tracks(
        view=torch.as_tensor(view),
        track=torch.as_tensor(track),
        uv=torch.zeros(len(view), 2),
        weight=torch.ones(len(view)),
    )
    chosen = tracks3d.longest(tracks, 500)
    assert len(chosen) == tracks3d.MOST
    starts = view[np.searchsorted(track, chosen)]
    counts = np.histogram(starts, bins=np.arange(100, 500, 50))[0]
    assert (counts >= 60).all()


def test_short_tracks_are_no_tracks() -> None:
    tracks = Tracks(
        view=torch.tensor([0, 1, 0, 1, 2]),
        track=torch.tensor([0, 0, 1, 1, 1]),
        uv=torch.zeros(5, 2),
        weight=torch.ones(5),
    )
    assert list(tracks3d.longest(tracks, 3)) == [1]
