"""From keyframes to every frame."""

from dataclasses import replace

import numpy as np
from solved_world import rows, solved_at
from track_world import make_world, similarity_error

from unproject.inference import extend
from unproject.inference.extend import extended


def test_every_frame_of_a_long_clip_is_placed() -> None:
    """More frames than one chunk, and the truth at each to float32 of the tracks."""
    world = make_world(2 * extend.CHUNK + 31, 2000, window=40, noise_px=0.0, arc=2.5)
    keyframes = np.append(np.arange(0, 231, 10), 230)[:24]
    whole = extended(solved_at(world, keyframes, world.prior()), world.tracks, keyframes, world.prior())
    assert list(whole.views) == list(range(231))
    np.testing.assert_allclose(whole.state.centre, world.centre, atol=1e-4)
    np.testing.assert_allclose(whole.state.rotation, world.rotation, atol=1e-4)
    assert whole.good.all()


def test_outliers_do_not_move_a_frame() -> None:
    world = make_world(13, 300, noise_px=0.2, outliers=0.2)
    keyframes = np.arange(0, 13, 4)
    whole = extended(solved_at(world, keyframes, world.prior()), world.tracks, keyframes, world.prior())
    assert similarity_error(whole.state.centre, world.centre) < 2e-3
    assert 0.75 < whole.good.mean() < 0.85


def test_only_stretches_with_both_ends_are_filled() -> None:
    """Keyframe 8 was not solved: the frames from 4 to 12 stay without a camera."""
    world = make_world(21, 100, noise_px=0.0)
    keyframes = np.arange(0, 21, 4)
    solved = solved_at(world, np.array([0, 4, 12, 16]), world.prior())
    whole = extended(solved, world.tracks, keyframes, world.prior())
    assert list(whole.views) == [0, 1, 2, 3, 4, 12, 13, 14, 15, 16]


def test_photos_are_all_keyframes() -> None:
    world = make_world(5, 100)
    solved = solved_at(world, np.arange(5), world.prior())
    assert extended(solved, world.tracks, np.arange(5), world.prior()) is solved


def test_known_poses_between_keyframes_are_kept() -> None:
    world = make_world(9, 100, noise_px=0.0)
    pose = np.tile(np.eye(4), (9, 1, 1))
    pose[:, :3, :3], pose[:, :3, 3] = world.rotation, world.centre + 0.3  # not where the points say
    pose[[0, 1, 3, 4, 5, 6, 7, 8]] = np.nan
    prior = replace(world.prior(), world_from_cam=pose)
    keyframes = np.array([0, 4, 8])
    whole = extended(solved_at(world, keyframes, prior), world.tracks, keyframes, prior)
    np.testing.assert_array_equal(whole.state.centre[2], world.centre[2] + 0.3)
    np.testing.assert_allclose(whole.state.centre[3], world.centre[3], atol=1e-4)


def test_a_turning_camera_only_turns() -> None:
    world = make_world(9, 200, turn_only=True, noise_px=0.0)
    keyframes = np.array([0, 4, 8])
    solved = solved_at(world, keyframes, world.prior(), moves=False)
    whole = extended(solved, world.tracks, keyframes, world.prior())
    assert (whole.state.centre == 0).all()
    np.testing.assert_allclose(whole.state.rotation, world.rotation, atol=1e-4)
    assert whole.good.all()


def test_what_the_solver_left_out_stays_out() -> None:
    """Points that stick to the image lost their observations at the keyframes; they must not come back in between."""
    world = make_world(9, 200, noise_px=0.0)
    keyframes = np.array([0, 4, 8])
    solved = solved_at(world, keyframes, world.prior())
    gone = solved.seen.point < 50
    solved = replace(solved, seen=solved.seen.select(~gone), good=solved.good[~gone])
    whole = extended(solved, world.tracks, keyframes, world.prior())
    assert whole.seen.point.min() == 50
    assert len(whole.seen) == 9 * 150


def test_a_frame_that_sees_nothing_is_placed_and_not_explained() -> None:
    world = make_world(9, 100, noise_px=0.0)
    tracks = rows(world.tracks, world.tracks.view.numpy() != 6)
    keyframes = np.array([0, 4, 8])
    whole = extended(solved_at(world, keyframes, world.prior()), tracks, keyframes, world.prior())
    assert np.isfinite(whole.state.centre).all()
    assert not (whole.seen.view == 6).any()
