"""The whole state of a run, so that one that was killed goes on bit by bit as if it had not been."""

import copy
import pickle
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unproject.errors import InputError, UnprojectError
from unproject.io.disk import written_whole
from unproject.models.base import Reconstructor
from unproject.models.build import from_config
from unproject.training.device import Place
from unproject.training.log import Meter
from unproject.training.optimiser import make_optimiser
from unproject.training.parts import hold, recompute
from unproject.training.recipe import Recipe


@dataclass
class State:
    """Everything that changes while a run lasts."""

    model: Reconstructor
    optimiser: torch.optim.Optimizer
    average: Reconstructor | None
    """The moving average of the weights, as a network of its own."""
    meter: Meter
    step: int = 0
    """Steps that are done; passes drawn are `step` times the schedule's passes."""
    validated: dict[str, float] | None = None
    """The last validation's result."""

    @property
    def best_known(self) -> Reconstructor:
        """What is validated and kept as the run's weights."""
        return self.model if self.average is None else self.average

    def keep_licence(self, licence: str | None) -> None:
        """What began from somebody's weights goes by their licence."""
        self.model.licence = licence
        if self.average is not None:
            self.average.licence = licence


def fresh_state(recipe: Recipe, where: Place) -> State:
    """A network with the recipe's random numbers, and nothing learned."""
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    model = from_config(recipe.model).to(where.device).train()
    hold(model, recipe.trained)
    recompute(model, recipe.schedule.recomputed)
    average = None
    if recipe.schedule.ema_decay is not None:
        average = copy.deepcopy(model).requires_grad_(False).eval()
    return State(model, make_optimiser(model, recipe.schedule), average, Meter())


def random_state(device: torch.device) -> dict[str, Any]:
    """Where all generators of random numbers stand, in types that are read back without running code."""
    version, numbers, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Inverse of `random_state`. A run that goes on where there is no CUDA leaves that generator's state unread."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def capture(state: State, rng: dict[str, Any], log_bytes: int) -> dict[str, Any]:
    """All of it as plain values; ``log_bytes`` of the log belong to it."""
    return {
        "step": state.step,
        "licence": state.model.licence,
        "model": state.model.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "meter": state.meter.values(),
        "validated": state.validated,
        "random": rng,
        "log_bytes": log_bytes,
    }


def restore(state: State, kept: dict[str, Any], device: torch.device) -> None:
    """Inverse of `capture`."""
    state.model.load_state_dict(kept["model"])
    if state.average is not None:
        state.average.load_state_dict(kept["average"])
    state.optimiser.load_state_dict(kept["optimiser"])
    state.meter.set_values(kept["meter"])
    state.step, state.validated = kept["step"], kept["validated"]
    state.keep_licence(kept["licence"])
    set_random_state(kept["random"], device)


def write(path: Path, kept: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    with written_whole(path) as beside:
        try:
            torch.save(kept, beside)
        except RuntimeError as error:  # torch's own writer says nothing else where a disk is full
            raise UnprojectError(f"cannot write {path}: {error}; free some space, then --resume") from error


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, on the CPU; no code in it is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); --overwrite starts again") from error
