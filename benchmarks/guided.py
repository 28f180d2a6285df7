"""Matches between photos where likeness alone is lost: points that look most alike near where the network sees them.

Far views and repeated patterns leave no point clearly the most alike in the whole image. The network's flow is off by a
few of its own small pixels, but that leaves few points to choose from, and these are placed as well as any others.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.spatial import cKDTree
from torch import Tensor

from unproject.geometry.rays import sampson_distance
from unproject.inference.evidence import Pictures
from unproject.inference.learned import CELL, LONG_SIDE
from unproject.inference.twoview import fit_pair
from unproject.inference.view import lookup
from unproject.io.images import resize
from unproject.models.base import Reconstructor
from unproject.progress import Progress
from unproject.teachers import matches
from unproject.teachers.matches import Features, PairMatches
from unproject.types import Tracks, Views

LOOP_PX, LEAST_CONFIDENCE = 1.5, 0.5
"""Of the network's pixels, there and back; and how sure it must be of its flow."""
REACH = 0.02
"""Of the longer side: how far from the network's match a point is looked for; three of its pixels."""
POINTS = 3000


@dataclass(frozen=True)
class Flow:
    """What the network says of one image in another, in its pixels."""

    shift: Float32[np.ndarray, "H W 2"]
    confidence: Float32[np.ndarray, "H W"]


@dataclass(frozen=True)
class Landings:
    """Where the network sees points of one view in another."""

    uv: Float32[np.ndarray, "F 2"]
    sure: Bool[np.ndarray, " F"]


@dataclass(frozen=True)
class GuidedMatches:
    """Points of every view, at their working pixels, and which of them are the same."""

    features: list[Features]
    pairs: list[PairMatches]

    def joined(self, tracks: Tracks) -> Tracks:
        """``tracks`` with these matches; a component that claims two places in one view is dropped."""
        return matches.merge(self.features, self.pairs, tracks)


def guided_matches(pictures: Pictures, network: Reconstructor, progress: Progress) -> GuidedMatches:
    """Between all pairs of photos."""
    features = [matches.detect(grey, POINTS) for grey in pictures.kept]
    greys = [grey.shape for grey in pictures.kept]
    rich = [view for view, item in enumerate(features) if len(item.uv) > 1]
    pairs = list(combinations(rich, 2))
    found = []
    for a, b in progress(pairs, "match again", len(pairs)):
        there, back = flows(network, pictures.small[a], pictures.small[b])
        forth = land(there, back, features[a].uv, _shrink(pictures, a))
        index_a, index_b = alike_near(
            features[a],
            features[b],
            forth=_in_pixels(forth, _shrink(pictures, b)),
            back=_in_pixels(land(back, there, features[b].uv, _shrink(pictures, b)), _shrink(pictures, a)),
            reach_px=(REACH * max(greys[a]), REACH * max(greys[b])),
        )
        good = agree(features[a].uv[index_a], features[b].uv[index_b])
        if good.any():
            found.append(PairMatches(a, b, index_a[good], index_b[good], float(good.mean())))
    return GuidedMatches(
        [replace(item, uv=item.uv * _exact(pictures, view)) for view, item in enumerate(features)], found
    )


def flows(network: Reconstructor, one: np.ndarray, two: np.ndarray) -> tuple[Flow, Flow]:
    """From one picture to another of the same size, and back."""
    images = torch.stack([_as_asked(one), _as_asked(two)])[None]
    with torch.inference_mode():
        said = network(Views(images=images, times=torch.zeros(1, 2), pairs=torch.tensor([[[0, 1], [1, 0]]])))
    if said.flow is None or said.flow_confidence is None:
        raise TypeError(f"{type(network).__name__} says nothing of flow")
    there, back = map(Flow, said.flow[0].numpy(), said.flow_confidence[0].numpy())
    return there, back


def land(there: Flow, back: Flow, uv: Float32[np.ndarray, "F 2"], shrink: Float32[np.ndarray, " 2"]) -> Landings:
    """Of points with ``shrink`` network pixels per pixel; the result is in network pixels of the other view."""
    here = uv * shrink
    found = here + lookup(there.shift, here[None])[0]
    loop_px = np.linalg.norm(found + lookup(back.shift, found[None])[0] - here, axis=1)
    inside = ((found >= 0) & (found <= back.confidence.shape[::-1])).all(1)
    return Landings(found, inside & (loop_px < LOOP_PX) & (lookup(there.confidence, here[None])[0] > LEAST_CONFIDENCE))


def alike_near(
    a: Features, b: Features, *, forth: Landings, back: Landings, reach_px: tuple[float, float]
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """Each other's most alike among the points near where the network sees them, clearly before the second there.

    ``reach_px`` is that in a and in b.
    """
    near = _within(forth, b.uv, reach_px[1]) & _within(back, a.uv, reach_px[0]).T
    likeness = np.where(near, a.descriptor @ b.descriptor.T, np.float32(-1))
    row, best = np.arange(len(likeness)), likeness.argmax(1)
    value, second = likeness[row, best], np.partition(likeness, -2, axis=1)[:, -2]
    clear = (1 - value < matches.RATIO**2 * (1 - second)) & (2 - 2 * value < matches.FARTHEST**2)
    chosen = np.flatnonzero(clear & (likeness.argmax(0)[best] == row))
    return chosen, best[chosen]


def _within(landings: Landings, uv: Float32[np.ndarray, "P 2"], reach_px: float) -> Bool[np.ndarray, "F P"]:
    near = np.zeros((len(landings.uv), len(uv)), bool)
    sure = np.flatnonzero(landings.sure)
    for row, close in zip(sure, cKDTree(uv).query_ball_point(landings.uv[sure], reach_px), strict=True):
        near[row, close] = True
    return near


def agree(uv_a: Float32[np.ndarray, "M 2"], uv_b: Float32[np.ndarray, "M 2"]) -> Bool[np.ndarray, " M"]:
    """Which matches that move one fundamental matrix explains; none where too few agree on any."""
    moves = np.linalg.norm(uv_b - uv_a, axis=1) > matches.STILL_PX
    one, two = uv_a.astype(np.float64), uv_b.astype(np.float64)
    fit = fit_pair(0, 1, one[moves], two[moves], scale_px=matches.VERIFY_PX, seed=0)
    if fit is None:
        return np.zeros(len(moves), bool)
    off_px = sampson_distance(*(torch.from_numpy(each) for each in (fit.fundamental, one, two))).numpy()
    return moves & (off_px < matches.VERIFY_PX)


def _as_asked(rgb: np.ndarray) -> Float[Tensor, "3 h w"]:
    scale = LONG_SIDE / max(rgb.shape[:2])
    height, width = (max(1, round(side * scale / CELL)) * CELL for side in rgb.shape[:2])
    return torch.from_numpy(resize(rgb, width, height)).movedim(-1, 0) / 255


def _shrink(pictures: Pictures, view: int) -> Float32[np.ndarray, " 2"]:
    """Network pixels per pixel of a working image, along u and v."""
    asked = _as_asked(pictures.small[view]).shape[:0:-1]
    return (np.array(asked) / np.array(pictures.kept[view].shape[::-1])).astype(np.float32)


def _exact(pictures: Pictures, view: int) -> Float32[np.ndarray, " 2"]:
    """Undoes the rounding of a working image to whole pixels."""
    info, scale = pictures.source.infos[view], pictures.work_scale[view]
    return (np.array([info.width, info.height]) * scale / pictures.kept[view].shape[::-1]).astype(np.float32)


def _in_pixels(landings: Landings, shrink: Float32[np.ndarray, " 2"]) -> Landings:
    return replace(landings, uv=landings.uv / shrink)
