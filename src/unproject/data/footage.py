"""Clips of video files of which nothing is known: what a teacher labels, as `recipes.taught.TaughtFlow`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from unproject.data.base import Dataset, Framing, Sample, images_of, pair_table
from unproject.data.clips import mixed_seed, moments
from unproject.data.crop import Crop
from unproject.errors import InputError
from unproject.io.video import VideoIndex, decode, index_video
from unproject.types import Labels, Views


@dataclass(frozen=True, kw_only=True)
class Footage(Dataset):
    """Some moments of a random part of a random file, in no order, each number its own; they never end.

    Frames are cropped in the middle to the wanted aspect. Calling it raises InputError for a file that cannot be read.
    """

    files: tuple[str, ...]
    seed: int = 0
    span_s: tuple[float, float] = (0.5, 3.0)
    """Seconds from the first view to the last, evenly in the logarithm; at most what the file has."""

    @property
    def count(self) -> None:
        """They never end."""
        return None

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """Views without intrinsics, and labels that are empty."""
        if not self.files:
            raise InputError("Footage has no files; name at least one video")
        clips = [self._clip(number, framing) for number in numbers]
        images, times = (np.stack(part) for part in zip(*clips, strict=True))
        pairs = pair_table(framing).expand(len(clips), -1, -1)
        views = Views(
            images=images_of(images),
            times=torch.from_numpy(times).float(),
            pairs=pairs,
        )
        return Sample(views=views, labels=Labels(), names=tuple(f"footage {number}" for number in numbers))

    def _clip(self, number: int, framing: Framing) -> tuple[np.ndarray, np.ndarray]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, number))
        place, length, start = torch.rand(3, generator=generator).tolist()
        index = _index(self.files[int(place * len(self.files))])
        low, high = (math.log(span) for span in self.span_s)
        span = min(math.exp(low + (high - low) * length), float(index.times_s[-1]))
        begin = start * (index.times_s[-1] - span)
        when = begin + span * moments(1, framing.views, generator)[0].numpy()
        frames = np.abs(index.times_s - when[:, None]).argmin(1)
        wanted, position = np.unique(frames, return_inverse=True)
        pictures = [Crop.middle(image, framing).image(image) for image in decode(index, wanted.tolist())]
        return np.stack([pictures[at] for at in position]), index.times_s[frames]


@lru_cache(maxsize=1024)
def _index(file: str) -> VideoIndex:
    return index_video(file)
