"""What two-view networks have in common: their parts, their maps, and from ordered pairs of views to runs and back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unproject.errors import UsageError
from unproject.models.base import require_views
from unproject.nn.croco import Tokens


@dataclass(frozen=True)
class PairMaps:
    """What one image of each of F pairs says of its pixels."""

    points: Float[Tensor, "F H W 3"]
    """P: in the image's own camera at its own time."""
    target_points: Float[Tensor, "F H W 3"]
    """P_vt: the same points in the other image's camera at its time. Scene flow F is the difference."""
    log_weight: Float[Tensor, "F H W"]
    """log W, for pose; W sums to 1 over each image."""
    confidence: Float[Tensor, "F H W"]
    """In [0, 1]. The paper's C = 1 + exp(raw) is ``1 / (1 - confidence)``."""


class TwoViewNetwork(ABC):
    """A symmetric network of two images whose parts can be run apart: one image against many is encoded once."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "F 3 H W"]) -> Tokens:
        """What the network keeps of RGB images in [0, 1]."""

    @abstractmethod
    def relate(self, first: Tokens, second: Tokens) -> tuple[list[Tensor], list[Tensor]]:
        """What the head reads, of both images of each pair."""

    @abstractmethod
    def read(self, layers: list[Tensor], rows: int) -> Float[Tensor, "F C H W"]:
        """The raw channels of one side, which has so many rows of tokens."""

    @abstractmethod
    def activate(self, raw: Float[Tensor, "F C H W"]) -> PairMaps:
        """What the raw channels mean."""


@dataclass(frozen=True)
class Runs:
    """Every unordered pair once: one run of the decoder tells both of its directions."""

    item: Int[Tensor, " D"]
    first: Int[Tensor, " D"]
    second: Int[Tensor, " D"]
    run_of_pair: Int[Tensor, "B P"]
    flipped: Bool[Tensor, "B P"]
    """The pair's source is the run's second view."""


def runs_of(pairs: Int[Tensor, "B P 2"], views: int) -> Runs:
    """The runs that ordered pairs need; UsageError where a pair names no view."""
    require_views(pairs, views)
    item = torch.arange(len(pairs), device=pairs.device)[:, None].expand(pairs.shape[:2])
    rows = torch.stack([item, pairs.amin(-1), pairs.amax(-1)], dim=-1)
    unique, run_of_pair = torch.unique(rows.flatten(0, 1), dim=0, return_inverse=True)
    item, first, second = unique.unbind(-1)
    return Runs(item, first, second, run_of_pair.view(pairs.shape[:2]), pairs[..., 0] > pairs[..., 1])


@dataclass(frozen=True)
class Gauge:
    """One scale for the runs of each item, and where each view's own points come from."""

    scale: Float[Tensor, " D"]
    side: Int[Tensor, "B N"]
    run: Int[Tensor, "B N"]


def common_gauge(runs: Runs, distance: Float[Tensor, "2 D"], batch: int, views: int) -> Gauge:
    """Runs have scales of their own: those that share a view are brought to the scale of the first of them.

    ``distance`` is the mean distance of the first and second view's points (Flow4R's s_n). Runs that share no view,
    directly or over others, keep their scales. UsageError where a view is in no pair.
    """
    rows = torch.stack([runs.item, runs.first, runs.second], dim=-1).tolist()
    home: dict[tuple[int, int], tuple[int, int]] = {}
    scale: dict[int, Tensor] = {}
    waiting = list(range(len(rows)))
    while waiting:
        joined = (d for d in waiting if any((rows[d][0], view) in home for view in rows[d][1:]))
        run = next(joined, waiting[0])
        waiting.remove(run)
        keys = [(rows[run][0], view) for view in rows[run][1:]]
        scale[run] = torch.ones_like(distance[0, run])
        for side, key in enumerate(keys):
            if key in home:
                other_side, other = home[key]
                scale[run] = scale[other] * distance[other_side, other] / distance[side, run]
                break
        for side, key in enumerate(keys):
            home.setdefault(key, (side, run))
    lost = [key for key in ((b, n) for b in range(batch) for n in range(views)) if key not in home]
    if lost:
        raise UsageError(
            f"view {lost[0][1]} of item {lost[0][0]} is in no pair; a two-view network cannot see it alone"
        )
    table = torch.tensor([[home[b, n] for n in range(views)] for b in range(batch)], device=distance.device)
    return Gauge(torch.stack([scale[d] for d in range(len(rows))]), table[..., 0], table[..., 1])
