"""Which clips come next: a pure function of the recipe and of how many batches came before."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unproject.data.base import Framing
from unproject.training.recipe import Recipe

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Draw:
    """What one forward and backward pass learns from."""

    source: int
    """Its place among the sources."""
    numbers: tuple[int, ...]
    framing: Framing


class Sampler:
    """The draws of a run, from a position on: position p is that of pass p of the whole run.

    Each source gets its share of any stretch of passes, as evenly as can be. A finite dataset is gone through in a new
    order in each epoch, one that never ends in its own order.
    """

    def __init__(self, recipe: Recipe, position: int = 0) -> None:
        self.recipe = recipe
        self.position = position
        self.size = recipe.schedule.batch // recipe.schedule.passes
        shares = np.array([source.share for source in recipe.sources])
        self._edges = np.cumsum(shares / shares.sum())[:-1]
        self._used = np.bincount(self._sources(0, position), minlength=len(shares))

    def __iter__(self) -> Iterator[Draw]:
        schedule = self.recipe.schedule
        while self.position < schedule.steps * schedule.passes:
            yield self._draw()

    def _draw(self) -> Draw:
        """The next batch. It counts as drawn, not as learned from: those in flight are drawn again after a stop."""
        source = int(self._sources(self.position, self.position + 1)[0])
        first = int(self._used[source]) * self.size
        choice = int(np.random.SeedSequence((self.recipe.seed, self.position)).generate_state(1)[0])
        numbers = tuple(self._number(source, index) for index in range(first, first + self.size))
        self._used[source] += 1
        self.position += 1
        return Draw(source, numbers, self.recipe.clip.framing(choice))

    def _sources(self, start: int, stop: int) -> np.ndarray:
        """Of these positions. Steps of the golden ratio around a circle fall everywhere alike, however few they are."""
        return np.searchsorted(self._edges, np.arange(start, stop) * GOLDEN % 1, side="right")

    def _number(self, source: int, index: int) -> int:
        """Of the clip that a source gives as its index-th."""
        count = self.recipe.sources[source].dataset.count
        if count is None:
            return index
        return int(_order(self.recipe.seed, source, index // count, count)[index % count])


@lru_cache(maxsize=16)
def _order(seed: int, source: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, source, epoch)).permutation(count)
