"""Whether labels can be believed: what pairs of views say of themselves, without any truth.

Thresholds are pixels of the labels' own images, which are about 500 across: there they were measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch

from unproject.geometry.rays import sampson_distance
from unproject.labelling.wishes import Wishes
from unproject.teachers.flow import round_trip_px
from unproject.teachers.matches import magsac
from unproject.teachers.tracks import LEAST_TRUST
from unproject.types import Known, Labels, Tracks, require

SAMPSON_PX = 1.5
"""Distance within which a match agrees with a fundamental matrix, and a homography with a match."""
SEEN = 0.5
"""Weight above which flow counts as covisible."""
ASKED = 1500
"""Pixels of a dense flow that are asked, about: more say nothing new."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well matches of two views fit one camera that moves through a scene at rest."""

    matches: int
    inliers: float
    """Share of them within `SAMPSON_PX` of the epipolar lines of one fundamental matrix."""
    sampson_px: float
    """Median distance from them, of all matches: those on things that move count."""
    flat: float
    """Share of the inliers that one homography explains too: 1 where the camera only turns, or sees one plane."""


@dataclass(frozen=True, kw_only=True)
class PairQuality:
    """What gates measure of one pair; None where no label speaks of it."""

    tracks: Agreement | None = None
    flow: Agreement | None = None
    covisible: float | None = None
    """Share of the source's pixels whose flow is trusted."""
    round_trip_px: float | None = None
    """Median distance from where they started, of trusted pixels that went there and back."""

    def passes(self, wishes: Wishes) -> bool:
        """Whether tracks and flow, as far as there are any, see enough of the same and agree with themselves."""
        if self.covisible is not None and not self.covisible >= wishes.least_covisible:
            return False
        if self.round_trip_px is not None and not self.round_trip_px <= wishes.most_round_trip_px:
            return False
        said = [agreement for agreement in (self.tracks, self.flow) if agreement is not None]
        return all(each.matches >= wishes.least_matches and each.inliers >= wishes.least_inliers for each in said)


def pair_qualities(labels: Labels, pairs: Sequence[tuple[int, int]]) -> list[PairQuality]:
    """Of each pair, by the labels' tracks and flow."""
    return [
        PairQuality(
            tracks=None if labels.tracks is None else agreement(*track_matches(labels.tracks, *pair)),
            **({} if labels.flow is None else _flow_quality(labels, pairs, number)),
        )
        for number, pair in enumerate(pairs)
    ]


def _flow_quality(labels: Labels, pairs: Sequence[tuple[int, int]], number: int) -> dict:
    flow: Known = require(labels, "flow")
    value, weight = flow.value[0].numpy(), flow.weight[0].numpy()
    trusted = weight[number] > SEEN
    back = pairs.index(pairs[number][::-1]) if pairs[number][::-1] in pairs else None
    trip = None if back is None else round_trip_px(value[number], value[back])[trusted]
    return {
        "flow": agreement(*flow_matches(value[number], weight[number])),
        "covisible": float(trusted.mean()),
        "round_trip_px": float(np.median(trip)) if trip is not None and len(trip) else None,
    }


def track_matches(tracks: Tracks, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Where both views see a point: pixels [M, 2] of each. Points that move by themselves do not speak."""
    place = []
    for view in (source, target):
        rows = ((tracks.view == view) & (tracks.weight >= LEAST_TRUST)).nonzero()[:, 0].numpy()
        place.append((tracks.track.numpy()[rows], tracks.uv.numpy()[rows]))
    _, a, b = np.intersect1d(place[0][0], place[1][0], assume_unique=True, return_indices=True)
    return place[0][1][a], place[1][1][b]


def flow_matches(flow: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trusted pixels of a grid of about `ASKED`, and where flow [H, W, 2] says that they are seen."""
    height, width = weight.shape
    step = max(1, round((height * width / ASKED) ** 0.5))
    row, column = np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    trusted = weight[row, column] > SEEN
    row, column = row[trusted], column[trusted]
    uv = np.stack([column, row], -1).astype(np.float32) + 0.5
    return uv, uv + flow[row, column]


def agreement(source_uv: np.ndarray, target_uv: np.ndarray) -> Agreement:
    """Of matches [M, 2] under the fundamental matrix that MAGSAC finds for them; no inliers where it finds none."""
    matrix, inside = _fitted(cv2.findFundamentalMat, source_uv, target_uv)
    if matrix is None or matrix.shape != (3, 3):
        return Agreement(matches=len(source_uv), inliers=0.0, sampson_px=float("inf"), flat=0.0)
    source, target = (torch.from_numpy(uv.astype(np.float64)) for uv in (source_uv, target_uv))
    distance = sampson_distance(torch.from_numpy(matrix), source, target).numpy()
    inside = distance < SAMPSON_PX
    _, flat = _fitted(cv2.findHomography, source_uv[inside], target_uv[inside])
    return Agreement(
        matches=len(source_uv),
        inliers=float(inside.mean()),
        sampson_px=float(np.median(distance)),
        flat=0.0 if flat is None else float(flat.mean()),
    )


def _fitted(estimator, source_uv: np.ndarray, target_uv: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A model and its mask, or None twice: OpenCV fails an assertion where no sample gives a model."""
    if len(source_uv) < 8:
        return None, None
    try:
        return estimator(source_uv.astype(np.float64), target_uv.astype(np.float64), magsac(SAMPSON_PX, 1000, 0))
    except cv2.error:
        return None, None


def connected(pairs: Sequence[tuple[int, int]], views: int) -> bool:
    """Whether one gets from each view to every other along pairs."""
    reached, grown = {0}, True
    while grown:
        new = {view for pair in pairs if reached & set(pair) for view in pair} - reached
        reached, grown = reached | new, bool(new)
    return len(reached) == views


def summary(qualities: Sequence[PairQuality]) -> dict[str, float]:
    """The median over pairs of each figure: tracks_inliers, flow_sampson_px, covisible and so on, where measured."""
    figures: dict[str, list[float]] = {}
    for quality in qualities:
        for kind in ("tracks", "flow"):
            agreed = getattr(quality, kind)
            for field in fields(Agreement) if agreed is not None else ():
                figures.setdefault(f"{kind}_{field.name}", []).append(getattr(agreed, field.name))
        for name in ("covisible", "round_trip_px"):
            if getattr(quality, name) is not None:
                figures.setdefault(name, []).append(getattr(quality, name))
    return {name: float(np.median(values)) for name, values in figures.items()}
