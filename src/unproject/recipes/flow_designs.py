"""Tables 1 and 4 of Flow3r in small: what flow on unlabelled clips teaches a tiny network of geometry, by design.

    for recipe in designs("factored", seed=0, unlabelled=256): ...  # each begins from the weights of the one before

Both domains are synthetic worlds: that with labels is filmed calmly through one kind of lens, that without has other
textures, colours, lenses, and more motion; what is measured is clips of the second that nothing was trained on.
"""

from dataclasses import replace
from typing import Literal

from unproject.data.base import Chosen, Dataset, FlowOnly, Remembered
from unproject.data.clips import SyntheticClips
from unproject.evaluation.views import view_metrics
from unproject.losses.base import Loss
from unproject.losses.flow import FlowLoss, ProjectiveFlowLoss
from unproject.losses.multiview import MultiViewLoss
from unproject.models import flow3r as network
from unproject.recipes.flow3r import ring
from unproject.recipes.taught import TaughtFlow
from unproject.teachers.base import Teacher
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation

Design = Literal["none", "projective", "tracking", "factored"]
DESIGNS: tuple[Design, ...] = ("none", "projective", "tracking", "factored")
"""Rows of table 1: 3d-sup, flow-projective, flow-tracking, flow-factored."""
LABELLED = SyntheticClips(seed=20, span_s=(0.6, 1.5), field_of_view_deg=(58.0, 66.0), augmentation=None)
UNLABELLED = SyntheticClips(
    seed=21, span_s=(0.8, 2.6), field_of_view_deg=(42.0, 78.0), textures=1, colour=0.5, augmentation=None
)
HELD_OUT = replace(UNLABELLED, seed=22)
VIEWS, SIZE, BATCH, TRIED = 3, (56, 70), 6, 64
"""Views of a clip, their height and width, clips of a pass, and clips that are measured."""
GEOMETRY = MultiViewLoss(rotation=1.0, translation=300.0)
"""A hand's baselines are a twentieth of what it films: by π³'s weights, whose Huber distance is a square there, poses
would count for a hundredth of points."""


def designs(
    design: Design,
    *,
    seed: int = 0,
    backbone: Literal["pi3", "vggt"] = "pi3",
    labelled: int = 64,
    unlabelled: int = 256,
    teacher: Teacher | None = None,
    steps: int = 1000,
) -> tuple[Recipe, ...]:
    """The stages of one run, in order; the first is the same for all designs, so one run of it serves all.

    Geometry from labels; then, where there is a head of flow, that head alone on labelled clips; then everything on
    labelled and unlabelled ones, a pass of each per step.

    Args:
        design: how flow is told; ``none`` sees labelled clips only.
        seed: of the weights and of the order of clips.
        backbone: of π³, or like VGGT's.
        labelled: how many labelled clips there are.
        unlabelled: how many clips with flow alone there are; 0 for flow on labelled clips only.
        teacher: of the unlabelled clips' flow; None for the exact flow of the world.
        steps: of the first and of the last stage each; the head has a quarter.
    """
    known = _some(LABELLED, labelled)
    flow: tuple[Loss, ...] = () if design == "none" else (_flow_loss(design),)
    alone = Recipe(
        name=f"flow designs: geometry, {backbone}",
        model=network.config("tiny", flow=False, backbone=backbone),
        sources=(Source(name="labelled", dataset=known, losses=(GEOMETRY,)),),
        clip=Clip(sizes=(SIZE,), views=VIEWS, pairs=ring(VIEWS), intrinsics=False),
        schedule=_schedule(steps, passes=1),
        validation=Validation(dataset=HELD_OUT, numbers=tuple(range(TRIED)), measure=view_metrics, every=steps),
        seed=seed,
    )
    stages = [alone]
    model = alone.model
    if design in ("tracking", "factored"):
        model = network.config("tiny", flow_head=design, backbone=backbone)
        head = (Source(name="labelled", dataset=known, losses=flow),)
        short = _schedule(max(1, steps // 4), passes=1)
        parts = {"model": model, "sources": head, "schedule": short, "trained": ("flow_head",)}
        stages.append(replace(alone, name=f"flow designs: head, {design}, {backbone}", **parts))
    sources = [Source(name="labelled", dataset=known, losses=(GEOMETRY, *flow))]
    if flow and unlabelled:
        more = _some(UNLABELLED, unlabelled, teacher)
        sources.append(Source(name="unlabelled", dataset=more, losses=flow))
    name = f"flow designs: all, {design}, {backbone}"
    parts = {"model": model, "sources": tuple(sources), "schedule": _schedule(steps, passes=len(sources))}
    return (*stages, replace(alone, name=name, **parts))


def _flow_loss(design: Design) -> FlowLoss:
    return ProjectiveFlowLoss() if design == "projective" else FlowLoss()


def _some(domain: Dataset, clips: int, teacher: Teacher | None = None) -> Dataset:
    """So many clips of a domain, made once; of the unlabelled one no more than flow."""
    some: Dataset = Chosen(dataset=domain, numbers=tuple(range(clips)))
    if domain is UNLABELLED:
        some = FlowOnly(dataset=some) if teacher is None else TaughtFlow(dataset=some, teacher=teacher)
    return Remembered(dataset=some)


def _schedule(steps: int, passes: int) -> Schedule:
    """The same number of labelled clips in every design."""
    return Schedule(
        steps=steps,
        batch=BATCH * passes,
        passes=passes,
        learning_rate=1e-3,
        last_learning_rate=1e-5,
        warmup_steps=min(50, steps // 4),
        weight_decay=0.02,
        clip_norm=1.0,
    )
