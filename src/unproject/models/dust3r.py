"""DUSt3R (arXiv 2312.14132) and networks of its make, as MonST3R: two decoders, two heads, one camera.

They run as released, for comparison with Flow4R; the second image's points come in the first one's camera.
"""

from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unproject.errors import UsageError
from unproject.geometry.align import similarity
from unproject.models.base import Reconstructor
from unproject.models.flow4r import SIZES
from unproject.models.pairing import common_gauge, runs_of
from unproject.nn.croco import CrocoDecoder, CrocoEncoder, PixelHead, Tokens, TwoViewShape, decoder_blocks
from unproject.nn.heads import exp_direction
from unproject.types import Prediction, Views

CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class Dust3rConfig:
    """What a network of DUSt3R's make is made from."""

    shape: TwoViewShape = SIZES["large"]


@dataclass(frozen=True)
class SideMaps:
    """What one head says of its image's pixels, in the first image's camera."""

    points: Float[Tensor, "F H W 3"]
    raw_confidence: Float[Tensor, "F H W"]
    """The paper's C is ``1 + exp`` of this."""


@final
class Dust3r(Reconstructor):
    """The asymmetric two-view network."""

    def __init__(self, config: Dust3rConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CrocoEncoder(config.shape)
        self.decoder = CrocoDecoder(config.shape)
        self.other_blocks = decoder_blocks(config.shape)
        self.head = PixelHead(config.shape, CHANNELS)
        self.other_head = PixelHead(config.shape, CHANNELS)

    def encode(self, images: Float[Tensor, "F 3 H W"]) -> Tokens:
        """Tokens of RGB images in [0, 1] whose sides are multiples of 16."""
        return self.encoder(images)

    def decode(self, first: Tokens, second: Tokens) -> tuple[SideMaps, SideMaps]:
        """Both images' points in the first one's camera."""
        layers = self.decoder.two_stacks(self.other_blocks, first, second, self.config.shape.head_layers)
        return activate(self.head(layers[0], first.rows)), activate(self.other_head(layers[1], second.rows))

    def forward(self, views: Views) -> Prediction:
        """Each unordered pair runs in both orders; the two runs are brought to one scale by the points they share.

        ``target_points`` are the source's points in the target's camera: where nothing moves, or for networks that
        were trained so (St4RTrack), at the target's time. UsageError as for Flow4R.
        """
        if views.intrinsics is not None:
            raise UsageError("DUSt3R cannot be told intrinsics; leave Views.intrinsics empty and use them after it")
        batch, count = views.images.shape[:2]
        runs = runs_of(views.pairs, count)
        tokens = self.encode(views.images.flatten(0, 1))
        first, second = tokens[runs.item * count + runs.first], tokens[runs.item * count + runs.second]
        own_first, second_in_first = self.decode(first, second)
        own_second, first_in_second = self.decode(second, first)
        # Each run has a scale of its own; each image, seen in both, tells their ratio.
        ratio = (_ratio(first_in_second, own_first) * _ratio(own_second, second_in_first)).sqrt()[:, None, None, None]
        own = torch.stack([own_first.points, own_second.points * ratio])
        seen = torch.stack([first_in_second.points * ratio, second_in_first.points])
        gauge = common_gauge(runs, own.detach().norm(dim=-1).mean((-2, -1)), batch, count)
        scale = gauge.scale[:, None, None, None]
        trust = torch.stack([own_first.raw_confidence, own_second.raw_confidence]).sigmoid()
        weight = torch.stack([_weight(first_in_second), _weight(second_in_first)])
        side = runs.flipped.long()
        return Prediction(
            points=(own * scale)[gauge.side, gauge.run],
            confidence=trust[gauge.side, gauge.run],
            target_points=(seen * scale)[side, runs.run_of_pair],
            pose_weight=weight[side, runs.run_of_pair],
        )


def activate(raw: Float[Tensor, "F 4 H W"]) -> SideMaps:
    """What a head's raw channels mean."""
    return SideMaps(exp_direction(rearrange(raw[:, :3], "f c h w -> f h w c")), raw[:, 3])


def _weight(maps: SideMaps) -> Float[Tensor, "F H W"]:
    """C as shares of the image: DUSt3R has no weight for pose, its users take the confidence."""
    log_c = torch.nn.functional.softplus(maps.raw_confidence)
    return log_c.flatten(1).softmax(-1).view_as(log_c)


def _ratio(x: SideMaps, y: SideMaps) -> Float[Tensor, " F"]:
    """Scale of y's run over that of x's, from the same image's points in both."""
    weight = (_weight(x) * _weight(y)).sqrt()
    scale, _, _ = similarity(x.points.flatten(1, 2), y.points.flatten(1, 2), weight.flatten(1))
    return scale.detach()


def config(size: str = "large", *, head: Literal["linear", "dpt"] = "dpt") -> Dust3rConfig:
    """Released networks are ``large``."""
    if size not in SIZES:
        raise UsageError(f"DUSt3R has no size {size!r}; choose one of {', '.join(SIZES)}")
    return Dust3rConfig(shape=replace(SIZES[size], head=head))
