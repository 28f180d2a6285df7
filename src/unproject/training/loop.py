"""The one loop that trains every network. It knows recipes, and no network, loss or dataset by name.

result = train(recipe, "runs/first", time_limit_s=3600)
result = train(recipe, "runs/first", resume=True)  # bit by bit as if it had never stopped
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from unproject.errors import UsageError
from unproject.io import disk
from unproject.models import checkpoints
from unproject.training import checkpoint, optimiser
from unproject.training.bad_step import BadStep
from unproject.training.checkpoint import State, fresh_state
from unproject.training.device import Place, place
from unproject.training.door import check_numbers, check_sources
from unproject.training.folder import STATE, WEIGHTS, RunFolder, require_same
from unproject.training.loader import Fetched, batches, deaths_explained
from unproject.training.log import Clock, Log, seconds_spent
from unproject.training.passes import forward_backward, validate
from unproject.training.recipe import Recipe, Validation
from unproject.training.sampler import Sampler
from unproject.training.stop import Stop


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a run stands after `train`."""

    state: Literal["done", "stopped"]
    reason: str
    """Why it stopped: "time limit", "steps", "SIGTERM", "SIGINT"; empty where it is done."""
    step: int
    steps: int
    losses: dict[str, float]
    """Means over the last steps that were logged; nothing where a run that was done already is gone on with."""
    validation: dict[str, float] | None
    weights: Path


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    start: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    steps: int | None = None,
    time_limit_s: float | None = None,
    workers: int | None = None,
    save_every_s: float = 600.0,
    save_every: int | None = None,
    log_every: int = 10,
    overwrite: bool = False,
    resume: bool = False,
    live: bool = False,
) -> TrainResult:
    """Train what a recipe describes, in a folder that holds log, state and weights.

    A run that stops (time limit, SIGTERM, SIGINT, or a kill at any moment) goes on with ``resume`` from its last state,
    to the same weights and the same log but for times. On CUDA that holds as far as its kernels are deterministic.

    Args:
        recipe: what is trained, on what, for how long.
        folder: where the run lies; one that is not empty is refused without ``overwrite`` or ``resume``.
        start: weights to begin from. What only the file or only the network has is named in `run.json`.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto, float32 or bfloat16: what trunks compute in.
        steps: stop, as at a time limit, when so many steps are done in all; the schedule stays that of the recipe.
        time_limit_s: stop after the step in which so many seconds have passed.
        workers: processes that make batches ahead; 0 makes them in this one.
        save_every_s: seconds between two states on disk.
        save_every: steps between two states on disk, beside those.
        log_every: steps between two lines of the log.
        overwrite: remove the run that lies in the folder; files of others stay.
        resume: go on with the run that lies there, if there is one; ``start`` is not read again.
        live: a line on stderr that says where it stands.

    Raises:
        UsageError: the recipe cannot run, or is not the one that the folder was begun with, or another run works there.
        UnprojectError: a loss or gradient is not finite; the step lies in the folder, for `replay`.
    """
    stop = Stop(steps, time_limit_s)
    _check_choices(steps=steps, time_limit_s=time_limit_s, workers=workers, save_every=save_every, log_every=log_every)
    check_numbers(recipe)
    where = place(device, dtype)
    with disk.alone(folder):
        run_folder = RunFolder(folder, overwrite=overwrite, resume=resume)
        state = fresh_state(recipe, where)
        facts: dict[str, Any] = {"device": str(where.device), "dtype": str(where.dtype).removeprefix("torch.")}
        log_bytes = 0
        if run_folder.resumed:
            require_same(run_folder.path, recipe)
            kept = checkpoint.read(run_folder.path / STATE)
            checkpoint.restore(state, kept, where.device)
            log_bytes = kept["log_bytes"]
        else:
            if start is not None:
                facts["start"] = _start(state, Path(start))
            check_sources(state.model, recipe, where)
            run_folder.begin(recipe)
            rng = checkpoint.random_state(where.device)
            checkpoint.write(run_folder.path / STATE, checkpoint.capture(state, rng, log_bytes))
        run_folder.open_session({**facts, "from_step": state.step})
        log = Log(run_folder.path, log_bytes, recipe.schedule.steps, state.step, live)
        run = _Run(recipe, state, where, run_folder, log, _workers(workers))
        with stop:
            try:
                with deaths_explained():
                    return run.go(stop, _Every(save_every_s, save_every), log_every)
            except BaseException as error:
                run_folder.say("failed", step=state.step, error=f"{type(error).__name__}: {error}")
                raise
            finally:
                log.close()


def _check_choices(**choices: float | None) -> None:
    """UsageError for numbers that mean nothing."""
    for name, value in choices.items():
        least = 1 if name in ("save_every", "log_every") else 0
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; give {least} or more, or leave it out")


def _start(state: State, path: Path) -> dict[str, Any]:
    """Fill network and average from a file; what became of its keys."""
    report = checkpoints.start_from(state.model, path)
    state.keep_licence(state.model.licence)
    if state.average is not None:
        state.average.load_state_dict(state.model.state_dict())
    return {
        "file": str(path),
        "licence": state.model.licence,
        "loaded": len(report.having("loaded", "renamed")),
        "only_in_the_file": [str(line.official) for line in report.having("dropped")],
        "only_in_the_network": [str(line.ours) for line in report.having("fresh")],
    }


def _workers(asked: int | None) -> int:
    """As many as there are cores beside this process's own, up to 8."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores - 1))


class _Every:
    """When a state is due."""

    def __init__(self, seconds: float, steps: int | None) -> None:
        self._seconds, self._steps = seconds, steps
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        if (self._steps is None or step % self._steps) and time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


class _Run:
    """Step after step, with what each leaves on disk."""

    def __init__(self, recipe: Recipe, state: State, where: Place, folder: RunFolder, log: Log, workers: int) -> None:
        self.recipe, self.state, self.where, self.folder, self.log = recipe, state, where, folder, log
        self.workers = workers
        self.clock = Clock(seconds_spent(folder.path))
        self.losses: dict[str, float] = {}

    def go(self, stop: Stop, every: _Every, log_every: int) -> TrainResult:
        """All steps that are left, or as many as there is time for."""
        schedule, state = self.recipe.schedule, self.state
        sampler = Sampler(self.recipe, state.step * schedule.passes)
        validation = self.recipe.validation
        why = stop.why(state.step) if state.step < schedule.steps else None
        if why is not None:
            self.save()
        with closing(batches(self.recipe.sources, sampler, self.workers)) as fetched:
            while state.step < schedule.steps and why is None:
                self.step(fetched)
                last = state.step == schedule.steps
                if last or state.step % log_every == 0:
                    self.say()
                if validation is not None and (last or state.step % validation.every == 0):
                    self.validate(validation)
                why = None if last else stop.why(state.step)
                if last or why is not None or every.due(state.step):
                    self.save()
        return self.end(why)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time in which nothing is learned."""
        before = time.monotonic()
        yield
        self.clock.aside(time.monotonic() - before)

    def step(self, fetched: Iterator[Fetched]) -> None:
        """One change of the weights."""
        state, schedule = self.state, self.recipe.schedule
        rng = checkpoint.random_state(self.where.device)
        state.optimiser.zero_grad(set_to_none=True)
        taken, values = [], []
        for _ in range(schedule.passes):
            taken.append(self.take(fetched))
            source = self.recipe.sources[taken[-1].draw.source]
            values.append(
                forward_backward(state.model, source, taken[-1].clips, self.recipe.clip, self.where, schedule.passes)
            )
        norms = optimiser.gradient_norms(state.model)
        numbers, norm_numbers = _numbers(values, norms)
        rate = optimiser.learning_rate(schedule, state.step)
        if not all(math.isfinite(value) for said in (*numbers, norm_numbers) for value in said.values()):
            kept = checkpoint.capture(state, rng, self.log.size)
            raise BadStep(kept, taken, numbers, norm_numbers).keep(self.folder.path)
        optimiser.clip(state.model, norms, schedule)
        optimiser.set_learning_rate(state.optimiser, rate)
        state.optimiser.step()
        if state.average is not None and schedule.ema_decay is not None:
            optimiser.follow(state.average, state.model, schedule.ema_decay, state.step)
        state.step += 1
        self.clock.learned(schedule.batch)
        self.meter(numbers, norm_numbers)
        self.log.show(state.step, rate=rate, loss=sum(_totals(numbers)) / schedule.passes)

    def take(self, fetched: Iterator[Fetched]) -> Fetched:
        """The next batch, and how long it was waited for."""
        before = time.perf_counter()
        taken = next(fetched)
        self.clock.waited(time.perf_counter() - before)
        return taken

    def meter(self, numbers: list[dict[str, float]], norms: dict[str, float]) -> None:
        """Add a step to the means of the next line."""
        for said in numbers:
            for name, value in said.items():
                self.state.meter.add(f"losses:{name}", value)
        for part, norm in norms.items():
            self.state.meter.add(f"gradient_norms:{part}", norm)
        self.state.meter.add("gradient_norms:whole", math.hypot(*norms.values()))

    def say(self) -> None:
        """A line of the log: means since the last one."""
        groups: dict[str, dict[str, float]] = {"losses": {}, "gradient_norms": {}}
        for name, mean in self.state.meter.read().items():
            group, _, name = name.partition(":")
            groups[group][name] = mean
        self.losses = groups["losses"]
        schedule, step = self.recipe.schedule, self.state.step
        rate = optimiser.learning_rate(schedule, step - 1)
        facts = {"clips": step * schedule.batch, "learning_rate": rate, **groups}
        self.log.write(step, facts, self.clock.read())

    def validate(self, validation: Validation) -> None:
        """Measure the weights that are kept, and log it."""
        schedule = self.recipe.schedule
        size = schedule.batch // schedule.passes
        model = self.state.best_known
        with self.aside():
            self.state.validated = validate(model, validation, self.recipe.clip, size, self.where, self.workers)
        self.log.write(self.state.step, {"validation": self.state.validated})

    def save(self) -> None:
        """State and weights, each whole or not at all."""
        with self.aside():
            rng = checkpoint.random_state(self.where.device)
            # The state last: a kill in between leaves a step to be done again, and not a run that says it is done.
            checkpoints.save(self.state.best_known, self.folder.path / WEIGHTS)
            checkpoint.write(self.folder.path / STATE, checkpoint.capture(self.state, rng, self.log.size))

    def end(self, why: str | None) -> TrainResult:
        """What a caller learns. After a stop at a number of steps the log says more, which a run that goes on cuts."""
        if why == "steps":
            if self.state.meter.values():
                self.say()
            validation = self.recipe.validation
            if validation is not None and self.state.step % validation.every:
                self.validate(validation)
        result = TrainResult(
            state="done" if why is None else "stopped",
            reason=why or "",
            step=self.state.step,
            steps=self.recipe.schedule.steps,
            losses=self.losses,
            validation=self.state.validated,
            weights=self.folder.path / WEIGHTS,
        )
        self.folder.say(result.state, reason=result.reason, step=result.step, steps=result.steps)
        return result


def _totals(numbers: list[dict[str, float]]) -> list[float]:
    """Of each pass."""
    return [value for said in numbers for name, value in said.items() if name.endswith("/total")]


def _numbers(
    values: list[dict[str, torch.Tensor]], norms: dict[str, torch.Tensor]
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The same as numbers, by one wait for the device."""
    every = [*values, norms]
    numbers = iter(torch.stack([value.double() for said in every for value in said.values()]).tolist())
    plain = [{name: next(numbers) for name in said} for said in every]
    return plain[:-1], plain[-1]
