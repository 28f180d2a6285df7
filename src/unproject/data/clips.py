"""Endless clips of synthetic worlds, with all that is true of them: what networks learn from, and where they are tried.

Fields say what a domain looks like: two `SyntheticClips` of other textures, colours, lenses and motion are as far apart
as footage with and without labels may be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unproject.data.augment import Augmentation, augment
from unproject.data.base import Dataset, Framing, Sample, pair_table
from unproject.data.paths import handheld, orbit
from unproject.data.rooms import sample_world
from unproject.data.scene import World, map_batch
from unproject.data.synthetic import render
from unproject.geometry.camera import intrinsics_from_focal
from unproject.tensors import map_tensors
from unproject.types import Labels, Views

GROUP = 16
"""Worlds that are drawn together: one by one, drawing them would take as long as rendering them."""
PHONE = Augmentation()
DURATION_S = 3.0
"""In which the hand crosses its stage."""
JITTER = 0.8
"""How far views between the first and the last stray from even steps, as a share of a step."""


@dataclass(frozen=True, kw_only=True)
class SyntheticClips(Dataset):
    """Some moments of a hand-held camera in no order, each number in a world of its own; they never end."""

    seed: int = 0
    """Clips of different seeds have no world in common."""
    span_s: tuple[float, float] = (0.2, 2.8)
    """Seconds from the first view to the last, evenly in the logarithm: parallax and motion of things grow with it."""
    field_of_view_deg: tuple[float, float] = (42.0, 78.0)
    """Along the longer side."""
    wander: float = 1.0
    """How far the camera looks about, over what a calm hand does."""
    sweep: float | None = None
    """Walk around a table by so many radians in three seconds, looking at it; None: a hand crosses a room."""
    moving: bool = True
    textures: int = 0
    """Worlds of different numbers have no picture and no pattern in common, only kinds of them."""
    colour: float = 0.0
    """Each surface's channels are multiplied by up to e to this power, either way."""
    augmentation: Augmentation | None = PHONE

    @property
    def count(self) -> None:
        """They never end."""
        return None

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """On the CPU in float32; numbers that follow one another are rendered together."""
        parts = [
            self._group(group, [number % GROUP for number in some], framing)
            for group, some in groupby(numbers, lambda number: number // GROUP)
        ]
        views, labels = zip(*parts, strict=True)
        names = tuple(f"synthetic clip {number} of seed {self.seed}" for number in numbers)
        return Sample(views=map_tensors(_joined, *views), labels=map_tensors(_joined, *labels), names=names)

    def _group(self, group: int, rows: list[int], framing: Framing) -> tuple[Views, Labels]:
        seed = mixed_seed(self.seed, group)
        generator = torch.Generator().manual_seed(seed)
        around = self.sweep is not None
        world = sample_world(seed, batch=GROUP, moving=self.moving, ring=around, textures=self.textures)
        walk = handheld if self.sweep is None else partial(orbit, sweep=self.sweep)
        path = walk(world.stage, seed, duration_s=DURATION_S)
        path = replace(path, wander=self.wander * path.wander)
        low, high = (math.log(span) for span in self.span_s)
        span = (low + (high - low) * torch.rand(GROUP, generator=generator)).exp()
        start = (DURATION_S - span) * torch.rand(GROUP, generator=generator)
        low, high = self.field_of_view_deg
        half_angle = torch.deg2rad(low + (high - low) * torch.rand(GROUP, generator=generator)) / 2
        times = start[:, None] + span[:, None] * moments(GROUP, framing.views, generator)
        if self.colour:
            world = _tinted(world, self.colour, generator)
        focal = max(framing.height, framing.width) / 2 / half_angle.tan()
        intrinsics = intrinsics_from_focal(focal[:, None].expand(-1, framing.views), framing.width, framing.height)
        rendering = render(
            map_batch(lambda tensor: tensor[rows], world),
            map_batch(lambda tensor: tensor[rows], path),
            times[rows],
            intrinsics[rows],
            framing.height,
            framing.width,
        )
        pairs = pair_table(framing)
        views = rendering.views(pairs)
        if self.augmentation is not None:
            views = _augmented(views, self.augmentation, [mixed_seed(seed, row) for row in rows])
        return views, rendering.labels(pairs)


def moments(clips: int, views: int, generator: torch.Generator) -> Float[Tensor, "{clips} {views}"]:
    """When each clip's views are taken: the first at 0, the last at 1, the others between, all in random order."""
    backward = torch.rand(clips, generator=generator) < 0.5
    ends = torch.tensor([0.0, 1.0]).expand(clips, -1)
    when = torch.where(backward[:, None], ends.flip(1), ends)
    if views <= 2:
        return when[:, :views]
    stray = JITTER * (torch.rand(clips, views - 2, generator=generator) - 0.5)
    between = (torch.arange(1, views - 1) + stray) / (views - 1)
    order = torch.rand(clips, views, generator=generator).argsort(1)
    return torch.cat([when, between], dim=1).gather(1, order)


def _tinted(world: World, colour: float, generator: torch.Generator) -> World:
    """The same world in other colours."""
    paints = world.paints
    power = colour * (2 * torch.rand(paints.tint.shape, generator=generator) - 1)
    return replace(world, paints=replace(paints, tint=paints.tint * power.exp()))


def mixed_seed(*numbers: int) -> int:
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
