"""The two-view transformer of CroCo v2 and DUSt3R: an encoder per image, a decoder of two streams.

CroCo: arXiv 2211.10408; DUSt3R: arXiv 2312.14132, section 3. Blocks run under the caller's autocast; what they
add up to keeps the weights' type, which leaves a third less error in bfloat16 (measured on 12 + 12 blocks of 384).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unproject.errors import UsageError
from unproject.nn.attention import Turns
from unproject.nn.dpt import DptHead
from unproject.nn.heads import LinearHead
from unproject.nn.patches import PatchEmbed
from unproject.nn.rope import grid_positions
from unproject.nn.transformer import NORM_EPS, DecoderBlock, EncoderBlock, start_linear_maps

PATCH = 16
DPT_DEPTHS = (0, 0.5, 0.75, 1)
"""Where a DPT head reads, as shares of the decoder's depth; 0 is the encoder."""


@dataclass(frozen=True, kw_only=True)
class TwoViewShape:
    """Widths and depths. The defaults are ViT-L/16 with the base decoder, as released."""

    enc_dim: int = 1024
    enc_depth: int = 24
    enc_heads: int = 16
    dec_dim: int = 768
    dec_depth: int = 12
    dec_heads: int = 12
    head: Literal["linear", "dpt"] = "dpt"
    dpt_widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    dpt_features: int = 256
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Belongs to the weights: DUSt3R's family maps pixels to [-1, 1], CroCo's pre-training used ImageNet's numbers."""
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def head_layers(self) -> tuple[int, ...]:
        """Layers that the head reads: 0 is the encoder's output, k that of decoder block k."""
        if self.head == "linear":
            return (self.dec_depth,)
        return tuple(int(share * self.dec_depth) for share in DPT_DEPTHS)


@dataclass(frozen=True)
class Tokens:
    """Images as the encoder left them, which is all that a pair needs: keep them to pair an image many times."""

    values: Float[Tensor, "F L D"]
    rows: int
    columns: int

    def __getitem__(self, index: Tensor | slice) -> "Tokens":
        return Tokens(self.values[index], self.rows, self.columns)

    def turns(self, head_dim: int) -> Turns:
        """Rotations that tell attention where the tokens lie."""
        return Turns.of(grid_positions(self.rows, self.columns, self.values.device), head_dim)


class CrocoEncoder(nn.Module):
    """Patches and transformer blocks: no class token, positions only by rotation."""

    def __init__(self, shape: TwoViewShape) -> None:
        super().__init__()
        self.shape = shape
        self.patches = PatchEmbed(shape.enc_dim, PATCH)
        self.blocks = nn.ModuleList(EncoderBlock(shape.enc_dim, shape.enc_heads) for _ in range(shape.enc_depth))
        self.norm = nn.LayerNorm(shape.enc_dim, eps=NORM_EPS)
        start_linear_maps(self)

    def forward(self, images: Float[Tensor, "F 3 H W"]) -> Tokens:
        """Tokens of RGB images in [0, 1]; UsageError where the size is no multiple of 16."""
        height, width = images.shape[-2:]
        if height % PATCH or width % PATCH:
            raise UsageError(f"images of {width}x{height} pixels: resize to multiples of {PATCH}")
        mean, std = (images.new_tensor(v)[:, None, None] for v in (self.shape.pixel_mean, self.shape.pixel_std))
        values = self.patches((images - mean) / std).to(self.norm.weight.dtype)
        tokens = Tokens(values, height // PATCH, width // PATCH)
        turns = tokens.turns(self.shape.enc_dim // self.shape.enc_heads)
        return Tokens(self.run(tokens.values, turns), tokens.rows, tokens.columns)

    def run(self, values: Float[Tensor, "F L D"], turns: Turns) -> Float[Tensor, "F L D"]:
        """All blocks and the last norm, for any set of patches."""
        for block in self.blocks:
            values = block(values, turns)
        return self.norm(values)


class CrocoDecoder(nn.Module):
    """Blocks through which two images look at each other: both streams move together, layer by layer."""

    def __init__(self, shape: TwoViewShape) -> None:
        super().__init__()
        self.head_dim = shape.dec_dim // shape.dec_heads
        self.embed = nn.Linear(shape.enc_dim, shape.dec_dim)
        self.blocks = decoder_blocks(shape)
        self.norm = nn.LayerNorm(shape.dec_dim, eps=NORM_EPS)
        start_linear_maps(self.embed)

    def forward(self, first: Tokens, second: Tokens, layers: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """The layers asked for, of both streams, by the same weights. Swapping the images swaps the results.

        Layer 0 is the encoder's output, the last one is normalised.
        """
        if (first.rows, first.columns) != (second.rows, second.columns):
            return self.two_stacks(self.blocks, first, second, layers)
        # One batch of both streams: each half's memory is the other half.
        both = torch.cat([first.values, second.values])
        turns = first.turns(self.head_dim)
        kept = [both] if 0 in layers else []
        values = self._embedded(both)
        for number, block in enumerate(self.blocks, 1):
            values = block(values, values.roll(len(first.values), 0), turns, turns)
            if number in layers:
                kept.append(self.norm(values) if number == len(self.blocks) else values)
        halves = [layer.chunk(2) for layer in kept]
        return [half[0] for half in halves], [half[1] for half in halves]

    def two_stacks(
        self, others: nn.ModuleList, first: Tokens, second: Tokens, layers: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The same with blocks of its own for the second stream (DUSt3R), or for images of different sizes."""
        a, b = self._embedded(first.values), self._embedded(second.values)
        turns_a, turns_b = first.turns(self.head_dim), second.turns(self.head_dim)
        kept = [(first.values, second.values)] if 0 in layers else []
        for number, (block, other) in enumerate(zip(self.blocks, others, strict=True), 1):
            a, b = block(a, b, turns_a, turns_b), other(b, a, turns_b, turns_a)
            if number in layers:
                last = number == len(self.blocks)
                kept.append((self.norm(a), self.norm(b)) if last else (a, b))
        return [pair[0] for pair in kept], [pair[1] for pair in kept]

    def _embedded(self, values: Float[Tensor, "F L _"]) -> Float[Tensor, "F L D"]:
        return self.embed(values).to(self.norm.weight.dtype)


def decoder_blocks(shape: TwoViewShape) -> nn.ModuleList:
    """A fresh stack."""
    blocks = nn.ModuleList(DecoderBlock(shape.dec_dim, shape.dec_heads) for _ in range(shape.dec_depth))
    start_linear_maps(blocks)
    return blocks


class PixelHead(nn.Module):
    """A linear or a DPT head over the layers of one stream, in float32 whatever the trunk ran in."""

    def __init__(self, shape: TwoViewShape, channels: int) -> None:
        super().__init__()
        if shape.head == "linear":
            self.map = LinearHead(shape.dec_dim, channels, PATCH)
        else:
            dims = [shape.enc_dim if layer == 0 else shape.dec_dim for layer in shape.head_layers]
            self.map = DptHead(dims, shape.dpt_widths, shape.dpt_features, channels)

    def forward(self, layers: Sequence[Float[Tensor, "F L _"]], rows: int) -> Float[Tensor, "F C H W"]:
        """Raw channels of every pixel."""
        with torch.autocast(layers[-1].device.type, enabled=False):
            return self.map([layer.float() for layer in layers], rows)
