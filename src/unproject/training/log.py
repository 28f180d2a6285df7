"""What a run says of itself: one line of JSON for every few steps, curves for TensorBoard, and a line on a terminal."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unproject.errors import InputError
from unproject.io.disk import explained, plain

LOG = "log.jsonl"


class Meter:
    """Means of named numbers since it was last read."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, name: str, value: float) -> None:
        """One more of this name."""
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = total + value, count + 1

    def read(self) -> dict[str, float]:
        """The means, and start again."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means

    def values(self) -> dict[str, list[float]]:
        """What it holds, for a checkpoint."""
        return {name: [total, count] for name, (total, count) in self._sums.items()}

    def set_values(self, values: Mapping[str, list[float]]) -> None:
        """Inverse of `values`."""
        self._sums = {name: (total, int(count)) for name, (total, count) in values.items()}


class Clock:
    """Where the time of the last lines' steps went; ``spent_s`` were spent in the sessions before."""

    def __init__(self, spent_s: float) -> None:
        self._since = time.monotonic()
        self.started = self._since - spent_s
        self._waited = 0.0
        self._clips = 0

    def waited(self, seconds: float) -> None:
        """So long the next batch was waited for."""
        self._waited += seconds

    def aside(self, seconds: float) -> None:
        """So long something else was done, like measuring or saving: it counts for neither."""
        self._since += seconds

    def learned(self, clips: int) -> None:
        """A step of so many clips is done."""
        self._clips += clips

    def read(self) -> dict[str, float]:
        """Rate and share of waiting since it was last read, and start again."""
        now = time.monotonic()
        span = max(now - self._since, 1e-9)
        said = {
            "run_s": round(now - self.started, 3),
            "clips_per_s": round(self._clips / span, 4),
            "waiting_share": round(self._waited / span, 4),
        }
        self._since, self._waited, self._clips = now, 0.0, 0
        return said


class Log:
    """`log.jsonl` of a run folder, cut to what the state that a run goes on from knows of.

    Everything in a line but `time` is the same in a run that was interrupted as in one that was not.
    """

    def __init__(self, folder: Path, keep_bytes: int, steps: int, first_step: int, live: bool) -> None:
        self.path = folder / LOG
        with explained(self.path):
            self._file = open(self.path, "ab")  # noqa: SIM115 (closed by close)
        if self.size < keep_bytes:
            self._file.close()
            raise InputError(f"{self.path} is shorter than the state beside it says; --overwrite starts again")
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)
        self._curves = _curves(folder / "tensorboard", first_step)
        self._bar = _bar(steps, first_step) if live else None

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._file.seek(0, 2)

    def write(self, step: int, facts: Mapping[str, Any], seconds: Mapping[str, float] | None = None) -> None:
        """One line, on disk when this returns."""
        line = {"step": step, **facts, **({"time": dict(seconds)} if seconds else {})}
        with explained(self.path):
            self._file.write(json.dumps(plain(line), allow_nan=False).encode() + b"\n")
            self._file.flush()
        if self._curves is not None:
            for name, value in _numbers(line):
                self._curves.add_scalar(name, value, step)

    def show(self, step: int, **numbers: float) -> None:
        """On the terminal, where there is one."""
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()}, refresh=False)
            self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """End the terminal's line and the files."""
        self._file.close()
        for other in (self._curves, self._bar):
            if other is not None:
                other.close()


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The log of a run, from its first line on; nothing where there is none."""
    if (folder / LOG).is_file():
        yield from map(json.loads, (folder / LOG).read_text("utf-8").splitlines())


def last_measured(folder: Path) -> dict[str, float | None]:
    """What was measured last in a run, None where there was nothing to measure; empty where nothing was asked."""
    return next((line["validation"] for line in reversed(list(lines(folder))) if "validation" in line), {})


def seconds_spent(folder: Path) -> float:
    """Of all sessions of a run, up to the last step that its log tells of."""
    return next((line["time"]["run_s"] for line in reversed(list(lines(folder))) if "time" in line), 0.0)


def _numbers(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif name != "step":
            found.append((prefix + name, value))
    return found


def _curves(folder: Path, first_step: int) -> Any:
    """A writer for TensorBoard where that is installed (the extra `train`)."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step + 1)


def _bar(steps: int, first_step: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, initial=first_step, desc="train", unit="step", file=sys.stderr, dynamic_ncols=True)
