"""Which videos a library has: folders, globs, files and lists of paths, in one order that no machine changes."""

import csv
import glob
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unproject.errors import InputError, UsageError
from unproject.io.images import natural_key

SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".ogv",
})  # fmt: skip
LISTS = frozenset({".txt", ".jsonl", ".csv"})
_FIELDS = ("file", "path", "video")
"""What a list may call its column of paths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """A file that is to be labelled; nobody has looked yet whether it is there."""

    name: str
    """As its list names it: relative to the folder that was given, else as written; one printable line."""
    path: str
    """Absolute: no worker needs to stand where the command was given, and no address of the net is one."""


def find_videos(given: Sequence[str | Path]) -> tuple[tuple[Video, ...], list[str]]:
    """All videos in natural order of their names, each once, and notes of what was left out.

    Each of ``given`` is a folder (searched with all that is below it), a glob, a video, or a list with one path per
    line: `.txt`; `.csv` (its column ``file``, ``path`` or ``video``, else the first); `.jsonl` (texts, or objects with
    such a field). Paths in a list count from the list's folder; whether they exist is not asked here.

    Raises:
        InputError: what was given is not there, or a list cannot be read.
        UsageError: nothing was given, or no video is in it.
    """
    if not given:
        raise UsageError("give videos: a folder, a glob, files or a list of paths (.txt, .jsonl, .csv)")
    found = sorted((video for item in given for video in _videos(str(item))), key=_place)
    once: dict[str, Video] = {}
    for video in found:
        once.setdefault(video.path, video)
    if not once:
        raise UsageError(f"no video in {' '.join(map(str, given))}; known are files that end in {', '.join(_sorted())}")
    twice = len(found) - len(once)
    return tuple(once.values()), [f"{twice} paths were given more than once and are taken once"] if twice else []


def videos_per_unit(count: int) -> int:
    """So many that there are a thousand units of them, at least 1 and at most 50.

    A unit is what a death loses and what a cluster hands out; its shard should neither be tiny nor take hours.
    """
    return min(max(count // 1000, 1), 50)


def _place(video: Video) -> tuple[str, str, str]:
    return *natural_key(video.name), video.path


def _sorted() -> list[str]:
    return sorted(SUFFIXES)


def _videos(given: str) -> Iterator[Video]:
    path = Path(given).expanduser()
    if path.is_dir():
        base = os.path.abspath(path)
        yield from (_video(name, base) for name in _below(path))
    elif path.suffix.lower() in LISTS:
        base = os.path.abspath(path.parent)
        yield from (_video(line, base) for line in _listed(path))
    elif path.exists() or (path.suffix.lower() in SUFFIXES and not glob.has_magic(given)):
        yield _video(str(path))
    elif glob.has_magic(given):
        found = glob.iglob(str(path), recursive=True)
        yield from (_video(name) for name in found if Path(name).suffix.lower() in SUFFIXES)
    else:
        raise InputError(f"{given} is not there: give a folder, a glob, videos or a list of paths")


def _video(name: str, base: str = "") -> Video:
    """Control characters and what is no Unicode are escaped: a name is one line of UTF-8, whoever made the file."""
    shown = name
    if not name.isprintable():
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
    return Video(name=shown, path=os.path.abspath(os.path.join(base, name)))


def _below(folder: Path) -> Iterator[str]:
    for parent, _, files in os.walk(folder, onerror=_unreadable):
        for file in files:
            if Path(file).suffix.lower() in SUFFIXES:
                yield os.path.relpath(os.path.join(parent, file), folder)


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}): mend its permissions") from error


def _listed(path: Path) -> Iterator[str]:
    reader = {".txt": _lines, ".jsonl": _objects, ".csv": _cells}[path.suffix.lower()]
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from (entry for entry in reader(file) if entry.strip())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    except (ValueError, RecursionError, csv.Error) as error:
        reason = f"{path} is no list of videos ({' '.join(str(error).split())})"
        raise InputError(f"{reason}: give one path per line") from error


def _lines(file: Iterable[str]) -> Iterator[str]:
    yield from (line.rstrip("\r\n") for line in file)


def _objects(file: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        value = json.loads(line) if line.strip() else ""
        if isinstance(value, dict):
            value = next((value[field] for field in _FIELDS if field in value), None)
        if not isinstance(value, str):
            raise ValueError(f"line {number} names no {' or '.join(_FIELDS)}")
        yield value


def _cells(file: Iterable[str]) -> Iterator[str]:
    rows = csv.reader(file)
    first = next(rows, [])
    column = next((first.index(field) for field in _FIELDS if field in first), None)
    if column is None:
        yield from first[:1]
    for row in rows:
        yield from row[column or 0 : (column or 0) + 1]
