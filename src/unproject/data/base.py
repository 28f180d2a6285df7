"""What a dataset is: numbers in, views and what is known of them out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from unproject.tensors import map_tensors
from unproject.types import Labels, Views


@dataclass(frozen=True, kw_only=True)
class Framing:
    """What every item of one batch shares: how many views, which ordered pairs of them, and their size in pixels."""

    views: int
    pairs: tuple[tuple[int, int], ...]
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A batch of clips and what is known of them."""

    views: Views
    labels: Labels
    names: tuple[str, ...]
    """Of each clip: enough to find it again."""


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


@dataclass(frozen=True, kw_only=True)
class Remembered(Dataset):
    """Another dataset whose clips are made once per process and kept: for few small ones that take long to make."""

    dataset: Dataset

    @property
    def count(self) -> int | None:
        """As many as the other has."""
        return self.dataset.count

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The same clips."""
        clips = [_remembered(self.dataset, number, framing) for number in numbers]
        return Sample(
            views=map_tensors(lambda *tensors: torch.cat(tensors), *(clip.views for clip in clips)),
            labels=map_tensors(lambda *tensors: torch.cat(tensors), *(clip.labels for clip in clips)),
            names=tuple(name for clip in clips for name in clip.names),
        )


@lru_cache(maxsize=2048)
def _remembered(dataset: Dataset, number: int, framing: Framing) -> Sample:
    return dataset([number], framing)


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
