"""The matching half of the compact network: dense flow between two images, in both directions at once."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unproject.nn.matching import ConvexUpsampling, Correction, GlobalMatching, finer, mutual_flow
from unproject.nn.pyramid import Pyramid

STRIDES = (2, 4, 8)
"""Pixels of a cell, fine to coarse."""


@dataclass(frozen=True, kw_only=True)
class MatcherShape:
    """Sizes of the matcher; three numbers are for 1/2, 1/4 and 1/8 of the image's size."""

    widths: tuple[int, int, int] = (24, 48, 96)
    depths: tuple[int, int, int] = (1, 2, 3)
    hidden: tuple[int, int, int] = (32, 64, 96)
    radii: tuple[int, int, int] = (2, 2, 3)
    rounds: tuple[int, int, int] = (1, 2, 2)


@dataclass(frozen=True)
class Matched:
    """Flow of 2 F sides: of the first images of all pairs to the second, then of the second to the first. float32."""

    log_match: Float[Tensor, "S hw hw"]
    flows: list[Float[Tensor, "S _ _ 2"]]
    """Pixels; coarse to fine, one after each step."""
    logits: list[Float[Tensor, "S _ _"]]
    """Log-odds that a flow is right, of all flows but the first."""
    flow: Float[Tensor, "S H W 2"]
    """At every pixel."""
    logit: Float[Tensor, "S H W"]


def swap(sides: Tensor) -> Tensor:
    """The other image of each pair: second half first."""
    first, second = sides.chunk(2)
    return torch.cat([second, first])


class Matcher(nn.Module):
    """All pairs of coarse cells, then corrections from coarse to fine."""

    def __init__(self, shape: MatcherShape) -> None:
        super().__init__()
        self.shape = shape
        self.pyramid = Pyramid(shape.widths, shape.depths)
        self.coarse = GlobalMatching(shape.widths[2])
        self.corrections = nn.ModuleList(
            Correction(*sizes) for sizes in zip(shape.widths, shape.hidden, shape.radii, strict=True)
        )
        self.upsample = ConvexUpsampling(shape.widths[0], STRIDES[0])

    def forward(self, scales: list[Float[Tensor, "S _ _ _"]]) -> Matched:
        """Of features of all sides at 1/2, 1/4 and 1/8, as `pyramid` makes them."""
        targets = [swap(features) for features in scales]
        height, width = scales[-1].shape[-2:]
        log_match = self.coarse(scales[-1], targets[-1]).float()
        flow, logit = mutual_flow(log_match.detach(), swap(log_match.detach()), height, width)
        flows, logits = [_pixels(flow, STRIDES[-1])], []
        for level in (2, 1, 0):
            if level < 2:
                flow, logit = finer(flow, logit)
            for _ in range(self.shape.rounds[level]):
                flow, logit = self.corrections[level](scales[level], targets[level], flow, logit)
                flows.append(_pixels(flow, STRIDES[level]))
                logits.append(logit[:, 0].float())
        full = self.upsample(STRIDES[0] * flow, scales[0])
        sure = interpolate(logit, scale_factor=STRIDES[0], mode="bilinear", align_corners=False)
        full, certain = rearrange(full, "s c h w -> s h w c").float(), sure[:, 0].float()
        return Matched(log_match, [*flows, full], [*logits, certain], full, certain)


def _pixels(flow: Float[Tensor, "S 2 h w"], stride: int) -> Float[Tensor, "S h w 2"]:
    return stride * rearrange(flow.float(), "s c h w -> s h w c")
