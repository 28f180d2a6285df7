"""Points from cameras and cameras from points: exact where the input is, and blind to what they should not see."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from track_world import TrackWorld, make_world

from unproject.inference import problem, reprojection, structure
from unproject.inference.reprojection import Observations, State


def truth(world: TrackWorld, radial: float = 0.0) -> tuple[Observations, State]:
    """What is seen, and the state that explains it."""
    views = len(world.centre)
    seen, track = problem.observations(world.tracks, np.arange(views), world.prior())
    state = State(
        rotation=world.rotation,
        centre=world.centre,
        points=world.points[track],
        log_focal=np.log([world.focal]),
        radial=np.array([radial]),
        group=np.zeros(views, int),
    )
    return seen, state


def thrown(state: State, view: int) -> State:
    """One view turned by 20 degrees and put elsewhere."""
    rotation, centre = state.rotation.copy(), state.centre.copy()
    rotation[view] = rotation[view] @ Rotation.from_rotvec([0.2, -0.3, 0.1]).as_matrix()
    centre[view] += [0.8, 0.5, -0.6]
    return replace(state, rotation=rotation, centre=centre)


@pytest.mark.parametrize("radial", [-0.3, -0.2, 0.0, 0.15, 0.5])
def test_undistorted_undoes_the_lens(radial: float) -> None:
    rng = np.random.default_rng(0)
    ideal = rng.uniform(-320, 320, (100, 2))
    ideal[0] = 0
    focal = np.full(100, 500.0)
    seen = ideal * (1 + radial * ((ideal / 500) ** 2).sum(1, keepdims=True))
    np.testing.assert_allclose(structure.undistorted(seen, focal, np.full(100, radial)), ideal, atol=1e-6)


def test_what_the_lens_does_not_reach_is_put_on_its_fold() -> None:
    """With k1 = -1/3 the lens folds at radius 1, which it shows at 2/3: nothing ideal is seen farther out."""
    seen = np.array([[300.0, 400], [0, 900]])
    found = structure.undistorted(seen, np.full(2, 500.0), np.full(2, -1 / 3))
    np.testing.assert_allclose(found, [[300, 400], [0, 500]], rtol=1e-3)


@pytest.mark.parametrize("radial", [0.0, -0.08])
def test_points_triangulate_where_they_are(radial: float) -> None:
    seen, state = truth(make_world(noise_px=0.0, radial=radial), radial)
    found = structure.triangulate(seen, state)
    np.testing.assert_allclose(found, state.points, atol=1e-4)  # tracks are float32
    assert structure.inliers(seen, replace(state, points=found), 0.01).all()


def test_points_lie_on_the_mean_ray_at_distance_one() -> None:
    world = make_world(6, turn_only=True, noise_px=0.0)
    seen, state = truth(world)
    found = structure.far_points(seen, state)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-9)
    moved = replace(state, points=found, centre=np.zeros_like(state.centre))
    assert structure.inliers(seen, moved, 0.01).all()


def test_parallax_is_the_angle_between_rays() -> None:
    """Three cameras, the outer ones 0.6 rad apart as the origin sees them."""
    centre = np.stack([np.sin([-0.3, 0, 0.3]), np.zeros(3), -np.cos([-0.3, 0, 0.3])], 1)
    state = State(
        rotation=np.tile(np.eye(3), (3, 1, 1)),
        centre=centre,
        points=np.zeros((1, 3)),
        log_focal=np.log([500.0]),
        radial=np.zeros(1),
        group=np.zeros(3, int),
    )
    xy = 500 * (-centre[:, :2] / -centre[:, 2:])
    seen = Observations(view=np.arange(3), point=np.zeros(3, int), xy=xy, weight=np.ones(3))
    assert structure.parallax_rad(seen, state)[0] == pytest.approx(0.6, abs=1e-6)


def test_refined_points_fit_better_than_triangulated_ones() -> None:
    seen, state = truth(make_world(noise_px=0.5, outliers=0.1))
    first = replace(state, points=structure.triangulate(seen, state))
    last = structure.with_points(seen, state, len(state.points))
    error = [np.linalg.norm(one.points - state.points, axis=1) for one in (first, last)]
    assert np.median(error[1]) < 0.3 * np.median(error[0])
    np.testing.assert_array_equal(last.rotation, state.rotation)
    np.testing.assert_array_equal(last.centre, state.centre)


def test_a_view_finds_its_place_among_frozen_points() -> None:
    seen, state = truth(make_world(noise_px=0.0))
    lost = thrown(state, 5)
    found = structure.resected(seen, lost, np.arange(12) == 5)
    np.testing.assert_allclose(found.centre, state.centre, atol=1e-3)
    np.testing.assert_allclose(found.rotation, state.rotation, atol=1e-3)
    np.testing.assert_array_equal(found.points, state.points)


def test_a_camera_that_may_only_turn_stays_where_it_is() -> None:
    seen, state = truth(make_world(noise_px=0.0))
    turned = state.rotation.copy()
    turned[3] = turned[3] @ Rotation.from_rotvec([0.05, 0.1, 0]).as_matrix()
    lost = replace(state, rotation=turned)
    found = structure.resected(seen, lost, np.arange(12) == 3, moves=False)
    np.testing.assert_array_equal(found.centre, state.centre)
    np.testing.assert_allclose(found.rotation, state.rotation, atol=1e-4)


def test_a_lost_view_is_located() -> None:
    seen, state = truth(make_world(noise_px=0.2, outliers=0.2))
    found = structure.located(7, seen, thrown(state, 7))
    assert found is not None
    moved, before, after = found
    assert before < 20 and after > 200
    np.testing.assert_allclose(moved.centre, state.centre, atol=0.05)
    np.testing.assert_array_equal(moved.points, state.points)


def test_a_lost_view_has_no_say_in_where_the_points_are() -> None:
    """Points dragged along by the wrong view would hold it where it is: they are placed anew without it."""
    seen, state = truth(make_world(noise_px=0.2))
    lost = thrown(state, 7)
    dragged = structure.with_points(seen.select(seen.view == 7), lost, len(state.points))
    found = structure.located(7, seen, dragged)
    assert found is not None
    np.testing.assert_allclose(found[0].centre[7], state.centre[7], atol=0.05)


def test_a_view_without_points_of_others_is_not_located() -> None:
    seen, state = truth(make_world(noise_px=0.0))
    alone = seen.select((seen.view != 7) | (seen.point < 5))
    assert structure.located(7, alone, state) is None
    only = seen.select(seen.view == 7)
    assert structure.located(7, only, state) is None


def test_shares_count_views_that_see_nothing_as_zero() -> None:
    seen = Observations(view=np.array([0, 0, 2]), point=np.arange(3), xy=np.zeros((3, 2)), weight=np.ones(3))
    share = structure.inlier_share(seen, np.array([True, False, True]), 4)
    np.testing.assert_array_equal(share, [0.5, 0, 1, 0])


def test_the_mean_rotation_is_between() -> None:
    middle = Rotation.from_rotvec([0.3, 0.1, -0.7])
    around = [Rotation.from_rotvec(0.2 * sign * axis) * middle for axis in np.eye(3) for sign in (-1, 1)]
    found = structure.mean_rotation(np.stack([turn.as_matrix() for turn in around]))
    np.testing.assert_allclose(found, middle.as_matrix(), atol=1e-12)


def test_residuals_behind_a_camera_are_never_inliers() -> None:
    seen, state = truth(make_world(3, noise_px=0.0))
    behind = replace(state, points=2 * state.centre[0] - state.points)  # mirrored through the first camera
    assert not structure.inliers(seen.select(seen.view == 0), behind, 1000.0).any()
    assert (reprojection.residuals("pixel", seen.select(seen.view == 0), behind) == 1e4).all()
