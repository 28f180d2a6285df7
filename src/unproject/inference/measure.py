"""Depth as one frame alone measures it, with the help of others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from unproject.inference.complete import complete
from unproject.inference.fuse import Fused, fuse, sight
from unproject.inference.motion import stuck_to_image
from unproject.inference.neighbours import SparseDepth
from unproject.inference.polish import polish
from unproject.inference.view import View

SURE, AGREEING = 0.06, 2
"""Expected relative error and number of agreeing sightings that make a pixel known, before any other frame is asked."""
SPARSE_LINK = 0.03
"""Hold across edges where points are sparse: they sit on the edges themselves."""
STEEP = 50.0
"""Inverse of the relative change of depth within seven pixels that halves precision: flow smears edges."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What one frame knows of the scene at rest."""

    inverse_depth: Float32[np.ndarray, "H W"]
    precision: Float32[np.ndarray, "H W"]
    """Inverse of the expected relative error; 0 where nothing is known."""
    stuck: Bool[np.ndarray, "H W"]
    """Belongs to the camera, not to the scene."""


Guess = Callable[[View, Sequence[View]], Float32[np.ndarray, "H W"]]
"""Inverse depth of a view as something else than flow sees it, with the help of others; relief counts, not size."""


def measure(
    view: View, others: Sequence[View], sparse: SparseDepth, *, thorough: bool, guess: Guess | None = None
) -> Measured:
    """Depth of one frame from its flow to others, started from the solved points that it sees.

    Where flow finds nothing, what it found nearby is carried on: smoothly, or along the relief of the guess.
    """
    prior = sparse_prior(view, sparse)
    nothing = np.zeros_like(prior)
    ignorant = Measured(inverse_depth=prior, precision=nothing, stuck=nothing > 0)
    if not others:
        return ignorant
    fused = fuse([sight(view, other, prior, thorough=thorough) for other in others])
    known = is_known(fused, len(others))
    if not known.any():
        return ignorant
    filled = carried_on(view, fused.inverse_depth, known, None if guess is None else guess(view, others))
    inverse_depth = polish(view, others, filled)
    stuck = stuck_to_image(view, others, inverse_depth)
    precision = 1 / (fused.error * (1 + STEEP * _relief(inverse_depth)))
    return Measured(inverse_depth=inverse_depth, precision=np.where(stuck, nothing, precision), stuck=stuck)


def is_known(fused: Fused, others: int) -> Bool[np.ndarray, "H W"]:
    """Where so many sightings, or all there are, agree well enough."""
    return (fused.error < SURE) & (fused.agreeing >= min(AGREEING, others))


def carried_on(
    view: View,
    inverse_depth: Float32[np.ndarray, "H W"],
    known: Bool[np.ndarray, "H W"],
    relief: Float32[np.ndarray, "H W"] | None,
) -> Float32[np.ndarray, "H W"]:
    """What is known, and the rest from it: the ratio to the relief is what is smooth."""
    if relief is None:
        return complete(inverse_depth, known, view.rgb)
    return relief * complete(inverse_depth / relief, known, view.rgb)


def sparse_prior(view: View, sparse: SparseDepth) -> Float32[np.ndarray, "H W"]:
    """Inverse depth of solved points, spread over the image; 1 everywhere without a point."""
    total, count = np.zeros(view.grey.shape, np.float32), np.zeros(view.grey.shape, np.float32)
    height, width = total.shape
    column, row = np.floor(sparse.uv.T).astype(int)
    usable = (column >= 0) & (row >= 0) & (column < width) & (row < height) & (sparse.depth > 0)
    place = row[usable], column[usable]
    np.add.at(total, place, 1 / sparse.depth[usable])
    np.add.at(count, place, 1)
    known = count > 0
    if not known.any():
        return np.ones_like(total)
    return complete(total / np.maximum(count, 1), known, view.rgb, SPARSE_LINK)


def without_movers(view: View, measured: Measured, moving: Bool[np.ndarray, "H W"]) -> Measured:
    """The scene behind movers as its surroundings suggest, without precision."""
    wide = cv2.dilate(moving.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    if wide.all():
        return replace(measured, precision=np.zeros_like(measured.precision))
    filled = complete(measured.inverse_depth, ~wide, view.rgb)
    return replace(measured, inverse_depth=filled, precision=np.where(wide, np.float32(0), measured.precision))


def _relief(inverse_depth: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """Relative change of depth within seven pixels."""
    return cv2.morphologyEx(np.log(inverse_depth), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8))
