"""Flow4R in the two stages of its paper (arXiv 2602.14021, tables 4 and 5), on whatever sources one has.

What the paper leaves open is as in DUSt3R: AdamW, the list of sizes, and a second stage that begins with the trunk of
the first and a fresh head: ``train(stage_two(sources), folder, start="STAGE_ONE/weights.safetensors")``.
"""

from unproject.models import flow4r as network
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation

LANDSCAPES = ((384, 512), (336, 512), (288, 512), (256, 512), (160, 512))
"""(height, width): DUSt3R's list of aspects."""
PORTRAITS = tuple((width, height) for height, width in LANDSCAPES)


def stage_one(sources: tuple[Source, ...], *, passes: int = 1, validation: Validation | None = None) -> Recipe:
    """Linear head at 224 x 224: 100 epochs of 900 thousand pairs, from CroCo v2 in the paper."""
    return Recipe(
        name="flow4r-stage-one",
        model=network.config("large", head="linear"),
        sources=sources,
        clip=Clip(sizes=((224, 224),), intrinsics=False),
        schedule=_schedule(pairs=900_000, batch=256, warmup_epochs=10, passes=passes),
        validation=validation,
    )


def stage_two(sources: tuple[Source, ...], *, passes: int = 1, validation: Validation | None = None) -> Recipe:
    """DPT head at 512 pixels along the longer side, of random aspect: 100 epochs of 84 thousand pairs."""
    return Recipe(
        name="flow4r-stage-two",
        model=network.config("large", head="dpt"),
        sources=sources,
        clip=Clip(sizes=LANDSCAPES + PORTRAITS, intrinsics=False),
        schedule=_schedule(pairs=84_000, batch=64, warmup_epochs=20, passes=passes),
        validation=validation,
    )


def _schedule(pairs: int, batch: int, warmup_epochs: int, passes: int) -> Schedule:
    """100 epochs of so many pairs; what is left over of an epoch begins the next one."""
    return Schedule(
        steps=100 * pairs // batch,
        batch=batch,
        passes=passes,
        learning_rate=1e-4,
        last_learning_rate=1e-6,
        warmup_steps=warmup_epochs * pairs // batch,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        clip_norm=10.0,
    )
