"""What a dataset is: numbers in, views and what is known of them out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unproject.tensors import map_tensors
from unproject.types import Labels, Tracks, Views


@dataclass(frozen=True, kw_only=True)
class Framing:
    """What every item of one batch shares: how many views, which ordered pairs of them, and their size in pixels."""

    views: int
    pairs: tuple[tuple[int, int], ...]
    height: int
    width: int


def pair_table(framing: Framing) -> Int[Tensor, "P 2"]:
    """Its pairs, also where there are none."""
    return torch.tensor(framing.pairs, dtype=torch.long).view(-1, 2)


def images_of(pictures: UInt8[np.ndarray, "B N H W 3"]) -> Float[Tensor, "B N 3 H W"]:
    """Pictures as views have them: 0 to 1, channels first."""
    return rearrange(torch.from_numpy(pictures), "b n h w c -> b n c h w").float() / 255


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A batch of clips and what is known of them."""

    views: Views
    labels: Labels
    names: tuple[str, ...]
    """Of each clip: enough to find it again."""


def joined(clips: Sequence[Labels], views: int) -> Labels:
    """Labels of one batch, of those of clips of so many views: views and tracks are counted through it.

    ValueError where some clips have a label that others have not.
    """
    tracks = [
        replace(labels.tracks, view=labels.tracks.view + place * views)
        for place, labels in enumerate(clips)
        if labels.tracks is not None
    ]
    moving = [labels.moving_tracks for labels in clips if labels.moving_tracks is not None]
    if len(tracks) not in (0, len(clips)) or len(moving) not in (0, len(clips)):
        raise ValueError("some clips of a batch have tracks and others have none")
    stacked = (replace(labels, tracks=None, moving_tracks=None) for labels in clips)
    return replace(
        map_tensors(lambda *tensors: torch.cat(tensors), *stacked),
        tracks=Tracks.beside(tracks) if tracks else None,
        moving_tracks=tuple(chain.from_iterable(moving)) if moving else None,
    )


class Dataset(ABC):
    """A frozen dataclass whose fields are its configuration.

    Every clip is a pure function of its number, so that a run can stop anywhere and go on with the very same batches.
    """

    @property
    @abstractmethod
    def count(self) -> int | None:
        """Clips are numbered from 0 to count - 1; None where they never end."""

    @abstractmethod
    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The clips of these numbers, as one batch."""


@dataclass(frozen=True, kw_only=True)
class FlowOnly(Dataset):
    """Another dataset of which nothing is known but flow: raw video, as far as a teacher of flow can label it."""

    dataset: Dataset

    @property
    def count(self) -> int | None:
        """As many as the other has."""
        return self.dataset.count

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The same clips; nothing else of their labels, and no intrinsics."""
        sample = self.dataset(numbers, framing)
        views = replace(sample.views, intrinsics=None)
        return replace(sample, views=views, labels=Labels(flow=sample.labels.flow))


BLOCK = 16
"""Clips with neighbouring numbers that are made together: datasets that render do so faster."""


@dataclass(frozen=True, kw_only=True)
class Remembered(Dataset):
    """Another dataset whose clips are made once per process and kept: for few small ones that take long to make."""

    dataset: Dataset

    @property
    def count(self) -> int | None:
        """As many as the other has."""
        return self.dataset.count

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The same clips; ValueError where they have tracks, which are as many as they are in each clip."""
        blocks = [_remembered(self.dataset, number // BLOCK, framing) for number in numbers]
        if any(block.labels.tracks is not None or block.labels.moving_tracks is not None for block in blocks):
            raise ValueError("Remembered keeps no tracks, 2D or 3D; wrap the dataset that makes them around it")
        places = [number % BLOCK for number in numbers]
        return Sample(
            views=map_tensors(lambda *tensors: _picked(tensors, places), *(block.views for block in blocks)),
            labels=map_tensors(lambda *tensors: _picked(tensors, places), *(block.labels for block in blocks)),
            names=tuple(block.names[place] for block, place in zip(blocks, places, strict=True)),
        )


@lru_cache(maxsize=512)
def _remembered(dataset: Dataset, block: int, framing: Framing) -> Sample:
    end = (block + 1) * BLOCK
    return dataset(range(block * BLOCK, end if dataset.count is None else min(end, dataset.count)), framing)


def _picked(blocks: Sequence[Tensor], places: Sequence[int]) -> Tensor:
    """One clip of each block."""
    return torch.stack([block[place] for block, place in zip(blocks, places, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Chosen(Dataset):
    """Some clips of another dataset, numbered anew."""

    dataset: Dataset
    numbers: tuple[int, ...]

    @property
    def count(self) -> int:
        """As many as were chosen."""
        return len(self.numbers)

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The chosen clips at these places."""
        return self.dataset([self.numbers[number] for number in numbers], framing)
