"""Long clips in parts: how far apart views are, and whether parts in gauges of their own come together."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from track_world import TrackWorld, make_world, similarity_error

from unproject.inference import problem, windows
from unproject.inference.problem import CameraPrior
from unproject.inference.reprojection import Observations, State


def long_world(views: int = 100, **options) -> TrackWorld:
    return make_world(views, 25 * views, arc=3.0, window=12, **options)


def seen_by(world: TrackWorld) -> tuple[Observations, np.ndarray]:
    return problem.observations(world.tracks, np.arange(len(world.centre)), world.prior())


def test_hops() -> None:
    assert windows.hops_across(seen_by(make_world(12))[0], 12) == 1
    seen, _ = seen_by(long_world())
    assert 8 <= windows.hops_across(seen, 100) <= 12


def test_hops_of_what_is_not_connected_are_not_infinite() -> None:
    seen, _ = seen_by(make_world(6))
    assert windows.hops_across(seen.select(seen.view != 5), 6) == 1


class Oracle:
    """Solves a window by knowing the answer, and gives it in a gauge of its own."""

    def __init__(self, world: TrackWorld, track: np.ndarray):
        self.world, self.track, self.asked = world, track, []

    def __call__(self, seen: Observations, prior: CameraPrior) -> State:
        first = sum(len(part) - windows.OVERLAP for part in self.asked)
        views = np.arange(first, first + len(prior.group))
        self.asked.append(views)
        rng = np.random.default_rng(first)
        turn, scale, shift = Rotation.random(rng=first).as_matrix(), rng.uniform(0.3, 3), rng.normal(size=3)
        # The points of a window in the order of their numbers, as the window was given them.
        inside = np.isin(self.world.tracks.view.numpy(), views)
        names = np.intersect1d(self.track, np.unique(self.world.tracks.track.numpy()[inside]))
        return State(
            rotation=turn @ self.world.rotation[views],
            centre=scale * self.world.centre[views] @ turn.T + shift,
            points=scale * self.world.points[names] @ turn.T + shift,
            log_focal=np.log([600.0 + 10 * len(self.asked)]),
            radial=np.zeros(1),
            group=prior.group,
        )


@pytest.mark.parametrize("views", [11, 40, 41, 70, 100])
def test_windows_in_any_gauge_come_together(views: int) -> None:
    world = long_world(views) if views > 12 else make_world(views)
    seen, track = seen_by(world)
    oracle = Oracle(world, track)
    whole = windows.solve_in_windows(seen, world.prior(), oracle)
    assert similarity_error(whole.centre, world.centre) < 1e-6
    relative = whole.rotation[0].T @ whole.rotation
    np.testing.assert_allclose(relative, world.rotation[0].T @ world.rotation, atol=1e-6)
    assert set(np.concatenate(oracle.asked)) == set(range(views))
    assert len(whole.points) == len(track)
    assert (whole.group == world.prior().group).all()
    focals = [610 + 10 * number for number in range(len(oracle.asked))]
    assert whole.log_focal[0] == pytest.approx(np.median(np.log(focals)))


def test_one_bad_view_in_the_overlap_does_not_bend_the_chain() -> None:
    world = long_world(70)
    seen, track = seen_by(world)
    oracle = Oracle(world, track)

    def solve(part: Observations, prior: CameraPrior) -> State:
        state = oracle(part, prior)
        centre = state.centre.copy()
        if len(oracle.asked) == 2:
            centre[4] += 0.2  # one of the ten that both windows hold
        return replace(state, centre=centre)

    whole = windows.solve_in_windows(seen, world.prior(), solve)
    assert similarity_error(whole.centre, world.centre) < 0.02
