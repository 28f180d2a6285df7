"""What the user points at, as one stream of upright frames: image files, a folder, a glob or a video."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from unproject.errors import InputError, UsageError
from unproject.io.images import IMAGE_SUFFIXES, ImageHeader, NotAnImage, natural_key, read_header, read_image
from unproject.io.video import decode, index_video
from unproject.types import FrameInfo

Selector = Callable[[np.ndarray], list[int]]


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    image: np.ndarray
    """uint8 RGB [H, W, 3], upright."""
    info: FrameInfo


class Source:
    """The selected frames of a video or a set of images, in order; may be iterated any number of times.

    ``infos`` is complete and exact before anything is decoded; iteration yields one `Frame` for each, with one frame in
    memory at a time, or raises `InputError`. ``notes`` says what was read and assumed, line by line.
    """

    def __init__(
        self,
        *,
        kind: Literal["video", "images"],
        infos: Sequence[FrameInfo],
        notes: Sequence[str],
        read: Callable[[], Iterator[np.ndarray]],
        digest: Callable[[], str] | None = None,
    ) -> None:
        self.kind = kind
        self.infos = tuple(infos)
        self.notes = list(notes)
        self._read = read
        self._digest = digest

    def __len__(self) -> int:
        return len(self.infos)

    def __iter__(self) -> Iterator[Frame]:
        for info, image in zip(self.infos, self._read(), strict=True):
            if image.shape != (info.height, info.width, 3):
                raise InputError(f"{info.file} changed while it was read: run again")
            yield Frame(image, info)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over sizes and bytes of the files in order: the same wherever they lie and whatever they are called.

        It does not depend on which frames of a video were selected. Of images in memory, over their pixels.
        """
        if self._digest is not None:
            return self._digest()
        return hash_of_files(dict.fromkeys(info.file for info in self.infos))


def open_source(
    source: str | Path | Sequence[str | Path],
    *,
    every: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
) -> Source:
    """Open image files (a list keeps its order), a folder or glob of images (natural order), or one video.

    Selection, in this order: ``start <= time < end`` (seconds since the first frame; for images their number), then
    every n-th frame or the frames nearest to a grid of ``fps`` per second, then ``max_frames`` spread evenly.
    Raises `InputError` for what cannot be read and `UsageError` for a selection that cannot be made.
    """
    paths, notes = _find(source)
    headers = _headers(paths)
    selector = partial(select, every=every, fps=fps, start=start, end=end, max_frames=max_frames)
    if headers is None:
        opened, count = _open_video(paths[0], selector)
    elif fps is None:
        opened, count = _open_images(paths, headers, selector)
    else:
        raise UsageError("--fps needs a video, images carry no time: use --every")
    selected = [f"{len(opened)} of {count} frames selected"] if len(opened) < count else []
    opened.notes[:] = [*notes, *opened.notes, *selected]
    return opened


def in_memory(images: Sequence[np.ndarray], kind: Literal["video", "images"]) -> Source:
    """Images (uint8 RGB [H, W, 3]) as if they had been read: numbers are times, those of one size have one camera."""
    cameras: dict[tuple[int, ...], int] = {}
    infos = [
        FrameInfo(
            file=f"image {number}",
            index=number,
            time_s=float(number),
            width=image.shape[1],
            height=image.shape[0],
            camera=cameras.setdefault(image.shape, len(cameras)),
        )
        for number, image in enumerate(images)
    ]
    return Source(kind=kind, infos=infos, notes=[], read=lambda: iter(images), digest=lambda: _hash_of_pixels(images))


def _hash_of_pixels(images: Iterable[np.ndarray]) -> str:
    total = hashlib.sha256()
    for image in images:
        total.update(f"{image.shape}\n".encode())
        total.update(np.ascontiguousarray(image).data)
    return total.hexdigest()


def select(
    times_s: np.ndarray,
    *,
    every: int | None,
    fps: float | None,
    start: float | None,
    end: float | None,
    max_frames: int | None,
) -> list[int]:
    """Numbers of the frames that `open_source` keeps; never none."""
    if every is not None and fps is not None:
        raise UsageError("--every and --fps exclude each other: give one")
    for name, value in (("every", every), ("fps", fps), ("max-frames", max_frames)):
        if value is not None and not value > 0:
            raise UsageError(f"--{name} must be positive, not {value}")
    first, last = start or 0.0, np.inf if end is None else end
    tick = 1e-6  # a bound typed with its decimals means the frame at that stamp
    chosen = np.flatnonzero((times_s >= first - tick) & (times_s < last - tick))
    if not len(chosen):
        until = "on" if end is None else f"to before {last:g}"
        raise UsageError(f"no frame from {first:g} {until}: the source goes from 0 to {times_s[-1]:.6g}")
    if fps is not None:
        chosen = chosen[_nearest_to_grid(times_s[chosen], fps)]
    chosen = chosen[::every]
    if max_frames is not None and len(chosen) > max_frames:
        chosen = chosen[np.round(np.linspace(0, len(chosen) - 1, max_frames)).astype(int)]
    return chosen.tolist()


def _nearest_to_grid(times_s: np.ndarray, fps: float) -> np.ndarray:
    """The nearest frame to each tick: jitter and rounded stamps lose no frame, no second holds more than asked."""
    if len(times_s) == 1:
        return np.zeros(1, dtype=int)
    reach = times_s[-1] - times_s[0] + np.median(np.diff(times_s)) / 2
    grid = times_s[0] + np.arange(int(reach * fps) + 1) / fps
    return np.unique(np.searchsorted((times_s[1:] + times_s[:-1]) / 2, grid))


def _find(source: str | Path | Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """Files that the argument stands for, and what was left out of them."""
    if not isinstance(source, str | Path):
        paths = [Path(item) for item in source]
        if not paths:
            raise InputError("no input: give image files, a folder, a glob or a video")
        if len(paths) > 1:
            return [_file(path) for path in paths], []
        source = paths[0]
    path = Path(source)
    if path.is_dir():
        try:
            return _images_among(sorted(path.iterdir(), key=natural_key), f"folder {path}")
        except PermissionError as error:
            raise InputError(f"folder {path} cannot be read: check its permissions") from error
    if not path.exists() and glob.has_magic(str(source)):
        found = sorted(glob.glob(str(source), recursive=True), key=natural_key)
        if not found:
            raise InputError(f"no file matches {source}: check the pattern")
        return _images_among([Path(item) for item in found], str(source))
    return [_file(path)], []


def _file(path: Path) -> Path:
    if path.is_dir():
        raise InputError(f"{path} is a folder among files: give one folder, or files only")
    if not path.exists():
        raise InputError(f"{path} does not exist: check the path")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: copy or record it again")
    return path


def _images_among(found: list[Path], where: str) -> tuple[list[Path], list[str]]:
    found = [path for path in found if not path.name.startswith(".")]  # no user means .DS_Store and the like
    files = [path for path in found if path.is_file()]
    if len(files) == 1:
        return [_file(files[0])], []
    images = {path: None for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    if not images:
        raise InputError(f"{where} holds no image (sub-folders are not searched): give image files or a video")
    ignored = [path.name for path in found if path not in images]
    more = f" and {len(ignored) - 5} more" if len(ignored) > 5 else ""
    return [_file(path) for path in images], [f"ignored in {where}: {', '.join(ignored[:5])}{more}"] if ignored else []


def _headers(paths: list[Path]) -> list[ImageHeader] | None:
    """One header per image, or None for a single file that is no still image: a video then."""
    headers = []
    for path in paths:
        try:
            headers.append(read_header(path))
        except NotAnImage as error:
            if len(paths) == 1:
                return None
            raise InputError(f"{path} is not an image: replace it or leave it out (a video is given alone)") from error
    moving = len(paths) == 1 and paths[0].suffix.lower() == ".gif" and headers[0].pages > 1
    return None if moving else headers


def _open_video(path: Path, selector: Selector) -> tuple[Source, int]:
    index = index_video(path)
    chosen = selector(index.times_s)
    infos = [
        FrameInfo(file=index.file, index=i, time_s=float(index.times_s[i]), width=index.width, height=index.height)
        for i in chosen
    ]
    notes = [f"video {path}, {index.width}x{index.height}", *index.notes]
    return Source(kind="video", infos=infos, notes=notes, read=lambda: decode(index, chosen)), len(index.times_s)


def _open_images(paths: list[Path], headers: list[ImageHeader], selector: Selector) -> tuple[Source, int]:
    chosen = selector(np.arange(len(paths), dtype=float))
    infos = []
    cameras: dict[tuple, int] = {}
    for number in chosen:
        header = headers[number]
        lens = (header.width, header.height, header.focal_prior_px, header.camera_name)
        info = FrameInfo(
            file=str(paths[number]),
            index=0,
            time_s=float(number),
            width=header.width,
            height=header.height,
            focal_prior_px=header.focal_prior_px,
            camera=cameras.setdefault(lens, len(cameras)),
        )
        infos.append(info)
    notes = [
        *_order_notes(paths),
        *_look_notes(headers),
        f"taken as {len(cameras)} camera{'s' * (len(cameras) > 1)}: one per size, lens and focal length in EXIF",
        *_twin_notes([paths[number] for number in chosen]),
    ]
    return Source(kind="images", infos=infos, notes=notes, read=lambda: map(_read, infos)), len(paths)


def _read(info: FrameInfo) -> np.ndarray:
    try:
        return read_image(info.file)
    except NotAnImage as error:
        raise InputError(f"{info.file} changed while it was read: run again") from error


def _order_notes(paths: list[Path]) -> list[str]:
    if len(paths) == 1:
        return [f"image {paths[0]}"]
    return [
        f"{len(paths)} images in the order {paths[0].name}, {paths[1].name} .. {paths[-1].name}; time_s counts them"
    ]


def _look_notes(headers: list[ImageHeader]) -> list[str]:
    """Sizes, and how many files needed something done to them."""
    sizes = [f"{width}x{height}" for width, height in sorted({(h.width, h.height) for h in headers})]
    notes = [f"size {sizes[0]}" if len(sizes) == 1 else f"mixed sizes, kept: {', '.join(sizes[:5])}"]
    for text, count in (
        ("state a focal length in EXIF", sum(h.focal_prior_px is not None for h in headers)),
        ("turned upright by EXIF", sum(not h.upright for h in headers)),
        ("transparent, laid on black", sum(h.transparent for h in headers)),
        ("hold several pictures, the first is used", sum(h.pages > 1 for h in headers)),
    ):
        if count:
            notes.append(f"{count} of {len(headers)} {text}")
    return notes


def _twin_notes(paths: list[Path]) -> list[str]:
    """Files that hold the same bytes: kept, but two views that are one picture deserve a word."""
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        by_size.setdefault(path.stat().st_size, []).append(path)
    first: dict[bytes, Path] = {}
    notes = []
    for path in (path for same in by_size.values() if len(same) > 1 for path in same):
        original = first.setdefault(_digest(path), path)
        if original != path:
            notes.append(f"{path.name} is the same picture as {original.name}")
    return notes


def hash_of_files(paths: Iterable[str | Path]) -> str:
    """SHA-256 over sizes and bytes of the files in order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{os.path.getsize(path)} {_digest(path).hex()}\n".encode())
    return total.hexdigest()


def _digest(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
