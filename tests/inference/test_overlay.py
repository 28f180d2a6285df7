"""Points that belong to the camera, not to the scene."""

import numpy as np

from unproject.inference.overlay import stuck_points

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
    np.testing.assert_array_equal(stuck_points(pairs_of(place, moves), 400, 640.0), ~moves)


def test_a_room_at_rest_is_not_stuck_to_the_image() -> None:
    """Point by point a camera at rest before a mover looks the same; it is the area that tells."""
    place = np.concatenate([spread(300, (0, 0), (640, 480)), spread(300, (250, 200), (330, 260))])
    moves = np.arange(600) >= 300
    assert not stuck_points(pairs_of(place, moves), 600, 640.0).any()


def test_without_motion_nothing_is_stuck() -> None:
    place = spread(100, (0, 0), (640, 480))
    assert not stuck_points(pairs_of(place, np.zeros(100, bool)), 100, 640.0).any()
    assert not stuck_points([], 100, 640.0).any()


def test_a_slow_start_is_not_held_against_a_point() -> None:
    """Pairs of views that hardly differ say nothing: 5 px of motion are below what makes two views different."""
    place = spread(200, (0, 0), (640, 480))
    moves = np.arange(200) >= 100
    assert not stuck_points(pairs_of(place, moves, views=2, step=5.0), 200, 640.0).any()
