"""What the multi-view networks have in common: widths and depths, and how images fall into their tokens."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unproject.nn.attention import Turns
from unproject.nn.backbone import RopePrecision, token_positions, turns_of
from unproject.nn.vit import VitShape, whole_patches

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class MultiViewShape:
    """Widths and depths. The defaults are those of the released networks."""

    encoder: VitShape = field(default_factory=VitShape)
    depth: int = 36
    """Blocks of the trunk, within views and over all in turns; as wide as the encoder."""
    layer_scale: float = 0.01
    """What the trunk's blocks start to add. So little suits one that begins from weights (π³: those of VGGT)."""
    registers: int = 5
    task_depth: int = 5
    """Blocks of each of the decoders for points, confidence and camera."""
    flow_widths: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    flow_features: int = 256


SIZES = {
    "large": MultiViewShape(),
    "base": MultiViewShape(
        encoder=VitShape(dim=768, depth=12, heads=12), depth=24, flow_widths=(96, 192, 384, 768), flow_features=128
    ),
    "small": MultiViewShape(
        encoder=VitShape(dim=384, depth=12, heads=6), depth=12, flow_widths=(48, 96, 192, 384), flow_features=64
    ),
    "tiny": MultiViewShape(
        encoder=VitShape(dim=64, depth=2, heads=2),
        depth=4,
        layer_scale=1.0,
        flow_widths=(16, 32, 48, 64),
        flow_features=32,
    ),
}


@dataclass(frozen=True)
class Grid:
    """How images fall into patches."""

    size: tuple[int, int]
    rows: int
    positions: Int[Tensor, "L 2"]
    turns: Turns
    """Of the tokens of one view, as exact as was asked for."""

    @staticmethod
    def of(images: Float[Tensor, "B N 3 H W"], shape: VitShape, special: int, precision: RopePrecision) -> "Grid":
        """With so many tokens of a view before its patches; UsageError for sizes of no whole patches."""
        size = images.shape[-2:]
        rows, columns = whole_patches(size, shape.patch)
        positions = token_positions(rows, columns, special, images.device)
        return Grid((size[0], size[1]), rows, positions, turns_of(positions, shape.dim // shape.heads, precision))


def working_numbers(
    shape: VitShape, special: int, views: int, at_once: int, size: tuple[int, int], task_width: int | None = None
) -> int:
    """Numbers that trunk and task decoders (``task_width`` wide, or as the trunk) hold at their widest.

    Each token of all views takes 14 vectors (states, queries, keys, values); each of those that task decoders work on
    at a time 11, and their pixels 11 numbers.
    """
    rows, columns = whole_patches(torch.Size(size), shape.patch)
    tokens = special + rows * columns
    vectors = 14 * shape.dim * views + 11 * (task_width or shape.dim) * at_once
    return vectors * tokens + 11 * size[0] * size[1] * at_once
