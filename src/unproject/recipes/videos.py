"""A network from a folder of one's own videos, labelled by `unproject label`: no annotation, no structure from motion.

    unproject label my_videos -o labels --teacher flow,tracks,refine
    unproject train videos --labels labels --size small -o runs/mine
    unproject reconstruct clip.mp4 --model runs/mine/weights.safetensors -o out

Flow3r's network with whatever losses the labels allow, so the three systems meet here: factored flow (Flow3r), relative
depth and tracks (Reliev3R), and points and poses where `refine` has solved a clip. Nothing needs known intrinsics.
"""

from unproject.data.labels import LabelShards
from unproject.errors import UsageError
from unproject.losses.base import Loss
from unproject.losses.flow import FlowLoss
from unproject.losses.multiview import MultiViewLoss
from unproject.losses.weak import WeakLoss
from unproject.models import flow3r as network
from unproject.recipes.flow3r import RECOMPUTED, ring
from unproject.training.recipe import Clip, Recipe, Schedule, Source

SIZES = ((224, 224), (168, 294), (294, 168))
"""(height, width) in whole patches."""
MOST_VIEWS, FEWEST_VIEWS = 8, 2


def videos(labels: str, size: str = "small") -> Recipe:
    """All clips of a folder of labels, from random weights or those that one starts from.

    Raises:
        UsageError: the labels say nothing of geometry, or no network has that size.
        InputError: the folder holds no labels.
    """
    dataset = LabelShards(folder=labels)
    return Recipe(
        name="videos",
        model=network.config(size, flow="flow" in dataset.labels),
        sources=(Source(name="videos", dataset=dataset, losses=losses_of(dataset.labels)),),
        clip=Clip(
            sizes=SIZES,
            views=min(MOST_VIEWS, dataset.fewest_views),
            fewest_views=min(FEWEST_VIEWS, dataset.fewest_views),
            pairs=ring,
            intrinsics=False,
        ),
        schedule=Schedule(
            steps=20_000,
            batch=8,
            passes=4,
            learning_rate=1e-4,
            last_learning_rate=1e-7,
            warmup_steps=500,
            weight_decay=0.05,
            clip_norm=1.0,
            recomputed=RECOMPUTED,
        ),
    )


def losses_of(labels: tuple[str, ...]) -> tuple[Loss, ...]:
    """What can be learned from labels of these names."""
    has = frozenset(labels)
    losses: list[Loss] = []
    if {"points", "world_from_cam"} <= has:
        # Where relative depth asks for trust, that is what confidence learns.
        losses.append(MultiViewLoss(normals=0.0, confidence=0.0 if "mono_depth" in has else 0.05))
    if has & {"tracks", "mono_depth"}:
        depth, registration = float("mono_depth" in has), 0.5 * ("tracks" in has)
        # Rays of a map of points are free, each by itself: all turned to one direction, they would fulfil any track.
        losses.append(WeakLoss(depth=depth, registration=registration, registers_rays=False))
    if "flow" in has:
        losses.append(FlowLoss())
    if not losses:
        raise UsageError("the labels hold no flow, tracks, depth or points: label with --teacher flow,tracks,refine")
    return tuple(losses)
