"""What a training run is made from, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unproject.data.base import Dataset, Framing, Sample
from unproject.losses.base import Loss
from unproject.types import Prediction


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset, what is learned from it, and its share of the steps."""

    name: str
    dataset: Dataset
    losses: tuple[Loss, ...]
    share: float = 1.0


Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a clip looks like: its views, ordered pairs of them, and sizes (height, width) of which a pass draws one."""

    sizes: tuple[tuple[int, int], ...]
    views: int = 2
    fewest_views: int | None = None
    """A pass draws a number of views from this one up to ``views``, each alike; None for ``views`` always."""
    pairs: Pairs | Callable[[int], Pairs] = ((0, 1), (1, 0))
    """Or what gives them for a number of views."""
    intrinsics: bool = True
    """Tell the network the intrinsics that a dataset knows of its views. Losses know them either way."""

    @property
    def drawn_views(self) -> range:
        """The numbers of views that are drawn from."""
        return range(self.views if self.fewest_views is None else self.fewest_views, self.views + 1)

    def framing(self, choice: int) -> Framing:
        """The clip in one of its sizes and numbers of views; any whole number from 0 on chooses one of each.

        The first numbers give every size with the most views.
        """
        rest, size = divmod(choice, len(self.sizes))
        height, width = self.sizes[size]
        views = self.views - rest % len(self.drawn_views)
        pairs = self.pairs(views) if callable(self.pairs) else self.pairs
        return Framing(views=views, pairs=pairs, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, how large and how fast: AdamW, linear warm-up, then a cosine to the last rate."""

    steps: int
    batch: int
    """Clips of one step, over all its passes."""
    learning_rate: float
    last_learning_rate: float
    warmup_steps: int
    passes: int = 1
    """Forward and backward passes whose gradients make one step, each of one source and size; they divide the batch."""
    recomputed: tuple[str, ...] | None = None
    """Parts of the network, by the names of their weights up to a dot, whose transformer blocks keep their inputs alone
    for the backward pass and are computed again there: less memory, more time, the same gradients."""
    part_rates: tuple[tuple[str, float], ...] | None = None
    """Parts of the network that learn at another rate, and its factor on that of all: ``(("encoder", 0.1),)``."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    """Not of biases and other one-dimensional parameters."""
    clip_norm: float = 10.0
    clip_parts: bool = False
    """Clip the gradient of each top-level part of the network by itself, not that of the whole."""
    ema_decay: float | None = None
    """Keep, and validate, a moving average of the weights."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Clips set apart, measured every so many steps and at the end."""

    dataset: Dataset
    numbers: tuple[int, ...]
    measure: Callable[[Prediction, Sample], dict[str, float]]
    """Of one batch: numbers by name, to average over all clips; NaN where a batch has nothing to measure."""
    every: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what comes out. An ablation is `dataclasses.replace` of its parent."""

    name: str
    model: Any
    """A network's own configuration, as `models.build.from_config` takes it."""
    sources: tuple[Source, ...]
    clip: Clip
    schedule: Schedule
    validation: Validation | None = None
    seed: int = 0
    trained: tuple[str, ...] | None = None
    """Parts of the network that learn, by the names of their weights up to a dot: ``("flow_head",)``; None for all."""
