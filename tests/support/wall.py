"""A two-view network that knows an endless wall: a camera goes along it at a steady pace and turns to nothing else."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unproject.geometry.camera import pixel_grid
from unproject.models.base import Reconstructor
from unproject.models.pairing import PairMaps, TwoViewNetwork
from unproject.nn.croco import Tokens

PACE = 0.15
"""Widths of the image by which the wall goes on from frame to frame: every fifth frame is the next anchor."""


@dataclass(frozen=True)
class Nothing:
    """The configuration of a network without any."""


class Wall(TwoViewNetwork, Reconstructor):
    """Frames are known by their order; the wall is a plane at distance 1, seen with a focal length of one width."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.config, self.weight = Nothing(), nn.Parameter(torch.zeros(1))
        self.encoded = 0

    def forward(self, views):
        raise AssertionError("a network that can be split is not run whole")

    def encode(self, images: Tensor) -> Tokens:
        numbers = torch.arange(self.encoded, self.encoded + len(images))
        self.encoded += len(images)
        self.height, self.width = images.shape[-2:]
        return Tokens(numbers[:, None, None].double(), self.height // 16, self.width // 16)

    def relate(self, first: Tokens, second: Tokens) -> tuple[list[Tensor], list[Tensor]]:
        a, b = first.values[:, 0, 0], second.values[:, 0, 0]
        return [torch.stack([a, b], -1)], [torch.stack([b, a], -1)]

    def read(self, layers: list[Tensor], rows: int) -> Tensor:
        return torch.stack([PACE * (a - b) for a, b in layers[0]])

    def activate(self, raw: Tensor) -> PairMaps:
        middle = torch.tensor([self.width / 2, self.height / 2], dtype=torch.float64)
        xy = (pixel_grid(self.height, self.width, torch.float64) - middle) / self.width
        points = torch.nn.functional.pad(xy, (0, 1), value=1.0).expand(len(raw), -1, -1, -1)
        target = points + torch.nn.functional.pad(raw[:, None, None, None], (0, 2))
        even = torch.full(points.shape[:3], 1 / (self.height * self.width), dtype=torch.float64)
        return PairMaps(
            points=points.float(),
            target_points=target.float(),
            log_weight=even.log().float(),
            confidence=torch.full_like(even, 0.9).float(),
        )
