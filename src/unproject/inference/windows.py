"""Long clips in parts: windows of neighbouring views, each solved from nothing, chained by the views they share.

The coincident start spreads what it knows from view to view; beyond a few hops of common tracks it folds (measured on a
corridor: right at 60 views with tracks of 12, folded at 110). A window keeps the hops few.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from unproject.inference import structure
from unproject.inference.problem import MIN_COMMON, CameraPrior, common_tracks
from unproject.inference.reprojection import Observations, State

HOPS = 5
"""Most hops of common tracks between any two views that are solved from one coincident start."""
LENGTH, OVERLAP = 40, 10

SolveWindow = Callable[[Observations, CameraPrior], State]


def hops_across(seen: Observations, views: int) -> int:
    """Hops of common tracks from the first view to the one furthest from it."""
    linked = common_tracks(seen.view, seen.point, views) >= MIN_COMMON
    hops = scipy.sparse.csgraph.shortest_path(linked, unweighted=True, indices=0)
    return int(hops[np.isfinite(hops)].max())


def solve_in_windows(seen: Observations, prior: CameraPrior, solve: SolveWindow) -> State:
    """Cameras of all views, and points far from good: windows solved by ``solve``, brought together by similarities.

    The windows need no more than a rough chain: the caller refines all views together afterwards.
    """
    views = len(prior.group)
    starts = range(0, max(views - OVERLAP, 1), LENGTH - OVERLAP)
    whole: State | None = None
    until, focals = 0, []
    for start in starts:
        members = np.arange(start, min(start + LENGTH, views))
        part_seen = seen.select((seen.view >= members[0]) & (seen.view <= members[-1]))
        names, point = np.unique(part_seen.point, return_inverse=True)
        part_seen = replace(part_seen, view=part_seen.view - start, point=point)
        part = solve(part_seen, prior.of(members))
        focals.append(part.log_focal)
        if whole is None:
            whole = _empty(part, prior, int(seen.point.max()) + 1)
        else:
            part = _brought_over(part, whole, np.arange(start, until), names)
        fresh = members >= until
        whole.rotation[members[fresh]], whole.centre[members[fresh]] = part.rotation[fresh], part.centre[fresh]
        whole.points[names] = part.points
        until = members[-1] + 1
    assert whole is not None  # there is at least one window
    return replace(whole, log_focal=np.median(focals, axis=0))


def _empty(first: State, prior: CameraPrior, points: int) -> State:
    views = len(prior.group)
    return replace(
        first,
        rotation=np.tile(np.eye(3), (views, 1, 1)),
        centre=np.zeros((views, 3)),
        points=np.zeros((points, 3)),
        group=prior.group,
    )


def _brought_over(part: State, whole: State, shared: np.ndarray, names: np.ndarray) -> State:
    """``part`` in the frame and scale of ``whole``: turned and placed by shared views, scaled by point distances."""
    count = len(shared)
    turn = structure.mean_rotation(whole.rotation[shared] @ part.rotation[:count].transpose(0, 2, 1))
    old = np.linalg.norm(whole.points[names][None] - whole.centre[shared][:, None], axis=2)
    new = np.linalg.norm(part.points[None] - part.centre[:count][:, None], axis=2)
    known = (whole.points[names] != 0).any(1)
    scale = np.median(old[:, known] / new[:, known])
    offset = np.median(whole.centre[shared] - scale * part.centre[:count] @ turn.T, axis=0)
    return replace(
        part,
        rotation=turn @ part.rotation,
        centre=scale * part.centre @ turn.T + offset,
        points=scale * part.points @ turn.T + offset,
    )
