"""The vision transformer of DINOv2 with registers (arXiv 2304.07193, 2309.16588), patch tokens only."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unproject.errors import UsageError
from unproject.nn.patches import PatchEmbed
from unproject.nn.transformer import NORM_EPS, EncoderBlock
from unproject.tensors import at_least_float32

REGISTERS = 4
START = 0.64
"""What weights start from, over the root of the width: DINOv2's .02 at 1024, and as loud where it is narrower."""


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """Widths and depths. The defaults are ViT-L/14, as released."""

    dim: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    grid: int = 37
    """Rows and columns of tokens that positions are learned for; other grids read between them."""


class VisionTransformer(nn.Module):
    """One token per patch. Names of weights are those of the released files."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.grid**2, shape.dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, shape.dim))
        self.patch_embed = PatchEmbed(shape.dim, shape.patch)
        self.blocks = nn.ModuleList(EncoderBlock(shape.dim, shape.heads, layer_scale=1.0) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.dim, eps=NORM_EPS)
        self.start()

    def start(self) -> None:
        """Weights as DINOv2 starts them: narrow normal distributions."""
        std = START / math.sqrt(self.shape.dim)
        for token in (self.cls_token, self.register_tokens):
            nn.init.normal_(token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=std)
                nn.init.zeros_(part.bias)

    def forward(self, images: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "F L D"]:
        """Tokens of the patches, row by row, of normalised images; UsageError for sizes of no whole patches."""
        rows, columns = whole_patches(images.shape[-2:], self.shape.patch)
        class_position, positions = self._positions(rows, columns)
        patches = self.patch_embed(images).to(positions.dtype) + positions
        extra = torch.cat([self.cls_token + class_position, self.register_tokens], dim=1).expand(len(images), -1, -1)
        tokens = torch.cat([extra, patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, extra.shape[1] :])

    def _positions(self, rows: int, columns: int) -> tuple[Float[Tensor, "1 1 D"], Float[Tensor, "1 L D"]]:
        """Of the class token and of a grid of patches."""
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = self.shape.grid
        if (rows, columns) == (grid, grid):
            return first, rest
        square = rearrange(at_least_float32(rest), "one (h w) d -> one d h w", h=grid)
        resized = interpolate(square, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False)
        return first, rearrange(resized, "one d h w -> one (h w) d").to(rest.dtype)


def whole_patches(size: torch.Size, patch: int) -> tuple[int, int]:
    """Rows and columns of patches; UsageError where the size is no multiple of a patch."""
    height, width = size
    if height % patch or width % patch:
        raise UsageError(f"images of {width}x{height} pixels: resize to multiples of {patch}")
    return height // patch, width // patch
