"""What a teacher is: something that looks at images and says what it knows, with how far to trust it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unproject.types import Labels


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What a teacher looks at: images of one scene, and those of them that labels are asked of.

    Where images are frames of a video, in order of time, those between two views help to get from one to the other.
    """

    images: Sequence[np.ndarray]
    """Uint8 RGB [H, W, 3]."""
    views: tuple[int, ...]
    """Numbers of the images that labels are asked of, ascending."""
    pairs: tuple[tuple[int, int], ...]
    """(source, target), counted in ``views``."""

    @staticmethod
    def of(images: Sequence[np.ndarray], pairs: tuple[tuple[int, int], ...] | None = None) -> "Shot":
        """All images are views; without ``pairs`` flow is asked of each to the next."""
        views = tuple(range(len(images)))
        return Shot(images=images, views=views, pairs=tuple(pairwise(views)) if pairs is None else pairs)


class Teacher(ABC):
    """Gives labels to a shot. Concrete teachers are frozen dataclasses of their settings and final."""

    @abstractmethod
    def label(self, shot: Shot) -> Labels:
        """Labels of one clip, N of its views and P of its pairs; every field that is filled carries weights."""
