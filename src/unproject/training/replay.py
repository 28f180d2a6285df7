"""A bad step done again from what was put aside, with an eye on where the first number stops being finite."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unproject.data.base import Sample
from unproject.errors import InputError
from unproject.training import bad_step, checkpoint
from unproject.training.checkpoint import State, fresh_state
from unproject.training.device import Place, place
from unproject.training.folder import require_same
from unproject.training.passes import forward_backward
from unproject.training.recipe import Recipe, Source


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What doing a bad step again showed, pass by pass until the first bad one."""

    step: int
    bad_pass: int | None
    """Number of the first pass that is not finite; None where all are, now."""
    clips: tuple[str, ...]
    """Names of its clips."""
    losses: dict[str, float]
    """Its losses."""
    bad_images: bool
    """The images themselves are not finite."""
    module: str | None
    """The first part of the network whose result is not finite, going forward."""
    operation: str | None
    """What autograd says of the first operation whose gradient is not finite, going backward."""
    weights: tuple[str, ...]
    """Weights whose gradient is not finite, after the pass."""


def replay(recipe: Recipe, folder: str | Path, *, device: str = "auto", dtype: str = "auto") -> Replay:
    """Do the step again that a run put aside in ``folder`` (``RUN/bad_step_N``). Nothing is written.

    Raises:
        UsageError: the recipe is not the one of the run.
        InputError: there is no such step.
    """
    folder, where = Path(folder).expanduser().absolute(), place(device, dtype)
    if not (folder / bad_step.CLIPS).is_file():
        raise InputError(f"{folder} holds no step that was put aside; name a folder bad_step_N of a run")
    require_same(folder.parent, recipe)
    state = fresh_state(recipe, where)
    checkpoint.restore(state, checkpoint.read(folder / bad_step.STATE), where.device)
    passes = bad_step.read_clips(folder)
    for number, (source, sample) in enumerate(passes):
        found = _look(state, recipe, recipe.sources[source], sample, where, number)
        if found.bad_pass is not None or number + 1 == len(passes):
            return found
    raise InputError(f"{folder} holds no clips; name another folder")


def _look(state: State, recipe: Recipe, source: Source, sample: Sample, where: Place, number: int) -> Replay:
    """One pass under watch."""
    operation, losses = None, {}
    with _watched(state.model) as bad_modules, warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("ignore")  # autograd warns of what it then raises
        try:
            values = forward_backward(state.model, source, sample, recipe.clip, where, recipe.schedule.passes)
            losses = {name: value.item() for name, value in values.items()}
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            operation = str(error)
    named = state.model.named_parameters()
    weights = tuple(name for name, weight in named if weight.grad is not None and not weight.grad.isfinite().all())
    bad = bool(bad_modules or operation or weights or not all(map(math.isfinite, losses.values())))
    return Replay(
        step=state.step,
        bad_pass=number if bad else None,
        clips=sample.names,
        losses=losses,
        bad_images=not bool(sample.views.images.isfinite().all()),
        module=bad_modules[0] if bad_modules else None,
        operation=operation,
        weights=weights,
    )


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules whose results are not finite, innermost first, as they come."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, given: Any, result: Any) -> None:
            del module, given
            tensors = [result] if isinstance(result, Tensor) else [t for t in _items(result) if isinstance(t, Tensor)]
            if not all(tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()):
                found.append(name or "the network")

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _items(result: Any) -> tuple[Any, ...]:
    if isinstance(result, tuple | list):
        return tuple(result)
    return tuple(vars(result).values()) if hasattr(result, "__dict__") else ()
