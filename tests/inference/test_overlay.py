"""Points that belong to the camera, not to the scene."""

import numpy as np

from unproject.inference.overlay import camera_rests, stuck_points

Pairs = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def pairs_of(place: np.ndarray, moves: np.ndarray, views: int = 5, step: float = 12.0) -> Pairs:
    """Points (P 2) of which some (bool P) move by ``step`` px from view to view, the rest by a tenth of a pixel."""
    rng = np.random.default_rng(0)
    seen = [
        place + view * step * moves[:, None] * [1.0, 0.3] + 0.1 * rng.normal(size=place.shape) for view in range(views)
    ]
    number = np.arange(len(place))
    return [(number, seen[a], seen[b]) for a in range(views) for b in range(a + 1, views)]


def spread(count: int, low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    return np.random.default_rng(1).uniform(low, high, (count, 2))


def test_a_gripper_is_stuck_though_it_holds_most_points() -> None:
    place = np.concatenate([spread(300, (200, 380), (420, 480)), spread(100, (0, 0), (500, 350))])
    moves = np.arange(400) >= 300
    np.testing.assert_array_equal(stuck_points(pairs_of(place, moves), 400), ~moves)


def test_a_gripper_does_not_hold_the_camera_still() -> None:
    place = np.concatenate([spread(300, (200, 380), (420, 480)), spread(100, (0, 0), (500, 350))])
    assert not camera_rests(pairs_of(place, np.arange(400) >= 300))


def test_a_room_at_rest_is_told_from_a_gripper_by_its_area() -> None:
    """However few its points are, and though the mover wanders over much of the image in time."""
    place = np.concatenate([spread(60, (0, 0), (640, 480)), spread(300, (250, 200), (330, 260))])
    assert camera_rests(pairs_of(place, np.arange(360) >= 60))


def test_what_shifts_by_a_pixel_is_not_at_rest() -> None:
    """Far hills before a walking camera hardly move, but they move."""
    place = np.concatenate([spread(60, (0, 0), (640, 480)), spread(300, (250, 200), (330, 260))])
    pairs = pairs_of(place, np.arange(360) >= 60)
    assert not camera_rests([(number, one, two + np.array([0.8, 0.0])) for number, one, two in pairs])


def test_without_motion_nothing_is_stuck() -> None:
    place = spread(100, (0, 0), (640, 480))
    assert not stuck_points(pairs_of(place, np.zeros(100, bool)), 100).any()
    assert not stuck_points([], 100).any()
    assert not camera_rests(pairs_of(place, np.zeros(100, bool)))
    assert not camera_rests([])


def test_a_slow_start_is_not_held_against_a_point() -> None:
    """Pairs of views that hardly differ say nothing: 5 px of motion are below what makes two views different."""
    place = spread(200, (0, 0), (640, 480))
    moves = np.arange(200) >= 100
    assert not stuck_points(pairs_of(place, moves, views=2, step=5.0), 200).any()
