"""Wide-baseline matches without weights: SIFT, mutual ratio test, MAGSAC, merged into multi-view tracks.

For photographs, and for closing loops between far frames of a video that was already tracked.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import final

import cv2
import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch

from unproject.progress import Progress, silent
from unproject.teachers.base import Shot, Teacher
from unproject.types import Labels, Tracks

FEW_VIEWS = 25
"""Up to here every pair is compared, with twice the features."""
GAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Beyond, pairs at these distances in the given order, and the pairs that look most alike."""
LOOK_ALIKE = 4
DETECT_SIDE = 960
"""Long side, in pixels, at which points are found in larger images: cameras came out as well as from 1280 (fountain
.0065 for .0067, door .0015 for .0015, fox .0088 for .0091), in two thirds of the time."""
RATIO, FARTHEST = 0.8, 0.8
VERIFY_PX = 1.5
LEAST_INLIERS, LEAST_SHARE = 15, 0.25
STILL_PX, MOVING_PX = 1.5, 8.0
"""What moves less stays put in the image; what moves more shows that the views differ."""
BLOCK = 256
"""Rows that are compared at a time: their likeness to all others stays in the cache."""
SAME_POINT_PX = 1.0
"""A SIFT point this near to a tracked point of the same frame is that point."""
APART_PX = 2.0
"""A track with a point further than this from the one that is kept of the same view is two things: it is dropped."""


@dataclass(frozen=True)
class Features:
    """Points of one image, centres at +0.5, with RootSIFT descriptors of length one."""

    uv: np.ndarray
    """F 2 float32."""
    descriptor: np.ndarray
    """F 128 float32."""

    @staticmethod
    def none() -> "Features":
        """Of an image without a point."""
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))


@dataclass(frozen=True)
class PairMatches:
    """Verified matches of two views, as numbers of their features."""

    a: int
    b: int
    index_a: np.ndarray
    index_b: np.ndarray
    inlier_share: float


@final
@dataclass(frozen=True)
class SiftTeacher(Teacher):
    """Tracks across a set of photographs of any sizes."""

    seed: int = 0

    def label(self, shot: Shot) -> Labels:
        """Multi-view tracks (`Labels.tracks`)."""
        greys = [cv2.cvtColor(shot.images[view], cv2.COLOR_RGB2GRAY) for view in shot.views]
        return Labels(tracks=match_all(greys, seed=self.seed))


def match_all(greys: Sequence[np.ndarray], *, seed: int = 0, progress: Progress = silent) -> Tracks:
    """Tracks across uint8 images [H, W]; the same for any number of threads."""
    most = 3000 if len(greys) <= FEW_VIEWS else 1500
    with ThreadPoolExecutor(cv2.getNumThreads()) as pool:
        features = list(progress(pool.map(lambda grey: detect(grey, most), greys), "find points", len(greys)))
        pairs = choose_pairs(features)
        matched = pool.map(lambda pair: match_pair(features, *pair, seed=seed), pairs)
        kept = [match for match in progress(matched, "match", len(pairs)) if match is not None]
    return merge(features, kept)


def detect(grey: np.ndarray, most: int) -> Features:
    """The strongest ``most`` SIFT points of a uint8 image [H, W], found at `DETECT_SIDE` at most."""
    height, width = grey.shape
    shrink = min(1.0, DETECT_SIDE / max(height, width))
    if shrink < 1:
        grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    contrast = 0.02 if max(grey.shape) > 700 else 0.01
    # Without a precise upscale all points lie a quarter of a pixel off (seen by turning an image upside down).
    sift = cv2.SIFT_create(most, contrastThreshold=contrast, enable_precise_upscale=True)
    points, descriptor = sift.detectAndCompute(grey, None)
    if descriptor is None:
        return Features.none()
    uv = np.array([point.pt for point in points]) + 0.5
    uv *= [width / grey.shape[1], height / grey.shape[0]]
    descriptor /= np.maximum(descriptor.sum(1, keepdims=True), 1e-9)
    return Features(uv.astype(np.float32), np.sqrt(descriptor))


def choose_pairs(features: Sequence[Features]) -> list[tuple[int, int]]:
    """Pairs of views to compare: all of few; of many, neighbours in order and those that look most alike."""
    count = len(features)
    if count <= FEW_VIEWS:
        return list(combinations(range(count), 2))
    pairs = {(a, a + gap) for gap in GAPS for a in range(count - gap)}
    alike = _likeness(features)
    for view in range(count):
        pairs |= {(min(view, int(b)), max(view, int(b))) for b in np.argsort(-alike[view])[:LOOK_ALIKE]}
    return sorted(pairs)


def _likeness(features: Sequence[Features]) -> np.ndarray:
    """Cosine between histograms of 64 visual words, N x N, -1 on the diagonal."""
    sample = np.concatenate([item.descriptor[:: max(1, len(item.descriptor) // 40)] for item in features])
    words = sample[np.random.default_rng(0).permutation(len(sample))[:256]]
    counts = np.zeros((len(features), len(words)), np.float32)
    for row, item in zip(counts, features, strict=True):
        np.add.at(row, (item.descriptor @ words.T).argmax(1) if len(item.descriptor) else np.zeros(0, int), 1)
    rarity = np.log(len(features) / np.maximum((counts > 0).sum(0), 1)) + 0.1
    weighted = np.sqrt(counts) * rarity
    weighted /= np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-9)
    alike = weighted @ weighted.T
    np.fill_diagonal(alike, -1)
    return alike


def match_pair(features: Sequence[Features], a: int, b: int, *, seed: int = 0) -> PairMatches | None:
    """Matches that are mutual, pass the ratio test and are `verified`; None where too few are."""
    index_a, index_b = mutual(features[a].descriptor, features[b].descriptor)
    found = verified(features[a].uv[index_a], features[b].uv[index_b], seed=seed)
    if found is None:
        return None
    good, share = found
    return PairMatches(a, b, index_a[good], index_b[good], share)


def verified(uv_a: np.ndarray, uv_b: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, float] | None:
    """Which matches [M, 2] agree on a fundamental matrix (bool M) and their share; None where too few do.

    Where others move, those that stay put in the image are kept but not asked: they may be a gripper, any number of
    matrices explain it, and most of these explain little else.
    """
    shift_px = np.linalg.norm(uv_b - uv_a, axis=1)
    asked = shift_px > STILL_PX
    if (shift_px > MOVING_PX).sum() < LEAST_INLIERS:
        asked[:] = True
    if asked.sum() < LEAST_INLIERS:
        return None
    agreed = _agree(uv_a[asked], uv_b[asked], seed)
    if agreed.sum() < LEAST_INLIERS or agreed.mean() < LEAST_SHARE:
        return None
    good = ~asked
    good[asked] = agreed
    return good, float(agreed.mean())


def mutual(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``one`` and ``two`` (unit length) that are each other's nearest, clearly nearer than the second."""
    if len(one) < 2 or len(two) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    across = np.ascontiguousarray(two.T)
    nearest = np.empty(len(one), int)
    best, second = np.empty((2, len(one)), np.float32)
    best_there = np.full(len(two), -1, np.float32)
    for first in range(0, len(one), BLOCK):
        part = slice(first, first + BLOCK)
        likeness = one[part] @ across
        row = np.arange(len(likeness))
        nearest[part] = likeness.argmax(1)
        best[part] = likeness[row, nearest[part]]
        np.maximum(best_there, likeness.max(0), out=best_there)
        likeness[row, nearest[part]] = -1
        second[part] = likeness.max(1)
    both = best == best_there[nearest]
    clear = (1 - best < RATIO**2 * (1 - second)) & (2 - 2 * best < FARTHEST**2)
    chosen = np.flatnonzero(both & clear)
    return chosen, nearest[chosen]


def _agree(uv_a: np.ndarray, uv_b: np.ndarray, seed: int) -> np.ndarray:
    try:
        _, mask = cv2.findFundamentalMat(uv_a, uv_b, magsac(VERIFY_PX, 2000, seed))
    except cv2.error:  # OpenCV asserts where no sample gives a model
        mask = None
    return np.zeros(len(uv_a), bool) if mask is None else mask.ravel() > 0


def magsac(threshold_px: float, most_samples: int, seed: int) -> cv2.UsacParams:
    """How a model of two views is looked for."""
    params = cv2.UsacParams()
    params.score, params.sampler, params.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.SAMPLING_UNIFORM, cv2.LOCAL_OPTIM_SIGMA
    params.loIterations, params.loSampleSize, params.maxIterations = 10, 50, most_samples
    params.final_polisher, params.final_polisher_iterations = cv2.MAGSAC, 3
    params.threshold, params.confidence, params.randomGeneratorState = threshold_px, 0.999, seed
    params.isParallel = False
    return params


def merge(features: Sequence[Features], matches: Iterable[PairMatches], klt: Tracks | None = None) -> Tracks:
    """One set of tracks from pair matches, and from tracks of the same views where there are any.

    Connected components of "is the same point"; a component that claims two places in one view is dropped. Tracks that
    no match touches pass unchanged.
    """
    counts = [len(item.uv) for item in features]
    start = np.concatenate([[0], np.cumsum(counts)])
    view = np.repeat(np.arange(len(features)), counts)
    uv = np.concatenate([item.uv for item in features]) if counts else np.zeros((0, 2), np.float32)
    weight, tracked = np.ones(len(uv)), np.zeros(len(uv), bool)
    edges = [np.column_stack([start[m.a] + m.index_a, start[m.b] + m.index_b]) for m in matches]
    if klt is not None and len(klt.view):
        edges += [_along(klt, len(uv)), _same_places(features, start, klt, len(uv))]
        view = np.concatenate([view, klt.view.numpy()])
        uv = np.concatenate([uv, klt.uv.numpy()])
        weight = np.concatenate([weight, klt.weight.numpy()])
        tracked = np.arange(len(uv)) >= len(tracked)
    link = np.concatenate(edges) if edges else np.zeros((0, 2), int)
    graph = scipy.sparse.csr_array((np.ones(len(link), bool), (link[:, 0], link[:, 1])), shape=(len(uv), len(uv)))
    _, track = scipy.sparse.csgraph.connected_components(graph, directed=False)
    # Of two points of one place the tracked one is kept, unless it is half as sure.
    return _one_place_per_view(view, track, uv, weight, rank=np.where(tracked, 2 * weight, weight))


def _along(klt: Tracks, offset: int) -> np.ndarray:
    """Edges between consecutive rows of one track."""
    row = np.flatnonzero(klt.track[1:].numpy() == klt.track[:-1].numpy())
    return offset + np.column_stack([row, row + 1])


def _same_places(features: Sequence[Features], start: np.ndarray, klt: Tracks, offset: int) -> np.ndarray:
    """Edges between a feature and the tracked point it lies on."""
    from scipy.spatial import cKDTree

    edges = [np.zeros((0, 2), int)]
    view = klt.view.numpy()
    for number, item in enumerate(features):
        rows = np.flatnonzero(view == number) if len(item.uv) else []
        if len(rows):
            distance, nearest = cKDTree(klt.uv.numpy()[rows]).query(item.uv)
            near = np.flatnonzero(distance < SAME_POINT_PX)
            edges.append(np.column_stack([start[number] + near, offset + rows[nearest[near]]]))
    return np.concatenate(edges)


def _one_place_per_view(
    view: np.ndarray, track: np.ndarray, uv: np.ndarray, weight: np.ndarray, rank: np.ndarray
) -> Tracks:
    """Tracks of two views and more, the point of highest rank per view, without those with places `APART_PX` apart."""
    order = np.lexsort((-rank, view, track))
    view, track, uv, weight = view[order], track[order], uv[order], weight[order]
    best = np.r_[True, (track[1:] != track[:-1]) | (view[1:] != view[:-1])][: len(track)]
    kept = np.flatnonzero(best)[np.cumsum(best) - 1]
    torn = np.unique(track[np.linalg.norm(uv - uv[kept], axis=1) > APART_PX])
    keep = best & ~np.isin(track, torn)
    often = np.bincount(track[keep], minlength=int(track.max(initial=0)) + 1)
    keep &= often[track] >= 2
    _, number = np.unique(track[keep], return_inverse=True)
    return Tracks(
        view=torch.as_tensor(view[keep]),
        track=torch.as_tensor(number),
        uv=torch.as_tensor(uv[keep], dtype=torch.float32),
        weight=torch.as_tensor(weight[keep], dtype=torch.float32),
    )
