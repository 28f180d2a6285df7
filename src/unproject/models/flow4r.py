"""Flow4R (arXiv 2602.14021): two images in; out come points of each, where they are for the other, and trust.

One encoder, one decoder and one head serve both images, so swapping the images swaps the results.
"""

from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unproject.errors import UsageError
from unproject.models.base import Reconstructor
from unproject.models.pairing import PairMaps, TwoViewNetwork, common_gauge, runs_of
from unproject.nn.croco import CrocoDecoder, CrocoEncoder, PixelHead, Tokens, TwoViewShape
from unproject.nn.heads import exp_direction
from unproject.types import Prediction, Views

CHANNELS = 8
LONG_SIDE = {"linear": 224, "dpt": 512}
"""Pixels of the images of the paper's two stages of training."""

SIZES = {
    "large": TwoViewShape(),
    "base": TwoViewShape(enc_dim=768, enc_depth=12, enc_heads=12),
    "tiny": TwoViewShape(
        enc_dim=128, enc_depth=4, enc_heads=4, dec_dim=64, dec_depth=12, dec_heads=4,
        dpt_widths=(16, 32, 48, 64), dpt_features=32,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Flow4rConfig:
    """What a Flow4R network is made from."""

    shape: TwoViewShape = SIZES["large"]
    motion: Literal["target_points", "scene_flow"] = "target_points"
    """What channels 3 to 5 mean: P_vt, or F with P_vt = P + F (the paper's Table 3)."""


@final
class Flow4r(Reconstructor, TwoViewNetwork):
    """The symmetric two-view network. ``encode`` once per image, ``decode`` once per pair, or call it on `Views`."""

    def __init__(self, config: Flow4rConfig) -> None:
        super().__init__()
        if config.motion not in ("target_points", "scene_flow"):
            raise UsageError(f"motion {config.motion!r} is unknown; choose target_points or scene_flow")
        self.config = config
        self.long_side = LONG_SIDE[config.shape.head]
        self.encoder = CrocoEncoder(config.shape)
        self.decoder = CrocoDecoder(config.shape)
        self.head = PixelHead(config.shape, CHANNELS)

    def encode(self, images: Float[Tensor, "F 3 H W"]) -> Tokens:
        """Tokens of RGB images in [0, 1] whose sides are multiples of 16."""
        return self.encoder(images)

    def relate(self, first: Tokens, second: Tokens) -> tuple[list[Tensor], list[Tensor]]:
        """What the head reads, of both images of each pair. Sizes may differ between first and second."""
        return self.decoder(first, second, self.config.shape.head_layers)

    def read(self, layers: list[Tensor], rows: int) -> Float[Tensor, "F 8 H W"]:
        """The 8 raw channels of one side: P, P_vt or F, W, C. Costly at full resolution: read only what is needed."""
        return self.head(layers, rows)

    def decode(self, first: Tokens, second: Tokens) -> tuple[PairMaps, PairMaps]:
        """Both directions of F pairs."""
        layers_first, layers_second = self.relate(first, second)
        if (first.rows, first.columns) != (second.rows, second.columns):
            sides = self.read(layers_first, first.rows), self.read(layers_second, second.rows)
        else:
            layers = [torch.cat(pair) for pair in zip(layers_first, layers_second, strict=True)]
            sides = self.read(layers, first.rows).chunk(2)
        return self.activate(sides[0]), self.activate(sides[1])

    def activate(self, raw: Float[Tensor, "F 8 H W"]) -> PairMaps:
        """What the raw channels mean."""
        points = exp_direction(rearrange(raw[:, :3], "f c h w -> f h w c"))
        moved = exp_direction(rearrange(raw[:, 3:6], "f c h w -> f h w c"))
        return PairMaps(
            points=points,
            target_points=moved if self.config.motion == "target_points" else points + moved,
            log_weight=raw[:, 6].flatten(1).log_softmax(-1).view_as(raw[:, 6]),
            confidence=raw[:, 7].sigmoid(),
        )

    def forward(self, views: Views) -> Prediction:
        """Each image is encoded once, each unordered pair decoded once. Views of an item share one scale.

        A view's own points and confidence are those of the first run it is in. UsageError for intrinsics, which this
        network cannot be told, and for a view that is in no pair.
        """
        if views.intrinsics is not None:
            raise UsageError("Flow4R cannot be told intrinsics; leave Views.intrinsics empty and use them after it")
        batch, count = views.images.shape[:2]
        runs = runs_of(views.pairs, count)
        tokens = self.encode(views.images.flatten(0, 1))
        maps = self.decode(tokens[runs.item * count + runs.first], tokens[runs.item * count + runs.second])
        points, target_points, log_weight, confidence = (
            torch.stack(sides)
            for sides in zip(*((m.points, m.target_points, m.log_weight, m.confidence) for m in maps), strict=True)
        )
        distance = points.detach().norm(dim=-1).mean((-2, -1))
        gauge = common_gauge(runs, distance, batch, count)
        scale = gauge.scale[:, None, None, None]
        side = runs.flipped.long()
        return Prediction(
            points=(points * scale)[gauge.side, gauge.run],
            confidence=confidence[gauge.side, gauge.run],
            target_points=(target_points * scale)[side, runs.run_of_pair],
            pose_weight=log_weight[side, runs.run_of_pair].exp(),
        )


def config(
    size: str = "large",
    *,
    head: Literal["linear", "dpt"] = "dpt",
    motion: Literal["target_points", "scene_flow"] = "target_points",
) -> Flow4rConfig:
    """The paper's network is ``large``: stage 1 with a linear head, stage 2 with DPT."""
    if size not in SIZES:
        raise UsageError(f"Flow4R has no size {size!r}; choose one of {', '.join(SIZES)}")
    return Flow4rConfig(shape=replace(SIZES[size], head=head), motion=motion)
