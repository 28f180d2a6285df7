"""The compact network in three stages, on worlds of our own: to match, to see depth and motion, and both in larger."""

from dataclasses import replace

from unproject.data.base import Dataset
from unproject.data.pairs import SyntheticPairs
from unproject.evaluation.pairs import pair_metrics
from unproject.losses.log_geometry import LogGeometryLoss
from unproject.losses.matching import MatchingLoss
from unproject.models import compact as network
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation

SIZES = ((96, 128), (128, 96), (112, 112), (80, 144))
LARGER_SIZES = ((120, 160), (160, 120), (136, 136), (96, 168))
MATCHING_SEED, HELD_OUT_SEED, GEOMETRY_SEED, LARGER_SEED = 0, 1, 2, 3
"""Of worlds: what is measured was never trained on, and later stages see nothing twice."""


def matching(steps: int = 1000, data: Dataset | None = None) -> Recipe:
    """Stage one: flow alone. Depth is what triangulation makes of it."""
    return Recipe(
        name="compact-matching",
        model=replace(network.config(), blocks=0),
        sources=(
            Source(name="synthetic", dataset=data or SyntheticPairs(seed=MATCHING_SEED), losses=(MatchingLoss(),)),
        ),
        clip=Clip(sizes=SIZES),
        schedule=Schedule(
            steps=steps,
            batch=16,
            learning_rate=2e-3,
            last_learning_rate=2e-5,
            warmup_steps=50,
            betas=(0.9, 0.98),
            weight_decay=0.02,
            clip_norm=1.0,
            ema_decay=0.99,
        ),
        validation=held_out(),
    )


def geometry(steps: int = 800, data: Dataset | None = None) -> Recipe:
    """Stage two, from the weights of stage one: matching goes on, and what geometry cannot explain is learned.

    No gradient of the second reaches the first, and each is clipped by itself: together they spoil the flow (measured).
    """
    parent = matching(steps, data or SyntheticPairs(seed=GEOMETRY_SEED))
    source = replace(parent.sources[0], losses=(MatchingLoss(), LogGeometryLoss()))
    return replace(
        parent,
        name="compact",
        model=network.config(),
        sources=(source,),
        schedule=replace(parent.schedule, learning_rate=1.5e-3, last_learning_rate=1.5e-5, clip_parts=True),
    )


def larger(steps: int = 700, data: Dataset | None = None) -> Recipe:
    """Stage three, from the weights of stage two: the same on images as large as those it is used on, more calmly."""
    parent = geometry(steps, data or SyntheticPairs(seed=LARGER_SEED))
    return replace(
        parent,
        name="compact-larger",
        clip=replace(parent.clip, sizes=LARGER_SIZES),
        schedule=replace(parent.schedule, learning_rate=8e-4, last_learning_rate=8e-6),
    )


def held_out(pairs: int = 64) -> Validation:
    """Pairs of worlds of another seed."""
    return Validation(
        dataset=SyntheticPairs(seed=HELD_OUT_SEED), numbers=tuple(range(pairs)), measure=pair_metrics, every=250
    )
