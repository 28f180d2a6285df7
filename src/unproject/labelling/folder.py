"""The folder of a labelled library: who may write there, what was asked of it, and which of its units are done."""

import hashlib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from unproject.errors import InputError, UsageError
from unproject.io import disk
from unproject.io.description import differences
from unproject.io.shard_index import INDEX, read_unit, write_index
from unproject.io.shards import FORMAT, Rejection, Row
from unproject.labelling.patience import PATIENCE_S
from unproject.labelling.videos import Video
from unproject.labelling.wishes import Wishes
from unproject.teachers.base import Teacher

SETTINGS, VIDEOS, LOG, REJECTED = "library.json", "videos.txt", "log.jsonl", "rejected.jsonl"
SHARDS, UNITS, WORK = "shards", "units", "work"
_OWN = re.compile(
    r"(library\.tmp|(videos|index|rejected)(\.tmp)?)\.(json|txt|parquet|jsonl)"
    r"|shards/\d+(\.tmp)?\.tar|units/\d+(\.tmp)?\.(json|try)|work/[^/]+/\d+(\.tmp)?\.tar"
)
"""Every file that labelling makes but the log and the settings: nothing else is ever removed."""
_UNDONE = re.compile(r"(shards|units|work)/([^/]+/)?\d+\.tmp\.\w+|work/[^/]+/\d+\.tar")
"""What the dead leave."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of every video of a library; with the list of videos, all that decides what is written."""

    teachers: tuple[Teacher, ...]
    wishes: Wishes
    videos_per_unit: int
    patience_s: float = PATIENCE_S
    """In which a worker must have read a frame or labelled a clip. So long that it decides nothing."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Videos that follow one another in the list, worked on by one process."""

    number: int
    videos: tuple[Video, ...]


@dataclass
class Totals:
    """What all units of a library come to."""

    clips: int = 0
    frames: int = 0
    bytes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


def units_of(videos: Sequence[Video], each: int) -> list[Unit]:
    """The list, cut."""
    starts = range(0, len(videos), each)
    return [Unit(number=number, videos=tuple(videos[start : start + each])) for number, start in enumerate(starts)]


def settings_of(videos: Sequence[Video], asked: Asked) -> dict[str, Any]:
    """All that decides what is written, in words. Raises WeightsError where a teacher has none here."""
    return disk.plain({
        "format": FORMAT,
        "version": version("unproject"),
        "videos": len(videos),
        "videos_sha256": hashlib.sha256(_lines(videos).encode()).hexdigest(),
        "videos_per_unit": asked.videos_per_unit,
        "wishes": asdict(asked.wishes),
        "teachers": [asdict(teacher.provenance()) for teacher in asked.teachers],
    })  # fmt: skip


class Library:
    """Where things lie in the folder; only paths, so that it travels to workers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def shard(self, unit: int) -> Path:
        """Of a unit."""
        return self.path / SHARDS / f"{unit:06}.tar"

    def facts(self, unit: int) -> Path:
        """Written last, when the unit is done."""
        return self.path / UNITS / f"{unit:06}.json"

    def own(self, process: str) -> Path:
        """Where a process writes what is not whole yet: on a cluster one that was thought dead may still write."""
        return self.path / WORK / process

    def tries(self, unit: int) -> Path:
        """While the unit is worked on: see `tries.Tries`."""
        return self.path / UNITS / f"{unit:06}.try"

    def begin(self, videos: Sequence[Video], settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make the folder ready: a new one, or one that was begun with the very same videos and settings.

        Raises:
            UsageError: it was begun with others, and the text says which.
        """
        path = self.path / SETTINGS
        if path.exists() and overwrite:
            self._remove(_OWN)
        elif path.exists():
            self._require_same(disk.read_json(path), settings)
        disk.write_json(path, settings)  # first: without it nothing here is taken for ours
        disk.write_text(self.path / VIDEOS, _lines(videos))
        if not (self.path / INDEX).exists():
            write_index(self.path / INDEX, ())  # at the door: who cannot write it shall not find out after weeks
        self._remove(_UNDONE)

    def done(self, unit: int) -> bool:
        """Whether its facts are there, and a shard of the length that they say."""
        try:
            return read_unit(self.facts(unit)).length == self.shard(unit).stat().st_size
        except (InputError, OSError):
            return False

    def merge(self, units: int) -> Totals:
        """Write the index and the rejections of all units in their order."""
        totals = Totals()
        with disk.written_whole(self.path / REJECTED) as beside, beside.open("wb") as lines:
            write_index(self.path / INDEX, self._rows(units, totals, lines))
        return totals

    def _rows(self, units: int, totals: Totals, lines: IO[bytes]) -> Iterator[Row]:
        for number in range(units):
            unit = read_unit(self.facts(number))
            totals.bytes += unit.length
            totals.clips += len(unit.rows)
            totals.frames += sum(len(row.frames) for row in unit.rows)
            for rejection in unit.rejections:
                totals.rejected[kind_of(rejection)] += 1
                lines.write(json.dumps(asdict(rejection)).encode() + b"\n")
            yield from unit.rows

    def end(self) -> None:
        """Nobody works any more."""
        self._remove(_UNDONE)
        for folder in sorted((self.path / WORK).glob("**"), reverse=True):
            with suppress(OSError):  # what is not ours stays
                folder.rmdir()

    def _require_free(self) -> None:
        """Whoever resumes or overwrites a folder means one of labels: files of others are not written over."""
        places = [self.path / name for name in (VIDEOS, INDEX, REJECTED, LOG)]
        taken = [place.name for place in places if place.exists() and place.stat().st_size]
        if taken and not (self.path / SETTINGS).exists():
            raise UsageError(
                f"{self.path} has {' and '.join(taken)} and no {SETTINGS}, so it is no folder of labels: choose another"
            )

    def _require_same(self, old: Any, new: Any) -> None:
        found = list(differences(old, new))
        if found:
            more = f", and {len(found) - 3} more" if len(found) > 3 else ""
            raise UsageError(
                f"{self.path} was begun with other settings: {'; '.join(found[:3])}{more}; "
                "give the same, or another output folder"
            )

    def _remove(self, pattern: re.Pattern[str]) -> None:
        places = (UNITS, SHARDS, *(str(path) for path in self.path.glob(f"{WORK}/*/")), ".")
        for path in (path for place in places for path in self.path.joinpath(place).glob("*")):
            if pattern.fullmatch(path.relative_to(self.path).as_posix()):
                path.unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator["Log"]:
        """The log, open and locked: nobody else labels into this folder meanwhile. A process that dies lets go of it.

        Raises:
            UsageError: another process holds it, or a file of somebody else is in the way.
        """
        with disk.alone(self.path):
            self._require_free()
            with open(self.path / LOG, "ab", buffering=0) as file:
                yield Log(file.fileno(), self.path / LOG)


class Log:
    """`log.jsonl`: sessions, units with their rates, deaths; a line each, whole or not at all."""

    def __init__(self, file: int, path: Path) -> None:
        self._file, self._path = file, path

    def clear(self) -> None:
        """Forget what it says."""
        os.ftruncate(self._file, 0)

    def session(self, **facts: Any) -> None:
        """Who labels what from now on."""
        if os.fstat(self._file).st_size:
            self._append(b"\n")  # whatever stands there ends here
        versions = {"python": sys.version.split()[0], "unproject": version("unproject")}
        self.write({"session": {"argv": sys.argv, "versions": versions, **facts}})

    def write(self, facts: Mapping[str, Any]) -> None:
        """A line, with the time."""
        line = {**facts, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        self._append(json.dumps(disk.plain(line), allow_nan=False).encode() + b"\n")

    def _append(self, data: bytes) -> None:
        with disk.explained(self._path):
            os.write(self._file, data)


def log_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """What the log of a folder says, from its first line on; a line that a full disk cut short is left out."""
    if (folder / LOG).is_file():
        for line in (folder / LOG).read_bytes().splitlines():
            with suppress(ValueError):
                yield json.loads(line)


def _lines(videos: Sequence[Video]) -> str:
    return "".join(f"{video.name}\n" for video in videos)


def kind_of(rejection: Rejection) -> str:
    """What many reasons have in common: without names, numbers and remedies."""
    said = re.split(r"[:(]", rejection.reason.removeprefix(rejection.file))[0]
    return re.sub(r"\d+(\.\d+)?", "N", said).strip()
