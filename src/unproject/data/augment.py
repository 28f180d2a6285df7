"""Changes of colour and sharpness that no geometry depends on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far images may be changed: of each view by itself, as one camera changes between two moments."""

    gain: float = 0.25
    """Brightness is multiplied by up to e to this power, either way; colours apart by a third of it."""
    gamma: float = 0.25
    """Exponent up to e to this power, either way."""
    noise: float = 0.02
    """Largest standard deviation."""
    blur: float = 0.3
    """Share of the views that are a little out of focus."""


def augment(
    images: Float[Tensor, "B N 3 H W"], how: Augmentation, generator: torch.Generator
) -> Float[Tensor, "B N 3 H W"]:
    """Images in [0, 1], changed at random."""
    batch, views = images.shape[:2]
    images = _blurred(images, torch.rand(batch, views, generator=generator) < how.blur)
    gain = how.gain * (_either_way(generator, batch, views, 1) + _either_way(generator, batch, views, 3) / 3)
    gamma = how.gamma * _either_way(generator, batch, views, 1)
    changed = images.clamp(1e-3, 1) ** gamma.exp()[..., None, None] * gain.exp()[..., None, None]
    deviation = how.noise * torch.rand(batch, views, 1, 1, 1, generator=generator)
    return (changed + deviation * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _either_way(generator: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.rand(*shape, generator=generator) - 1


def _blurred(images: Tensor, which: Tensor) -> Tensor:
    soft = avg_pool2d(images.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view_as(images)
    return torch.where(which[..., None, None, None], (images + soft) / 2, images)
