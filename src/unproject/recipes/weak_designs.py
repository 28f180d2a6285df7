"""Reliev3R's comparisons in small: what a tiny network learns from relative depth and tracks, by loss and by rays.

    for recipe in weak_designs(seed=0): ...  # each begins from the weights of the one before

Clips are of still synthetic worlds. Their labels are what teachers would say (`data.weak.Weakened`); what is measured
is clips of the same kind that nothing was trained on.
"""

from dataclasses import replace
from functools import partial

from unproject.data.base import Chosen, Dataset, Remembered
from unproject.data.clips import SyntheticClips
from unproject.data.weak import Weakened
from unproject.data.zoomed import Zoomed
from unproject.evaluation.scene import scene_metrics
from unproject.losses.base import Loss
from unproject.losses.multiview import MultiViewLoss
from unproject.losses.weak import WeakLoss
from unproject.models import reliev3r as network
from unproject.models.multiview import SIZES
from unproject.models.reliev3r import Rays
from unproject.nn.vit import VitShape
from unproject.recipes.reliev3r import with_labelled_rays
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation

VIDEOS = SyntheticClips(
    seed=30, span_s=(1.2, 2.8), field_of_view_deg=(42.0, 78.0), sweep=1.2, moving=False, textures=1, augmentation=None
)
"""The footage that is learned from."""
HELD_OUT = replace(VIDEOS, seed=31)
SYNTHETIC = SyntheticClips(
    seed=32, span_s=(0.8, 1.6), field_of_view_deg=(58.0, 66.0), sweep=1.2, moving=False, augmentation=None
)
"""Of which all is known, for the supplement's first stage: other textures, one kind of lens, less motion."""
SHAPE = replace(SIZES["tiny"], encoder=VitShape(dim=64, depth=2, heads=2, patch=10, grid=5), task_depth=4)
VIEWS, SIZE, BATCH, CLIPS, TRIED = 4, (40, 50), 12, 2048, 256
"""Views of a clip, their height and width, clips of a pass, clips of each kind, and clips that are measured."""
WEAK = WeakLoss(least_shared=8)
"""Small images share fewer tracks."""
SUPERVISED = MultiViewLoss(normals=0.0, confidence=0.0)
"""By π³'s weights; normals would take a third of the time, and confidence is not measured."""
HELD = with_labelled_rays(WEAK)
ANGLE = WeakLoss(depth=0.0, registration=0.0, gauge=0.0, view_angle=1.0)


def _some(domain: Dataset) -> Dataset:
    return Remembered(dataset=Chosen(dataset=domain, numbers=tuple(range(CLIPS))))


ALL_KNOWN = _some(VIDEOS)
"""Clips of `VIDEOS`, for full supervision."""
FOOTAGE = Weakened(dataset=ALL_KNOWN)
"""What teachers say of them."""
ROUGHLY = 0.1
"""How far a teacher is off that guesses the focal length, as a share."""
CROPPED = Weakened(dataset=_some(Zoomed(dataset=VIDEOS)), lens_error=ROUGHLY)
"""Such guesses, and a part of each clip's images, so that no lens is learned by heart (the supplement)."""


def weak_designs(
    losses: tuple[Loss, ...] = (WEAK,),
    *,
    footage: Dataset | None = None,
    measured: Validation | None = None,
    seed: int = 0,
    rays: Rays = "given",
    warm: bool = False,
    steps: int = 800,
) -> tuple[Recipe, ...]:
    """The stages of one run, in order.

    Args:
        losses: what is learned from footage; none for the first stage alone.
        footage: what is learned from, if not `FOOTAGE`, or `ALL_KNOWN` where supervision is full.
        measured: what is measured, if not on `HELD_OUT` after each stage.
        seed: of the weights and of the order of clips.
        rays: where intrinsics come from. Those that are found are labelled only if a loss asks for it.
        warm: begin with a supervised stage of as many steps on synthetic clips.
        steps: of each stage.
    """
    measured = measured or Validation(dataset=HELD_OUT, numbers=tuple(range(TRIED)), measure=scene_metrics, every=steps)
    stage = partial(_stage, measured=measured, seed=seed, rays=rays, steps=steps)
    stages = []
    if warm:
        known = (SUPERVISED, ANGLE) if rays == "found" else (SUPERVISED,)
        stages.append(stage("warm-up", _some(SYNTHETIC), known))
    if losses:
        if footage is None:
            footage = ALL_KNOWN if SUPERVISED in losses else FOOTAGE
        stages.append(stage("footage", footage, losses))
    return tuple(stages)


def _stage(
    name: str, dataset: Dataset, losses: tuple[Loss, ...], *, measured: Validation, seed: int, rays: Rays, steps: int
) -> Recipe:
    return Recipe(
        name=f"weak designs: {name}, {rays}",
        model=replace(network.config("tiny", rays=rays), shape=SHAPE),
        sources=(Source(name=name, dataset=dataset, losses=losses),),
        clip=Clip(sizes=(SIZE,), views=VIEWS, pairs=(), intrinsics=rays != "found"),
        schedule=Schedule(
            steps=steps,
            batch=BATCH,
            learning_rate=3e-3,
            last_learning_rate=3e-5,
            warmup_steps=min(100, steps // 4),
            weight_decay=0.02,
            clip_norm=1.0,
        ),
        validation=measured,
        seed=seed,
    )
