"""A frame's depth as the maps around it agree on."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32

from unproject.inference.measure import Measured
from unproject.inference.view import View, inside, landing, lookup, relative_depth

AGREEMENT = 0.06
"""Relative difference of inverse depth between maps that speak of the same surface."""
UNSURE = np.float32(1e-6)
"""Weight of the guess: it is all there is where no map knows anything."""


def merge(
    view: View, sources: Sequence[tuple[View, Measured]]
) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """Inverse depth of a frame, measured or not, and its precision: mean over the sources, where they agree.

    The nearest source comes first, the frame itself if it was measured.
    """
    guess = _first_guess(view, sources)
    total, summed = np.zeros_like(guess), np.zeros_like(guess)
    for source in sources:
        implied, precision = _implied(view, *source, guess)
        precision *= np.exp(-(((implied / guess - 1) / AGREEMENT) ** 2))
        summed += precision * implied
        total += precision
    return (summed + UNSURE * guess) / (total + UNSURE), total / len(sources)


def _first_guess(view: View, sources: Sequence[tuple[View, Measured]]) -> Float32[np.ndarray, "H W"]:
    """What the frame itself measured; else, of the two nearest sources, the surer one at each pixel."""
    if sources[0][0] is view:
        return sources[0][1].inverse_depth
    found = [_settled(view, *source) for source in sources[:2]]
    return np.where(found[0][1] >= found[-1][1], found[0][0], found[-1][0])


def _settled(view: View, other: View, measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Depth that another map has for this frame's pixels, found by looking where the last look leads."""
    guess = cv2.resize(measured.inverse_depth, view.grey.shape[::-1])
    for _ in range(2):
        guess, _ = _implied(view, other, measured, guess)
    again, precision = _implied(view, other, measured, guess)
    return again, precision * np.exp(-(((again / guess - 1) / (AGREEMENT / 2)) ** 2))


def _implied(
    view: View, other: View, measured: Measured, guess: Float32[np.ndarray, "H W"]
) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """Inverse depth that another map has for the surface that the guess sees there, and its precision."""
    uv = landing(view, other, guess)
    found = lookup(measured.inverse_depth, uv)
    # Depth over there is depth here times (a + w t), so w_other = w / (a + w t): solved for w.
    at_infinity = relative_depth(view, other, np.zeros_like(guess))
    shift = relative_depth(view, other, np.ones_like(guess)) - at_infinity
    implied = found * np.maximum(at_infinity, 0.05) / np.maximum(1 - found * shift, 0.05)
    return implied, lookup(measured.precision, uv, outside=0.0) * inside(uv, other.grey)
