"""From tokens to numbers per pixel, and from raw numbers to what they mean."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unproject.nn.patches import pixels_from_tokens


class LinearHead(nn.Module):
    """The last layer's tokens, each unfolded into its own patch."""

    def __init__(self, dim: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(dim, channels * patch * patch)

    def forward(self, layers: Sequence[Float[Tensor, "F L _"]], rows: int) -> Float[Tensor, "F C H W"]:
        """Maps of the full resolution."""
        return pixels_from_tokens(self.proj(layers[-1]), rows, self.patch)


def exp_direction(raw: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The point in the same direction at distance ``exp(|raw|) - 1`` (DUSt3R's depth mode "exp"); smooth at zero."""
    length = torch.linalg.vector_norm(raw, dim=-1, keepdim=True)
    small = length < 1e-3
    stretch = torch.expm1(length) / torch.where(small, 1, length)
    return raw * torch.where(small, 1 + length / 2 + length.square() / 6, stretch)
