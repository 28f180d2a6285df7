"""What a dataset is: numbers in, views and what is known of them out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

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
