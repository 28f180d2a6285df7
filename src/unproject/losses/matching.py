"""The loss of a network that matches: every stage of its flow against true flow (measured)."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from unproject.geometry.camera import pixel_grid
from unproject.losses.base import Loss, Term, mean_per_image, read, weighed
from unproject.types import Labels, Matching, Prediction, Views, require


@dataclass(frozen=True, kw_only=True)
class MatchingLoss(Loss):
    """Cross-entropy of the coarse match, distance of every stage's flow, and odds that the flow is right.

    Reads ``Labels.flow`` where its covisibility is above a half.
    """

    match: float = 0.3
    flow: float = 0.4
    certainty: float = 0.1
    clamp_cells: float = 4.0
    """A flow that is further off, in cells of its stage, is left to coarser stages."""
    right_px: float = 1.5

    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        """``match``, ``flow`` and ``certainty``, those of weight other than zero."""
        matching: Matching = require(prediction, "matching")
        truth = require(labels, "flow")
        flow, seen = read(truth), truth.weight
        first, *finer = (_Stage.of(flow, seen, found) for found in matching.flows)

        def match() -> Tensor:
            return _cross_entropy(matching.log_match, flow, seen, first)

        def near() -> Tensor:
            return torch.stack(
                [mean_per_image(stage.miss.clamp(max=self.clamp_cells), stage.seen) for stage in finer]
            ).mean()

        def certainty() -> Tensor:
            return torch.stack(
                [self._certainty(stage, logit) for stage, logit in zip(finer, matching.logits, strict=True)]
            ).mean()

        makers = (("match", self.match, match), ("flow", self.flow, near), ("certainty", self.certainty, certainty))
        return weighed(makers)

    def _certainty(self, stage: "_Stage", logit: Float[Tensor, "B P h w"]) -> Float[Tensor, ""]:
        right = (stage.miss.detach() * stage.stride < self.right_px) & (stage.seen > 0.5)
        return binary_cross_entropy_with_logits(logit, right.to(logit))


@dataclass(frozen=True)
class _Stage:
    """The truth at the cells of one stage."""

    stride: float
    miss: Float[Tensor, "B P h w"]
    """Distance of its flow from the truth, in cells."""
    seen: Float[Tensor, "B P h w"]

    @staticmethod
    def of(flow: Float[Tensor, "B P H W 2"], seen: Float[Tensor, "B P H W"], found: Float[Tensor, "B P h w 2"]):
        stride = flow.shape[3] / found.shape[3]
        true, sure = _at_cells(flow, seen, found.shape[2], found.shape[3])
        miss = ((found - true).square().sum(-1) + 1e-6).sqrt() / stride
        return _Stage(stride, miss, sure)


def _at_cells(flow: Tensor, seen: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Flow at the middle of each cell, and 1 where all around it is covisible and moves alike."""
    stride = flow.shape[3] // width
    if stride == 1:
        return flow, (seen > 0.5).to(flow)
    tiles = rearrange(flow, "b p (h y) (w x) c -> b p h w c y x", y=stride, x=stride)
    sight = rearrange(seen, "b p (h y) (w x) -> b p h w y x", y=stride, x=stride)
    low, high = stride // 2 - 1, stride // 2 + 1
    middle = tiles[..., low:high, low:high].flatten(-2)
    alike = (middle.amax(-1) - middle.amin(-1)).amax(-1) < stride / 4
    sure = (sight[..., low:high, low:high] > 0.5).flatten(-2).all(-1) & alike
    return middle.mean(-1), sure.to(flow)


def _cross_entropy(
    log_match: Float[Tensor, "B P h w K"], flow: Tensor, seen: Tensor, stage: _Stage
) -> Float[Tensor, ""]:
    """Of the coarse match against the four cells around the true place, by their bilinear shares."""
    height, width = log_match.shape[2:4]
    true, _ = _at_cells(flow, seen, height, width)
    place = pixel_grid(height, width, true.dtype, true.device) + true / stage.stride - 0.5
    corner = place.floor()
    share = place - corner
    total = torch.zeros_like(stage.miss)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = corner[..., 0] + dx, corner[..., 1] + dy
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
        index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
        found = log_match.gather(-1, index[..., None])[..., 0]
        total = total - torch.where(inside, weight * found, 0)
    return mean_per_image(total, stage.seen)
