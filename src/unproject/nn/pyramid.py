"""A small convolutional pyramid: features of an image at a half, a quarter and an eighth of its size."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after an InstanceNorm: one image's light and contrast say nothing about another's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.InstanceNorm2d(width, affine=True) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "F C H W"]) -> Float[Tensor, "F C H W"]:
        """The same features, refined."""
        return x + self.conv2(relu(self.norm2(self.conv1(relu(self.norm1(x))))))


class Pyramid(nn.Module):
    """Features at three scales; ``widths`` and ``depths`` (residual blocks) are those of 1/2, 1/4 and 1/8."""

    def __init__(self, widths: tuple[int, int, int], depths: tuple[int, int, int]) -> None:
        super().__init__()
        strides = [nn.Conv2d(3, widths[0], 5, stride=2, padding=2)]
        strides += [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)]
        self.strides = nn.ModuleList(strides)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )

    def forward(self, images: Float[Tensor, "F 3 H W"]) -> list[Float[Tensor, "F _ _ _"]]:
        """Fine to coarse. Sides should be multiples of 8."""
        x, scales = images - 0.5, []
        for stride, blocks in zip(self.strides, self.blocks, strict=True):
            x = blocks(stride(x))
            scales.append(x)
        return scales
