"""Labelled clips in TAR shards: what `unproject label` writes and training reads (docs/decisions/0012)."""

from dataclasses import dataclass

import numpy as np

from unproject.types import Labels


@dataclass(frozen=True, kw_only=True)
class LabelledClip:
    """Some frames of a video, with what teachers say of them."""

    file: str
    """The video, as its list names it."""
    frames: tuple[int, ...]
    """Numbers of the views in the video, ascending."""
    times_s: tuple[float, ...]
    images: np.ndarray
    """Uint8 RGB [N, H, W, 3]."""
    pairs: tuple[tuple[int, int], ...]
    """(source, target) that labels of pairs speak of, counted in views."""
    labels: Labels
    """Of a batch of one."""
    quality: dict[str, float]
    """What gates measured, by name."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A video, or a part of one, that gives no clip."""

    file: str
    where: str
    """Frames "120..240"; empty for the whole file."""
    reason: str
