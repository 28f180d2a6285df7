"""What is looked at before step 0: a recipe that cannot run fails in seconds, with the name of what is missing."""

from dataclasses import replace

import torch

from unproject.data.base import Framing
from unproject.errors import UsageError
from unproject.models.base import Reconstructor
from unproject.training.checkpoint import random_state, set_random_state
from unproject.training.device import Place
from unproject.training.loader import fetch
from unproject.training.passes import forward_backward, validate
from unproject.training.recipe import Clip, Recipe, Source, Validation
from unproject.training.sampler import Draw


def check_numbers(recipe: Recipe) -> None:
    """UsageError for numbers that make no run."""
    schedule, clip = recipe.schedule, recipe.clip
    if not recipe.sources or not clip.sizes:
        raise UsageError(f"recipe {recipe.name!r} has no {'sizes' if recipe.sources else 'sources'}; give at least one")
    names = [source.name for source in recipe.sources]
    if len(set(names)) < len(names):
        raise UsageError(f"recipe {recipe.name!r}: sources {', '.join(names)} need names of their own")
    for source in recipe.sources:
        if not source.losses or source.share <= 0 or source.dataset.count == 0:
            raise UsageError(f"source {source.name!r} needs a loss, clips, and a share above 0; or leave it out")
    if min(schedule.steps, schedule.batch, schedule.passes) < 1 or schedule.batch % schedule.passes:
        raise UsageError(
            f"a batch of {schedule.batch} in {schedule.passes} passes over {schedule.steps} steps cannot be; "
            "give whole numbers from 1 on, passes dividing the batch"
        )
    if not clip.drawn_views or clip.drawn_views[0] < 1:
        raise UsageError(f"clips of {clip.fewest_views} to {clip.views} views cannot be; give whole numbers from 1 on")
    if len(clip.drawn_views) > 1 and not callable(clip.pairs):
        raise UsageError("clips of several numbers of views need pairs for each: Clip.pairs=a function of the number")
    if not 0 <= recipe.seed < 2**32:
        raise UsageError(f"a seed of {recipe.seed} starts no random numbers; give one from 0 to {2**32 - 1}")
    if recipe.validation is not None and not (recipe.validation.numbers and recipe.validation.every > 0):
        raise UsageError("Validation needs clips (numbers) and every so many steps at least 1; or leave it out")


def check_sources(model: Reconstructor, recipe: Recipe, where: Place, clips: int | None = None) -> None:
    """Every source once forward and backward at every size, and the validation once.

    Neither the network nor the run's random numbers are changed.

    Raises:
        UsageError: a dataset lacks a label that a loss needs, no loss reaches a weight, the network refuses a size, or
            the validation asks for what is not said.
    """
    size = clips or recipe.schedule.batch // recipe.schedule.passes
    before = random_state(where.device)
    buffers = [buffer.clone() for buffer in model.buffers()]
    model.train()
    for number, source in enumerate(recipe.sources):
        for framing, some in _framings(recipe.clip, size):
            _check(model, source, Draw(number, _first(source, some), framing), recipe, where)
    if recipe.validation is not None:
        _check_validation(model, recipe.validation, recipe.clip, where)
    with torch.no_grad():
        for buffer, kept in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(kept)
    set_random_state(before, where.device)


def _check(model: Reconstructor, source: Source, draw: Draw, recipe: Recipe, where: Place) -> None:
    sample = fetch(recipe.sources, draw).clips
    try:
        forward_backward(model, source, sample, recipe.clip, where)
    except (ValueError, UsageError) as error:
        raise UsageError(f"source {source.name!r} cannot be learned from: {error}") from error
    if all(parameter.grad is None for parameter in model.parameters()):
        raise UsageError(f"source {source.name!r} cannot be learned from: no loss reaches a weight of the network")
    model.zero_grad(set_to_none=True)


def _first(source: Source, size: int) -> tuple[int, ...]:
    count = source.dataset.count
    return tuple(number if count is None else number % count for number in range(size))


def _framings(clip: Clip, size: int) -> list[tuple[Framing, int]]:
    """The largest size with a whole pass, for memory; each other with one clip, since a network may refuse it.

    All with the most views; the fewest once, with one clip.
    """
    areas = [height * width for height, width in clip.sizes]
    largest, fewer = areas.index(max(areas)), len(clip.drawn_views) - 1
    fewest = [(clip.framing(fewer * len(areas)), 1)] if fewer else []
    return [(clip.framing(n), size if n == largest else 1) for n in range(len(areas))] + fewest


def _check_validation(model: Reconstructor, validation: Validation, clip: Clip, where: Place) -> None:
    try:
        validate(model, replace(validation, numbers=validation.numbers[:1]), clip, 1, where, workers=0)
    except (ValueError, UsageError) as error:
        raise UsageError(f"the recipe's validation cannot be measured: {error}") from error
