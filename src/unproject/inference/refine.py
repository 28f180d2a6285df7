"""Cameras, focal length and points of one clip from 2D tracks alone: weak supervision at test time.

Reliev3R's registration loss (its section 3.2) is minimised over everything at once, from cameras that all coincide: all
views start at once (long clips in windows), without weights. Relative rotations come from two-view geometry, are
averaged, and the rest follows by letting the robust scale shrink from 100 to 1 pixel. Where that explains too little,
views are placed one by one (`unproject.inference.grow`). Thresholds are pixels of an image of at most 1280 on its long
side.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from unproject.inference import bundle, grow, overlay, problem, reprojection, structure, windows
from unproject.inference.bundle import Free
from unproject.inference.problem import CameraPrior
from unproject.inference.reprojection import Observations, State
from unproject.inference.rotations import average_rotations
from unproject.inference.twoview import Pair, all_flat, focal_start, relative_rotation
from unproject.types import Tracks

Motion = Literal["full", "rotation_only", "static"]

NO_PARALLAX_PX = 1.0
"""Where a rotating camera at a fixed place explains the median observation this well, there is no depth to be had."""
WELL_EXPLAINED, FEW_VIEWS = 0.85, 40
"""Share of observations within 4 px that leaves no doubt; views up to which another start costs little."""
SEEDS = 8
"""Pairs of views to grow from where the joint start leaves a doubt, at most."""
FEW_OBSERVATIONS = 60_000
"""Up to here the last polish is over all tracks, not only those picked: cheap, and a tenth more accurate on photos."""
SHARPEST_PX = 0.25
"""Robust scale of refined tracks, at least; the smaller, the less movers and false matches bend the cameras."""
LEAST_FOCAL = 0.4
"""Share of the focal length at the start below which the angle loss has let it run off."""
LEAST_PATH = 0.015
"""From the middle of the path, in median depths. Movers that defeat the homographies of `all_flat` pass for parallax
and bend a turn into such a path; depth is not to be had from it in any case."""
STATIC_PX = 0.5
"""Where nothing moves more than this, the camera stands still."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """One connected set of views in one world."""

    views: np.ndarray
    """Their numbers among all views."""
    motion: Motion
    state: State
    """Cameras in the order of ``views``, and one point per track in ``track``."""
    seen: Observations
    """Every observation of those tracks, numbered as in ``state``."""
    good: np.ndarray
    """Which of them the solution explains (bool)."""
    track: np.ndarray
    """Track number of each point."""
    scale_px: float = 1.0
    """Robust scale that suits the noise of its tracks."""


def solve_component(tracks: Tracks, views: np.ndarray, prior: CameraPrior, *, seed: int = 0) -> Solved | None:
    """Solve one connected set of views, given by their numbers in ``tracks`` and ``prior``.

    Does not fail on degenerate motion: ``Solved.motion`` says what could honestly be found. Views that too few of their
    points speak for are not among ``Solved.views``; None where no two views agree on any geometry.
    """
    prior = prior.of(views)
    seen, track = problem.observations(tracks, views, prior)
    partners = problem.partners(seen, len(views))
    common = problem.common_points(seen, partners, len(views))
    if overlay.camera_rests(common) and not prior.posed.any():
        return _finished(views, _at_rest(seen, prior), "static", seen, track, prior)
    seen = seen.select(~overlay.stuck_points(common, len(track))[seen.point])
    if not len(seen):
        return None
    picked = problem.numbered(seen.select(problem.picked(seen, len(views), np.random.default_rng(seed))))
    pairs = problem.fit_pairs(picked, partners, len(views), seed)
    if not pairs and not prior.posed.any():
        return None
    turning = _without_parallax(picked, pairs, prior, seed)
    if turning is not None:
        return _finished(views, *turning, seen, track, prior)
    if windows.hops_across(picked, len(views)) > windows.HOPS and not prior.posed.any():
        state = windows.solve_in_windows(picked, prior, lambda part, of: _from_nothing(part, of, seed))
        state = _narrowed(picked, structure.with_points(picked, state, len(state.points), scale_px=20.0), prior)
        state, placed = _repaired(picked, state, prior), np.ones(len(views), bool)
    else:
        state, placed = _best_of_starts(picked, pairs, prior, seed)
    if not prior.posed.any() and _path(picked, state) < LEAST_PATH:
        turning = _turned(picked, pairs, prior, seed)
        if turning is not None:
            return _finished(views, *turning, seen, track, prior)
    if not placed.all():
        views, prior, state = views[placed], prior.of(np.flatnonzero(placed)), _of_views(state, placed)
        kept = track[np.unique(seen.point)]
        seen, track = problem.observations(tracks, views, prior)
        seen = seen.select(np.isin(track[seen.point], kept))
    if not prior.posed.any():
        state = _seen_from_first(state)
    return _finished(views, state, "full", seen, track, prior)


def polished(solved: Solved, tracks: Tracks, prior: CameraPrior, *, seed: int = 0) -> Solved:
    """The same solution fitted to its tracks as they were placed anew (`unproject.inference.sharpen`).

    The robust scale follows the noise: four times the median error, between `SHARPEST_PX` and 1 pixel.
    """
    if solved.motion != "full":
        return solved
    prior = prior.of(solved.views)
    seen, _ = problem.observations(tracks, solved.views, prior)
    seen = seen.select(np.isin(seen.point, solved.seen.point))
    chosen = seen
    if len(seen) > FEW_OBSERVATIONS:
        chosen = seen.select(problem.picked(seen, len(solved.views), np.random.default_rng(seed)))
    names = np.unique(chosen.point)
    chosen = problem.numbered(chosen)
    state = replace(solved.state, points=solved.state.points[names])
    state = _resolved(chosen, state, prior, scale_px=1.0, limit_px=4.0)
    error_px = np.linalg.norm(reprojection.residuals("pixel", chosen, state), axis=1)
    scale_px = float(np.clip(4 * np.median(error_px), SHARPEST_PX, 1.0))
    state = _resolved(chosen, state, prior, scale_px=scale_px, limit_px=max(8 * scale_px, 2.0))
    points = solved.state.points.copy()
    state, points[names] = replace(state, points=points), state.points
    if len(chosen) < len(seen):
        state = structure.with_points(seen, state, len(points), scale_px=scale_px)
    if not prior.posed.any():
        state = _unit_depth(seen, state)
    good = structure.inliers(seen, state, 4.0)
    return replace(solved, state=state, seen=seen, good=good, scale_px=scale_px)


def _best_of_starts(seen: Observations, pairs: list[Pair], prior: CameraPrior, seed: int) -> tuple[State, np.ndarray]:
    """The joint start where it explains the views well; else views placed one by one as well, and what explains most.

    Also says which views have a place (bool, V): where views were placed one by one, not all may.
    """
    state = _narrowed(seen, _positioned(seen, _unsolved(pairs, prior, seen, seed), prior, seed), prior)
    state = _repaired(seen, state, prior)
    best = state, np.ones(len(prior.group), bool)
    if _well_explained(seen, *best) or len(prior.group) > FEW_VIEWS or prior.posed.any():
        return best
    for members in grow.seeds(pairs, prior)[:SEEDS]:
        state, placed = grow.grown(seen, prior, members, lambda part, of: _from_nothing(part, of, seed))
        state = _repaired(seen.select(placed[seen.view]), state, prior)
        best = max(best, (state, placed), key=lambda start: _explained(seen, *start).sum())
        if _well_explained(seen, *best):
            break
    fits = best[1] & _fits(seen, *best)
    return best[0], fits if fits.sum() > 1 else best[1]


def _seen_from_first(state: State) -> State:
    """The same in the world of the first camera; views placed one by one started from another."""
    turn, origin = state.rotation[0], state.centre[0]
    return replace(
        state,
        rotation=turn.T @ state.rotation,
        centre=(state.centre - origin) @ turn,
        points=(state.points - origin) @ turn,
    )


def _of_views(state: State, chosen: np.ndarray) -> State:
    return replace(state, rotation=state.rotation[chosen], centre=state.centre[chosen], group=state.group[chosen])


def _explained(seen: Observations, state: State, placed: np.ndarray) -> np.ndarray:
    """Observations (bool, O) within 4 px of points that three views explain; two views agree on anything."""
    good = structure.inliers(seen, state, 4.0) & placed[seen.view]
    often = np.bincount(seen.point[good], minlength=len(state.points)) >= min(3, len(placed))
    return good & often[seen.point]


def _well_explained(seen: Observations, state: State, placed: np.ndarray) -> bool:
    good = structure.inliers(seen, state, 4.0) & placed[seen.view]
    share = structure.inlier_share(seen, good, len(placed))
    return bool(good.mean() >= WELL_EXPLAINED and share.min() >= 0.5)


def _fits(seen: Observations, state: State, placed: np.ndarray) -> np.ndarray:
    """Views (bool, V) that enough of their points speak for; any others are better left out than put anywhere."""
    good = _explained(seen, state, placed)
    count = np.bincount(seen.view[good], minlength=len(placed))
    return (count >= grow.LEAST_FITS) & (structure.inlier_share(seen, good, len(placed)) >= grow.LEAST_SHARE)


def _from_nothing(seen: Observations, prior: CameraPrior, seed: int) -> State:
    """One window: pairs, rotations, places, everything."""
    pairs = problem.fit_pairs(seen, problem.partners(seen, len(prior.group)), len(prior.group), seed)
    return _narrowed(seen, _positioned(seen, _unsolved(pairs, prior, seen, seed), prior, seed), prior)


def _unsolved(pairs: list[Pair], prior: CameraPrior, seen: Observations, seed: int) -> State:
    """Focal lengths from priors or pairs, rotations averaged, centres known or all in one place, points far away."""
    focal = prior.focal_px.copy()
    for group in np.flatnonzero(~np.isfinite(focal)):
        alike = [pair for pair in pairs if prior.group[pair.a] == group and prior.group[pair.b] == group]
        focal[group] = focal_start(alike, float(prior.long_side_px[prior.group == group].max(initial=0)) or 1.0)
    posed = prior.posed
    known = {int(view): prior.world_from_cam[view, :3, :3] for view in np.flatnonzero(posed)}
    with ThreadPoolExecutor(cv2.getNumThreads()) as pool:
        views = prior.group
        fits = pool.map(lambda p: relative_rotation(p, focal[views[p.a]], focal[views[p.b]], seed=seed), pairs)
        relatives = [fit for fit in fits if fit is not None]
    rotation = average_rotations(len(posed), relatives, known)
    centre = np.where(posed[:, None], prior.world_from_cam[:, :3, 3], 0.0)
    centre[~posed] = centre[posed].mean(0) if posed.any() else 0.0
    return _far_away(seen, prior, rotation, centre, focal)


def _at_rest(seen: Observations, prior: CameraPrior) -> State:
    """A camera that stands still; its focal length is the prior's or one long side, since nothing tells it."""
    views = len(prior.group)
    side = np.array([prior.long_side_px[prior.group == group].max(initial=1.0) for group in range(len(prior.focal_px))])
    focal = np.where(np.isfinite(prior.focal_px), prior.focal_px, side)
    return _far_away(seen, prior, np.tile(np.eye(3), (views, 1, 1)), np.zeros((views, 3)), focal)


def _far_away(
    seen: Observations, prior: CameraPrior, rotation: np.ndarray, centre: np.ndarray, focal: np.ndarray
) -> State:
    """These cameras and points at distance 1."""
    bare = State(
        rotation=rotation,
        centre=centre,
        points=np.zeros((int(seen.point.max()) + 1, 3)),
        log_focal=np.log(focal),
        radial=prior.radial.copy(),
        group=prior.group,
    )
    return replace(bare, points=structure.far_points(seen, bare))


def _free(
    prior: CameraPrior, *, rotation: bool = True, centre: bool = True, focal: bool = False, radial: bool = False
) -> Free:
    """What may move: never a known pose or focal; without known poses the first view stays."""
    loose = ~prior.posed
    if loose.all():
        loose[0] = False
    used = np.bincount(prior.group, minlength=len(prior.focal_px)) > 0
    soft = used & ~prior.focal_fixed
    return Free(rotation=loose & rotation, centre=loose & centre, focal=soft & focal, radial=soft & radial)


def _without_parallax(
    seen: Observations, pairs: list[Pair], prior: CameraPrior, seed: int
) -> tuple[State, Motion] | None:
    """The state of a camera that only turns, or stands, and which of both; None where the tracks show parallax."""
    return None if prior.posed.any() or not all_flat(pairs, seed=seed) else _turned(seen, pairs, prior, seed)


def _turned(seen: Observations, pairs: list[Pair], prior: CameraPrior, seed: int) -> tuple[State, Motion] | None:
    """The same for tracks that may be a turn; None where a turn leaves the median observation unexplained."""
    turned = _unsolved(pairs, prior, seen, seed)
    turned = bundle.solve(seen, turned, _free(prior, centre=False), kind="angle", scale_px=20.0, iterations=10)
    # The chord carries f, and without parallax nothing else holds f up: in image pixels it cannot shrink to nothing.
    free = _free(prior, centre=False, focal=len(prior.group) > 2)
    turned = bundle.solve(seen, turned, free, kind="pixel", scale_px=3.0, iterations=15)
    error_px = np.median(np.linalg.norm(reprojection.residuals("pixel", seen, turned), axis=1))
    moved_px = [np.median(np.linalg.norm(pair.xy_a - pair.xy_b, axis=1)) for pair in pairs]
    if np.median(moved_px) < STATIC_PX:
        return turned, "static"
    return (turned, "rotation_only") if error_px < NO_PARALLAX_PX else None


def _path(seen: Observations, state: State) -> float:
    """How far the camera goes from the middle of its path, as a share of the median depth."""
    good = structure.inliers(seen, state, 4.0)
    if not good.any():
        return 0.0
    way = np.linalg.norm(state.centre - np.median(state.centre, axis=0), axis=1)
    return float(np.percentile(way, 90) / _median_depth(seen.select(good), state))


def _positioned(seen: Observations, state: State, prior: CameraPrior, seed: int) -> State:
    """Positions and points, rotations and focal frozen, from centres that all coincide."""
    noise = 0.01 * np.random.default_rng(seed).standard_normal(state.centre.shape)
    start = replace(state, centre=state.centre + noise * _free(prior).centre[:, None])
    return bundle.solve(seen, start, _free(prior, rotation=False), kind="angle", scale_px=100.0, iterations=40)


def _narrowed(seen: Observations, state: State, prior: CameraPrior) -> State:
    """Everything free, the robust scale shrinking from 20 to 1 pixel, then the polish in image pixels with k1."""
    many = len(prior.group) > 2
    state = bundle.solve(seen, state, _free(prior), kind="angle", scale_px=20.0, iterations=30)
    narrow, near = _by_angle(seen, state, _free(prior, focal=many))
    # The chord carries f: where the views hardly tell it (a plane, a straight path), it is cheapest at nothing.
    if (narrow.focal < LEAST_FOCAL * state.focal).any():
        narrow, near = _by_angle(seen, state, _free(prior))
    return bundle.solve(near, narrow, _free(prior, focal=many, radial=many), kind="pixel", scale_px=1.0, iterations=30)


def _by_angle(seen: Observations, state: State, free: Free) -> tuple[State, Observations]:
    """The robust scale from 5 to 1 pixel of chord, and what is not pruned on the way."""
    for scale_px, iterations, prune_px in ((5.0, 20, np.inf), (2.0, 30, 8.0), (1.0, 40, 4.0), (1.0, 15, np.inf)):
        state = bundle.solve(seen, state, free, kind="angle", scale_px=scale_px, iterations=iterations)
        error = np.linalg.norm(reprojection.residuals("angle", seen, state), axis=1)
        seen = seen.select(error < prune_px)
    return state, seen


def _repaired(seen: Observations, state: State, prior: CameraPrior) -> State:
    """Views that do not fit are placed anew from their points; observations pruned on the way come back."""
    views = len(prior.group)
    for _ in range(3):
        good = structure.inliers(seen, state, 4.0)
        share = structure.inlier_share(seen, good, views)
        weak = np.flatnonzero((share < max(0.7 * np.median(share), 0.35)) & ~prior.posed)
        state, mended = _relocated(seen, state, weak)
        if not mended:
            break
        state = _resolved(seen, state, prior, scale_px=2.0, limit_px=12.0)
        state = _resolved(seen, state, prior, scale_px=1.0, limit_px=6.0)
    return _resolved(seen, state, prior, scale_px=1.0, limit_px=4.0)


def _relocated(seen: Observations, state: State, weak: np.ndarray) -> tuple[State, int]:
    """Each weak view moved to where its points see it, if over a tenth more of them fit there; how many moved."""
    moved = 0
    for view in weak:
        found = structure.located(int(view), seen, state)
        if found is not None and found[2] > 1.1 * found[1] + 1:
            state, moved = found[0], moved + 1
    return state, moved


def _resolved(seen: Observations, state: State, prior: CameraPrior, *, scale_px: float, limit_px: float) -> State:
    """Solve in image pixels over the observations within ``limit_px``."""
    many = len(prior.group) > 2
    near = seen.select(structure.inliers(seen, state, limit_px))
    free = _free(prior, focal=many, radial=many)
    return bundle.solve(near, state, free, kind="pixel", scale_px=scale_px, iterations=30)


def _finished(
    views: np.ndarray, state: State, motion: Motion, seen: Observations, track: np.ndarray, prior: CameraPrior
) -> Solved:
    """Every track gets its point; without known poses the unit of length is the median depth."""
    if motion == "full":
        state = structure.with_points(seen, state, len(track))
        if len(seen) <= FEW_OBSERVATIONS:
            state = _resolved(seen, state, prior, scale_px=1.0, limit_px=4.0)
        if not prior.posed.any():
            state = _unit_depth(seen, state)
        good = structure.inliers(seen, state, 4.0)
    else:
        state = replace(state, points=np.zeros((len(track), 3)))
        state = replace(state, points=structure.far_points(seen, state))
        good = np.linalg.norm(reprojection.residuals("angle", seen, state), axis=1) < 4.0
    return Solved(views=views, motion=motion, state=state, seen=seen, good=good, track=track)


def _unit_depth(seen: Observations, state: State) -> State:
    good = structure.inliers(seen, state, 4.0)
    unit = _median_depth(seen.select(good), state) if good.any() else 1.0
    return replace(state, centre=state.centre / unit, points=state.points / unit)


def _median_depth(seen: Observations, state: State) -> float:
    offset = state.points[seen.point] - state.centre[seen.view]
    return float(np.median(np.einsum("oj,oj->o", state.rotation[seen.view][:, :, 2], offset)))
