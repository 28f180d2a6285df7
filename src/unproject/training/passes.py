"""One forward and backward pass of one source, and the same without learning: what the loop is made of."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from unproject.data.base import Sample
from unproject.errors import MemoryLimitError
from unproject.losses.base import Loss
from unproject.models.base import Reconstructor
from unproject.training.checkpoint import random_state, set_random_state
from unproject.training.device import Place
from unproject.training.loader import batches, on_device
from unproject.training.recipe import Clip, Source, Validation
from unproject.training.sampler import Draw
from unproject.types import Prediction, Views


def told(views: Views, clip: Clip) -> Views:
    """What the network is given of the views."""
    return views if clip.intrinsics else replace(views, intrinsics=None)


def predict(model: Reconstructor, views: Views, clip: Clip, where: Place) -> Prediction:
    """The network's answer, its trunk in the chosen precision."""
    with where.autocast():
        return model(told(views, clip))


def forward_backward(
    model: Reconstructor, source: Source, sample: Sample, clip: Clip, where: Place, passes: int = 1
) -> dict[str, Tensor]:
    """Add one pass of several to the gradients. Gives all terms and the total before its division, on the device."""
    with _memory_explained(sample):
        return _forward_backward(model, source, on_device(sample, where.device), clip, where, passes)


def _forward_backward(
    model: Reconstructor, source: Source, sample: Sample, clip: Clip, where: Place, passes: int
) -> dict[str, Tensor]:
    prediction = predict(model, sample.views, clip, where)
    values: dict[str, Tensor] = {}
    totals = []
    for name, loss in _named(source.losses):
        value = loss(prediction, sample.labels, sample.views)
        totals.append(value.total)
        values |= {f"{source.name}/{name}.{term.name}": term.value.detach() for term in value.terms}
    total = torch.stack(totals).sum()
    if not total.requires_grad:
        raise ValueError("no loss reaches a weight of the network that is trained")
    (total / passes).backward()
    return {**values, f"{source.name}/total": total.detach()}


@contextmanager
def _memory_explained(sample: Sample) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # CUDA has an error of its own; that of a processor is told by its words
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        clips, _, _, height, width = sample.views.images.shape
        raise MemoryLimitError(
            f"out of memory in a pass of {clips} clips of {width}x{height}: "
            "more passes (Schedule.passes) take fewer clips at a time"
        ) from error


def _named(losses: tuple[Loss, ...]) -> Iterator[tuple[str, Loss]]:
    """By their classes; the second of a class is called so."""
    seen: Counter[str] = Counter()
    for loss in losses:
        name = type(loss).__name__
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}{seen[name]}", loss


@torch.no_grad()
def validate(
    model: Reconstructor, validation: Validation, clip: Clip, size: int, where: Place, workers: int
) -> dict[str, float]:
    """Means over the clips set apart, in batches of this size that take the clip's framings in turn.

    A batch that says NaN of something takes no part in its mean, which is NaN where none does.
    Neither the network nor the run's random numbers are changed.
    """
    numbers = validation.numbers
    draws = [
        Draw(0, tuple(numbers[first : first + size]), clip.framing(batch))
        for batch, first in enumerate(range(0, len(numbers), size))
    ]
    before, training = random_state(where.device), model.training
    torch.manual_seed(0)
    model.eval()
    sums: dict[str, float] = {}
    clips: dict[str, int] = {}
    sources = [Source(name="validation", dataset=validation.dataset, losses=())]
    with closing(batches(sources, draws, workers)) as all_fetched:
        for fetched in all_fetched:
            sample = on_device(fetched.clips, where.device)
            measured = validation.measure(predict(model, sample.views, clip, where), sample)
            for name, value in measured.items():
                counted = 0 if math.isnan(value) else len(fetched.draw.numbers)
                clips[name] = clips.get(name, 0) + counted
                sums[name] = sums.get(name, 0.0) + (value * counted if counted else 0.0)
    model.train(training)
    set_random_state(before, where.device)
    return {name: total / clips[name] if clips[name] else math.nan for name, total in sums.items()}
