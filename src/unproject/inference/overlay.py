"""Points that stick to the image while the camera moves: a watermark, a bonnet, a robot's gripper."""

import numpy as np

STUCK_PX = 1.5
MOVING_PX = 8.0
ENOUGH = 15
"""Moving points that make two views different; a gripper may hold most points of every pair."""
CELLS = 16
"""Cells along the image's long side, for comparing areas."""


def stuck_points(
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]], points: int, long_side_px: float
) -> np.ndarray:
    """Which points stay put in the image between views that otherwise differ (bool, P).

    ``pairs`` holds (point numbers, pixels in one view, pixels in the other). A camera at rest in front of something
    that moves looks the same point by point; what tells them apart is area: all False where the points at rest cover
    more of the image than the ones that move.
    """
    still, moving = np.zeros(points, int), np.zeros(points, int)
    where = np.zeros((points, 2))
    for number, xy_a, xy_b in pairs:
        shift = np.linalg.norm(xy_a - xy_b, axis=1)
        where[number] = xy_a
        if (shift > MOVING_PX).sum() >= ENOUGH:
            still[number] += shift < STUCK_PX
            moving[number] += shift > MOVING_PX
    stuck = still > 3 * moving
    cells = np.floor(where * (CELLS / long_side_px)).astype(int)
    area_stuck, area_moving = (len(np.unique(cells[chosen], axis=0)) for chosen in (stuck, moving > still))
    return stuck if area_moving > area_stuck else np.zeros(points, bool)
