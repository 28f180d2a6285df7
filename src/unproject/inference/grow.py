"""Views placed one after another, from two that see the same: where the joint start is doubtful.

The joint start believes every pair a little. Where a pattern repeats (wallpaper, facades), many pairs agree on a
mistake, and it ends in a fold. Here a view goes where most of the points fit that views before it hold: a mistake that
few make is outvoted before it bends anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from unproject.inference import bundle, structure
from unproject.inference.bundle import Free
from unproject.inference.problem import CameraPrior
from unproject.inference.reprojection import Observations, State, unit_rays
from unproject.inference.twoview import Pair, robust_rotation

ENOUGH_RAD = 0.1
"""Parallax beyond which two views are no better to begin with."""
LEAST_FITS, LEAST_SHARE = 15, 0.25
"""Points of a view, and share of those that are known already, that must fit where it is put."""
FIT_PX = 4.0
WIDE_RAD = 0.02
"""Rays of a point meet at this angle at least, or it does not help to place a view."""

SolvePart = Callable[[Observations, CameraPrior], State]


@dataclass
class _Growth:
    """What stands so far."""

    seen: Observations
    state: State
    placed: np.ndarray
    """Views that have a pose (bool, V)."""
    known: np.ndarray
    """Points that two placed views hold (bool, P)."""


def seeds(pairs: list[Pair], prior: CameraPrior) -> list[np.ndarray]:
    """Two views to begin with, the best first: each view and the one it shares most with, seen from apart."""
    score = [pair.inliers * min(_parallax_rad(pair, prior), ENOUGH_RAD) for pair in pairs]
    best: dict[int, int] = {}
    for number, pair in enumerate(pairs):
        for view in (pair.a, pair.b):
            if view not in best or score[number] > score[best[view]]:
                best[view] = number
    ranked = sorted(set(best.values()), key=lambda number: -score[number])
    return [np.array([pairs[number].a, pairs[number].b]) for number in ranked]


def _parallax_rad(pair: Pair, prior: CameraPrior) -> float:
    """What no rotation explains, median; the focal length hardly matters here."""
    focal = np.where(np.isnan(prior.focal_px[prior.group]), prior.long_side_px, prior.focal_px[prior.group])
    rays_a = unit_rays(pair.xy_a, np.full(len(pair.xy_a), focal[pair.a]))
    rays_b = unit_rays(pair.xy_b, np.full(len(pair.xy_b), focal[pair.b]))
    turned = robust_rotation(rays_a, rays_b, 1 / focal[pair.a])
    return float(np.median(np.linalg.norm(rays_a - rays_b @ turned.T, axis=1)))


def grown(seen: Observations, prior: CameraPrior, members: np.ndarray, solve: SolvePart) -> tuple[State, np.ndarray]:
    """Cameras and points from the views ``members``, and which views could be placed (bool, V)."""
    growth = _begun(seen, prior, members, solve)
    while not growth.placed.all():
        fits = _fitting(growth)
        if not fits:
            break
        most = max(count for _, _, count in fits.values())
        for view, (rotation, centre, count) in fits.items():
            if 2 * count >= most:
                growth.state.rotation[view], growth.state.centre[view] = rotation, centre
                growth.placed[view] = True
        _settle(growth, prior)
    return growth.state, growth.placed


def _begun(seen: Observations, prior: CameraPrior, members: np.ndarray, solve: SolvePart) -> _Growth:
    number = np.full(len(prior.group), -1)
    number[members] = np.arange(len(members))
    mine = seen.select(number[seen.view] >= 0)
    mine = mine.select(np.bincount(mine.point)[mine.point] >= 2)
    names, point = np.unique(mine.point, return_inverse=True)
    part = solve(replace(mine, view=number[mine.view], point=point), prior.of(members))
    views = len(prior.group)
    state = State(
        rotation=np.tile(np.eye(3), (views, 1, 1)),
        centre=np.zeros((views, 3)),
        points=np.zeros((int(seen.point.max()) + 1, 3)),
        log_focal=part.log_focal.copy(),
        radial=part.radial.copy(),
        group=prior.group,
    )
    state.rotation[members], state.centre[members], state.points[names] = part.rotation, part.centre, part.points
    placed = np.isin(np.arange(views), members)
    known = np.zeros(len(state.points), bool)
    known[names] = True
    growth = _Growth(seen=seen, state=state, placed=placed, known=known)
    _settle(growth, prior)
    return growth


def _fitting(growth: _Growth) -> dict[int, tuple[np.ndarray, np.ndarray, int]]:
    """Poses of views not yet placed, with how many known points fit there."""
    fits = {}
    for view in np.flatnonzero(~growth.placed):
        asked = growth.seen.select((growth.seen.view == view) & growth.known[growth.seen.point])
        pose = structure.pose_of(asked, growth.state, int(view)) if len(asked) >= LEAST_FITS else None
        if pose is None:
            continue
        rotation, centre = growth.state.rotation.copy(), growth.state.centre.copy()
        rotation[view], centre[view] = pose
        count = int(structure.inliers(asked, replace(growth.state, rotation=rotation, centre=centre), FIT_PX).sum())
        if count >= max(LEAST_FITS, LEAST_SHARE * len(asked)):
            fits[int(view)] = (*pose, count)
    return fits


def _settle(growth: _Growth, prior: CameraPrior) -> None:
    """New points from the placed views, then all of them and their views refined together."""
    here = growth.seen.select(growth.placed[growth.seen.view])
    for scale_px, limit_px in ((2.0, 12.0), (1.0, 6.0)):
        growth.state = _with_new_points(here, growth)
        near = here.select(growth.known[here.point] & structure.inliers(here, growth.state, limit_px))
        free = growth.placed.copy()
        free[np.flatnonzero(free)[0]] = False
        focal = (np.bincount(prior.group[growth.placed], minlength=len(prior.focal_px)) > 2) & ~prior.focal_fixed
        mask = Free(rotation=free, centre=free, focal=focal, radial=np.zeros(len(focal), bool))
        growth.state = bundle.solve(near, growth.state, mask, kind="pixel", scale_px=scale_px, iterations=10)
    growth.known = _held(here, growth.state)


def _with_new_points(here: Observations, growth: _Growth) -> State:
    """Points that are not known are placed from all views that see them; those that fit nowhere stay unknown."""
    known = _held(here, growth.state) & growth.known
    fresh = here.select(~known[here.point])
    if not len(fresh):
        growth.known = known
        return growth.state
    trial = structure.with_points(fresh, growth.state, len(known))
    points = np.where(known[:, None], growth.state.points, trial.points)
    state = replace(growth.state, points=points)
    growth.known = known | _held(fresh, state)
    return state


def _held(seen: Observations, state: State) -> np.ndarray:
    """Points that at least two views see where they are, from far enough apart (bool, P)."""
    fits = seen.select(structure.inliers(seen, state, FIT_PX))
    count = np.bincount(fits.point, minlength=len(state.points))
    return (count >= 2) & (structure.parallax_rad(fits, state) > WIDE_RAD)
