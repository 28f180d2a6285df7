"""Levenberg-Marquardt over cameras, focal lengths and points, with a Schur complement on the points."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from unproject.inference.reprojection import (
    Linearised,
    Observations,
    Residual,
    State,
    linearise,
    moved,
    residuals,
    robust_cost,
)

DENSE_VIEWS = 120
"""Up to here one dense product forms the Schur matrix faster than sparse blocks do."""


@dataclass(frozen=True, kw_only=True)
class Free:
    """What may move. Each is a mask over its unknowns, so known cameras and known focals simply stay."""

    rotation: np.ndarray
    centre: np.ndarray
    focal: np.ndarray
    radial: np.ndarray
    points: bool = True


_PAIRS = [(row, column) for row in range(8) for column in range(row, 8)]
_ENTRY = {pair: number for number, pair in enumerate(_PAIRS)}


def _entries(rows: range, columns: range) -> np.ndarray:
    """Where the block ``rows`` x ``columns`` of a symmetric 8x8 lies among its 36 stored products."""
    return np.array([[_ENTRY[min(row, column), max(row, column)] for column in columns] for row in rows])


_TURN, _LENS, _POINT = range(3), range(3, 5), range(5, 8)


class _Sum:
    """Sums rows of ... x O by an index of O, contiguous runs at a time."""

    def __init__(self, index: np.ndarray, count: int):
        self.count = count
        self.order = None if (np.diff(index) >= 0).all() else np.argsort(index, kind="stable")
        ordered = index if self.order is None else index[self.order]
        self.present, self.starts = np.unique(ordered, return_index=True)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        total = np.zeros((self.count, *rows.shape[:-1]))
        if self.order is not None:
            rows = rows.take(self.order, axis=-1)
        total[self.present] = np.moveaxis(np.add.reduceat(rows, self.starts, axis=-1), -1, 0)
        return total


class _System:
    """The normal equations of one set of observations, points eliminated; index work is done once."""

    def __init__(self, seen: Observations, state: State, free: Free):
        self.views, self.groups, self.points = len(state.rotation), len(state.log_focal), len(state.points)
        self.seen, self.group_of_view = seen, state.group
        group = state.group[seen.view]
        self.by_view, self.by_point = _Sum(seen.view, self.views), _Sum(seen.point, self.points)
        self.by_group = _Sum(group, self.groups)
        self.by_group_point = _Sum(group * self.points + seen.point, self.groups * self.points)
        self.free_view = np.column_stack([free.rotation] * 3 + [free.centre] * 3).astype(float)
        self.free_group = np.column_stack([free.focal, free.radial]).astype(float)
        self.free_points = free.points
        if not free.points and self.free_group.any():
            raise ValueError("cameras with a free focal length need free points")
        self.view_mixed = _MixedBlocks(seen, self.views, self.points)

    def form(self, lin: Linearised, weight: np.ndarray) -> None:
        """Sum the blocks of J'WJ and J'Wr; unknowns that are not free get zero rows."""
        pulled = lin.jacobian * weight
        product = np.stack([(pulled[:, row] * lin.jacobian[:, column]).sum(0) for row, column in _PAIRS])
        gradient = (pulled * lin.residual[:, None]).sum(0)
        turn_point, point_point = product[_entries(_TURN, _POINT)], product[_entries(_POINT, _POINT)]
        lens_point, turn_lens = product[_entries(_LENS, _POINT)], product[_entries(_TURN, _LENS)]
        self.camera_point = np.concatenate([turn_point, -point_point]) * self.free_view[self.seen.view].T[:, None]
        self.group_point = self.by_group_point(lens_point).reshape(self.groups, self.points, 2, 3)
        self.group_point = self.group_point * self.free_group[:, None, :, None]
        self.hessian_point, self.gradient_point = self.by_point(point_point), self.by_point(gradient[5:])
        self.hessian_view = self._view_blocks(product[_entries(_TURN, _TURN)], turn_point, point_point)
        self.hessian_view_group = self._lens_blocks(turn_lens, lens_point)
        self.gradient_view = self.by_view(np.concatenate([gradient[:3], -gradient[5:]])) * self.free_view
        lens_free = self.free_group[:, :, None] * self.free_group[:, None]
        self.hessian_group = self.by_group(product[_entries(_LENS, _LENS)]) * lens_free
        self.gradient_group = self.by_group(gradient[3:5]) * self.free_group

    def _view_blocks(self, turn_turn: np.ndarray, turn_point: np.ndarray, point_point: np.ndarray) -> np.ndarray:
        """V 6 6; what a centre does is minus what a point does."""
        turn_turn, turn_point, point_point = (self.by_view(rows) for rows in (turn_turn, turn_point, point_point))
        transposed = turn_point.transpose(0, 2, 1)
        block = np.concatenate(
            [np.concatenate([turn_turn, -turn_point], 2), np.concatenate([-transposed, point_point], 2)], 1
        )
        return block * self.free_view[:, :, None] * self.free_view[:, None]

    def _lens_blocks(self, turn_lens: np.ndarray, lens_point: np.ndarray) -> np.ndarray:
        """Each view against its own camera, V 6 2."""
        lens = np.concatenate([self.by_view(turn_lens), -self.by_view(lens_point).transpose(0, 2, 1)], 1)
        return lens * self.free_view[:, :, None] * self.free_group[self.group_of_view][:, None]

    def add_prior(self, radial: np.ndarray, strength: float) -> None:
        """Pull k1 towards 0 with ``strength / 2 * k1^2`` per camera."""
        self.hessian_group[:, 1, 1] += strength * self.free_group[:, 1]
        self.gradient_group[:, 1] += strength * self.free_group[:, 1] * radial

    def step(self, damping: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Marquardt step of views (V 6), cameras (G 2) and points (P 3)."""
        if not self.free_points:  # every view stands alone
            step_view = _alone(self.hessian_view, self.gradient_view, damping)
            return step_view, np.zeros((self.groups, 2)), np.zeros((self.points, 3))
        if not (self.free_view.any() or self.free_group.any()):  # every point stands alone
            step_point = _alone(self.hessian_point, self.gradient_point, damping)
            return np.zeros((self.views, 6)), np.zeros((self.groups, 2)), step_point
        half = np.linalg.cholesky(np.linalg.inv(self.hessian_point + _damped(self.hessian_point, damping)))
        view_mixed = self.view_mixed(_times(self.camera_point, half.transpose(1, 2, 0)[:, :, self.seen.point]))
        group_mixed = (self.group_point @ half).transpose(0, 2, 1, 3).reshape(2 * self.groups, 3 * self.points)
        along = np.einsum("pji,pj->pi", half, self.gradient_point).ravel()
        right_view = self.gradient_view.ravel() - view_mixed @ along
        right_group = self.gradient_group.ravel() - group_mixed @ along
        step_view, step_group = self._solve(view_mixed, group_mixed, right_view, right_group, damping)
        pull = np.asarray(view_mixed.T @ step_view + group_mixed.T @ step_group)
        step_point = -np.einsum("pij,pj->pi", half, (along + pull).reshape(-1, 3))
        return step_view.reshape(-1, 6), step_group.reshape(-1, 2), step_point

    def _solve(self, view_mixed, group_mixed, right_view, right_group, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Both camera steps: views are eliminated first, since their part alone is sparse."""
        blocks = self.hessian_view + _damped(self.hessian_view, damping)
        corner = np.zeros((self.views, 6, self.groups, 2))
        corner[np.arange(self.views), :, self.group_of_view, :] = self.hessian_view_group
        corner = corner.reshape(6 * self.views, 2 * self.groups) - np.asarray(view_mixed @ group_mixed.T)
        small = scipy.linalg.block_diag(*(self.hessian_group + _damped(self.hessian_group, damping)))
        small = small - group_mixed @ group_mixed.T
        eliminated = _factor(blocks, self.view_mixed.square(view_mixed))(np.column_stack([corner, right_view]))
        inner, outer = eliminated[:, :-1], eliminated[:, -1]
        step_group = -np.linalg.solve(small - corner.T @ inner, right_group - corner.T @ outer)
        return -(outer + inner @ step_group), step_group


class _MixedBlocks:
    """Places the 6x3 block of each observation in the views-by-points matrix: dense, beyond `DENSE_VIEWS` sparse."""

    def __init__(self, seen: Observations, views: int, points: int):
        self.shape = (6 * views, 3 * points)
        if views <= DENSE_VIEWS:
            inside = np.arange(6)[:, None, None] * self.shape[1] + np.arange(3)[:, None]
            self.place = inside + 6 * self.shape[1] * seen.view + 3 * seen.point
            self.dense = None
            self.runs = _runs(seen, points)
        else:
            self.order = np.lexsort((seen.point, seen.view))
            self.columns = seen.point[self.order]
            self.starts = np.searchsorted(seen.view[self.order], np.arange(views + 1))

    def square(self, mixed: np.ndarray | scipy.sparse.bsr_array) -> np.ndarray | scipy.sparse.bsr_array:
        """M M'; points that are numbered close are mostly seen by the same views, so only those rows are multiplied."""
        if not isinstance(mixed, np.ndarray):
            return mixed @ mixed.T
        total = np.zeros((self.shape[0], self.shape[0]))
        for columns, rows in self.runs:
            part = mixed[rows, columns]
            total[rows, rows] += part @ part.T
        return total

    def __call__(self, blocks: np.ndarray) -> np.ndarray | scipy.sparse.bsr_array:
        """``blocks`` is 6 3 O."""
        if self.shape[0] <= 6 * DENSE_VIEWS:
            if self.dense is None:
                self.dense = np.zeros(self.shape)  # the same entries are filled every time
            self.dense.reshape(-1)[self.place] = blocks
            return self.dense
        data = np.ascontiguousarray(blocks.transpose(2, 0, 1)[self.order])
        return scipy.sparse.bsr_array((data, self.columns, self.starts), shape=self.shape)


def _runs(seen: Observations, points: int, size: int = 256) -> list[tuple[slice, slice]]:
    """Runs of ``size`` points as (columns, rows) of the mixed matrix: rows from the first to the last view of a run."""
    run = seen.point // size
    count = -(-points // size)
    first, last = np.full(count, len(seen)), np.full(count, -1)
    np.minimum.at(first, run, seen.view)
    np.maximum.at(last, run, seen.view)
    return [
        (slice(3 * size * number, 3 * size * (number + 1)), slice(6 * first[number], 6 * last[number] + 6))
        for number in range(count)
        if last[number] >= 0
    ]


def _times(left: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """A 3 O times 3 3 O, the second lower triangular."""
    return np.stack([(left[:, column:] * lower[column:, column]).sum(1) for column in range(3)], axis=1)


def _alone(hessian: np.ndarray, gradient: np.ndarray, damping: float) -> np.ndarray:
    return -np.linalg.solve(hessian + _damped(hessian, damping), gradient[..., None])[..., 0]


def _damped(blocks: np.ndarray, damping: float) -> np.ndarray:
    """Marquardt's diagonal; frozen unknowns (zero rows) get a one, so they stay put without special cases."""
    diagonal = np.einsum("...ii->...i", blocks)
    extra = np.where(diagonal > 0, damping * diagonal + 1e-12, 1.0)
    return extra[..., None] * np.eye(blocks.shape[-1])


def _factor(blocks: np.ndarray, square: np.ndarray | scipy.sparse.bsr_array):
    """A solver of (block diagonal - square) x = b, dense or sparse as ``square`` is."""
    if isinstance(square, np.ndarray):
        schur = scipy.linalg.block_diag(*blocks) - square
        factor = scipy.linalg.cho_factor(schur, lower=True, overwrite_a=True, check_finite=False)
        return lambda right: scipy.linalg.cho_solve(factor, right, check_finite=False)
    views = np.arange(len(blocks) + 1)
    diagonal = scipy.sparse.bsr_array((blocks, views[:-1], views), shape=(6 * len(blocks), 6 * len(blocks)))
    schur = (diagonal - square).tocsc()
    return scipy.sparse.linalg.splu(schur, options={"SymmetricMode": True}, diag_pivot_thresh=0.0).solve


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
        weight = seen.weight / (1 + (lin.residual**2).sum(0) / scale_px**2)
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
