"""Tables 1 and 4 of Flow3r in small: what flow on unlabelled clips teaches a tiny network of geometry, by design.

    for recipe in designs("factored", seed=0): ...  # each begins from the weights of the one before

Both domains are synthetic worlds: that with labels is filmed calmly through one kind of lens, that without has other
textures, colours, lenses, and more motion; what is measured is clips of the second that nothing was trained on.
"""

from dataclasses import replace
from functools import partial
from typing import Literal

from unproject.data.base import Chosen, Dataset, FlowOnly, Remembered
from unproject.data.clips import SyntheticClips
from unproject.evaluation.views import view_metrics
from unproject.losses.base import Loss
from unproject.losses.flow import FlowLoss, ProjectiveFlowLoss
from unproject.losses.multiview import MultiViewLoss
from unproject.models import flow3r as network
from unproject.models.multiview import SIZES
from unproject.nn.vit import VitShape
from unproject.recipes.flow3r import ring
from unproject.recipes.taught import TaughtFlow
from unproject.teachers.base import Teacher
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation

Design = Literal["none", "projective", "tracking", "factored"]
DESIGNS: tuple[Design, ...] = ("none", "projective", "tracking", "factored")
"""Rows of table 1: 3d-sup, flow-projective, flow-tracking, flow-factored."""
LABELLED = SyntheticClips(seed=20, span_s=(0.6, 1.5), field_of_view_deg=(58.0, 66.0), wander=4.0, augmentation=None)
UNLABELLED = SyntheticClips(
    seed=21, span_s=(0.8, 2.6), field_of_view_deg=(42.0, 78.0), wander=4.0, textures=1, colour=0.5, augmentation=None
)
HELD_OUT = replace(UNLABELLED, seed=22)
BEGINNING = replace(LABELLED, seed=19)
"""What the weights that everything begins from have seen."""
SHAPE = replace(SIZES["tiny"], encoder=VitShape(dim=64, depth=2, heads=2, patch=10, grid=5), task_depth=4)
VIEWS, SIZE, BATCH, BEGUN, TRIED = 3, (40, 50), 12, 1024, 256
"""Views of a clip, their height and width, clips of a pass, clips to begin with, and clips that are measured."""
GEOMETRY = MultiViewLoss(normals=0.0, rotation=1.0, translation=300.0, confidence=0.0)
"""A hand's baselines are a twentieth of what it films: by π³'s weights, whose Huber distance is a square there, poses
would count for a hundredth of points. Normals would take a third of the time, and confidence is not measured."""


def designs(
    design: Design | None,
    *,
    seed: int = 0,
    backbone: Literal["pi3", "vggt"] = "pi3",
    labelled: int = 512,
    unlabelled: int = 1024,
    teacher: Teacher | None = None,
    steps: int = 600,
) -> tuple[Recipe, ...]:
    """The stages of one run, in order; the first is the same for all designs, so one run of it serves all.

    A beginning that knows how to match, as that of the paper's networks does (VGGT, π³): geometry and flow by matching,
    from labels of many other clips. Then, where the design has a head of flow, that head alone on labelled clips; then
    everything on labelled and unlabelled ones, as many passes of each.

    Args:
        design: how flow is told; ``none`` sees labelled clips only, None ends with the beginning.
        seed: of the weights and of the order of clips.
        backbone: of π³, or like VGGT's.
        labelled: how many labelled clips there are.
        unlabelled: how many clips with flow alone there are; 0 for flow on labelled clips only.
        teacher: of the unlabelled clips' flow; None for the exact flow of the world.
        steps: of the last stage; the beginning has five thirds of it, the head a quarter.
    """
    stage = partial(_stage, seed)
    others = Source(name="others", dataset=_some(BEGINNING, BEGUN), losses=(GEOMETRY, FlowLoss()))
    schedule = _schedule(5 * steps // 3, passes=1, rate=3e-3)
    stages = [stage("beginning", _config("tracking", backbone), (others,), schedule)]
    if design is None:
        return tuple(stages)
    known, model = _some(LABELLED, labelled), _config(design, backbone)
    flow: tuple[Loss, ...] = () if design == "none" else (_flow_loss(design),)
    if model.flow:
        source = Source(name="labelled", dataset=known, losses=flow)
        schedule = _schedule(max(1, steps // 4), passes=1, rate=3e-3)
        stages.append(stage(f"head, {design}", model, (source,), schedule, trained=("flow_head",)))
    sources = [Source(name="labelled", dataset=known, losses=(GEOMETRY, *flow))]
    if flow and unlabelled:
        sources.append(Source(name="unlabelled", dataset=_some(UNLABELLED, unlabelled, teacher), losses=flow))
    schedule = _schedule(steps, passes=len(sources), rate=1.5e-3)
    return (*stages, stage(f"all, {design}", model, tuple(sources), schedule))


def _config(design: Design, backbone: Literal["pi3", "vggt"]) -> network.Flow3rConfig:
    head: Literal["factored", "tracking"] = "tracking" if design == "tracking" else "factored"
    told = design in ("tracking", "factored")
    return replace(network.config("tiny", flow=told, flow_head=head, backbone=backbone), shape=SHAPE)


def _stage(
    seed: int,
    name: str,
    model: network.Flow3rConfig,
    sources: tuple[Source, ...],
    schedule: Schedule,
    trained: tuple[str, ...] | None = None,
) -> Recipe:
    """What all stages have in common: clips, and what is measured at their end."""
    tried = tuple(range(TRIED))
    return Recipe(
        name=f"flow designs: {name}, {model.backbone}",
        model=model,
        sources=sources,
        clip=Clip(sizes=(SIZE,), views=VIEWS, pairs=ring(VIEWS), intrinsics=False),
        schedule=schedule,
        validation=Validation(dataset=HELD_OUT, numbers=tried, measure=view_metrics, every=schedule.steps),
        seed=seed,
        trained=trained,
    )


def _flow_loss(design: Design) -> FlowLoss:
    return ProjectiveFlowLoss() if design == "projective" else FlowLoss()


def _some(domain: Dataset, clips: int, teacher: Teacher | None = None) -> Dataset:
    """So many clips of a domain, made once; of the unlabelled one no more than flow."""
    some: Dataset = Chosen(dataset=domain, numbers=tuple(range(clips)))
    if domain is UNLABELLED:
        some = FlowOnly(dataset=some) if teacher is None else TaughtFlow(dataset=some, teacher=teacher, times=2)
    return Remembered(dataset=some)


def _schedule(steps: int, passes: int, rate: float) -> Schedule:
    """The same number of labelled clips in every design."""
    return Schedule(
        steps=steps,
        batch=BATCH * passes,
        passes=passes,
        learning_rate=rate,
        last_learning_rate=rate / 100,
        warmup_steps=min(50, steps // 4),
        weight_decay=0.02,
        clip_norm=1.0,
    )
