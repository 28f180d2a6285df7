"""What stays put in the image: a watermark, a bonnet, a robot's gripper; or all that is at rest, as the camera is.

Point by point a gripper before a moving camera and a wall before a camera at rest look the same: some points stay put,
others move. What tells them apart is how much of the image either spans.
"""

import cv2
import numpy as np

STUCK_PX = 1.5
MOVING_PX = 8.0
ENOUGH = 15
"""Moving points that make two views different; a gripper may hold most points of every pair."""
WIDER = 2.0
"""How many times the area of what moves is spanned by what stays put, where the camera rests. Measured: 4.2 for a
kettle that is lifted, .8 to 1.2 for a shelf behind a gripper."""
STILL_PX = 0.25
"""Median shift of what is at rest in the image of a camera that is."""

PairPoints = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Numbers of the points that two views share, their pixels in one, their pixels in the other."""


def camera_rests(pairs: list[PairPoints]) -> bool:
    """Whether things move before a camera at rest; False where no two views differ."""
    spans, shifts = [], []
    for _, xy_a, xy_b in pairs:
        shift = np.linalg.norm(xy_a - xy_b, axis=1)
        if _differ(shift):
            spans.append((_span(xy_a[shift < STUCK_PX]), _span(xy_a[shift > MOVING_PX])))
            shifts.append(shift[shift < STUCK_PX])
    if not spans or not len(np.concatenate(shifts)):
        return False
    at_rest, moving = np.median(spans, axis=0)
    return bool(at_rest > WIDER * moving and np.median(np.concatenate(shifts)) < STILL_PX)


def stuck_points(pairs: list[PairPoints], points: int) -> np.ndarray:
    """Which points stay put in the image between views that otherwise differ (bool, P); for a camera that moves."""
    still, moving = np.zeros(points, int), np.zeros(points, int)
    for number, xy_a, xy_b in pairs:
        shift = np.linalg.norm(xy_a - xy_b, axis=1)
        if _differ(shift):
            still[number] += shift < STUCK_PX
            moving[number] += shift > MOVING_PX
    return still > 3 * moving


def _differ(shift: np.ndarray) -> bool:
    return bool((shift > MOVING_PX).sum() >= ENOUGH)


def _span(xy: np.ndarray) -> float:
    """Area of the convex hull, px^2."""
    return float(cv2.contourArea(cv2.convexHull(xy.astype(np.float32)))) if len(xy) > 2 else 0.0
