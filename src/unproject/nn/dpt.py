"""The dense prediction head (DPT, arXiv 2103.13413) without batch norm: four layers of tokens, fused coarse to fine."""

from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu


def _double(maps: Float[Tensor, "F C h w"]) -> Float[Tensor, "F C H W"]:
    return interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "F C h w"]) -> Float[Tensor, "F C h w"]:
        """Maps of the same size."""
        return maps + self.conv2(relu(self.conv1(relu(maps))))


class Fusion(nn.Module):
    """Adds a finer layer to what came from the coarser ones, and doubles the size. The coarsest has nothing to add."""

    def __init__(self, channels: int, *, has_skip: bool) -> None:
        super().__init__()
        self.skip = ResidualUnit(channels) if has_skip else None
        self.refine = ResidualUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(
        self, coarse: Float[Tensor, "F C h w"], fine: Float[Tensor, "F C h w"] | None
    ) -> Float[Tensor, "F C H W"]:
        """Maps of twice the size."""
        if self.skip is not None:
            coarse = coarse + self.skip(fine)
        # The 1x1 convolution commutes with the interpolation, and is four times cheaper before it.
        return _double(self.out(self.refine(coarse)))


class DptHead(nn.Module):
    """Four layers of tokens to maps of the full resolution, for patches of 16 pixels."""

    def __init__(self, dims: Sequence[int], widths: Sequence[int], features: int, channels: int) -> None:
        super().__init__()
        resizes = [
            [nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4)],
            [nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2)],
            [],
            [nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1)],
        ]
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, width, 1), *resize)
            for dim, width, resize in zip(dims, widths, resizes, strict=True)
        )
        self.to_features = nn.ModuleList(nn.Conv2d(width, features, 3, padding=1, bias=False) for width in widths)
        self.fuse = nn.ModuleList(Fusion(features, has_skip=level < 3) for level in range(4))
        half = features // 2
        self.narrow = nn.Conv2d(features, half, 3, padding=1)
        self.readout = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, channels, 1))

    def forward(self, layers: Sequence[Float[Tensor, "F L _"]], rows: int) -> Float[Tensor, "F C H W"]:
        """Maps of 16 times the grid of tokens. The layers go from fine detail to what the network concluded."""
        grids = [rearrange(tokens, "f (h w) d -> f d h w", h=rows) for tokens in layers]
        levels = [
            to_features(reassemble(grid))
            for grid, reassemble, to_features in zip(grids, self.reassemble, self.to_features, strict=True)
        ]
        height, width = levels[2].shape[-2:]
        # The coarsest level rounds an odd number of tokens up, so its double may be one too large.
        fused = self.fuse[3](levels[3], None)[..., :height, :width]
        for level in (2, 1, 0):
            fused = self.fuse[level](fused, levels[level])
        return self.readout(_double(self.narrow(fused)))
