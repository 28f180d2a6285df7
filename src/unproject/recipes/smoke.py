"""A run of a minute on one processor core that shows whether learning works: Flow4R by heart, on two pairs of views."""

from unproject.data.base import Chosen
from unproject.data.pairs import SyntheticPairs
from unproject.evaluation.pairs import pair_metrics
from unproject.losses.motion import MotionLoss
from unproject.models import flow4r as network
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation

PAIRS = (12, 63)
"""Of the first 128, two in which things that move by themselves pull the pose most: what W must leave alone."""


def smoke(steps: int = 600) -> Recipe:
    """The losses fall, the pose finds its place, and W leaves what moves; nothing of it holds for other scenes."""
    pairs = Chosen(dataset=SyntheticPairs(augmentation=None, gap_s=(1.0, 2.5)), numbers=PAIRS)
    return Recipe(
        name="smoke",
        model=network.config("tiny", head="linear"),
        sources=(Source(name="synthetic", dataset=pairs, losses=(MotionLoss(),)),),
        clip=Clip(sizes=((48, 64),), intrinsics=False),
        schedule=Schedule(
            steps=steps,
            batch=len(PAIRS),
            learning_rate=2e-3,
            last_learning_rate=2e-5,
            warmup_steps=30,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        validation=Validation(
            dataset=pairs, numbers=tuple(range(len(PAIRS))), measure=pair_metrics, every=max(1, steps // 3)
        ),
    )
