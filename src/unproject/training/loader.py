"""Batches fetched ahead by other processes, in the order of the sampler and whatever is in flight when a run stops."""

import signal
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from unproject.data.base import Sample
from unproject.errors import UnprojectError
from unproject.tensors import map_tensors
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


def batches(sources: Sequence[Source], draws: Iterable[Draw], workers: int) -> Generator[Fetched, None, None]:
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
    yield from loader


@contextmanager
def deaths_explained() -> Iterator[None]:
    """Where a process that fetches dies, torch raises in the midst of whatever this one does."""
    try:
        yield
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

    def __getitem__(self, index: Draw) -> Fetched:
        return fetch(self.sources, index)


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


def _unchanged(fetched: Any) -> Any:
    return fetched


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches a whole group of processes: who fetches goes on until the run has been saved.

    So does SIGTERM from a scheduler; a second one, which Python sends to children that outlive it, is obeyed.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _obey_the_next)


def _obey_the_next(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)


def on_device(value: Value, device: torch.device) -> Value:
    """Every tensor inside dataclasses and tuples, on a device."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), value)
