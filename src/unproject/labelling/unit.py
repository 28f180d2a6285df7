"""Work on one unit: a pure function of its videos and of what is asked, as long as no video kills its worker twice."""

import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from threadpoolctl import threadpool_limits

from unproject.errors import InputError, MemoryLimitError, UsageError, WeightsError
from unproject.io import shard_index
from unproject.io.disk import explained
from unproject.io.shards import LabelledClip, Rejection, Row, write_shard
from unproject.labelling.clips import labelled_clips
from unproject.labelling.folder import Asked, Library, Unit
from unproject.labelling.patience import Watch
from unproject.labelling.tries import Tries
from unproject.labelling.videos import Video

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True)
class UnitDone:
    """What a unit came to and how long it took. Only the log and plans know of the times."""

    unit: int
    videos: int
    rejections: int
    clips: int
    frames: int
    """Views of all clips."""
    bytes: int
    """Of the shard."""
    seconds: float
    video_s: tuple[float, ...]
    """Seconds of each video."""
    video_clips: tuple[int, ...]
    """Clips of each."""
    host: str
    process: int


def one_thread() -> None:
    """As many processes as cores: threads of their own would wait for each other."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threadpool_limits(1)


def watched_unit(library: Library, unit: Unit, asked: Asked, heard: Callable[[int], None]) -> UnitDone:
    """`label_unit` in a process of its own, which ends where nothing happens for ``asked.patience_s``."""
    watch = Watch(asked.patience_s)
    try:
        return label_unit(library, unit, asked, heard, watch)
    finally:
        watch.end()


def label_unit(library: Library, unit: Unit, asked: Asked, heard: Callable[[int], None], watch: Watch) -> UnitDone:
    """Write the unit's shard, then its facts; ``heard`` is told the clips of each video that is done.

    Raises:
        UsageError, WeightsError: a teacher cannot work at all.
        MemoryLimitError: it does not fit this machine, or not beside the other workers.
        UnprojectError: the disk cannot be written to.
    """
    began = time.monotonic()
    work = _Work(unit, asked, Tries(library.tries(unit.number)), heard, watch)
    shard = library.shard(unit.number)
    own = library.own(f"{platform.node()}-{os.getpid()}") / shard.name
    rows = work.written(own)
    with explained(shard):
        shard.parent.mkdir(exist_ok=True)
        os.replace(own, shard)
        own.parent.rmdir()
    shard_index.write_unit(library.facts(unit.number), shard_index.Unit.of(shard, rows, tuple(work.rejections)))
    work.tries.end()
    return UnitDone(
        unit=unit.number,
        videos=len(unit.videos),
        rejections=len(work.rejections),
        clips=len(rows),
        frames=sum(len(row.frames) for row in rows),
        bytes=shard.stat().st_size,
        seconds=round(time.monotonic() - began, 3),
        video_s=tuple(work.video_s),
        video_clips=tuple(work.video_clips),
        host=platform.node(),
        process=os.getpid(),
    )


@dataclass
class _Work:
    """The clips of a unit as they come, and beside them what gave none."""

    unit: Unit
    asked: Asked
    tries: Tries
    heard: Callable[[int], None]
    watch: Watch
    rejections: list[Rejection] = field(default_factory=list)
    video_s: list[float] = field(default_factory=list)
    video_clips: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    """Why a shard cannot take clips of the video of this place."""
    place: int = 0
    """Of the video it is at."""

    def written(self, shard: Path) -> tuple[Row, ...]:
        """The rows of a shard of all clips. It is begun again without a video whose labels cannot be kept."""
        while True:
            self.rejections, self.video_s, self.video_clips = [], [], []
            try:
                return write_shard(shard, self.clips())
            except ValueError as error:
                if self.place in self.refused:
                    raise
                self.refused[self.place] = _reason(error, self.unit.videos[self.place])

    def clips(self) -> Iterator[tuple[str, LabelledClip]]:
        """Each clip with its key."""
        for place, video in enumerate(self.unit.videos):
            self.place = place
            began, count = time.monotonic(), 0
            for said in self._of(video):
                if isinstance(said, Rejection):
                    self.rejections.append(said)
                else:
                    yield f"{self.unit.number:06}-{place:03}-{count:04}", said
                    count += 1
            self.video_s.append(round(time.monotonic() - began, 4))
            self.video_clips.append(count)
            self.heard(count)
        self.tries.begin(None)
        self.watch.end()

    def _of(self, video: Video) -> Iterator[LabelledClip | Rejection]:
        refused = self.refused.get(self.place)
        if refused is None and self.tries.given_up(self.place):
            refused = "its worker died twice on it"
        if refused is not None:
            yield Rejection(file=video.name, where="", reason=refused)
            return
        self.tries.begin(self.place)
        self.watch.alive()
        where = ""
        try:
            if not Path(video.path).is_file():
                raise InputError("no such file")
            for said in labelled_clips(
                video.path, video.name, self.asked.wishes, self.asked.teachers, self.watch.alive
            ):
                yield said
                if isinstance(said, LabelledClip):
                    where = f"{said.frames[-1] + 1}.."
        except (UsageError, WeightsError, MemoryLimitError):
            raise
        except torch.OutOfMemoryError as error:  # no fault of the video: alone it may fit
            raise MemoryLimitError(
                f"the memory of the GPU is full at {video.name}: give fewer --workers (of Ray: ray start --num-cpus) "
                "or a smaller --long-side"
            ) from error
        except Exception as error:  # whatever a teacher cannot bear: the next video may be borne
            if _disk_is_full(error):
                raise
            yield Rejection(file=video.name, where=where, reason=_reason(error, video))


def _disk_is_full(error: BaseException | None) -> bool:
    return error is not None and (getattr(error, "errno", None) in _FULL or _disk_is_full(error.__cause__))


def _reason(error: Exception, video: Video) -> str:
    """One line without the place of the library, which other machines have elsewhere."""
    text = " ".join(str(error).split()).replace(video.path, video.name).removeprefix(video.name).lstrip(": ")
    return (text if isinstance(error, InputError) else f"{type(error).__name__}: {text}")[:_LONGEST_REASON]
