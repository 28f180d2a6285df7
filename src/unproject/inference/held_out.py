"""Whether something helps on this very clip: tried where tracks know the answer and nothing else may tell it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int

from unproject.inference.dense import DenseClip, views_for
from unproject.inference.fuse import fuse, sight
from unproject.inference.measure import Guess, carried_on, is_known, sparse_prior
from unproject.inference.neighbours import SparseDepth
from unproject.inference.view import View

FRAMES, EVERY = 3, 4
"""Frames that are tried, and the share of their points that is held out: one of so many."""
COVER = 0.04
"""Of the image's longer side: how far around a point nothing may be known."""
WORST = 0.5
"""Relative error beyond which wrong is wrong."""
CLEARLY = 0.95
"""Share of the error that must be left for a help to be one."""


@dataclass(frozen=True)
class Trial:
    """Mean relative error of depth at points that were held out."""

    without: float
    with_guess: float
    points: int

    def facts(self) -> dict[str, float | int | bool]:
        """For `run.json`."""
        return {
            "used": self.helps,
            "held_out_points": self.points,
            "error_without": round(self.without, 4),
            "error_with": round(self.with_guess, 4),
        }

    @property
    def helps(self) -> bool:
        """Clearly less error; no where nothing could be tried."""
        return self.points > 0 and self.with_guess < CLEARLY * self.without


def try_guess(clip: DenseClip, guess: Guess, frames: Sequence[int]) -> Trial:
    """Depth carried on over covered places, smoothly and by the guess, on some of these frames."""
    chosen = [frames[place] for place in np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))]
    views = zip(chosen, views_for(clip, chosen), strict=True)
    errors = [
        error
        for frame, (view, others) in views
        for error in _errors(view, others, clip.sparse[frame], guess, ordered=clip.ordered)
    ]
    if not errors:
        return Trial(0.0, 0.0, 0)
    without, with_guess = np.concatenate(errors, axis=1).clip(max=WORST).mean(1)
    return Trial(float(without), float(with_guess), sum(error.shape[1] for error in errors))


def _errors(
    view: View, others: list[View], sparse: SparseDepth, guess: Guess, *, ordered: bool
) -> Iterator[Float32[np.ndarray, "2 M"]]:
    """Of the points of one frame, without and with the guess; nothing where the frame cannot be measured."""
    if not others or len(sparse.depth) < 2 * EVERY:
        return
    held = np.arange(len(sparse.depth)) % EVERY == 0
    prior = sparse_prior(view, SparseDepth(uv=sparse.uv[~held], depth=sparse.depth[~held]))
    fused = fuse([sight(view, other, prior, thorough=not ordered) for other in others])
    pixels = _pixels(view, sparse.uv[held])
    known = is_known(fused, len(others)) & ~_covered(view, pixels)
    if not known.any():
        return
    filled = [carried_on(view, fused.inverse_depth, known, relief) for relief in (None, guess(view, others))]
    found = np.stack([one[pixels[:, 1], pixels[:, 0]] for one in filled])
    yield np.abs(np.log(found * sparse.depth[held])).astype(np.float32)


def _pixels(view: View, uv: Float32[np.ndarray, "M 2"]) -> Int[np.ndarray, "M 2"]:
    return np.floor(uv).astype(int).clip(0, np.array(view.grey.shape[::-1]) - 1)


def _covered(view: View, pixels: Int[np.ndarray, "M 2"]) -> Bool[np.ndarray, "H W"]:
    reach = max(1, round(COVER * max(view.grey.shape)))
    covered = np.zeros(view.grey.shape, bool)
    for column, row in pixels:
        covered[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
    return covered
