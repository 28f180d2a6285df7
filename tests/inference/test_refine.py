"""From tracks to cameras: what is solved, what is refused, and what is said about it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from track_world import TrackWorld, make_world, similarity_error

from unproject.inference import problem, refine
from unproject.inference.extend import extended
from unproject.inference.rotations import average_rotations
from unproject.inference.twoview import RelativeRotation
from unproject.types import Tracks


def solve(world: TrackWorld, **prior) -> refine.Solved:
    views = len(world.centre)
    return refine.solve_component(world.tracks, np.arange(views), world.prior(**prior))


@pytest.mark.parametrize("outliers", [0.0, 0.15])
def test_cameras_from_nothing_but_tracks(outliers: float) -> None:
    world = make_world(outliers=outliers)
    solved = solve(world)
    assert solved.motion == "full"
    assert similarity_error(solved.state.centre, world.centre) < 0.01
    assert solved.state.focal[0] == pytest.approx(world.focal, rel=0.03)
    assert solved.good.mean() > 0.97 * (1 - outliers)


def test_radial_distortion_is_found() -> None:
    world = make_world(radial=-0.08, points=800)
    solved = solve(world)
    assert solved.state.radial[0] == pytest.approx(-0.08, abs=0.02)


def test_known_focal_is_kept_and_a_wrong_one_is_honoured() -> None:
    world = make_world()
    assert solve(world, focal=600.0, fixed=True).state.focal[0] == pytest.approx(600.0)
    assert solve(world, focal=500.0, fixed=True).state.focal[0] == pytest.approx(500.0)


def test_known_poses_are_kept() -> None:
    world = make_world()
    pose = np.tile(np.eye(4), (12, 1, 1))
    pose[:, :3, :3], pose[:, :3, 3] = world.rotation, world.centre
    pose[5:] = np.nan
    solved = refine.solve_component(world.tracks, np.arange(12), replace(world.prior(), world_from_cam=pose))
    np.testing.assert_array_equal(solved.state.centre[:5], world.centre[:5])
    np.testing.assert_allclose(solved.state.centre, world.centre, atol=0.05)  # in the given frame and scale


def test_a_camera_that_only_turns_gets_no_depth() -> None:
    solved = solve(make_world(turn_only=True))
    assert solved.motion == "rotation_only"
    assert (solved.state.centre == 0).all()


def test_a_camera_that_only_turns_before_many_movers_gets_no_depth() -> None:
    """Where they defeat the homographies, movers pass for parallax; the path that they bend the turn into is short."""
    world = make_world(16, 600, turn_only=True, noise_px=0.5)
    view, track = world.tracks.view.numpy(), world.tracks.track.numpy()
    way = np.cumsum(np.random.default_rng(1).normal(0, 3, (16, 8, 2)), 0)
    uv = world.tracks.uv.numpy().copy()
    uv[track < 240] += way[view, track // 30 % 8][track < 240]
    tracks = replace(world.tracks, uv=torch.as_tensor(uv))
    solved = refine.solve_component(tracks, np.arange(16), world.prior())
    assert solved.motion == "rotation_only"
    assert solved.state.focal[0] == pytest.approx(world.focal, rel=0.02)


def test_a_camera_at_rest() -> None:
    world = make_world(6)
    still = world.tracks.uv[world.tracks.view == 0].repeat_interleave(6, 0)
    tracks = replace(world.tracks, uv=still + 0.1 * torch.randn(still.shape))
    solved = refine.solve_component(tracks, np.arange(6), world.prior())
    assert solved.motion == "static"


def test_a_flat_scene_still_has_its_parallax() -> None:
    world = make_world(flat=True)
    solved = solve(world, focal=600.0)
    assert solved.motion == "full"
    assert similarity_error(solved.state.centre, world.centre) < 0.05


def test_two_views() -> None:
    world = make_world(2, arc=0.3)
    solved = solve(world, focal=600.0)
    assert solved.motion == "full"
    relative = solved.state.rotation[1]
    true = world.rotation[0].T @ world.rotation[1]
    assert np.degrees(Rotation.from_matrix(relative.T @ true).magnitude()) < 0.5


def test_points_stuck_to_the_image_are_ignored() -> None:
    """A gripper holds a third of the points: without the rule they would hold the camera still."""
    world = make_world(8, 400)
    rng = np.random.default_rng(1)
    fixed = rng.uniform([0, 0], [120, 100], (200, 2)).repeat(8, 0) + 0.1 * rng.normal(size=(1600, 2))
    tracks = Tracks(
        view=torch.cat([world.tracks.view, torch.arange(8).repeat(200)]),
        track=torch.cat([world.tracks.track, 400 + torch.arange(200).repeat_interleave(8)]),
        uv=torch.cat([world.tracks.uv, torch.as_tensor(fixed, dtype=torch.float32)]),
        weight=torch.ones(len(world.tracks.view) + 1600),
    )
    solved = refine.solve_component(tracks, np.arange(8), world.prior())
    assert solved.motion == "full"
    assert similarity_error(solved.state.centre, world.centre) < 0.02


def test_views_without_common_tracks_are_apart() -> None:
    one, two = make_world(5), make_world(4, seed=3)
    tracks = Tracks(
        view=torch.cat([one.tracks.view, two.tracks.view + 5]),
        track=torch.cat([one.tracks.track, two.tracks.track + 400]),
        uv=torch.cat([one.tracks.uv, two.tracks.uv]),
        weight=torch.cat([one.tracks.weight, two.tracks.weight]),
    )
    sets = problem.connected_views(tracks, 10)  # the tenth view sees nothing
    assert [list(views) for views in sets] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]


def test_frames_between_keyframes() -> None:
    world = make_world(13, 300)
    keyframes = np.arange(0, 13, 4)
    rows = torch.as_tensor(np.isin(world.tracks.view.numpy(), keyframes))
    on_keyframes = Tracks(
        view=world.tracks.view[rows],
        track=world.tracks.track[rows],
        uv=world.tracks.uv[rows],
        weight=world.tracks.weight[rows],
    )
    solved = refine.solve_component(on_keyframes, keyframes, world.prior(focal=600.0, fixed=True))
    whole = extended(solved, world.tracks, keyframes, world.prior(focal=600.0, fixed=True))
    assert list(whole.views) == list(range(13))
    assert similarity_error(whole.state.centre, world.centre) < 0.01


def test_rotation_averaging_forgets_outliers() -> None:
    rng = np.random.default_rng(0)
    true = Rotation.random(20, rng=0).as_matrix()
    relatives = []
    for a in range(20):
        for b in range(a + 1, min(a + 5, 20)):
            noise = Rotation.from_rotvec(0.005 * rng.normal(size=3)).as_matrix()
            wrong = Rotation.random(rng=a * 20 + b).as_matrix() if rng.random() < 0.1 else np.eye(3)
            relatives.append(RelativeRotation(a=a, b=b, a_from_b=wrong @ true[a].T @ true[b] @ noise, inliers=100))
    found = average_rotations(20, relatives, {})
    error = Rotation.from_matrix(true[0].T @ true @ found.transpose(0, 2, 1)).magnitude()
    assert np.degrees(error).max() < 2.0


def test_same_seed_same_cameras() -> None:
    world = make_world(6, 150)
    first, second = solve(world), solve(world)
    assert (first.state.centre == second.state.centre).all()


def test_views_that_agree_on_no_geometry_are_no_part() -> None:
    """A crowd: as many common points as one likes, and every one goes its own way."""
    world = make_world(views=4, points=40)
    astray = 200 * torch.rand(world.tracks.uv.shape, generator=torch.Generator().manual_seed(0))
    crowd = replace(world.tracks, uv=world.tracks.uv + astray)
    assert refine.solve_component(crowd, np.arange(4), world.prior()) is None


def test_known_poses_need_no_pair_that_agrees() -> None:
    assert (average_rotations(3, [], {1: np.diag([1.0, -1, -1])})[[0, 1]] == [np.eye(3), np.diag([1.0, -1, -1])]).all()


def test_better_placed_tracks_make_better_cameras() -> None:
    """Movers that drift by up to 2 px pass for noise while there is much of it; with less of it they count for less."""
    noisy, sharp = (make_world(noise_px=noise_px, astray=0.3) for noise_px in (0.5, 0.05))
    drift = torch.linspace(0, 2, 12)[noisy.tracks.view] * (noisy.tracks.track < 60)
    noisy, sharp = (
        replace(one, tracks=replace(one.tracks, uv=one.tracks.uv + drift[:, None])) for one in (noisy, sharp)
    )
    solved = solve(noisy)
    polished = refine.polished(solved, sharp.tracks, sharp.prior())
    error, before = (similarity_error(one.state.centre, noisy.centre) for one in (polished, solved))
    assert error < 0.3 * before
    assert refine.SHARPEST_PX <= polished.scale_px < 0.5 < solved.scale_px
    np.testing.assert_array_equal(polished.track, solved.track)


def test_a_solution_without_depth_is_left_as_it_is() -> None:
    world = make_world(turn_only=True)
    solved = solve(world)
    assert refine.polished(solved, world.tracks, world.prior()) is solved
