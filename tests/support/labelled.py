"""Labelled clips of the synthetic world, and folders of them as `unproject label` leaves them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from unproject.data.synthetic import handheld, render, sample_world
from unproject.geometry.camera import intrinsics_from_focal
from unproject.io.shard_index import INDEX, Unit, write_index, write_unit
from unproject.io.shards import LabelledClip, Rejection, Row, write_shard
from unproject.types import Known, Labels, Tracks


def ring(views: int) -> tuple[tuple[int, int], ...]:
    return tuple((view, (view + 1) % views) for view in range(views))


@lru_cache
def labelled_clip(
    number: int, *, views: int = 4, height: int = 60, width: int = 90, both_ways: bool = False
) -> LabelledClip:
    """Everything that a shard can hold, all of it true; nothing moves but the camera."""
    pairs = ring(views) + (tuple((t, s) for s, t in ring(views)) if both_ways else ())
    world = sample_world(number, batch=1, moving=False)
    times = torch.linspace(0.2, 0.9, views)[None]
    intrinsics = intrinsics_from_focal(torch.full_like(times, 0.8 * max(height, width)), width, height)
    path = handheld(world.stage, number, duration_s=1.0)
    rendering = render(world, path, times, intrinsics, height, width)
    labels = rendering.labels(torch.tensor(pairs))
    images = (rendering.images[0] * 255).round().to(torch.uint8)
    return LabelledClip(
        file=f"videos/{number} of ours.mp4",
        frames=tuple(range(5, 5 + 3 * views, 3)),
        times_s=tuple(0.1 * view for view in range(views)),
        images=images.permute(0, 2, 3, 1).contiguous().numpy(),
        pairs=pairs,
        labels=Labels(
            points=labels.points,
            world_from_cam=labels.world_from_cam,
            intrinsics=labels.intrinsics,
            flow=labels.flow,
            mono_depth=Known(3 * labels.points.value[..., 2], labels.points.weight),
            tracks=tracks_of(labels, pairs),
        ),
        quality={"covisible": 0.75, "cycle_px": 0.25},
    )


def tracks_of(labels: Labels, pairs: Sequence[tuple[int, int]], count: int = 30) -> Tracks:
    """One track for each of some pixels of each pair's source that its target sees, and its place there."""
    rows = []
    for number, (source, target) in enumerate(pairs):
        seen = (labels.flow.weight[0, number] > 0).nonzero()
        for row, column in seen[:: max(1, len(seen) // count)].tolist():
            start = torch.tensor([column + 0.5, row + 0.5])
            end = start + labels.flow.value[0, number, row, column]
            rows.append(sorted([(source, start), (target, end)], key=lambda seen: seen[0]))
    return Tracks(
        view=torch.tensor([view for both in rows for view, _ in both]),
        track=torch.arange(len(rows)).repeat_interleave(2),
        uv=torch.stack([uv for both in rows for _, uv in both]),
        weight=torch.linspace(0.2, 1.0, 2 * len(rows)),
    )


def write_library(folder: Path, units: Sequence[Sequence[LabelledClip]]) -> tuple[Row, ...]:
    """A folder of labels, finished."""
    rows: tuple[Row, ...] = ()
    for number, clips in enumerate(units):
        shard = folder / "shards" / f"{number:06d}.tar"
        some = write_shard(shard, [(f"{number:06d}-{place:06d}-0000", clip) for place, clip in enumerate(clips)])
        refused = Rejection(file="videos/torn.mp4", where="", reason="no frame can be decoded")
        write_unit(folder / "units" / f"{number:06d}.json", Unit.of(shard, some, (refused,)))
        rows += some
    write_index(folder / INDEX, rows)
    return rows


def only(clip: LabelledClip, *names: str) -> LabelledClip:
    """The same clip with some of its labels."""
    return replace(clip, labels=Labels(**{name: getattr(clip.labels, name) for name in names}))
