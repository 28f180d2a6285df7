"""How far tracks and cameras disagree, in pixels, and which way to turn: two residuals with their derivatives.

``angle`` is Reliev3R's registration loss in its chord form
(`unproject.losses.weak.registration_residual_px`): it has the right sign at any pose, so it starts from cameras that
all coincide. ``pixel`` is reprojection with one radial term, for the last polish. Arrays are NumPy float64: the sizes
(thousands of 3x3 blocks) favour it over autograd, and the tests hold both to the same derivatives.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Residual = Literal["angle", "pixel"]


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Who sees what, where. ``xy`` are pixels from the principal point, with square pixels; rows sorted by point."""

    view: np.ndarray
    point: np.ndarray
    xy: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.view)

    def select(self, keep: np.ndarray) -> "Observations":
        """The rows in ``keep`` (mask or numbers), in that order."""
        return Observations(view=self.view[keep], point=self.point[keep], xy=self.xy[keep], weight=self.weight[keep])


@dataclass(frozen=True, kw_only=True)
class State:
    """What is solved for: V views in G cameras (``group``) looking at P points."""

    rotation: np.ndarray
    """V 3 3, world from camera."""
    centre: np.ndarray
    """V 3, world."""
    points: np.ndarray
    """P 3, world."""
    log_focal: np.ndarray
    """G, of pixels."""
    radial: np.ndarray
    """G, OpenCV's k1."""
    group: np.ndarray
    """V, which camera took each view."""

    @property
    def focal(self) -> np.ndarray:
        """Focal length of each view, pixels."""
        return np.exp(self.log_focal)[self.group]


@dataclass(frozen=True)
class Linearised:
    """Residuals and their derivatives. Observations are the last axis, so that sums run over contiguous memory."""

    residual: np.ndarray
    """D O."""
    jacobian: np.ndarray
    """D 8 O, by rotation (3), log focal, k1, point (3). By the centre it is minus that by the point."""


def hat(vector: np.ndarray) -> np.ndarray:
    """Cross-product matrices of ... 3 vectors."""
    matrix = np.zeros((*vector.shape[:-1], 3, 3))
    matrix[..., 0, 1], matrix[..., 0, 2] = -vector[..., 2], vector[..., 1]
    matrix[..., 1, 0], matrix[..., 1, 2] = vector[..., 2], -vector[..., 0]
    matrix[..., 2, 0], matrix[..., 2, 1] = -vector[..., 1], vector[..., 0]
    return matrix


def so3_exp(rotvec: np.ndarray) -> np.ndarray:
    """Rotation matrices of ... 3 rotation vectors (Rodrigues)."""
    angle = np.linalg.norm(rotvec, axis=-1)[..., None, None]
    skew = hat(rotvec)
    return np.eye(3) + np.sinc(angle / np.pi) * skew + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * skew @ skew


def unit_rays(xy: np.ndarray, focal: np.ndarray) -> np.ndarray:
    """Unit viewing directions of centred pixels."""
    ray = np.concatenate([xy / focal[:, None], np.ones((len(xy), 1))], axis=1)
    return ray / np.linalg.norm(ray, axis=1, keepdims=True)


def residuals(kind: Residual, seen: Observations, state: State) -> np.ndarray:
    """Residuals in pixels, O x 3 (angle) or O x 2 (pixel)."""
    offset = state.points[seen.point] - state.centre[seen.view]
    local = np.einsum("oji,oj->oi", state.rotation[seen.view], offset)
    focal = state.focal[seen.view]
    if kind == "angle":
        length = np.maximum(np.linalg.norm(local, axis=1, keepdims=True), 1e-12)
        return focal[:, None] * (local / length - unit_rays(seen.xy, focal))
    radial = state.radial[state.group[seen.view]]
    depth = np.where(local[:, 2] > 1e-9, local[:, 2], np.inf)
    plane = local[:, :2] / depth[:, None]
    stretch = 1 + radial * (plane**2).sum(1)
    residual = focal[:, None] * stretch[:, None] * plane - seen.xy
    residual[np.isinf(depth)] = 1e4  # behind the camera: an outlier, whatever the formula says
    return residual


def _linearise_angle(seen: Observations, state: State) -> Linearised:
    rotation = state.rotation[seen.view]
    local = np.einsum("oji,oj->oi", rotation, state.points[seen.point] - state.centre[seen.view])
    distance = np.maximum(np.linalg.norm(local, axis=1), 1e-12)
    direction = local / distance[:, None]
    focal = state.focal[seen.view]
    ray = unit_rays(seen.xy, focal)
    jacobian = np.zeros((3, 8, len(seen)))
    residual = (focal[:, None] * (direction - ray)).T
    jacobian[:, :3] = focal * hat(direction).transpose(1, 2, 0)
    # The residual carries f itself; without that term the focal sticks at its start.
    planar = (ray[:, :2] ** 2).sum(1)
    ray_by_log_focal = ray * planar[:, None] - np.pad(ray[:, :2], ((0, 0), (0, 1)))
    jacobian[:, 3] = residual - focal * ray_by_log_focal.T
    along = np.einsum("oij,oj->oi", rotation, direction)
    across = rotation.transpose(2, 1, 0) - direction.T[:, None] * along.T[None]
    jacobian[:, 5:] = focal / distance * across
    return Linearised(residual, jacobian)


def _linearise_pixel(seen: Observations, state: State) -> Linearised:
    rotation = state.rotation[seen.view]
    local = np.einsum("oji,oj->oi", rotation, state.points[seen.point] - state.centre[seen.view])
    depth = np.where(local[:, 2] > 1e-9, local[:, 2], np.inf)
    plane = (local[:, :2] / depth[:, None]).T
    focal, radial = state.focal[seen.view], state.radial[state.group[seen.view]]
    radius2 = (plane**2).sum(0)
    by_local = np.empty((2, 3, len(seen)))
    by_local[:, :2] = 2 * radial * plane[:, None] * plane[None] + (1 + radial * radius2) * np.eye(2)[:, :, None]
    by_local[:, 2] = -(by_local[:, :2] * plane).sum(1)
    by_local *= focal / depth
    jacobian = np.empty((2, 8, len(seen)))
    jacobian[:, :3] = np.cross(by_local, local.T[None], axis=1)
    jacobian[:, 3] = focal * (1 + radial * radius2) * plane
    jacobian[:, 4] = focal * radius2 * plane
    jacobian[:, 5:] = np.einsum("dio,oki->dko", by_local, rotation)
    return Linearised(residuals("pixel", seen, state).T, jacobian)


def linearise(kind: Residual, seen: Observations, state: State) -> Linearised:
    """Residuals with their closed-form derivatives; rotations move as ``R exp([w]x)``."""
    return _linearise_angle(seen, state) if kind == "angle" else _linearise_pixel(seen, state)


def robust_cost(residual: np.ndarray, weight: np.ndarray, scale_px: float) -> float:
    """Sum of Cauchy penalties (`unproject.losses.weak.cauchy`)."""
    return float(weight @ np.log1p((residual**2).sum(1) / scale_px**2)) * 0.5 * scale_px**2


def moved(state: State, step_view: np.ndarray, step_group: np.ndarray, step_point: np.ndarray) -> State:
    """The state after a step; focal lengths move by at most e^0.5 at once."""
    return replace(
        state,
        rotation=state.rotation @ so3_exp(step_view[:, :3]),
        centre=state.centre + step_view[:, 3:],
        points=state.points + step_point,
        log_focal=state.log_focal + step_group[:, 0].clip(-0.5, 0.5),
        radial=state.radial + step_group[:, 1],
    )
