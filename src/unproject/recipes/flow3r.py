"""Flow3r (arXiv 2602.20157) in the two stages of its paper, on whatever sources one has.

    sources = labelled("scannet", rooms), unlabelled("kinetics", TaughtFlow(dataset=videos, teacher=DisTeacher()))
    first = train(stage_one(sources[:1]), "runs/head", start="pi3.safetensors")
    train(stage_two(sources), "runs/flow3r", start=first.weights)

The paper gives neither weights of losses nor a schedule. Losses, optimiser, image sizes and numbers of
views are π³'s (arXiv 2507.13347), whose network it begins from; pairs, batches, numbers of steps and shares are our
choice.
"""

from dataclasses import replace

from unproject.data.base import Dataset
from unproject.losses.flow import FlowLoss
from unproject.losses.multiview import MultiViewLoss
from unproject.models import flow3r as network
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation

FEWEST_VIEWS, VIEWS = 2, 24
"""Of a clip. π³ keeps the images of a pass the same in number; here its clips are, so fewer views are less work."""
SMALL = ((224, 224),)
SIZES = (
    (504, 504), (434, 574), (574, 434), (406, 616), (616, 406), (378, 672), (672, 378),
    (322, 322), (280, 420), (420, 280), (252, 448), (448, 252), (224, 448), (448, 224),
)  # fmt: skip
"""(height, width) in whole patches: π³'s range of 100 to 255 thousand pixels and of aspects from a half to two."""

RECOMPUTED = ("encoder", "decoder")
"""Encoder and trunk are computed twice, as π³'s are but for the trunk's first four blocks."""


def labelled(name: str, dataset: Dataset, *, sharp: bool = True, share: float = 1.0) -> Source:
    """Clips with points, poses and flow. Not ``sharp``: depth came from a sensor, and its normals teach nothing."""
    return Source(
        name=name, dataset=dataset, losses=(MultiViewLoss(normals=1.0 if sharp else 0.0), FlowLoss()), share=share
    )


def unlabelled(name: str, dataset: Dataset, *, share: float = 1.0) -> Source:
    """Clips with flow, such as a teacher gives (`recipes.taught.TaughtFlow`)."""
    return Source(name=name, dataset=dataset, losses=(FlowLoss(),), share=share)


def stage_one(sources: tuple[Source, ...], *, passes: int = 1, validation: Validation | None = None) -> Recipe:
    """The flow head alone, on labelled clips at 224 x 224, from the weights of π³."""
    return Recipe(
        name="flow3r-stage-one",
        model=network.config("large"),
        sources=tuple(replace(source, losses=(FlowLoss(),)) for source in sources),
        clip=_clip(SMALL),
        schedule=_schedule(steps=10_000, passes=passes),
        validation=validation,
        trained=("flow_head",),
    )


def stage_two(sources: tuple[Source, ...], *, passes: int = 1, validation: Validation | None = None) -> Recipe:
    """Everything, on labelled and unlabelled clips of random sizes, from the weights of stage one.

    The encoder learns at a tenth of the rate, which is π³'s where it is not held fast.
    """
    schedule = _schedule(steps=64_000, passes=passes)
    return Recipe(
        name="flow3r-stage-two",
        model=network.config("large"),
        sources=sources,
        clip=_clip(SIZES),
        schedule=replace(schedule, recomputed=RECOMPUTED, part_rates=(("encoder", 0.1),)),
        validation=validation,
    )


def ring(views: int) -> tuple[tuple[int, int], ...]:
    """Each view to the next, the last to the first: of views in no order, pairs with gaps of every size."""
    return tuple((view, (view + 1) % views) for view in range(views))


def _clip(sizes: tuple[tuple[int, int], ...]) -> Clip:
    return Clip(sizes=sizes, views=VIEWS, fewest_views=FEWEST_VIEWS, pairs=ring, intrinsics=False)


def _schedule(steps: int, passes: int) -> Schedule:
    """From π³'s rate at once, along half a cosine to nearly nothing."""
    return Schedule(
        steps=steps,
        batch=32,
        passes=passes,
        learning_rate=5e-5,
        last_learning_rate=5e-10,
        warmup_steps=0,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        clip_norm=1.0,
    )
