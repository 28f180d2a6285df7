"""Cameras, focal length and points of one clip from 2D tracks alone: weak supervision at test time.

Reliev3R's registration loss (its section 3.2) is minimised over everything at once, from cameras that all coincide: no
incremental mapping, no growing windows, no weights. Relative rotations come from two-view geometry, are averaged, and
the rest follows by letting the robust scale shrink from 100 to 1 pixel. Thresholds are pixels of an image of at most
1280 on its long side.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from unproject.inference import bundle, structure
from unproject.inference.bundle import Free, Observations, State
from unproject.inference.overlay import stuck_points
from unproject.inference.rotations import average_rotations
from unproject.inference.twoview import Pair, fit_pair, focal_start, relative_rotation
from unproject.types import Tracks

Motion = Literal["full", "rotation_only", "static"]

MIN_COMMON = 15
"""Tracks that two views must share to speak of each other."""
PARTNERS = 12
"""Views that each view is compared with; more add time, not accuracy (measured up to 50 views)."""
MAX_TRACKS = 3000
PER_VIEW = 150
NO_PARALLAX_PX = 1.0
"""Where a rotating camera at a fixed place explains the median observation this well, there is no depth to be had."""
STATIC_PX = 0.5
"""Where nothing moves more than this, the camera stands still."""


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
        return np.isfinite(self.world_from_cam).all((1, 2))

    def of(self, views: np.ndarray) -> "CameraPrior":
        """The prior of some views; cameras keep their numbers."""
        return replace(
            self,
            principal_px=self.principal_px[views],
            long_side_px=self.long_side_px[views],
            group=self.group[views],
            world_from_cam=self.world_from_cam[views],
        )


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


def solve_component(tracks: Tracks, views: np.ndarray, prior: CameraPrior, *, seed: int = 0) -> Solved:
    """Solve one connected set of views, given by their numbers in ``tracks`` and ``prior``.

    Does not fail on degenerate motion: ``Solved.motion`` says what could honestly be found.
    """
    prior = prior.of(views)
    seen, track = _observations(tracks, views, prior)
    partners = _partners(seen, len(views))
    seen = _unstuck(seen, partners, prior)
    picked = _numbered(seen.select(_picked(seen, len(views), np.random.default_rng(seed))))
    pairs = _fit_pairs(picked, partners, len(views), seed)
    state = _unsolved(pairs, prior, picked, seed)
    turning, motion = _without_parallax(picked, pairs, state, prior)
    if motion != "full":
        return _finished(views, motion, turning, seen, track, prior)
    state = _placed(picked, state, prior, seed)
    state = _narrowed(picked, state, prior)
    state = _repaired(picked, state, prior)
    return _finished(views, motion, state, seen, track, prior)


def _observations(tracks: Tracks, views: np.ndarray, prior: CameraPrior) -> tuple[Observations, np.ndarray]:
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


def _picked(seen: Observations, views: int, rng: np.random.Generator) -> np.ndarray:
    """Observations of enough tracks to solve with (bool): long ones first, the rest at random, every view served."""
    length = np.bincount(seen.point)
    long_enough = length >= min(3, views)
    order = rng.permutation(np.flatnonzero(long_enough))
    longest = order[np.argsort(-length[order], kind="stable")]
    chosen = np.zeros(len(length), bool)
    chosen[longest[: MAX_TRACKS // 2]] = True
    chosen[order[: MAX_TRACKS]] |= np.cumsum(~chosen[order[:MAX_TRACKS]]) <= MAX_TRACKS // 2
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


def _numbered(seen: Observations) -> Observations:
    """Points renumbered without gaps."""
    return replace(seen, point=np.unique(seen.point, return_inverse=True)[1])


def _partners(seen: Observations, views: int) -> list[tuple[int, int]]:
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


def _fit_pairs(seen: Observations, partners: list[tuple[int, int]], views: int, seed: int) -> list[Pair]:
    table = _Table(seen, views)

    def fit(pair: tuple[int, int]) -> Pair | None:
        _, xy_a, xy_b = table.common(*pair)
        return fit_pair(*pair, xy_a, xy_b, scale_px=1.5, seed=seed)

    with ThreadPoolExecutor() as pool:
        return [pair for pair in pool.map(fit, partners) if pair is not None]


def _unstuck(seen: Observations, partners: list[tuple[int, int]], prior: CameraPrior) -> Observations:
    """Without the points that stick to the image while the camera moves."""
    table = _Table(seen, len(prior.group))
    pairs = [table.common(*pair) for pair in partners]
    stuck = stuck_points(pairs, int(seen.point.max()) + 1, float(prior.long_side_px.max()))
    return seen.select(~stuck[seen.point])


class _Table:
    """Observations by view, for quick intersection of two views."""

    def __init__(self, seen: Observations, views: int):
        order = np.lexsort((seen.point, seen.view))
        starts = np.searchsorted(seen.view[order], np.arange(views + 1))
        self.rows = [order[starts[view] : starts[view + 1]] for view in range(views)]
        self.seen = seen

    def common(self, a: int, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The points that both views see, with their centred pixels in either."""
        rows_a, rows_b = self.rows[a], self.rows[b]
        points = self.seen.point
        both, in_a, in_b = np.intersect1d(points[rows_a], points[rows_b], assume_unique=True, return_indices=True)
        return both, self.seen.xy[rows_a[in_a]], self.seen.xy[rows_b[in_b]]


def _unsolved(pairs: list[Pair], prior: CameraPrior, seen: Observations, seed: int) -> State:
    """Focal lengths from priors or the pairs, rotations averaged, centres known or all in one place, points far away."""
    focal = prior.focal_px.copy()
    for group in np.flatnonzero(~np.isfinite(focal)):
        alike = [pair for pair in pairs if prior.group[pair.a] == group and prior.group[pair.b] == group]
        focal[group] = focal_start(alike, float(prior.long_side_px[prior.group == group].max(initial=0)) or 1.0)
    posed = prior.posed
    known = {int(view): prior.world_from_cam[view, :3, :3] for view in np.flatnonzero(posed)}
    with ThreadPoolExecutor() as pool:
        views = prior.group
        fits = pool.map(lambda p: relative_rotation(p, focal[views[p.a]], focal[views[p.b]], seed=seed), pairs)
        relatives = [fit for fit in fits if fit is not None]
    rotation = average_rotations(len(posed), relatives, known)
    centre = np.where(posed[:, None], prior.world_from_cam[:, :3, 3], 0.0)
    centre[~posed] = centre[posed].mean(0) if posed.any() else 0.0
    bare = State(
        rotation=rotation,
        centre=centre,
        points=np.zeros((int(seen.point.max()) + 1, 3)),
        log_focal=np.log(focal),
        radial=prior.radial.copy(),
        group=prior.group,
    )
    return replace(bare, points=structure.far_points(seen, bare))


def _free(prior: CameraPrior, *, rotation: bool = True, centre: bool = True, focal: bool = False, radial: bool = False) -> Free:
    """What may move: never a known pose or focal; without known poses the first view stays."""
    loose = ~prior.posed
    if loose.all():
        loose[0] = False
    used = np.bincount(prior.group, minlength=len(prior.focal_px)) > 0
    soft = used & ~prior.focal_fixed
    return Free(rotation=loose & rotation, centre=loose & centre, focal=soft & focal, radial=soft & radial)


def _without_parallax(
    seen: Observations, pairs: list[Pair], state: State, prior: CameraPrior
) -> tuple[State, Motion]:
    """How far a camera that only turns explains the tracks: the state of such a camera, and what that makes the motion."""
    if prior.posed.any():
        return state, "full"
    turned = replace(state, centre=np.zeros_like(state.centre))
    turned = bundle.solve(seen, turned, _free(prior, centre=False), kind="angle", scale_px=20.0, iterations=10)
    # The chord carries f, and without parallax nothing else holds f up: in image pixels it cannot shrink to nothing.
    free = _free(prior, centre=False, focal=len(prior.group) > 2)
    turned = bundle.solve(seen, turned, free, kind="pixel", scale_px=3.0, iterations=15)
    error_px = np.median(np.linalg.norm(bundle.residuals("pixel", seen, turned), axis=1))
    moved_px = [np.median(np.linalg.norm(pair.xy_a - pair.xy_b, axis=1)) for pair in pairs]
    if np.median(moved_px) < STATIC_PX:
        return turned, "static"
    return turned, "rotation_only" if error_px < NO_PARALLAX_PX else "full"


def _placed(seen: Observations, state: State, prior: CameraPrior, seed: int) -> State:
    """Positions and points, rotations and focal frozen, from centres that all coincide."""
    noise = 0.01 * np.random.default_rng(seed).standard_normal(state.centre.shape)
    start = replace(state, centre=state.centre + noise * _free(prior).centre[:, None])
    return bundle.solve(seen, start, _free(prior, rotation=False), kind="angle", scale_px=100.0, iterations=40)


def _narrowed(seen: Observations, state: State, prior: CameraPrior) -> State:
    """Everything free, the robust scale shrinking from 20 to 1 pixel, then the polish in image pixels with k1."""
    many = len(prior.group) > 2
    rigid, loose = _free(prior), _free(prior, focal=many)
    state = bundle.solve(seen, state, rigid, kind="angle", scale_px=20.0, iterations=30)
    for scale_px, iterations, prune_px in ((5.0, 20, np.inf), (2.0, 30, 8.0), (1.0, 40, 4.0), (1.0, 15, np.inf)):
        state = bundle.solve(seen, state, loose, kind="angle", scale_px=scale_px, iterations=iterations)
        error = np.linalg.norm(bundle.residuals("angle", seen, state), axis=1)
        seen = seen.select(error < prune_px)
    return bundle.solve(seen, state, _free(prior, focal=many, radial=many), kind="pixel", scale_px=1.0, iterations=30)


def _repaired(seen: Observations, state: State, prior: CameraPrior) -> State:
    """Views that do not fit are placed anew from their points; observations pruned on the way come back."""
    views = len(prior.group)
    for _ in range(3):
        good = structure.inliers(seen, state, 4.0)
        share = structure.inlier_share(seen, good, views)
        weak = np.flatnonzero((share < max(0.5 * np.median(share), 0.35)) & ~prior.posed)
        state, mended = _relocated(seen, state, weak)
        if not mended:
            break
        state = _resolved(seen, state, prior, scale_px=2.0, limit_px=12.0)
        state = _resolved(seen, state, prior, scale_px=1.0, limit_px=6.0)
    return _resolved(seen, state, prior, scale_px=1.0, limit_px=4.0)


def _relocated(seen: Observations, state: State, weak: np.ndarray) -> tuple[State, int]:
    """Each weak view moved to where PnP sees it, if that explains over a tenth more; how many moved."""
    moved = 0
    for view in weak:
        pose = structure.located(int(view), seen, state)
        if pose is None:
            continue
        rotation, centre = state.rotation.copy(), state.centre.copy()
        rotation[view], centre[view] = pose
        candidate = replace(state, rotation=rotation, centre=centre)
        mine = seen.select(seen.view == view)
        before = structure.inliers(mine, state, 4.0).sum()
        if structure.inliers(mine, candidate, 4.0).sum() > 1.1 * before + 1:
            state, moved = candidate, moved + 1
    return state, moved


def _resolved(seen: Observations, state: State, prior: CameraPrior, *, scale_px: float, limit_px: float) -> State:
    """Solve in image pixels over the observations within ``limit_px``."""
    many = len(prior.group) > 2
    near = seen.select(structure.inliers(seen, state, limit_px))
    free = _free(prior, focal=many, radial=many)
    return bundle.solve(near, state, free, kind="pixel", scale_px=scale_px, iterations=30)


def _finished(
    views: np.ndarray, motion: Motion, state: State, seen: Observations, track: np.ndarray, prior: CameraPrior
) -> Solved:
    """Every track gets its point; without known poses the unit of length is the median depth."""
    if motion == "full":
        state = structure.with_points(seen, state, len(track))
        if not prior.posed.any():
            state = _unit_depth(seen, state)
        good = structure.inliers(seen, state, 4.0)
    else:
        state = replace(state, points=np.zeros((len(track), 3)))
        state = replace(state, points=structure.far_points(seen, state))
        good = np.linalg.norm(bundle.residuals("angle", seen, state), axis=1) < 4.0
    return Solved(views=views, motion=motion, state=state, seen=seen, good=good, track=track)


def _unit_depth(seen: Observations, state: State) -> State:
    good = structure.inliers(seen, state, 4.0)
    offset = state.points[seen.point[good]] - state.centre[seen.view[good]]
    depth = np.einsum("oj,oj->o", state.rotation[seen.view[good]][:, :, 2], offset)
    unit = np.median(depth) if good.any() else 1.0
    return replace(state, centre=state.centre / unit, points=state.points / unit)
