"""Reliev3R (arXiv 2604.00548): weak training from nothing, its supervised sibling, and the supplement's two stages.

    unproject label my_videos -o labels --teacher refine
    unproject train reliev3r --labels labels --size small -o runs/reliev3r

The paper states the losses' weights, 8 views, 60,000 steps, a rate of 1e-4 along a cosine, and no more of the schedule:
optimiser and clip sizes are π³'s (arXiv 2507.13347) or our choice, and footage is not augmented. Its "total batch of
64" is read as 64 clips.
"""

from dataclasses import replace

from unproject.data.base import Dataset
from unproject.data.labels import LabelShards
from unproject.losses.multiview import MultiViewLoss
from unproject.losses.weak import WeakLoss
from unproject.models import reliev3r as network
from unproject.models.reliev3r import Rays
from unproject.recipes.flow3r import RECOMPUTED
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation

VIEWS = 8
SIZES = ((224, 224), (224, 392), (392, 224))
"""(height, width); the paper does not say."""


def weak_source(name: str, dataset: Dataset, loss: WeakLoss | None = None, *, share: float = 1.0) -> Source:
    """Clips with relative depth and tracks (and, for a network that finds its rays, a rough field of view)."""
    return Source(name=name, dataset=dataset, losses=(loss or WeakLoss(),), share=share)


def labelled_source(name: str, dataset: Dataset, *, sharp: bool = True, share: float = 1.0) -> Source:
    """Clips with points and poses. Not ``sharp``: depth came from a sensor, and its normals teach nothing."""
    return Source(name=name, dataset=dataset, losses=(MultiViewLoss(normals=1.0 if sharp else 0.0),), share=share)


def reliev3r(labels: str, size: str = "base") -> Recipe:
    """`weak` on a folder of labels with tracks, intrinsics, and relative depth or, in its place, points.

    Raises:
        UsageError: the labels have not all of these, or no network has that size.
        InputError: the folder holds no labels.
    """
    depth = "mono_depth" if "mono_depth" in LabelShards(folder=labels).labels else "points"
    dataset = LabelShards(folder=labels, needs=(depth, "tracks", "intrinsics"))
    recipe = weak((weak_source("videos", dataset),), size=size, passes=32)
    return replace(recipe, name="reliev3r", clip=replace(recipe.clip, views=min(VIEWS, dataset.fewest_views)))


def weak(
    sources: tuple[Source, ...],
    *,
    size: str = "base",
    rays: Rays = "given",
    passes: int = 1,
    validation: Validation | None = None,
) -> Recipe:
    """The paper's own training: from random weights, no 3D label seen.

    The dataset must tell intrinsics (``Views.intrinsics``), unless ``rays="found"``: then only tracks hold them, which
    the paper does not try. From random weights they do not: rays that all look one way fulfil any track
    (`tests/losses/test_weak.py`), and soon all do. `warm_up` and `finetuned` hold the field of view.
    """
    return Recipe(
        name=f"reliev3r-weak-{rays}",
        model=network.config(size, rays=rays),
        sources=sources,
        clip=_clip(rays),
        schedule=_schedule(60_000, 64, passes),
        validation=validation,
    )


def supervised(
    sources: tuple[Source, ...], *, size: str = "base", passes: int = 1, validation: Validation | None = None
) -> Recipe:
    """The same network on the same clips, with points and poses for half as many steps (the paper's π³†)."""
    recipe = weak(sources, size=size, passes=passes, validation=validation)
    schedule = replace(recipe.schedule, steps=30_000)
    return replace(recipe, name="reliev3r-supervised", schedule=schedule)


def warm_up(
    sources: tuple[Source, ...], *, size: str = "base", passes: int = 1, validation: Validation | None = None
) -> Recipe:
    """The supplement's first stage: a network that finds its rays, on synthetic clips of which all is known."""
    taught = tuple(
        replace(source, losses=(*source.losses, WeakLoss(depth=0, registration=0, gauge=0, view_angle=1.0)))
        for source in sources
    )
    return Recipe(
        name="reliev3r-warm-up",
        model=network.config(size, rays="found"),
        sources=taught,
        clip=_clip("found"),
        schedule=_schedule(20_000, 128, passes),
        validation=validation,
    )


def finetuned(
    sources: tuple[Source, ...], *, size: str = "base", passes: int = 1, validation: Validation | None = None
) -> Recipe:
    """The second: from those weights, on raw video with a rough field of view.

    The supplement crops footage (`data.zoomed.Zoomed`), so that no field of view is learned by heart; where lenses
    differed already that did harm in small (`docs/ablations.md`). The paper does not say whether its angle loss teaches
    predicted rays; here the label alone does, and that made no difference either.
    """
    seen = tuple(
        replace(source, losses=tuple(with_labelled_rays(loss) for loss in source.losses)) for source in sources
    )
    recipe = weak(seen, size=size, rays="found", passes=passes, validation=validation)
    return replace(recipe, name="reliev3r-finetuned", schedule=_schedule(20_000, 64, passes))


def with_labelled_rays(loss: object) -> WeakLoss:
    """The loss for a network that finds its rays: a label holds them, out of reach of the tracks."""
    if not isinstance(loss, WeakLoss):
        raise TypeError(f"finetuned takes sources of weak_source, got a loss {type(loss).__name__}")
    return replace(loss, view_angle=1.0, registers_rays=False)


def _clip(rays: Rays) -> Clip:
    return Clip(sizes=SIZES, views=VIEWS, pairs=(), intrinsics=rays != "found")


def _schedule(steps: int, batch: int, passes: int) -> Schedule:
    return Schedule(
        steps=steps,
        batch=batch,
        passes=passes,
        learning_rate=1e-4,
        last_learning_rate=1e-7,
        warmup_steps=1000,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        clip_norm=1.0,
        recomputed=RECOMPUTED,
    )
