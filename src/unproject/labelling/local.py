"""Units on this machine: processes that take one after the other, and may die."""

import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from unproject.errors import UnprojectError
from unproject.labelling.folder import Asked, Library, Unit
from unproject.labelling.patience import Watch
from unproject.labelling.unit import UnitDone, label_unit, one_thread, watched_unit

_STOPPING_S = 5.0
"""So long a worker that was told to stop may take before it is killed; what it is at is lost either way."""
_MOST_STILLBORN = 3
"""So many workers in a row may die before they can begin."""


@dataclass(frozen=True)
class VideoDone:
    """One more video of a unit is labelled or given up."""

    unit: int
    clips: int


@dataclass(frozen=True)
class Ready:
    """A new worker can begin."""

    seconds: float
    """That this took."""


@dataclass(frozen=True)
class Died:
    """A unit's worker died; the unit is begun again once this was heard."""

    unit: int
    how: str


Events = Generator[Ready | VideoDone | UnitDone | Died]
"""In the order in which they happen."""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def in_this_process(library: Library, units: Sequence[Unit], asked: Asked) -> Events:
    """One after the other, here: a video that kills its worker kills this process."""
    for unit in units:
        counts: list[int] = []
        done = label_unit(library, unit, asked, counts.append, Watch())
        yield from (VideoDone(unit.number, clips) for clips in counts)
        yield done


def in_processes(library: Library, units: Sequence[Unit], asked: Asked, workers: int) -> Events:
    """So many units at a time; a unit whose worker dies is begun again by another.

    Raises:
        UnprojectError: a worker says that it cannot go on, or none can begin.
    """
    waiting, busy, idle = deque(units), set[_Worker](), list[_Worker]()
    stillborn = 0
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(library, asked)
                busy.add(worker)
                worker.begin(waiting.popleft())
            for worker in _heard(busy):
                try:
                    said = worker.said()
                except (EOFError, OSError):
                    busy.remove(worker)
                    stillborn = 0 if worker.ready else stillborn + 1
                    how = worker.ended()
                    if stillborn == _MOST_STILLBORN:
                        raise UnprojectError(f"workers die before they begin ({how}): try --workers 0") from None
                    yield Died(worker.unit.number, how)
                    waiting.appendleft(worker.unit)
                    continue
                if isinstance(said, UnitDone):
                    busy.remove(worker)
                    idle.append(worker)
                yield said
    finally:
        _stop([*busy, *idle])


def _heard(workers: Iterable["_Worker"]) -> list["_Worker"]:
    """Those that said something, or died; waits for one."""
    ready = wait([worker.talk for worker in workers])
    return [worker for worker in workers if worker.talk in ready]


class _Worker:
    """A process that labels the units it is sent. Spawned: a forked one would share locks of a torch that has computed.

    It ends when the other end of ``life`` is closed, by whoever made it or by his death.
    """

    unit: Unit

    def __init__(self, library: Library, asked: Asked) -> None:
        context = multiprocessing.get_context("spawn")
        self.talk, theirs = context.Pipe()
        watched, self.life = context.Pipe(duplex=False)
        self.ready = False
        self._made = time.monotonic()
        self.process = context.Process(target=_serve, args=(theirs, watched, library, asked))
        self.process.start()
        theirs.close()
        watched.close()

    def begin(self, unit: Unit) -> None:
        """Send a unit; one who is dead already is found out when he is listened to."""
        self.unit = unit
        with suppress(OSError):
            self.talk.send(unit)

    def said(self) -> Ready | VideoDone | UnitDone:
        """What it says next. Raises EOFError or OSError where it is dead, and what it raises itself."""
        said = self.talk.recv()
        if isinstance(said, UnprojectError):
            raise said
        if said is None:
            self.ready = True
            return Ready(round(time.monotonic() - self._made, 3))
        return said

    def ended(self) -> str:
        """How it came to its end."""
        self.life.close()
        self.process.join()
        return f"exit code {self.process.exitcode}"


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.life.close()
    for worker in workers:
        worker.process.join(_STOPPING_S)
        worker.process.kill()
        worker.process.join()


def _serve(talk: Connection, life: Connection, library: Library, asked: Asked) -> None:
    """What a process does: one unit after the other, until nobody wants it any more."""
    if sys.platform != "win32":
        os.setsid()  # Ctrl-C reaches the run alone
    os.dup2(2, 1)  # packages of teachers may print, and stdout is for facts
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    one_thread()
    with suppress(EOFError, OSError):  # nobody speaks or listens any more
        talk.send(None)
        while True:
            talk.send(_answer(talk, library, talk.recv(), asked))


def _answer(talk: Connection, library: Library, unit: Unit, asked: Asked) -> UnitDone | UnprojectError:
    try:
        return watched_unit(library, unit, asked, lambda clips: talk.send(VideoDone(unit.number, clips)))
    except UnprojectError as error:
        return error
    except Exception as error:
        return UnprojectError(f"unit {unit.number} failed: {type(error).__name__}: {error}")


def _end_with(life: Connection) -> None:
    """End at once when the other end is closed: nothing that is half done counts."""
    life.poll(None)
    os._exit(1)
