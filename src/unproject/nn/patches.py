"""Images to tokens and back."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """One token per square patch, row by row."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, images: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "F L D"]:
        """Normalised pixels in, tokens out. The size must be a multiple of the patch."""
        return rearrange(self.proj(images), "f d h w -> f (h w) d")


def pixels_from_tokens(tokens: Float[Tensor, "F L K"], rows: int, patch: int) -> Float[Tensor, "F C H W"]:
    """Lays out tokens whose numbers are ordered (channel, row in patch, column in patch)."""
    return rearrange(tokens, "f (h w) (c i j) -> f c (h i) (w j)", h=rows, i=patch, j=patch)
