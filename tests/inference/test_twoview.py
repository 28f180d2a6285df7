"""What two views say: fundamental matrices, relative rotations, focal lengths, and whether anything has depth."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from track_world import TrackWorld, make_world

from unproject.inference import problem, twoview
from unproject.inference.reprojection import unit_rays


def pairs_of(world: TrackWorld, **prior) -> list[twoview.Pair]:
    views = len(world.centre)
    seen, _ = problem.observations(world.tracks, np.arange(views), world.prior(**prior))
    return problem.fit_pairs(seen, problem.partners(seen, views), views, seed=0)


def turn_error_deg(found: np.ndarray, world: TrackWorld, a: int, b: int) -> float:
    true = world.rotation[a].T @ world.rotation[b]
    return float(np.degrees(Rotation.from_matrix(found.T @ true).magnitude()))


def test_the_fundamental_matrix_holds_for_every_true_point() -> None:
    world = make_world(4, noise_px=0.0, outliers=0.2)
    clean = make_world(4, noise_px=0.0)
    for pair in pairs_of(world):
        rows = [clean.tracks.uv[clean.tracks.view == view].numpy() - [320, 240] for view in (pair.a, pair.b)]
        one, two = (np.column_stack([xy, np.ones(len(xy))]) for xy in rows)
        line = one @ pair.fundamental.T
        distance = np.abs((two * line).sum(1)) / np.linalg.norm(line[:, :2], axis=1)
        assert np.median(distance) < 0.02 and distance.max() < 0.5
        assert 0.6 * 400 < pair.inliers < 0.75 * 400  # neither point of a pair is an outlier in 64 %


def test_points_that_agree_on_nothing_make_no_pair() -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(-300, 300, (2, 100, 2))
    assert twoview.fit_pair(0, 1, *noise, scale_px=1.5, seed=0) is None
    assert twoview.fit_pair(0, 1, *noise[:, :14], scale_px=1.5, seed=0) is None
    same = np.zeros((50, 2))  # OpenCV fails an assertion here
    assert twoview.fit_pair(0, 1, same, same, scale_px=1.5, seed=0) is None


@pytest.mark.parametrize("focal", [400.0, 640.0, 1200.0])
def test_focal_from_pairs(focal: float) -> None:
    world = make_world(8, focal=focal, noise_px=0.2, astray=0.6)  # where all axes meet, pairs hardly know it
    assert twoview.focal_start(pairs_of(world), 640.0) == pytest.approx(focal, rel=0.05)


@pytest.mark.parametrize("focal", [300.0, 1600.0])
def test_a_focal_length_that_hardly_any_lens_has_is_not_believed(focal: float) -> None:
    """Views that know next to nothing of it, as of cameras at one distance from where all axes meet, end up there."""
    assert twoview.focal_start(pairs_of(make_world(8, focal=focal)), 640.0) == 640.0


def test_focal_without_pairs_is_the_long_side() -> None:
    assert twoview.focal_start([], 640.0) == 640.0


@pytest.mark.parametrize(
    ("world", "limit_deg"),
    [({"turn_only": True}, 0.02), ({"arc": 0.01}, np.degrees(0.01)), ({"arc": 0.3}, 0.3), ({"arc": 1.2}, 0.3)],
    ids=["turning", "next to no parallax", "narrow", "wide"],
)
def test_relative_rotation(world: dict, limit_deg: float) -> None:
    """Next to no parallax, a step to the side looks like a turn: the error may reach what the camera really turned."""
    made = make_world(3, **world)
    pairs = pairs_of(made)
    assert len(pairs) == 3
    for pair in pairs:
        found = twoview.relative_rotation(pair, made.focal, made.focal, seed=0)
        assert found is not None
        assert turn_error_deg(found.a_from_b, made, pair.a, pair.b) < limit_deg


def test_two_focal_lengths() -> None:
    """A wrong focal for one of the views turns it: the two must not be mixed up."""
    world = make_world(2, arc=0.4, noise_px=0.1)
    xy = [world.tracks.uv[world.tracks.view == view].double().numpy() - [320, 240] for view in (0, 1)]
    pair = twoview.fit_pair(0, 1, xy[0], 1.7 * xy[1], scale_px=1.5, seed=0)
    assert pair is not None
    right = twoview.relative_rotation(pair, world.focal, 1.7 * world.focal, seed=0)
    swapped = twoview.relative_rotation(pair, 1.7 * world.focal, world.focal, seed=0)
    assert right is not None
    assert turn_error_deg(right.a_from_b, world, 0, 1) < 0.3
    assert swapped is None or turn_error_deg(swapped.a_from_b, world, 0, 1) > 2


def test_robust_rotation_forgets_outliers() -> None:
    rng = np.random.default_rng(0)
    rays = unit_rays(rng.uniform(-300, 300, (200, 2)), np.full(200, 600.0))
    turn = Rotation.from_rotvec([0.1, -0.4, 0.2]).as_matrix()
    other = rays @ turn
    other[:40] = unit_rays(rng.uniform(-300, 300, (40, 2)), np.full(40, 600.0))
    found = twoview.robust_rotation(rays, other, 1 / 600)
    assert np.degrees(Rotation.from_matrix(found.T @ turn).magnitude()) < 0.05


@pytest.mark.parametrize(
    ("world", "flat"),
    [({}, False), ({"flat": True}, True), ({"turn_only": True}, True), ({"outliers": 0.2}, False)],
    ids=["scene", "plane", "turning", "outliers"],
)
def test_flatness(world: dict, flat: bool) -> None:
    assert twoview.all_flat(pairs_of(make_world(8, **world)), seed=0) is flat
    assert twoview.all_flat([], seed=0)
