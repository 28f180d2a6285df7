"""The original images for programs that want them beside the cameras: upright, at full size, under stable names."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from unproject.errors import InputError
from unproject.io import disk
from unproject.io.images import IMAGE_SUFFIXES, read_header, read_image
from unproject.io.video import decode, index_video
from unproject.types import FrameInfo

_KEPT = {".jpg", ".jpeg", ".png"}
"""Files that every reader of the exports understands; others are written anew as JPEG."""


def image_names(frames: Sequence[FrameInfo]) -> list[str]:
    """A name per frame, with the sub-folders below the folder that all files share; no two are equal.

    White space becomes ``_``: COLMAP's text format ends a name there.
    """
    if _is_video(frames):
        return [f"frame_{info.index:06d}.jpg" for info in frames]
    paths = [Path(os.path.abspath(info.file)) for info in frames]
    root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    names: dict[str, None] = {}
    for path in paths:
        name = re.sub(r"\s", "_", path.relative_to(root).as_posix())
        name = name if path.suffix.lower() in _KEPT else f"{name}.jpg"
        stem, suffix = os.path.splitext(name)
        tries = (f"{stem}_{number}{suffix}" for number in range(2, len(paths) + 2))
        names[name if name not in names else next(other for other in tries if other not in names)] = None
    return list(names)


def _is_video(frames: Sequence[FrameInfo]) -> bool:
    """One file for all frames: a video, or a single image."""
    files = {info.file for info in frames}
    return len(files) == 1 and (len(frames) > 1 or Path(frames[0].file).suffix.lower() not in IMAGE_SUFFIXES)


class ImageFolder:
    """Puts the images of frames into folders; the second folder links to the files of the first."""

    def __init__(self, frames: Sequence[FrameInfo]) -> None:
        self.frames = tuple(frames)
        self.names = image_names(frames)
        self._first: Path | None = None

    def place(self, folder: Path) -> None:
        """Write every frame's image into ``folder``.

        Raises:
            InputError: an original file is missing or has changed.
        """
        for info in self.frames:
            if not Path(info.file).is_file():
                raise InputError(f"{info.file} is not there: export from the folder it was given in, or without images")
        if self._first is not None:
            for name in self.names:
                _link(self._first / name, folder / name)
        elif _is_video(self.frames):
            for name, image in zip(self.names, _video_frames(self.frames), strict=True):
                _encode(folder / name, image)
        else:
            for name, info in zip(self.names, self.frames, strict=True):
                _copy_upright(info, folder / name)
        self._first = self._first or folder


def _video_frames(frames: Sequence[FrameInfo]) -> Iterator[np.ndarray]:
    index = index_video(frames[0].file)
    numbers = [info.index for info in frames]
    if max(numbers) >= len(index.times_s) or (index.width, index.height) != (frames[0].width, frames[0].height):
        raise InputError(f"{frames[0].file} is not the video this result was made of: put the original back")
    yield from decode(index, numbers)


def _copy_upright(info: FrameInfo, place: Path) -> None:
    header = read_header(info.file)
    if (header.width, header.height) != (info.width, info.height):
        raise InputError(f"{info.file} has changed since the result was made: put the original back")
    if header.upright and Path(info.file).suffix.lower() in _KEPT:
        with disk.written_whole(place) as beside:
            shutil.copyfile(info.file, beside)
    else:
        _encode(place, read_image(info.file))


def _encode(place: Path, image: np.ndarray) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if place.suffix.lower() != ".png" else []
    _, data = cv2.imencode(place.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    with disk.written_whole(place) as beside:
        beside.write_bytes(data.tobytes())


def _link(original: Path, place: Path) -> None:
    """A second name for the same file where the disk can do it, else a copy."""
    with disk.written_whole(place) as beside:
        try:
            os.link(original, beside)
        except OSError:
            shutil.copyfile(original, beside)
