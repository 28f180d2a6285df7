"""A library of videos to a folder of labels: on this machine or a cluster, and on with what a death has left."""

import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from unproject.errors import UnprojectError, UsageError
from unproject.io import disk
from unproject.io.shard_index import require_arrow
from unproject.labelling.cluster import installed_ray, on_ray
from unproject.labelling.folder import Asked, Library, Log, Unit, settings_of, units_of
from unproject.labelling.local import Died, Events, Ready, VideoDone, cores, in_processes, in_this_process
from unproject.labelling.tries import Tries
from unproject.labelling.videos import find_videos, videos_per_unit
from unproject.labelling.wishes import Wishes
from unproject.progress import Progress, silent
from unproject.teachers.base import Teacher, licences

_MOST_LOST = 3
"""So often a unit's worker may die while it is at none of its videos."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a library came to. Rates are those of this session, all else is of the whole folder."""

    output: str
    videos: int
    clips: int
    frames: int
    """Views of all clips."""
    bytes: int
    """Of all shards."""
    rejected: dict[str, int]
    """Lines of `rejected.jsonl` by reason, the most frequent first."""
    seconds: float
    videos_per_s: float
    frames_per_s: float
    notes: tuple[str, ...]


def label(
    videos: Sequence[str | Path],
    folder: str | Path,
    teachers: Sequence[Teacher],
    wishes: Wishes,
    *,
    workers: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Label what is not labelled yet, then write the index of everything (docs/decisions/0012).

    What is written depends on the videos, the teachers and the wishes alone: not on who works, and not on who was
    killed meanwhile. A video that cannot be labelled is a line in `rejected.jsonl`.

    Args:
        videos: see `find_videos`.
        folder: where labels lie; one that is not empty is refused without ``overwrite`` or ``resume``.
        teachers: who labels.
        wishes: how clips should be.
        workers: processes on this machine, one per core by default; 0 works in this one.
        ray: address of a Ray cluster that works instead, or ``auto``.
        overwrite: remove the labels that lie there; files of others stay.
        resume: keep the units that are done.
        progress: hears of every video that is done; items are the number of clips so far.

    Raises:
        UsageError: of arguments that mean nothing, a folder that is not empty, was begun with other settings, or into
            which somebody labels now; of a package that is not installed; or of a teacher that cannot work.
        UnprojectError: the disk is full, or workers cannot work.
        KeyboardInterrupt: also at SIGTERM; workers are stopped, and ``resume`` goes on.
    """
    _check(workers, ray, teachers)
    require_arrow()
    if ray is not None:
        installed_ray()
    listed, notes = find_videos(videos)
    asked = Asked(teachers=tuple(teachers), wishes=wishes, videos_per_unit=videos_per_unit(len(listed)))
    settings = settings_of(listed, asked)
    library = Library(disk.claimed(folder, overwrite=overwrite, resume=resume))
    units = units_of(listed, asked.videos_per_unit)
    with library.held() as log, _sigterm_interrupts():
        library.begin(listed, settings, overwrite=overwrite)
        if overwrite:
            log.clear()
        left = [unit for unit in units if not library.done(unit.number)]
        count = min(cores() if workers is None else workers, len(left))
        log.session(host=platform.node(), workers=count, ray=ray, videos=[str(item) for item in videos])
        began = time.monotonic()
        session = _Session(library, log, left)
        with closing(session.through(_events(library, left, asked, count, ray))) as done:
            for _ in progress(done, "label", session.total):
                pass
        seconds = max(time.monotonic() - began, 1e-3)  # some clocks stand still between two ticks
        totals = library.merge(len(units))
        library.end()
    return Outcome(
        output=str(library.path),
        videos=len(listed),
        clips=totals.clips,
        frames=totals.frames,
        bytes=totals.bytes,
        rejected=dict(totals.rejected.most_common()),
        seconds=round(seconds, 3),
        videos_per_s=round(session.total / seconds, 3),
        frames_per_s=round(session.frames / seconds, 3),
        notes=tuple(notes),
    )


def planned(videos: Sequence[str | Path], teachers: Sequence[Teacher]) -> dict[str, Any]:
    """What would be done: videos, units, and teachers with their licences."""
    _check(None, None, teachers)
    listed, notes = find_videos(videos)
    each = videos_per_unit(len(listed))
    return {
        "videos": len(listed),
        "absent": sum(not Path(video.path).is_file() for video in listed),
        "units": len(units_of(listed, each)),
        "videos_per_unit": each,
        "teachers": licences(teachers),
        "notes": notes,
    }


def _check(workers: int | None, ray: str | None, teachers: Sequence[Teacher]) -> None:
    if not teachers:
        raise UsageError("labels need a teacher: give at least one")
    if workers is not None and workers < 0:
        raise UsageError(f"workers is {workers}; give 0 or more, or leave it out")
    if workers is not None and ray is not None:
        raise UsageError("workers are of this machine and Ray has its own: give one of the two")


def _events(library: Library, units: list[Unit], asked: Asked, workers: int, ray: str | None) -> Events:
    if ray is not None and units:
        return on_ray(library, units, asked, ray)
    return in_processes(library, units, asked, workers) if workers else in_this_process(library, units, asked)


class _Session:
    """What is told of units on the way: it goes to the log, counts deaths, and tells of each video once."""

    def __init__(self, library: Library, log: Log, units: Sequence[Unit]) -> None:
        self._library, self.log = library, log
        self.frames = 0
        self._size = {unit.number: len(unit.videos) for unit in units}
        self.total = sum(self._size.values())
        self._shown, self._now, self._clips, self._lost = Counter[int](), Counter[int](), Counter[int](), Counter[int]()

    def through(self, events: Events) -> Generator[int]:
        """The number of clips so far, once for each video that is done."""
        with closing(events):  # at an interrupt too, its workers are stopped here
            for event in events:
                if isinstance(event, Ready):
                    self.log.write({"ready": asdict(event)})
                    continue
                number, told = event.unit, 0
                if isinstance(event, VideoDone):
                    self._now[number] += 1
                    if self._now[number] > self._shown[number]:
                        self._clips[number] += event.clips
                        told = 1
                elif isinstance(event, Died):
                    self._died(event)
                else:
                    self.log.write({"done": asdict(event)})
                    self.frames += event.frames
                    self._clips[number] = event.clips
                    told = self._size[number] - self._shown[number]
                for _ in range(min(told, self._size[number] - self._shown[number])):
                    self._shown[number] += 1
                    yield self._clips.total()

    def _died(self, event: Died) -> None:
        """Whoever tells of it begins the unit again afterwards."""
        number = event.unit
        self._now[number] = 0
        place = Tries(self._library.tries(number)).died()
        self.log.write({"died": {"unit": number, "video": place, "how": event.how}})
        self._lost[number] += place is None
        if self._lost[number] == _MOST_LOST:
            raise UnprojectError(f"workers of unit {number} die at none of its videos ({event.how}): mend the machine")


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does, so that workers are stopped."""
    if threading.current_thread() is not threading.main_thread():  # only there does Python let one listen
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
