"""A two-view network that knows the truth: each pair has a random scale of its own, as a real one's has."""

import torch
from torch import Tensor

from unproject.data.synthetic import Rendering, handheld, render, sample_world, target_points
from unproject.geometry.camera import intrinsics_from_focal
from unproject.models.pairing import PairMaps, TwoViewNetwork
from unproject.nn.croco import Tokens

HEIGHT, WIDTH = 32, 48


def clip(seed=3, frames=7, duration_s=1.0, height=HEIGHT, width=WIDTH, moving=True) -> Rendering:
    """Exact views of one world, in float64."""
    world = sample_world(seed, moving=moving, dtype=torch.float64)
    path = handheld(world.stage, seed, duration_s=duration_s)
    times = torch.linspace(0.05, 0.95 * duration_s, frames, dtype=torch.float64)[None]
    return render(world, path, times, intrinsics_from_focal(torch.full_like(times, 40.0), width, height), height, width)


class Oracle(TwoViewNetwork):
    """Knows images by the order in which they come, so each must be encoded once."""

    def __init__(self, made: Rendering) -> None:
        self.made = made
        self.encoded = 0
        self.heads = 0
        self.scales: list[tuple[int, int, float]] = []
        self.random = torch.Generator().manual_seed(1)

    def encode(self, images: Tensor) -> Tokens:
        numbers = torch.arange(self.encoded, self.encoded + len(images))
        self.encoded += len(images)
        return Tokens(numbers[:, None, None].double(), images.shape[-2] // 16, images.shape[-1] // 16)

    def relate(self, first: Tokens, second: Tokens) -> tuple[list[Tensor], list[Tensor]]:
        a, b = first.values[:, 0, 0], second.values[:, 0, 0]
        scale = 0.2 + 3 * torch.rand(len(a), generator=self.random, dtype=torch.float64)
        self.scales += zip(a.int().tolist(), b.int().tolist(), scale.tolist(), strict=True)
        return [torch.stack([a, b, scale], -1)], [torch.stack([b, a, scale], -1)]

    def read(self, layers: list[Tensor], rows: int) -> Tensor:
        self.heads += len(layers[0])
        return torch.stack([self._maps(int(i), int(j), scale) for i, j, scale in layers[0]])

    def _maps(self, i: int, j: int, scale: Tensor) -> Tensor:
        still = (self.made.valid & ~self.made.motion)[0, i]
        maps = [
            *(scale * self.made.points[0, i]).unbind(-1),
            *(scale * target_points(self.made, i, j)[0]).unbind(-1),
            torch.where(still, 0.0, -1e6),
            torch.full_like(still, 3.0, dtype=torch.float64),
        ]
        return torch.stack(maps)

    def activate(self, raw: Tensor) -> PairMaps:
        return PairMaps(
            points=raw[:, :3].movedim(1, -1),
            target_points=raw[:, 3:6].movedim(1, -1),
            log_weight=raw[:, 6].flatten(1).log_softmax(-1).view_as(raw[:, 6]),
            confidence=raw[:, 7].sigmoid(),
        )
