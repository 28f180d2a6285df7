"""An experiment, trained: every stage once, several at a time in processes of their own; then table and plot."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch

from unproject.errors import UnprojectError, UsageError
from unproject.experiments import report
from unproject.experiments.experiment import Experiment, Stage
from unproject.io import disk
from unproject.models.loading import device_of, precision_of
from unproject.progress import Progress, silent
from unproject.training.folder import WEIGHTS, finished, remove_run, versions_of
from unproject.training.log import last_measured, seconds_spent
from unproject.training.loop import train
from unproject.training.stop import Stop

LOOK_EVERY_S = 1.0
"""How often a stop is looked for while stages train."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an experiment came to."""

    title: str
    state: Literal["done", "stopped"]
    reason: str
    """Why it stopped; empty where it is done."""
    seeds: int
    results: dict[str, list[dict[str, float | None]]]
    """What each seed of each row measured, with the ``seconds`` of all its stages; only rows of which all is done."""
    seconds: float
    """Of all stages, each counted once: what it takes where one trains after the other."""
    table: str
    """The same in markdown: mean and standard deviation over seeds."""


def run(
    experiment: Experiment,
    folder: str | Path,
    *,
    seeds: int = 3,
    jobs: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    time_limit_s: float | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> Outcome:
    """Train what is not trained yet; `NAME.json`, `NAME.md` and `NAME.png` tell of every row that is complete.

    Each stage lies in a folder of its own below ``stages``; experiments in one folder share those that are equal. What
    stops, at a time limit or by a signal, goes on with ``resume``.

    Args:
        experiment: the table.
        folder: where all lies; one that is not empty is refused without ``overwrite`` or ``resume``.
        seeds: runs of each row, from seed 0 on.
        jobs: stages that train at the same time; on a processor one per core by default, else one.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, float32 or bfloat16: what trunks compute in.
        time_limit_s: stop after so many seconds; stages save their states first.
        overwrite: remove this experiment's stages and results, and train them again.
        resume: keep those that are done, go on with those that were begun.
        progress: hears of every stage that is done.

    Raises:
        UsageError: of arguments that mean nothing, a folder that is not empty, or one in which another run works.
        UnprojectError: a stage failed.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is {jobs}; give 1 or more, or leave it out")
    if time_limit_s is not None and time_limit_s < 0:
        raise UsageError(f"time_limit_s is {time_limit_s}; give 0 or more, or leave it out")
    place, _ = device_of(device), precision_of(dtype, device)
    lasts, every = experiment.stages(seeds), experiment.distinct(seeds)
    jobs = jobs or (torch.get_num_threads() if place.type == "cpu" else 1)
    with disk.alone(folder):
        folder = disk.claimed(folder, overwrite=overwrite, resume=resume)
        stages = folder / "stages"
        told = {kind: folder / f"{experiment.name}.{kind}" for kind in ("json", "md", "png")}
        if overwrite:  # all of it at once: a run that is stopped must not leave old numbers beside new ones
            for stage in every:
                remove_run(stages / stage.place)
            for path in told.values():
                path.unlink(missing_ok=True)
        _warn_of_others(_versions(every, stages))
        work = _Work(stages, jobs, (str(place), dtype))
        with Stop(None, time_limit_s) as stop:
            for _ in progress(work.through(every, stop), "train", len(every)):
                pass
        results = {
            row: [_measured(last, stages) for last in of_seeds]
            for row, of_seeds in lasts.items()
            if all(finished(stages / last.place) for last in of_seeds)
        }
        outcome = Outcome(
            title=experiment.title,
            state="stopped" if work.why else "done",
            reason=work.why or "",
            seeds=seeds,
            results=results,
            seconds=sum(seconds_spent(stages / stage.place) for stage in every),
            table=report.table(results, experiment.columns),
        )
        about = {"version": version("unproject"), "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        about |= {"stages_by_version": _versions(every, stages), "machine": report.machine(place)}
        disk.write_json(told["json"], {**asdict(outcome), **about})
        disk.write_text(told["md"], outcome.table)
        if not report.plot(results, experiment.columns, experiment.title, told["png"]):
            print('unproject: no plot without matplotlib: pip install "unproject[plot]"', file=sys.stderr)
    return outcome


def _versions(every: Sequence[Stage], stages: Path) -> dict[str, int]:
    """How many stages were trained, to the end or not, by each version of this package; one by two counts for both."""
    return dict(Counter(made for stage in every for made in sorted(versions_of(stages / stage.place))))


def _warn_of_others(found: Mapping[str, int]) -> None:
    """Names of stages tell what their recipes say, and not what the code does with it."""
    others = [f"{count} by {made}" for made, count in found.items() if made != version("unproject")]
    if others:
        print(
            f"unproject: stages that another version trained are kept ({', '.join(others)}), and this one may train "
            "otherwise: --overwrite makes all of them again",
            file=sys.stderr,
        )


def planned(experiment: Experiment, seeds: int) -> dict[str, Any]:
    """What would be trained: rows, and every stage with its steps."""
    every = experiment.distinct(seeds)
    return {
        "experiment": experiment.title,
        "rows": list(experiment.rows),
        "seeds": seeds,
        "stages": [f"{stage.place}: {stage.recipe.schedule.steps} steps" for stage in every],
    }


def _measured(last: Stage, stages: Path) -> dict[str, float | None]:
    spent = sum(seconds_spent(stages / stage.place) for stage in last.chain())
    return {**last_measured(stages / last.place), "seconds": round(spent, 1)}


class _Work:
    """Stages and the processes that train them: a stage begins when the one before it is done, and a process is free.

    A process trains many: clips that datasets remember are made once in each.
    """

    def __init__(self, folder: Path, jobs: int, where: tuple[str, str]) -> None:
        self.folder, self.jobs, self.where = folder, jobs, where
        self.why: str | None = None
        """Why it was stopped."""
        self._free: list[_Worker] = []
        self._busy: dict[_Worker, Stage] = {}

    def through(self, stages: list[Stage], stop: Stop) -> Iterator[Stage]:
        """Each stage when it is done, until all are or one is asked to stop."""
        left, done = list(stages), set()
        try:
            while left or self._busy:
                self.why = stop.why(0)
                if self.why is not None:
                    return
                for stage in [stage for stage in left if stage.after is None or stage.after in done]:
                    if len(self._busy) < self.jobs:
                        left.remove(stage)
                        self._begin(stage)
                for heard in wait([worker.talk for worker in self._busy], timeout=LOOK_EVERY_S):
                    stage = self._ended(next(worker for worker in self._busy if worker.talk is heard))
                    done.add(stage)
                    yield stage
        finally:
            workers = [*self._busy, *self._free]
            for worker in workers:
                worker.talk.close()  # a stage that is at its last step ends as done, and its process listens again
                worker.process.terminate()
            for worker in workers:
                worker.process.join()

    def _begin(self, stage: Stage) -> None:
        self._free = [worker for worker in self._free if worker.process.is_alive()]
        worker = self._free.pop() if self._free else _Worker(max(1, torch.get_num_threads() // self.jobs))
        start = None if stage.after is None else self.folder / stage.after.place / WEIGHTS
        worker.talk.send((stage.recipe, self.folder / stage.place, start, *self.where))
        self._busy[worker] = stage

    def _ended(self, worker: "_Worker") -> Stage:
        stage = self._busy.pop(worker)
        self._free.append(worker)
        try:
            failure = worker.talk.recv()
        except EOFError:
            failure = "its process was killed"
        if failure is not None:
            raise UnprojectError(f"{self.folder / stage.place} failed: {failure}")
        return stage


class _Worker:
    """A process that trains what it is sent. Spawned: a forked one would share locks of a torch that has computed."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.talk, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, threads))
        self.process.start()
        theirs.close()


def _serve(talk: Connection, threads: int) -> None:
    """What a process does: one stage after the other, each to its end or until it is told to stop."""
    if sys.platform != "win32":
        os.setsid()  # Ctrl-C reaches the experiment alone, which says so to its processes once
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # nobody speaks or listens any more
        while True:
            recipe, place, start, device, dtype = talk.recv()
            try:
                result = train(recipe, place, start=start, device=device, dtype=dtype, workers=0, resume=True)
            except Exception as error:
                talk.send(f"{type(error).__name__}: {error}")
                continue
            if result.state == "stopped":
                return
            talk.send(None)


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
