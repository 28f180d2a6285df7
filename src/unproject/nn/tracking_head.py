"""Flow by matching: the design that Flow3r compares its factored flow with, after VGGT's tracking head.

Every patch of the source is compared with every patch of the target; a small dense head corrects what that gives.
Unlike factored flow it sees what the target looks like, and need not know where its camera is.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, relu

from unproject.geometry.camera import pixel_grid
from unproject.nn.matching import GlobalMatching


class TrackingHead(nn.Module):
    """Flow of every pixel from the point features of both views."""

    def __init__(self, dim: int, features: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.matching = GlobalMatching(dim)
        self.enter = nn.Conv2d(2 * dim + 3, features, 3, padding=1)
        self.middle = nn.Conv2d(features, features, 3, padding=1)
        self.leave = nn.Conv2d(features, 2 * patch**2, 1)

    def forward(
        self, source: Float[Tensor, "P K D"], target: Float[Tensor, "P K D"], rows: int
    ) -> Float[Tensor, "P 2 H W"]:
        """Displacement in pixels, from features of patches that lie in so many rows."""
        here, there = (rearrange(tokens, "p (h w) d -> p d h w", h=rows) for tokens in (source, target))
        share = self.matching(here, there).exp()
        place = pixel_grid(rows, here.shape[3], here.dtype, here.device).flatten(0, 1)
        flow = rearrange(share @ place - place, "p (h w) c -> p c h w", h=rows)
        found = rearrange(share @ target, "p (h w) d -> p d h w", h=rows)
        sure = rearrange(share.amax(-1), "p (h w) -> p 1 h w", h=rows)
        seen = torch.cat([here, found, flow / max(here.shape[2:]), sure], dim=1)
        change = pixel_shuffle(self.leave(relu(self.middle(relu(self.enter(seen))))), self.patch)
        coarse = interpolate(flow, scale_factor=float(self.patch), mode="bilinear", align_corners=False)
        return self.patch * (coarse + change)
