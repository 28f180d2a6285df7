"""Levenberg-Marquardt over cameras, focal lengths and points, with a Schur complement on the points.

Two residuals share it. ``angle`` is Reliev3R's registration loss in its chord form
(`unproject.losses.weak.registration_residual_px`): it has the right sign at any pose, so it starts from cameras that
all coincide. ``pixel`` is reprojection with one radial term, for the last polish. Arrays are NumPy float64: the sizes
(thousands of 3x3 blocks) favour it over autograd, and the tests hold both to the same derivatives.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

Residual = Literal["angle", "pixel"]
DENSE_VIEWS = 120
"""Up to here one dense product forms the Schur matrix faster than sparse blocks do."""


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
        """The rows in ``keep`` (bool mask), in their order."""
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


@dataclass(frozen=True, kw_only=True)
class Free:
    """What may move. Each is a mask over its unknowns, so known cameras and known focals simply stay."""

    rotation: np.ndarray
    centre: np.ndarray
    focal: np.ndarray
    radial: np.ndarray
    points: bool = True


@dataclass(frozen=True)
class Linearised:
    """Residuals and their derivatives by (rotation, centre), (log focal, k1) and point."""

    residual: np.ndarray
    by_view: np.ndarray
    by_group: np.ndarray
    by_point: np.ndarray


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
    residual = focal[:, None] * (direction - ray)
    across = np.eye(3) - direction[:, :, None] * direction[:, None, :]
    by_point = (focal / distance)[:, None, None] * np.einsum("oij,okj->oik", across, rotation)
    by_view = np.concatenate([focal[:, None, None] * hat(direction), -by_point], axis=2)
    # The residual carries f itself; without that term the focal sticks at its start.
    toward_axis = np.concatenate([-ray[:, :2], np.zeros((len(ray), 1))], axis=1)
    ray_by_focal = toward_axis - ray * (ray * toward_axis).sum(1, keepdims=True)
    by_focal = residual - focal[:, None] * ray_by_focal
    by_group = np.stack([by_focal, np.zeros_like(by_focal)], axis=2)
    return Linearised(residual, by_view, by_group, by_point)


def _linearise_pixel(seen: Observations, state: State) -> Linearised:
    rotation = state.rotation[seen.view]
    local = np.einsum("oji,oj->oi", rotation, state.points[seen.point] - state.centre[seen.view])
    residual = residuals("pixel", seen, state)
    depth = np.where(local[:, 2] > 1e-9, local[:, 2], np.inf)
    plane = local[:, :2] / depth[:, None]
    focal, radial = state.focal[seen.view], state.radial[state.group[seen.view]]
    radius2 = (plane**2).sum(1)
    stretch = 1 + radial * radius2
    by_plane = 2 * radial[:, None, None] * plane[:, :, None] * plane[:, None, :]
    by_plane[:, [0, 1], [0, 1]] += stretch[:, None]
    by_plane *= (focal / depth)[:, None, None]
    by_local = np.concatenate([by_plane, -np.einsum("oij,oj->oi", by_plane, plane)[:, :, None]], axis=2)
    by_point = np.einsum("oij,okj->oik", by_local, rotation)
    by_view = np.concatenate([np.einsum("oij,ojk->oik", by_local, hat(local)), -by_point], axis=2)
    by_focal = (focal * stretch)[:, None] * plane
    by_group = np.stack([by_focal, (focal * radius2)[:, None] * plane], axis=2)
    return Linearised(residual, by_view, by_group, by_point)


def linearise(kind: Residual, seen: Observations, state: State) -> Linearised:
    """Residuals with their closed-form derivatives; rotations move as ``R exp([w]x)``."""
    return _linearise_angle(seen, state) if kind == "angle" else _linearise_pixel(seen, state)


def robust_cost(residual: np.ndarray, weight: np.ndarray, scale_px: float) -> float:
    """Sum of Cauchy penalties (`unproject.losses.weak.cauchy`)."""
    return float(weight @ np.log1p((residual**2).sum(1) / scale_px**2)) * 0.5 * scale_px**2


class _System:
    """The normal equations of one set of observations, points eliminated; index work is done once."""

    def __init__(self, seen: Observations, state: State, free: Free):
        self.views, self.groups, self.points = len(state.rotation), len(state.log_focal), len(state.points)
        self.seen, self.group = seen, state.group[seen.view]
        self.group_of_view = state.group
        self.by_view, self.by_point = _picker(seen.view, self.views), _picker(seen.point, self.points)
        self.by_group = _picker(self.group, self.groups)
        self.by_group_point = _picker(self.group * self.points + seen.point, self.groups * self.points)
        self.order = np.lexsort((seen.point, seen.view))
        self.starts = np.searchsorted(seen.view[self.order], np.arange(self.views + 1))
        self.free_view = np.concatenate([free.rotation[:, None].repeat(3, 1), free.centre[:, None].repeat(3, 1)], 1)
        self.free_group = np.stack([free.focal, free.radial], 1)
        self.free_points = free.points

    def form(self, lin: Linearised, weight: np.ndarray) -> None:
        """Sum the blocks of J'WJ and J'Wr."""
        by_view, by_group = lin.by_view * self.free_view[self.seen.view][:, None], lin.by_group * self.free_group[self.group][:, None]
        pulled = weight[:, None, None] * np.concatenate([by_view, by_group, lin.by_point], axis=2)
        every = np.concatenate([by_view, by_group, lin.by_point, lin.residual[:, :, None]], axis=2)
        normal = np.einsum("oda,odb->oab", pulled, every)
        camera, point, gradient = slice(0, 8), slice(8, 11), 11
        self.camera_point = normal[:, camera, point]
        self.hessian_view = _total(self.by_view, normal[:, :6, :6])
        self.hessian_view_group = normal[:, :6, 6:8]
        self.hessian_group = _total(self.by_group, normal[:, 6:8, 6:8])
        self.hessian_point = _total(self.by_point, normal[:, point, point])
        self.gradient_view = _total(self.by_view, normal[:, :6, gradient])
        self.gradient_group = _total(self.by_group, normal[:, 6:8, gradient])
        self.gradient_point = _total(self.by_point, normal[:, point, gradient])

    def add_prior(self, radial: np.ndarray, strength: float) -> None:
        """Pull k1 towards 0 with ``strength / 2 * k1^2`` per camera."""
        self.hessian_group[:, 1, 1] += strength * self.free_group[:, 1]
        self.gradient_group[:, 1] += strength * self.free_group[:, 1] * radial

    def step(self, damping: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Marquardt step of views (V 6), cameras (G 2) and points (P 3)."""
        hessian_point = self.hessian_point + _damped(self.hessian_point, damping)
        inverse_point = np.linalg.inv(hessian_point)
        half = np.linalg.cholesky(inverse_point) if self.free_points else np.zeros_like(inverse_point)
        mixed = self.camera_point @ half[self.seen.point]
        view_mixed, group_mixed = self._view_mixed(mixed[:, :6]), self._group_mixed(mixed[:, 6:])
        along = np.einsum("pji,pj->pi", half, self.gradient_point).ravel()
        right_view = self.gradient_view.ravel() - view_mixed @ along
        right_group = self.gradient_group.ravel() - group_mixed @ along
        step_view, step_group = self._solve(view_mixed, group_mixed, right_view, right_group, damping)
        pull = np.asarray(view_mixed.T @ step_view + group_mixed.T @ step_group).reshape(-1, 3)
        step_point = -np.einsum("pij,pj->pi", half, along.reshape(-1, 3) + pull)
        return step_view.reshape(-1, 6), step_group.reshape(-1, 2), step_point

    def _view_mixed(self, blocks: np.ndarray) -> np.ndarray | scipy.sparse.bsr_array:
        if self.views <= DENSE_VIEWS:
            dense = np.zeros((self.views, 6, self.points, 3))
            dense[self.seen.view, :, self.seen.point, :] = blocks
            return dense.reshape(6 * self.views, 3 * self.points)
        columns = self.seen.point[self.order]
        shape = (6 * self.views, 3 * self.points)
        return scipy.sparse.bsr_array((blocks[self.order], columns, self.starts), shape=shape)

    def _group_mixed(self, blocks: np.ndarray) -> np.ndarray:
        summed = _total(self.by_group_point, blocks).reshape(self.groups, self.points, 2, 3)
        return summed.transpose(0, 2, 1, 3).reshape(2 * self.groups, 3 * self.points)

    def _corner(self) -> np.ndarray:
        """View-by-camera block of the Hessian; each view touches its own camera only."""
        dense = np.zeros((self.views, 6, self.groups, 2))
        dense[np.arange(self.views), :, self.group_of_view, :] = _total(self.by_view, self.hessian_view_group)
        return dense.reshape(6 * self.views, 2 * self.groups)

    def _solve(self, view_mixed, group_mixed, right_view, right_group, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Both camera steps: views are eliminated first, since their part alone is sparse."""
        blocks = self.hessian_view + _damped(self.hessian_view, damping)
        corner = self._corner() - np.asarray(view_mixed @ group_mixed.T)
        small = scipy.linalg.block_diag(*(self.hessian_group + _damped(self.hessian_group, damping)))
        small = small - group_mixed @ group_mixed.T
        solve = _factor(blocks, view_mixed)
        eliminated = solve(np.column_stack([corner, right_view]))
        inner, outer = eliminated[:, :-1], eliminated[:, -1]
        step_group = -np.linalg.solve(small - corner.T @ inner, right_group - corner.T @ outer)
        return -(outer + inner @ step_group), step_group


def _picker(index: np.ndarray, count: int) -> scipy.sparse.csr_array:
    """Sparse matrix that sums rows by index."""
    rows = np.arange(len(index))
    return scipy.sparse.csr_array((np.ones(len(index)), (index, rows)), shape=(count, len(index)))


def _total(picker: scipy.sparse.csr_array, rows: np.ndarray) -> np.ndarray:
    return (picker @ rows.reshape(len(rows), -1)).reshape(picker.shape[0], *rows.shape[1:])


def _damped(blocks: np.ndarray, damping: float) -> np.ndarray:
    """Marquardt's diagonal; frozen unknowns (zero rows) get a one, so they stay put without special cases."""
    diagonal = np.einsum("...ii->...i", blocks)
    extra = np.where(diagonal > 0, damping * diagonal + 1e-12, 1.0)
    return extra[..., None] * np.eye(blocks.shape[-1])


def _factor(blocks: np.ndarray, view_mixed):
    """A solver of (block diagonal - M M') x = b, dense or sparse as ``view_mixed`` is."""
    if isinstance(view_mixed, np.ndarray):
        schur = scipy.linalg.block_diag(*blocks) - view_mixed @ view_mixed.T
        factor = scipy.linalg.cho_factor(schur, lower=True, overwrite_a=True, check_finite=False)
        return lambda right: scipy.linalg.cho_solve(factor, right, check_finite=False)
    views = np.arange(len(blocks) + 1)
    diagonal = scipy.sparse.bsr_array((blocks, views[:-1], views), shape=(6 * len(blocks), 6 * len(blocks)))
    schur = (diagonal - view_mixed @ view_mixed.T).tocsc()
    return scipy.sparse.linalg.splu(schur, options={"SymmetricMode": True}, diag_pivot_thresh=0.0).solve


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


def solve(
    seen: Observations,
    state: State,
    free: Free,
    *,
    kind: Residual,
    scale_px: float,
    iterations: int,
    radial_prior: float = 1000.0,
) -> State:
    """Minimise the Cauchy cost of ``kind`` with scale ``scale_px``; stops after two steps that gain under 1e-4.

    Raises:
        numpy.linalg.LinAlgError: never for damped systems of finite input; a NaN in the input ends here.
    """
    system = _System(seen, state, free)
    damping, dull = 1e-3, 0
    cost = _cost(kind, seen, state, scale_px, radial_prior)
    for _ in range(iterations):
        lin = linearise(kind, seen, state)
        weight = seen.weight / (1 + (lin.residual**2).sum(1) / scale_px**2)
        system.form(lin, weight)
        system.add_prior(state.radial, radial_prior)
        while damping < 1e6:
            candidate = _try_step(system, state, damping)
            candidate_cost = _cost(kind, seen, candidate, scale_px, radial_prior) if candidate else np.inf
            if candidate is not None and candidate_cost < cost:
                break
            damping *= 4
        else:
            break
        gain = (cost - candidate_cost) / max(cost, 1e-12)
        state, cost, damping = candidate, candidate_cost, max(damping / 3, 1e-9)
        dull = dull + 1 if gain < 1e-4 else 0
        if dull == 2:
            break
    return state


def _try_step(system: _System, state: State, damping: float) -> State | None:
    try:
        return moved(state, *system.step(damping))
    except np.linalg.LinAlgError:
        return None  # not positive definite at this damping: the caller damps more


def _cost(kind: Residual, seen: Observations, state: State, scale_px: float, radial_prior: float) -> float:
    prior = 0.5 * radial_prior * float((state.radial**2).sum())
    return robust_cost(residuals(kind, seen, state), seen.weight, scale_px) + prior
