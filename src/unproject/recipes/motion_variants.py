"""Table 3 of Flow4R at small scale: what the network predicts of motion, and what of it is compared with the truth."""

from dataclasses import replace
from typing import Literal

from unproject.data.base import Chosen
from unproject.data.pairs import SyntheticPairs
from unproject.evaluation.pairs import pair_metrics
from unproject.losses.motion import MotionLoss
from unproject.models import flow4r as network
from unproject.recipes.smoke import smoke
from unproject.training.recipe import Recipe, Source, Validation

VARIANTS: dict[str, tuple[Literal["target_points", "scene_flow"], bool]] = {
    "P_vt, P_vt": ("target_points", False),
    "F, P_vt": ("scene_flow", False),
    "F, F": ("scene_flow", True),
}
"""(predicted, compared): the rows of the paper's table, the first being its choice."""


def motion_variant(name: str, *, seed: int, pairs: int = 32, steps: int = 1000) -> Recipe:
    """One row: the tiny network on so many pairs, measured on these; a transformer of this size learns no others.

    KeyError for a row that the table has not.
    """
    motion, compare_flow = VARIANTS[name]
    parent = smoke(steps)
    clips = Chosen(dataset=SyntheticPairs(augmentation=None, gap_s=(0.6, 1.5)), numbers=tuple(range(pairs)))
    return replace(
        parent,
        name=f"motion variant {name}",
        model=network.config("tiny", head="linear", motion=motion),
        sources=(Source(name="synthetic", dataset=clips, losses=(MotionLoss(compare_flow=compare_flow),)),),
        schedule=replace(parent.schedule, batch=4),
        validation=Validation(dataset=clips, numbers=tuple(range(pairs)), measure=pair_metrics, every=steps),
        seed=seed,
    )
