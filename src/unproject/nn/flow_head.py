"""Factored flow (Flow3r, section 3.2): where a view's pixels go, from its geometry and the target's pose alone.

What the target looks like is not asked: its pose latents enter as the mean over its patches.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from unproject.nn.dpt import ResidualUnit

LEVELS = 4
UV_SHARE = 0.1
"""How much the place of a pixel counts beside its features."""
UV_BASE = 100.0


class FlowHead(nn.Module):
    """Fusion of latents by one MLP for all levels, then a dense head. Names of weights are as released."""

    def __init__(self, dim: int, widths: Sequence[int], features: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(3 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim)
        )
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        half, last = features // 2, max(8, features // 8)
        self.scratch = nn.ModuleDict(
            {f"layer{level + 1}_rn": nn.Conv2d(widths[level], features, 3, padding=1, bias=False) for level in range(4)}
            | {f"refinenet{level + 1}": _Refine(features, has_skip=level < LEVELS - 1) for level in range(4)}
            | {
                "output_conv1": nn.Conv2d(features, half, 3, padding=1),
                "output_conv2": nn.Sequential(nn.Conv2d(half, last, 3, padding=1), nn.ReLU(), nn.Conv2d(last, 2, 1)),
            }
        )

    def forward(
        self,
        geometry: Sequence[Float[Tensor, "P K D"]],
        pose: Sequence[Float[Tensor, "P K D"]],
        target_pose: Sequence[Float[Tensor, "P D"]],
        rows: int,
        size: tuple[int, int],
    ) -> Float[Tensor, "P 2 H W"]:
        """Two channels of every pixel of the sources, from the latents of four levels.

        Args:
            geometry: of the sources' patches.
            pose: of the sources' patches.
            target_pose: of the targets, each the mean over its patches.
            rows: of patches.
            size: height and width of the images.
        """
        aspect = size[1] / size[0]
        levels = []
        for level, (here, own, there) in enumerate(zip(geometry, pose, target_pose, strict=True)):
            fused = self.norm(self.mlp(torch.cat([own, there[:, None].expand_as(own), here], dim=-1)))
            maps = self.projects[level](rearrange(fused, "p (h w) d -> p d h w", h=rows))
            maps = self.resize_layers[level](_placed(maps, aspect))
            levels.append(self.scratch[f"layer{level + 1}_rn"](maps))
        merged = self.scratch["refinenet4"](levels[3], None, levels[2].shape[-2:])
        for level in (2, 1, 0):
            height, width = levels[level].shape[-2:]
            finer = levels[level - 1].shape[-2:] if level else (2 * height, 2 * width)
            merged = self.scratch[f"refinenet{level + 1}"](merged, levels[level], finer)
        return self.scratch["output_conv2"](_placed(_resized(self.scratch["output_conv1"](merged), size), aspect))


class _Refine(nn.Module):
    """Adds a finer level to what came from the coarser ones, and brings it to the next size."""

    def __init__(self, features: int, *, has_skip: bool) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualUnit(features) if has_skip else None
        self.resConfUnit2 = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(
        self, coarse: Float[Tensor, "P C h w"], fine: Float[Tensor, "P C h w"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "P C H W"]:
        """Maps of the given size."""
        # The released code works in place, so that its units add to the rectified input and not to the input.
        if self.resConfUnit1 is not None and fine is not None:
            coarse = coarse + self.resConfUnit1(relu(fine))
        # The 1x1 convolution commutes with the interpolation, and is cheaper before it.
        return _resized(self.out_conv(self.resConfUnit2(relu(coarse))), size)


def _resized(maps: Float[Tensor, "P C h w"], size: tuple[int, int]) -> Float[Tensor, "P C H W"]:
    return interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def _placed(maps: Float[Tensor, "P C h w"], aspect: float) -> Float[Tensor, "P C h w"]:
    """The maps, which now know where they lie."""
    height, width = maps.shape[-2:]
    return maps + UV_SHARE * uv_embedding(height, width, maps.shape[1], aspect).to(maps)


def uv_embedding(height: int, width: int, channels: int, aspect: float) -> Float[Tensor, "channels {height} {width}"]:
    """Sines and cosines of a pixel's place in an image whose half diagonal is 1: columns first, then rows.

    ``aspect`` is the image's width over its height.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    u = torch.linspace(-1, 1, width, dtype=torch.float64) * (aspect / diagonal * (width - 1) / width)
    v = torch.linspace(-1, 1, height, dtype=torch.float64) * (1 / diagonal * (height - 1) / height)
    quarter = channels // 4
    frequency = UV_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    columns, rows = (
        torch.cat([(place * frequency[:, None]).sin(), (place * frequency[:, None]).cos()]) for place in (u, v)
    )
    return torch.cat([columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)]).float()
