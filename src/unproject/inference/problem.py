"""The problem before it is solved: what is known of the cameras, which tracks to solve with, which views to compare."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from unproject.inference.overlay import PairPoints
from unproject.inference.reprojection import Observations
from unproject.inference.twoview import Pair, fit_pair
from unproject.types import Tracks

MIN_COMMON = 15
"""Tracks that two views must share to speak of each other."""
PARTNERS = 12
"""Views that each view is compared with; more add time, not accuracy (measured up to 50 views)."""
MAX_TRACKS = 3000
PER_VIEW = 150


@dataclass(frozen=True, kw_only=True)
class CameraPrior:
    """What is known of V views from G cameras before anything is solved. Pixels of the tracks."""

    principal_px: np.ndarray
    """V 2."""
    long_side_px: np.ndarray
    """V."""
    group: np.ndarray
    """V, the camera that took each view."""
    focal_px: np.ndarray
    """G, NaN where unknown."""
    focal_fixed: np.ndarray
    """G, the focal length is to be kept."""
    radial: np.ndarray
    """G, k1 to start from; kept where the focal is fixed."""
    world_from_cam: np.ndarray
    """V 4 4, NaN where unknown; known poses are kept."""

    @property
    def posed(self) -> np.ndarray:
        """Views whose pose is known (bool, V)."""
        return np.asarray(np.isfinite(self.world_from_cam).all((1, 2)))

    def of(self, views: np.ndarray) -> "CameraPrior":
        """The prior of some views; cameras keep their numbers."""
        return replace(
            self,
            principal_px=self.principal_px[views],
            long_side_px=self.long_side_px[views],
            group=self.group[views],
            world_from_cam=self.world_from_cam[views],
        )


def connected_views(tracks: Tracks, views: int) -> list[np.ndarray]:
    """Sets of views linked by pairs with enough common tracks, largest first; lone views are left out."""
    common = common_tracks(tracks.view.numpy(), tracks.track.numpy(), views)
    _, label = scipy.sparse.csgraph.connected_components(common >= MIN_COMMON)
    sets = [np.flatnonzero(label == number) for number in range(label.max() + 1)]
    return sorted((members for members in sets if len(members) > 1), key=len, reverse=True)


def common_tracks(view: np.ndarray, track: np.ndarray, views: int) -> scipy.sparse.csr_array:
    """How many tracks each pair of different views shares (views x views)."""
    sees = scipy.sparse.csr_array((np.ones(len(view)), (view, track)), shape=(views, int(track.max(initial=0)) + 1))
    common = (sees @ sees.T).tolil()
    common.setdiag(0)
    return common.tocsr()


def rows_of(number: np.ndarray, count: int) -> list[np.ndarray]:
    """For each of 0 .. count-1 the rows that hold it, in one pass: a long video must not be searched once per frame."""
    order = np.argsort(number, kind="stable")
    starts = np.searchsorted(number[order], np.arange(1, count))
    return np.split(order, starts)


def observations(tracks: Tracks, views: np.ndarray, prior: CameraPrior) -> tuple[Observations, np.ndarray]:
    """Observations of tracks that at least two of ``views`` see, renumbered, and the track of each point."""
    number = np.full(int(tracks.view.max()) + 1, -1)
    number[views[views < len(number)]] = np.flatnonzero(views < len(number))
    view, track = number[tracks.view.numpy()], tracks.track.numpy()
    often = np.bincount(track[view >= 0], minlength=tracks.count) >= 2
    keep = (view >= 0) & often[track]
    names, point = np.unique(track[keep], return_inverse=True)
    xy = tracks.uv.numpy()[keep].astype(np.float64) - prior.principal_px[view[keep]]
    weight = tracks.weight.numpy()[keep].astype(np.float64)
    return Observations(view=view[keep], point=point, xy=xy, weight=weight), names


def picked(seen: Observations, views: int, rng: np.random.Generator) -> np.ndarray:
    """Observations of enough tracks to solve with (bool): long ones first, the rest at random, every view served."""
    length = np.bincount(seen.point)
    long_enough = length >= min(3, views)
    order = rng.permutation(np.flatnonzero(long_enough))
    longest = order[np.argsort(-length[order], kind="stable")]
    chosen = np.zeros(len(length), bool)
    chosen[longest[: MAX_TRACKS // 2]] = True
    chosen[order[:MAX_TRACKS]] |= np.cumsum(~chosen[order[:MAX_TRACKS]]) <= MAX_TRACKS // 2
    _serve_views(seen, views, longest, chosen, PER_VIEW)
    pairs_only = rng.permutation(np.flatnonzero(~long_enough & (length >= 2)))
    _serve_views(seen, views, pairs_only, chosen, PER_VIEW // 2)
    return chosen[seen.point]


def _serve_views(seen: Observations, views: int, order: np.ndarray, chosen: np.ndarray, least: int) -> None:
    """Add tracks, in ``order``, to ``chosen`` until every view sees at least ``least`` of them."""
    sees = scipy.sparse.csr_array((np.ones(len(seen), bool), (seen.view, seen.point)), shape=(views, len(chosen)))
    rank = np.full(len(chosen), len(chosen))
    rank[order] = np.arange(len(order))
    for view in range(views):
        mine = sees.indices[sees.indptr[view] : sees.indptr[view + 1]]
        missing = least - chosen[mine].sum()
        if missing > 0:
            spare = mine[~chosen[mine] & (rank[mine] < len(chosen))]
            chosen[spare[np.argsort(rank[spare])[:missing]]] = True


def numbered(seen: Observations) -> Observations:
    """Points renumbered without gaps."""
    return replace(seen, point=np.unique(seen.point, return_inverse=True)[1])


def partners(seen: Observations, views: int) -> list[tuple[int, int]]:
    """Each view with up to ``PARTNERS`` others, from much overlap to little."""
    common = common_tracks(seen.view, seen.point, views)
    chosen: set[tuple[int, int]] = set()
    for view in range(views):
        row = common[[view]].tocoo()
        enough = row.data >= MIN_COMMON
        ranked = row.coords[1][enough][np.argsort(-row.data[enough], kind="stable")]
        spread = np.unique(np.linspace(0, len(ranked) - 1, min(PARTNERS, len(ranked))).round().astype(int))
        chosen |= {(min(view, int(other)), max(view, int(other))) for other in ranked[spread]}
    return sorted(chosen)


def fit_pairs(seen: Observations, partners: list[tuple[int, int]], views: int, seed: int) -> list[Pair]:
    """Fundamental matrices of the given pairs of views, without those that have none."""
    table = _Table(seen, views)

    def fit(pair: tuple[int, int]) -> Pair | None:
        _, xy_a, xy_b = table.common(*pair)
        return fit_pair(*pair, xy_a, xy_b, scale_px=1.5, seed=seed)

    with ThreadPoolExecutor(cv2.getNumThreads()) as pool:
        return [pair for pair in pool.map(fit, partners) if pair is not None]


def common_points(seen: Observations, partners: list[tuple[int, int]], views: int) -> list[PairPoints]:
    """What each pair of views shares."""
    table = _Table(seen, views)
    return [table.common(*pair) for pair in partners]


class _Table:
    """Observations by view, for quick intersection of two views."""

    def __init__(self, seen: Observations, views: int):
        self.rows = rows_of(seen.view, views)  # sorted by point in each, as ``seen`` is
        self.seen = seen

    def common(self, a: int, b: int) -> PairPoints:
        """The points that both views see, with their centred pixels in either."""
        rows_a, rows_b = self.rows[a], self.rows[b]
        points = self.seen.point
        both, in_a, in_b = np.intersect1d(points[rows_a], points[rows_b], assume_unique=True, return_indices=True)
        return both, self.seen.xy[rows_a[in_a]], self.seen.xy[rows_b[in_b]]
