"""What a teacher is: something that looks at images and says what it knows, with how far to trust it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any, ClassVar

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


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What labels came from: the same for the same labels, on whatever machine."""

    name: str
    version: str
    """The package that did the work, and its version."""
    licence: str
    """Of its code, and of its weights where it has any."""
    weights_sha256: str | None
    """Over all weights, whatever file they came in; None where there are none."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class Teacher(ABC):
    """Gives labels to a shot. Concrete teachers are frozen dataclasses of their settings and final."""

    licence: ClassVar[str] = "Apache-2.0"
    """Of its code, and of its weights where it has any: who uses its labels must know."""

    @abstractmethod
    def label(self, shot: Shot) -> Labels:
        """Labels of one clip, N of its views and P of its pairs; every field that is filled carries weights."""

    def provenance(self) -> Provenance:
        """Here that of our own code without weights; who asks a network says which."""
        return Provenance(
            name=type(self).__name__,
            version=f"unproject {version('unproject')}",
            licence=self.licence,
            weights_sha256=None,
            settings=asdict(self),
        )


def licences(teachers: Sequence[Teacher]) -> list[str]:
    """One line for each: under which licence its labels are made."""
    return [f"{type(teacher).__name__}: licence {teacher.licence}" for teacher in teachers]
