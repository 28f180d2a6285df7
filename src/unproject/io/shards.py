"""Labelled clips in TAR shards: what `unproject label` writes and training reads (docs/decisions/0012).

A shard lies in WebDataset's layout: the files of a clip follow one another and share the part of their names before the
first dot. ``KEY.json`` says what the clip is, ``KEY.000.jpg`` and so on are its views (JPEG of quality 95), and
`shard_labels` says how labels are kept.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unproject.errors import InputError
from unproject.io import bounded, disk, shard_labels
from unproject.types import Labels

FORMAT = 1
MOST_VIEWS, MOST_PAIRS = 64, 1024
LONGEST_SIDE = 1023
MOST_PIXELS = 1 << 26
"""Of all views of a clip, and of all its pairs."""
MOST_CLIP_BYTES = 1 << 29
_MOST_JSON_BYTES = 1 << 20
_LONGEST_NAME = 4096
_MOST_QUALITIES, _LONGEST_QUALITY = 64, 80
_SHARD = re.compile(r"[0-9]{6,12}\.tar")
_KEY = re.compile(r"[0-9]{1,12}(-[0-9]{1,12}){2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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


@dataclass(frozen=True, kw_only=True)
class Row:
    """Where a clip lies and what it is, without its pixels and labels."""

    key: str
    """UNIT-VIDEO-CLIP in digits."""
    shard: str
    """Name of its TAR."""
    offset: int
    """Of its first byte in the TAR; all its files follow it."""
    length: int
    """Bytes, a whole number of TAR's blocks."""
    sha256: str
    """Of these bytes."""
    file: str
    frames: tuple[int, ...]
    times_s: tuple[float, ...]
    width: int
    height: int
    labels: tuple[str, ...]
    """Fields of `Labels` that it has."""
    quality: dict[str, float]


def write_shard(path: Path, clips: Iterable[tuple[str, LabelledClip]]) -> tuple[Row, ...]:
    """Write clips and their keys as they come, the same bytes for the same clips; the rows by which they are found.

    Raises:
        ValueError: a clip contradicts itself, or is larger than `read_clip` would accept.
        UnprojectError: the disk is full, or may not be written to.
    """
    if not _SHARD.fullmatch(path.name):
        raise ValueError(f"a shard cannot be called {path.name}: six digits or more and .tar")
    rows: dict[str, Row] = {}
    with disk.written_whole(path) as beside, beside.open("wb") as file:
        for key, clip in clips:
            if not _KEY.fullmatch(key) or key in rows:
                raise ValueError(f"a clip cannot be called {key}, or two are")
            facts, data = _packed(key, clip)
            row = {"key": key, "shard": path.name, "offset": file.tell(), "length": len(data)}
            rows[key] = row_of({**row, "sha256": hashlib.sha256(data).hexdigest(), **facts})
            file.write(data)
        file.write(bytes(2 * bounded.BLOCK))
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return tuple(rows.values())


def _packed(key: str, clip: LabelledClip) -> tuple[dict[str, Any], bytes]:
    """What is said of a clip, and the bytes of all its files."""
    views, height, width = clip.images.shape[:3]
    facts = {
        "file": clip.file,
        "frames": [int(frame) for frame in clip.frames],
        "times_s": [float(time) for time in clip.times_s],
        "width": width,
        "height": height,
        "labels": list(shard_labels.names_of(clip.labels)),
        "quality": {name: float(value) for name, value in sorted(clip.quality.items())},
    }
    facts_of(facts)
    pairs = _pairs_of([list(pair) for pair in clip.pairs], views, height * width)
    if clip.images.shape != (len(clip.frames), height, width, 3) or clip.images.dtype != np.uint8:
        raise ValueError(f"images are {clip.images.dtype} {clip.images.shape} for {len(clip.frames)} frames")
    said = json.dumps({"format": FORMAT, **facts, "pairs": pairs}, allow_nan=False)
    files = {"json": said.encode()}
    files |= {_picture(view): bounded.jpeg_bytes(image) for view, image in enumerate(clip.images)}
    extent = shard_labels.Extent(views=views, pairs=len(pairs), height=height, width=width)
    files |= shard_labels.pack(clip.labels, extent)
    return facts, bounded.tar_bytes({f"{key}.{name}": data for name, data in files.items()})


def _picture(view: int) -> str:
    return f"{view:03d}.jpg"


def read_clip(folder: Path, row: Row) -> LabelledClip:
    """A clip of a folder of labels. Neither the shard nor the row is trusted: see `bounded`.

    Raises:
        InputError: the shard is missing, was changed, or holds something else than `write_shard` writes.
    """
    try:
        return _clip_of(row, read_bytes(folder, row))
    except bounded.DAMAGE as error:
        complaint = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{folder}: clip {row.key[:40]} of shard {row.shard[:40]}: {complaint}; fetch or make the shard again"
        ) from error


def read_bytes(folder: Path, row: Row) -> bytes:
    """The files of a clip as they lie in the TAR; ValueError or OSError where they are not those of the row."""
    path = shard_path(folder, row.shard)
    if not 0 < row.length <= min(MOST_CLIP_BYTES, path.stat().st_size - row.offset) or row.offset < 0:
        raise ValueError(f"{row.length} bytes from {row.offset} on are no clip")
    with path.open("rb") as file:
        file.seek(row.offset)
        data = file.read(row.length)
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise ValueError("its bytes are not those that were written")
    return data


def shard_path(folder: Path, name: str) -> Path:
    """Where a shard lies; ValueError for one that is outside the folder, or is no file."""
    path = folder / "shards" / name
    if not _SHARD.fullmatch(name) or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError("it lies outside the folder")
    if not path.is_file():
        raise ValueError("the shard is missing")
    return path


def _clip_of(row: Row, data: bytes) -> LabelledClip:
    """The clip whose files these bytes are."""
    files = bounded.tar_members(data, row.key, most=MOST_VIEWS + 8)
    said = _json(files.pop("json", b""))
    if said.pop("format", None) != FORMAT:
        raise ValueError(f"its JSON is not of format {FORMAT}, which this version reads; update unproject")
    stated = said.pop("pairs", None)
    facts = facts_of(said)
    if any(getattr(row, name) != value for name, value in facts.items()):
        raise ValueError("its JSON says other than its row")
    views, height, width = len(row.frames), row.height, row.width
    pairs = _pairs_of(stated, views, height * width)
    pictures = [_picture(view) for view in range(views)]
    if set(files) != {*pictures, *shard_labels.files_of(row.labels)}:
        raise ValueError(
            f"it has the files {', '.join(sorted(files))[:80]}, which are not those of its labels and views"
        )
    extent = shard_labels.Extent(views=views, pairs=len(pairs), height=height, width=width)
    return LabelledClip(
        file=row.file,
        frames=row.frames,
        times_s=row.times_s,
        images=np.stack([bounded.jpeg_pixels(files[name], width, height) for name in pictures]),
        pairs=pairs,
        labels=shard_labels.unpack(files, row.labels, extent),
        quality=row.quality,
    )


def _json(data: bytes) -> dict[str, Any]:
    if len(data) > _MOST_JSON_BYTES:
        raise ValueError(f"its JSON has {len(data)} bytes, too many")
    said = json.loads(data)
    if not isinstance(said, dict):
        raise ValueError("its JSON is no object")
    return said


def _pairs_of(stated: Any, views: int, pixels: int) -> tuple[tuple[int, int], ...]:
    """Pairs of a document, each of two views of the clip."""
    if not isinstance(stated, list) or not len(stated) <= min(MOST_PAIRS, MOST_PIXELS // pixels):
        raise ValueError(f"pairs must be a list of at most {MOST_PAIRS}, and {MOST_PIXELS} pixels in all")
    places = range(views)
    pairs = tuple(tuple(pair) if isinstance(pair, list) else () for pair in stated)
    for pair in pairs:
        if len(pair) != 2 or any(type(view) is not int or view not in places for view in pair) or len(set(pair)) < 2:
            raise ValueError(f"a pair must be of two of the {views} views")
    if len(set(pairs)) < len(pairs):
        raise ValueError("a pair is there twice")
    return tuple((source, target) for source, target in pairs)


def row_of(document: Any) -> Row:
    """The row that a document (parsed JSON, a line of the index) states; ValueError where it cannot be one."""
    if not isinstance(document, Mapping):
        raise ValueError("a row must be an object")
    place: dict[str, Any] = {name: document.get(name) for name in ("key", "shard", "offset", "length", "sha256")}
    for name, pattern in (("key", _KEY), ("shard", _SHARD), ("sha256", _SHA256)):
        if not isinstance(place[name], str) or not pattern.fullmatch(place[name]):
            raise ValueError(f"'{name}' of a row cannot be {str(place[name])[:80]!r}")
    for name, most in (("offset", 1 << 62), ("length", MOST_CLIP_BYTES)):
        if not _whole(place[name], most) or place[name] % bounded.BLOCK:
            raise ValueError(f"'{name}' of a row cannot be {str(place[name])[:80]}")
    return Row(**place, **facts_of({name: value for name, value in document.items() if name not in place}))


def document_of(row: Row) -> dict[str, Any]:
    """Inverse of `row_of`, for JSON."""
    return {**vars(row), "frames": list(row.frames), "times_s": list(row.times_s), "labels": list(row.labels)}


def facts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a row and a clip's JSON both say, as fields of `Row`; ValueError where it cannot be."""
    facts = dict(document)
    if set(facts) != {"file", "frames", "times_s", "width", "height", "labels", "quality"}:
        raise ValueError(f"it says {', '.join(sorted(map(str, facts)))[:200]}, which is not what is said of a clip")
    if not isinstance(facts["file"], str) or not 0 < len(facts["file"].encode()) <= _LONGEST_NAME:
        raise ValueError("'file' must be a text of some length")
    for name in ("frames", "times_s", "labels"):
        if not isinstance(facts[name], list) or len(facts[name]) > MOST_VIEWS:
            raise ValueError(f"'{name}' must be a list of at most {MOST_VIEWS}")
        facts[name] = tuple(facts[name])
    frames, times = facts["frames"], facts["times_s"]
    if not frames or not all(_whole(frame, 1 << 53) for frame in frames) or list(frames) != sorted(set(frames)):
        raise ValueError("'frames' must be whole numbers that ascend")
    if len(times) != len(frames) or not all(_finite(time) for time in times):
        raise ValueError("'times_s' must be a number for each frame")
    facts["times_s"] = tuple(float(time) for time in times)
    width, height = facts["width"], facts["height"]
    sides = all(_whole(side, LONGEST_SIDE) and side > 0 for side in (width, height))
    if not sides or width * height * len(frames) > MOST_PIXELS:
        raise ValueError(f"sides must be from 1 to {LONGEST_SIDE}, and {MOST_PIXELS} pixels in all")
    if any(name not in shard_labels.KEPT for name in facts["labels"]) or len(set(facts["labels"])) < len(
        facts["labels"]
    ):
        raise ValueError(f"'labels' must be some of {', '.join(shard_labels.KEPT)}")
    quality = facts["quality"]
    if not isinstance(quality, Mapping) or len(quality) > _MOST_QUALITIES or not all(map(_finite, quality.values())):
        raise ValueError("'quality' must be some finite numbers by name")
    if any(not isinstance(name, str) or len(name) > _LONGEST_QUALITY for name in quality):
        raise ValueError(f"names of 'quality' must be texts of at most {_LONGEST_QUALITY} letters")
    facts["quality"] = {name: float(value) for name, value in quality.items()}
    return facts


def _whole(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300
