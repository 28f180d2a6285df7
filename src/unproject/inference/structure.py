"""Points from known cameras, cameras from known points, and which observations to trust."""

from dataclasses import replace

import cv2
import numpy as np

from unproject.inference import bundle, reprojection
from unproject.inference.bundle import Free
from unproject.inference.reprojection import Observations, State


def world_rays(seen: Observations, state: State) -> np.ndarray:
    """Unit viewing directions in the world, O 3 (radial distortion removed)."""
    focal = state.focal[seen.view]
    xy = undistorted(seen.xy, focal, state.radial[state.group[seen.view]])
    return np.einsum("oij,oj->oi", state.rotation[seen.view], reprojection.unit_rays(xy, focal))


def undistorted(xy: np.ndarray, focal: np.ndarray, radial: np.ndarray) -> np.ndarray:
    """Centred pixels without k1, by Newton steps on the radius; what lies beyond the lens's fold is put on the fold."""
    bent = np.linalg.norm(xy, axis=1) / focal
    fold = 1 / np.sqrt(np.maximum(-3 * radial, 1e-12))
    radius = bent
    for _ in range(8):
        slope = (1 + 3 * radial * radius**2).clip(1e-3)
        radius = np.minimum(radius - (radius * (1 + radial * radius**2) - bent) / slope, fold)
    return xy * (radius / np.maximum(bent, 1e-12))[:, None]


def far_points(seen: Observations, state: State) -> np.ndarray:
    """Each point at distance 1 along the mean of its rays: the start when all centres coincide."""
    total = np.zeros_like(state.points)
    np.add.at(total, seen.point, world_rays(seen, state))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)


def triangulate(seen: Observations, state: State) -> np.ndarray:
    """Points nearest to their rays (P 3); rays that are all but parallel give a point far along them."""
    ray = world_rays(seen, state)
    across = seen.weight[:, None, None] * (np.eye(3) - ray[:, :, None] * ray[:, None, :])
    normal = np.zeros((len(state.points), 3, 3))
    right = np.zeros((len(state.points), 3))
    np.add.at(normal, seen.point, across)
    np.add.at(right, seen.point, np.einsum("oij,oj->oi", across, state.centre[seen.view]))
    normal += 1e-9 * np.eye(3)
    return np.linalg.solve(normal, right[..., None])[..., 0]


def parallax_rad(seen: Observations, state: State) -> np.ndarray:
    """Angle between the mean ray of each point and its most different ray (P)."""
    ray = world_rays(seen, state)
    mean = far_points(seen, state)
    angle = np.arccos(np.clip((ray * mean[seen.point]).sum(1), -1, 1))
    widest = np.zeros(len(state.points))
    np.maximum.at(widest, seen.point, angle)
    return 2 * widest


def with_points(seen: Observations, state: State, count: int, *, scale_px: float = 2.0) -> State:
    """``state`` with ``count`` points triangulated from ``seen`` and refined, cameras frozen."""
    bare = replace(state, points=np.zeros((count, 3)))
    started = replace(bare, points=triangulate(seen, bare))
    frozen = np.zeros(len(state.rotation), bool)
    no_group = np.zeros(len(state.log_focal), bool)
    free = Free(rotation=frozen, centre=frozen, focal=no_group, radial=no_group)
    return bundle.solve(seen, started, free, kind="pixel", scale_px=scale_px, iterations=8)


def resected(
    seen: Observations, state: State, views: np.ndarray, *, moves: bool = True, scale_px: float = 1.0
) -> State:
    """``state`` with the poses of ``views`` (bool, V) fitted to frozen points; only turned unless ``moves``."""
    no_group = np.zeros(len(state.log_focal), bool)
    free = bundle.Free(rotation=views, centre=views & moves, focal=no_group, radial=no_group, points=False)
    wide = bundle.solve(seen, state, free, kind="angle", scale_px=8.0, iterations=15)
    return bundle.solve(seen, wide, free, kind="pixel", scale_px=scale_px, iterations=15)


def mean_rotation(rotations: np.ndarray) -> np.ndarray:
    """The rotation nearest to many (N 3 3), in the chordal sense."""
    u, _, vt = np.linalg.svd(rotations.sum(0))
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt


def inliers(seen: Observations, state: State, limit_px: float) -> np.ndarray:
    """Observations whose reprojection error is below ``limit_px`` (bool, O)."""
    return (reprojection.residuals("pixel", seen, state) ** 2).sum(1) < limit_px**2


def inlier_share(seen: Observations, good: np.ndarray, views: int) -> np.ndarray:
    """Share of each view's observations that are good; 0 for a view without any."""
    total = np.bincount(seen.view, minlength=views)
    return np.bincount(seen.view[good], minlength=views) / np.maximum(total, 1)


def located(view: int, seen: Observations, state: State) -> tuple[State, int, int] | None:
    """``state`` with one view where its points say (SQPnP, RANSAC at 4 px), and how many of them fit before and after.

    Only points that two other views place are asked: where the view is wrong, so are the points it helped to place.
    """
    about = np.zeros(len(state.points), bool)
    about[seen.point[seen.view == view]] = True
    near = seen.select(about[seen.point])
    near = replace(near, point=np.unique(near.point, return_inverse=True)[1])
    others = near.select(near.view != view)
    elsewhere = with_points(others, state, int(about.sum()))
    fits = np.bincount(others.point[inliers(others, elsewhere, 2.0)], minlength=len(elsewhere.points))
    asked = near.select((near.view == view) & (fits[near.point] >= 2))
    pose = _pose(asked, elsewhere, view) if len(asked) >= 6 else None
    if pose is None:
        return None
    rotation, centre = state.rotation.copy(), state.centre.copy()
    rotation[view], centre[view] = pose
    before = inliers(asked, elsewhere, 4.0).sum()
    after = inliers(asked, replace(elsewhere, rotation=rotation, centre=centre), 4.0).sum()
    return replace(state, rotation=rotation, centre=centre), int(before), int(after)


def _pose(seen: Observations, state: State, view: int) -> tuple[np.ndarray, np.ndarray] | None:
    focal = np.full(len(seen), state.focal[view])
    xy = undistorted(seen.xy, focal, np.full(len(seen), state.radial[state.group[view]]))
    camera = np.diag([focal[0], focal[0], 1.0])
    cv2.setRNGSeed(view)
    ok, rotvec, translation, chosen = cv2.solvePnPRansac(
        state.points[seen.point], xy, camera, None, iterationsCount=300, reprojectionError=4.0, flags=cv2.SOLVEPNP_SQPNP
    )
    if not ok or chosen is None or len(chosen) < 6:
        return None
    rotation = cv2.Rodrigues(rotvec)[0].T
    return rotation, -rotation @ translation.ravel()
