"""Endless pairs of views of synthetic worlds, with all that is true of them: what two-view networks learn from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from unproject.data.augment import Augmentation, augment
from unproject.data.base import Dataset, Framing, Sample
from unproject.data.paths import handheld
from unproject.data.rooms import sample_world
from unproject.data.scene import map_batch
from unproject.data.synthetic import render
from unproject.geometry.camera import intrinsics_from_focal
from unproject.tensors import map_tensors
from unproject.types import Labels, Views

GROUP = 16
"""Worlds that are drawn together: one by one, drawing them would take as long as rendering them."""
PHONE = Augmentation()
DURATION_S = 3.0
"""In which the hand crosses its stage."""


@dataclass(frozen=True, kw_only=True)
class SyntheticPairs(Dataset):
    """Two moments of a hand-held camera, each number in a world of its own; they never end."""

    seed: int = 0
    """Runs of different seeds have no world in common."""
    gap_s: tuple[float, float] = (0.2, 2.8)
    """Seconds between the two views, evenly in the logarithm: parallax and the motion of things grow with it."""
    field_of_view_deg: tuple[float, float] = (42.0, 78.0)
    """Along the longer side."""
    moving: bool = True
    augmentation: Augmentation | None = PHONE

    @property
    def count(self) -> None:
        """They never end."""
        return None

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """On the CPU in float32; numbers that follow one another are rendered together.

        ValueError where other than two views are asked for.
        """
        if framing.views != 2:
            raise ValueError(f"SyntheticPairs has clips of 2 views, and {framing.views} were asked for")
        parts = [
            self._group(group, [number % GROUP for number in some], framing)
            for group, some in groupby(numbers, lambda number: number // GROUP)
        ]
        views, labels = zip(*parts, strict=True)
        names = tuple(f"synthetic pair {number} of seed {self.seed}" for number in numbers)
        return Sample(views=map_tensors(_joined, *views), labels=map_tensors(_joined, *labels), names=names)

    def _group(self, group: int, rows: list[int], framing: Framing) -> tuple[Views, Labels]:
        seed = _mixed(self.seed, group)
        generator = torch.Generator().manual_seed(seed)
        world = sample_world(seed, batch=GROUP, moving=self.moving)
        path = handheld(world.stage, seed, duration_s=DURATION_S)
        low, high = (math.log(gap) for gap in self.gap_s)
        gap = (low + (high - low) * torch.rand(GROUP, generator=generator)).exp()
        start = (DURATION_S - gap) * torch.rand(GROUP, generator=generator)
        low, high = self.field_of_view_deg
        half_angle = torch.deg2rad(low + (high - low) * torch.rand(GROUP, generator=generator)) / 2
        backward = torch.rand(GROUP, generator=generator) < 0.5
        times = torch.stack([start, start + gap], dim=1)
        times = torch.where(backward[:, None], times.flip(1), times)
        focal = max(framing.height, framing.width) / 2 / half_angle.tan()
        intrinsics = intrinsics_from_focal(focal[:, None].expand(-1, 2), framing.width, framing.height)
        rendering = render(
            map_batch(lambda tensor: tensor[rows], world),
            map_batch(lambda tensor: tensor[rows], path),
            times[rows],
            intrinsics[rows],
            framing.height,
            framing.width,
        )
        pairs = torch.tensor(framing.pairs)
        views = rendering.views(pairs)
        if self.augmentation is not None:
            views = _augmented(views, self.augmentation, [_mixed(seed, row) for row in rows])
        return views, rendering.labels(pairs)


def _mixed(*numbers: int) -> int:
    """One seed of several. Torch reads 32 bits of it and no more, so shifting one number above another will not do."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _augmented(views: Views, how: Augmentation, seeds: list[int]) -> Views:
    """Each clip by its own random numbers, whatever else is in the batch."""
    images = [
        augment(clip[None], how, torch.Generator().manual_seed(seed))
        for clip, seed in zip(views.images, seeds, strict=True)
    ]
    return replace(views, images=torch.cat(images))


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)
