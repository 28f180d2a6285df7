"""Views placed one after another, and what becomes of a start that went wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from track_world import TrackWorld, make_world, similarity_error

from unproject.inference import grow, problem, refine, structure
from unproject.inference.reprojection import Observations, State
from unproject.inference.twoview import Pair, RelativeRotation


def picked(world: TrackWorld) -> tuple[Observations, problem.CameraPrior, list[Pair]]:
    views, prior = len(world.centre), world.prior()
    seen, _ = problem.observations(world.tracks, np.arange(views), prior)
    return seen, prior, problem.fit_pairs(seen, problem.partners(seen, views), views, 0)


def blinded(world: TrackWorld, view: int) -> TrackWorld:
    """The same world, but what ``view`` sees is anywhere in its image."""
    uv = world.tracks.uv.clone()
    rows = world.tracks.view == view
    uv[rows] = torch.rand(int(rows.sum()), 2) * torch.tensor([640.0, 480.0])
    return replace(world, tracks=replace(world.tracks, uv=uv))


@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_all_views_grow_from_two(outliers: float) -> None:
    world = make_world(8, 300, window=4, arc=1.6, outliers=outliers)
    seen, prior, pairs = picked(world)
    members = grow.seeds(pairs, prior)[0]
    state, placed = grow.grown(seen, prior, members, lambda part, of: refine._from_nothing(part, of, 0))
    assert placed.all()
    assert similarity_error(state.centre, world.centre) < 0.02


def test_a_view_that_fits_nowhere_is_not_placed() -> None:
    world = blinded(make_world(7, 300), 4)
    seen, prior, _ = picked(world)
    state, placed = grow.grown(seen, prior, np.array([1, 2]), lambda part, of: refine._from_nothing(part, of, 0))
    assert list(np.flatnonzero(~placed)) == [4]
    assert similarity_error(state.centre[placed], world.centre[placed]) < 0.02


def test_a_seed_is_seen_from_apart() -> None:
    """Views 0 and 1 share most and all but coincide: nothing can be placed from them."""
    world = make_world(4, 300, arc=1.0)
    _, prior, pairs = picked(world)
    alike = next(pair for pair in pairs if (pair.a, pair.b) == (0, 1))
    alike = replace(alike, xy_b=alike.xy_a + 0.2, inliers=10 * alike.inliers)
    others = [pair for pair in pairs if (pair.a, pair.b) != (0, 1)]
    assert [0, 1] not in [list(members) for members in grow.seeds([alike, *others], prior)]


def test_a_joint_start_from_wrong_rotations_is_outdone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is planted where repeated patterns plant it: rotations of many views that are all wrong."""
    world = make_world(8, 300, window=4, arc=1.6)
    average = refine.average_rotations

    def mistaken(views: int, relatives: list[RelativeRotation], fixed: dict[int, np.ndarray]) -> np.ndarray:
        return average(views, relatives, fixed) if views == 2 else Rotation.random(views, rng=0).as_matrix()

    monkeypatch.setattr(refine, "average_rotations", mistaken)
    solved = refine.solve_component(world.tracks, np.arange(8), world.prior())
    assert list(solved.views) == list(range(8))
    np.testing.assert_allclose(solved.state.rotation[0], np.eye(3), atol=1e-9)  # the world is the first camera
    np.testing.assert_allclose(solved.state.centre[0], 0, atol=1e-9)
    assert similarity_error(solved.state.centre, world.centre) < 0.01


def test_a_view_without_a_true_point_is_left_out_and_the_others_stay() -> None:
    """Its tracks still link it to all others; wherever it is put would be made up."""
    world = blinded(make_world(6, 300), 3)
    solved = refine.solve_component(world.tracks, np.arange(6), world.prior())
    assert list(solved.views) == [0, 1, 2, 4, 5]
    assert len(solved.state.centre) == len(solved.state.group) == 5
    assert solved.seen.view.max() == 4
    assert len(solved.track) == len(solved.state.points) == solved.seen.point.max() + 1
    assert similarity_error(solved.state.centre, world.centre[solved.views]) < 0.01
    again = refine.polished(solved, world.tracks, world.prior())  # points are still those of the same tracks
    assert again.good.mean() > 0.95
    np.testing.assert_allclose(again.state.centre, solved.state.centre, atol=0.05)


def test_points_in_one_place_break_nothing() -> None:
    """OpenCV fails an assertion there: no pose, or at least a finite one."""
    seen = Observations(view=np.zeros(8, int), point=np.arange(8), xy=np.zeros((8, 2)), weight=np.ones(8))
    state = State(
        rotation=np.eye(3)[None],
        centre=np.zeros((1, 3)),
        points=np.tile([[0.0, 0.0, 1.0]], (8, 1)),
        log_focal=np.log([500.0]),
        radial=np.zeros(1),
        group=np.zeros(1, int),
    )
    pose = structure.pose_of(seen, state, 0)
    assert pose is None or np.isfinite(pose[0]).all()
