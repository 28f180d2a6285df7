"""What a recipe comes to, before anything is written: sizes, sources, and the memory that a step takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unproject.data.base import Dataset
from unproject.models.base import Reconstructor
from unproject.training.checkpoint import fresh_state
from unproject.training.device import Place, place
from unproject.training.door import check_numbers, check_sources
from unproject.training.recipe import Clip, Recipe, Source

BASE_BYTES = 0.5e9
"""Libraries of a process."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `train` would do."""

    recipe: str
    network: str
    parameters: int
    steps: int
    clips: int
    """Over the whole run, with repetition where a dataset ends."""
    batch: str
    sizes: tuple[str, ...]
    """Width x height, in pixels."""
    sources: tuple[str, ...]
    learning_rate: str
    validation: str
    device: str
    dtype: str
    memory_gib: float
    """Of the process that trains, about: weights, their gradients and averages, and what a pass keeps in float32."""


def plan(recipe: Recipe, *, device: str = "auto", dtype: str = "auto") -> Plan:
    """Run every source once with one clip, as `train` does before step 0, and say what the run comes to."""
    check_numbers(recipe)
    where, schedule = place(device, dtype), recipe.schedule
    state = fresh_state(recipe, where)
    kept = max(_kept_bytes(state.model, replace(recipe, sources=(source,)), where) for source in recipe.sources)
    weights = sum(parameter.numel() for parameter in state.model.parameters())
    learned = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    numbers = weights * (1 + (state.average is not None)) + 3 * learned  # gradients and two moments of what learns
    size = schedule.batch // schedule.passes
    shares = sum(source.share for source in recipe.sources)
    passes = f" in {schedule.passes} passes" if schedule.passes > 1 else ""
    return Plan(
        recipe=recipe.name,
        network=type(state.model).__name__,
        parameters=weights,
        steps=schedule.steps,
        clips=schedule.steps * schedule.batch,
        batch=f"{schedule.batch} clips of {_views(recipe.clip)} views{passes}",
        sizes=tuple(f"{width}x{height}" for height, width in recipe.clip.sizes),
        sources=tuple(_words(source, source.share / shares) for source in recipe.sources),
        learning_rate=f"{schedule.warmup_steps} steps up to {schedule.learning_rate:g}, "
        f"then down to {schedule.last_learning_rate:g}"
        + "".join(f"; {factor:g} of that for {part}" for part, factor in schedule.part_rates or ()),
        validation="none"
        if recipe.validation is None
        else f"{len(recipe.validation.numbers)} clips every {recipe.validation.every} steps",
        device=str(where.device),
        dtype=str(where.dtype).removeprefix("torch."),
        memory_gib=round((BASE_BYTES + 4 * numbers + size * kept) / 2**30, 2),
    )


def _kept_bytes(model: Reconstructor, recipe: Recipe, where: Place) -> int:
    """What a pass of one clip of the recipe's only source keeps."""
    with kept_bytes(model) as kept:
        check_sources(model, recipe, where, clips=1)
    return kept.bytes


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator["Kept"]:
    """Counts what forward passes inside it keep for the backward ones, beside the weights."""
    kept = Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        yield kept


class Kept:
    """The count of `kept_bytes`: each storage once, however many operations keep it."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(self, tensor: Tensor) -> Tensor:
        """A tensor is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        """It is asked for again, as it was."""
        return tensor


def _words(source: Source, share: float) -> str:
    losses = " and ".join(type(loss).__name__ for loss in source.losses)
    return f"{source.name} ({share:.0%}): {type(source.dataset).__name__}, {_clips(source.dataset)}, {losses}"


def _views(clip: Clip) -> str:
    return f"{clip.views}" if len(clip.drawn_views) == 1 else f"{clip.fewest_views} to {clip.views}"


def _clips(dataset: Dataset) -> str:
    return "endless" if dataset.count is None else f"{dataset.count} clips"
