"""Batches fetched ahead by other processes, in the order of the sampler and whatever is in flight when a run stops."""

import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from unproject.data.base import Sample
from unproject.errors import UnprojectError
from unproject.training.recipe import Source
from unproject.training.sampler import Draw

AHEAD = 2
"""Batches that each process keeps ready."""
Value = TypeVar("Value")


@dataclass(frozen=True)
class Fetched:
    """A draw and its clips, or why there are none."""

    draw: Draw
    sample: Sample | None
    failure: UnprojectError | None = None

    @property
    def clips(self) -> Sample:
        """The clips, or the error that says why there are none."""
        if self.sample is None:
            raise self.failure or UnprojectError("no clips came")
        return self.sample


def batches(sources: Sequence[Source], draws: Iterable[Draw], workers: int) -> Iterator[Fetched]:
    """The batch of each draw, in order; 0 workers fetch each when it is asked for."""
    loader = DataLoader(
        _Clips(sources),
        sampler=draws,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        collate_fn=_unchanged,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),  # or starting it would draw from the numbers of the run
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UnprojectError(
            f"a process that makes batches died ({error}); fewer --workers need less memory"
        ) from error


class _Clips(TorchDataset):
    """Draws to batches, in whichever process."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def __getitem__(self, draw: Draw) -> Fetched:
        return fetch(self.sources, draw)


def fetch(sources: Sequence[Source], draw: Draw) -> Fetched:
    """The clips of a draw. An error becomes a value: torch would send it as a traceback of many lines."""
    source = sources[draw.source]
    try:
        return Fetched(draw, source.dataset(draw.numbers, draw.framing))
    except Exception as error:
        kind = type(error) if isinstance(error, UnprojectError) else UnprojectError
        said = str(error) if isinstance(error, UnprojectError) else f"{type(error).__name__}: {error}"
        some = ", ".join(map(str, draw.numbers[:4])) + (", ..." if len(draw.numbers) > 4 else "")
        failure = kind(f"source {source.name!r} failed at clips {some}: {said}")
        failure.add_note(traceback.format_exc())
        return Fetched(draw, None, failure)


def _unchanged(fetched: Fetched) -> Fetched:
    return fetched


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches the whole group: who fetches goes on until the run has been saved."""
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def on_device(value: Value, device: torch.device) -> Value:
    """Every tensor inside dataclasses and tuples, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(on_device(item, device) for item in value)  # pyrefly: ignore[bad-return]
    if is_dataclass(value) and not isinstance(value, type):
        changed: dict[str, Any] = {field.name: on_device(getattr(value, field.name), device) for field in fields(value)}
        return replace(value, **changed)
    return value
