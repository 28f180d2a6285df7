"""Clips of folders of photos, with the focal lengths that their EXIF states: what teachers label (`recipes.taught`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from unproject.data.base import Dataset, Framing, Sample, images_of, pair_table
from unproject.data.clips import mixed_seed
from unproject.data.crop import Crop
from unproject.errors import InputError
from unproject.geometry.camera import intrinsics_from_focal
from unproject.io.images import read_image
from unproject.io.source import open_source
from unproject.types import FrameInfo, Known, Labels, Views


@dataclass(frozen=True, kw_only=True)
class Photos(Dataset):
    """Photos that follow one another in a random folder, in no order, each number its own; they never end.

    They are cropped in the middle to the wanted aspect. A camera is taken to have square pixels and its principal point
    in the middle, as nothing else is stated. Calling it raises InputError for what cannot be read, and for a folder of
    fewer photos than views.
    """

    folders: tuple[str, ...]
    """Of photos of one place each."""
    intrinsics: bool = True
    """Whether they are told: then photos that state no focal length are left out."""
    seed: int = 0

    @property
    def count(self) -> None:
        """They never end."""
        return None

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """Views, and no labels but intrinsics, where these are told."""
        if not self.folders:
            raise InputError("Photos has no folders; name at least one")
        clips = [self._clip(number, framing) for number in numbers]
        images, matrices, names = zip(*clips, strict=True)
        told = torch.from_numpy(np.stack(matrices)).float() if self.intrinsics else None
        views = Views(
            images=images_of(np.stack(images)),
            times=torch.zeros(len(clips), framing.views),
            pairs=pair_table(framing).expand(len(clips), -1, -1),
            intrinsics=told,
        )
        known = None if told is None else Known(told, torch.ones(told.shape[:2]))
        return Sample(views=views, labels=Labels(intrinsics=known), names=names)

    def _clip(self, number: int, framing: Framing) -> tuple[np.ndarray, np.ndarray, str]:
        generator = np.random.default_rng(mixed_seed(0x9407, self.seed, number))
        folder = self.folders[generator.integers(len(self.folders))]
        photos = [info for info in _photos(folder) if not self.intrinsics or info.focal_prior_px is not None]
        if len(photos) < framing.views:
            stated = " that state a focal length in EXIF" if self.intrinsics else ""
            raise InputError(
                f"{folder} holds {len(photos)} photos{stated}, {framing.views} are needed: add some, leave the folder "
                f"out, or ask for fewer views{' or no intrinsics' if self.intrinsics else ''}"
            )
        first = generator.integers(len(photos) - framing.views + 1)
        chosen = [photos[first + place] for place in generator.permutation(framing.views)]
        images, matrices = zip(*(_framed(info, framing) for info in chosen), strict=True)
        return np.stack(images), np.stack(matrices), " ".join(info.file for info in chosen)


def _framed(info: FrameInfo, framing: Framing) -> tuple[np.ndarray, np.ndarray]:
    """The part of a photo, and its intrinsics; NaN where no focal length is stated."""
    image = read_image(info.file)
    crop = Crop.middle(image, framing)
    focal = torch.tensor(np.nan if info.focal_prior_px is None else info.focal_prior_px, dtype=torch.float64)
    return crop.image(image), crop.from_image @ intrinsics_from_focal(focal, info.width, info.height).numpy()


@lru_cache(maxsize=1024)
def _photos(folder: str) -> tuple[FrameInfo, ...]:
    """In natural order of their names."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is no folder: give one of photos")
    source = open_source(folder)
    if source.kind != "images":
        raise InputError(f"{folder} holds a video: give a folder of photos")
    return source.infos
