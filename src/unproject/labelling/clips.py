"""What one video becomes when it is labelled: clips with what teachers say of them, and reasons where there is none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from unproject.errors import InputError, UsageError
from unproject.io.images import resize
from unproject.io.shards import LabelledClip, Rejection
from unproject.io.source import select
from unproject.io.video import VideoIndex, decode, index_video
from unproject.labelling.cutting import Cut, Frame, Useless, cuts, sharpness
from unproject.labelling.gates import connected, pair_qualities, summary
from unproject.labelling.wishes import Wishes as Wishes
from unproject.teachers.base import Shot, Teacher
from unproject.types import Known, Labels, Tracks

LEAST_SIDE = 64
"""Pixels of the shorter side of a picture in which there is enough to follow."""
OF_PAIRS = ("flow", "target_points", "scene_flow")
"""Labels with an axis of pairs."""


def labelled_clips(
    video: str | Path,
    name: str,
    wishes: Wishes,
    teachers: Sequence[Teacher],
    alive: Callable[[], None] = lambda: None,
) -> Iterator[LabelledClip | Rejection]:
    """Cut a video into clips and have them labelled; what gives none is turned down with a reason.

    The video is decoded once, front to back, and `cutting.WINDOW` small frames are held at most, however long it is.
    The same bytes give the same clips on any number of threads. No fault of the video is an error: what comes before
    it is used. ``quality`` holds overlap, motion_px, sharpness, the share of pairs that were kept and `gates.summary`.

    Args:
        video: the file.
        name: what clips and reasons call it.
        wishes: how clips should be.
        teachers: each gives labels that no other gives.
        alive: is called at each frame that was read and each clip that was labelled.

    Raises:
        UsageError: two teachers give the same label.
    """
    try:
        index = index_video(video)
    except InputError as error:
        yield Rejection(file=name, where="", reason=str(error).replace(str(video), name, 1))
        return
    width, height = label_size(index.width, index.height, wishes.long_side)
    if min(width, height) < LEAST_SIDE:
        yield Rejection(file=name, where="", reason=f"{width}x{height} pixels are too few: {LEAST_SIDE} are needed")
        return
    reading = _Reading(index=index, size=(width, height), fps=wishes.fps, alive=alive)
    given = refused = 0
    for event in _merged(cuts(reading.frames(), wishes)):
        if isinstance(event, Useless):
            yield Rejection(file=name, where=f"{event.first}..{event.last}", reason=event.reason)
            continue
        made = _labelled(event, name, wishes, teachers)
        alive()
        yield made
        given += isinstance(made, LabelledClip)
        refused += isinstance(made, Rejection)
        if wishes.most_clips in (given, refused):
            return
    for where, reason in reading.damage:
        yield Rejection(file=name, where=where, reason=reason.replace(str(video), name, 1))


def label_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """(width, height) of the pictures that are labelled: even, and no larger than the video's own."""
    shrink = min(1.0, long_side / max(width, height))
    return max(2, 2 * round(width * shrink / 2)), max(2, 2 * round(height * shrink / 2))


@dataclass(kw_only=True)
class _Reading:
    """Frames of a video at the labels' size, and afterwards what could not be read."""

    index: VideoIndex
    size: tuple[int, int]
    fps: float
    alive: Callable[[], None]
    damage: list[tuple[str, str]] = field(default_factory=list)

    def frames(self) -> Iterator[Frame]:
        """Until the end, or the first frame that cannot be decoded."""
        times = self.index.times_s
        wanted = select(times, every=None, fps=self.fps, start=None, end=None, max_frames=None)
        given = 0
        try:
            for number, image in zip(wanted, decode(self.index, wanted), strict=True):
                yield Frame(number, float(times[number]), resize(image, *self.size))
                self.alive()
                given += 1
        except InputError as error:
            self.damage.append((f"{wanted[given]}..{len(times) - 1}", str(error)))
        if self.index.damage is not None:
            self.damage.append((f"{len(times)}..", self.index.damage))


def _merged(events: Iterator[Cut | Useless]) -> Iterator[Cut | Useless]:
    """Useless frames that follow one another for one reason are told in one line."""
    held: Useless | None = None
    for event in events:
        if held is not None and isinstance(event, Useless) and event.reason == held.reason:
            held = replace(held, last=event.last)
            continue
        if held is not None:
            yield held
        held = event if isinstance(event, Useless) else None
        if held is None:
            yield event
    if held is not None:
        yield held


def ring(views: int) -> tuple[tuple[int, int], ...]:
    """Each view and the next, the last and the first, both ways."""
    steps = dict.fromkeys((view, (view + 1) % views) for view in range(views))
    return tuple(dict.fromkeys(pair for step in steps for pair in (step, step[::-1])))


def _labelled(cut: Cut, name: str, wishes: Wishes, teachers: Sequence[Teacher]) -> LabelledClip | Rejection:
    """A clip with the pairs whose labels can be believed; none where these do not tie its views together."""
    pairs, views = ring(wishes.views), [cut.frames[view] for view in cut.views]
    where = f"{views[0].number}..{views[-1].number}"
    try:
        labels = taught(Shot(images=[frame.image for frame in cut.frames], views=cut.views, pairs=pairs), teachers)
    except InputError as error:  # a teacher's word on this clip: it may bear the next
        return Rejection(file=name, where=where, reason=str(error))
    speaks = labels if labels.tracks or labels.flow else replace(labels, tracks=cut.scouts)
    qualities = pair_qualities(speaks, pairs)
    kept = [n for n, each in enumerate(qualities) if each.passes(wishes)]
    if not connected([pairs[n] for n in kept], wishes.views):
        return Rejection(file=name, where=where, reason=f"labels of {len(kept)} of {len(pairs)} pairs can be believed")
    return LabelledClip(
        file=name,
        frames=tuple(view.number for view in views),
        times_s=tuple(view.time_s for view in views),
        images=np.stack([view.image for view in views]),
        pairs=tuple(pairs[n] for n in kept),
        labels=_of_pairs(labels, kept),
        quality={
            "overlap": cut.overlap,
            "motion_px": cut.motion_px,
            "sharpness": float(np.median([sharpness(cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)) for view in views])),
            "pairs": len(kept) / len(pairs),
            **summary([qualities[n] for n in kept]),
        },
    )


def taught(shot: Shot, teachers: Sequence[Teacher]) -> Labels:
    """What all teachers say of a shot: tracks of all, intrinsics of the first that knows them.

    Raises `UsageError` where two give the same label of another kind.
    """
    said: dict[str, Any] = {}
    by: dict[str, str] = {}
    for teacher in teachers:
        labels, own = teacher.label(shot), type(teacher).__name__
        for name in (each.name for each in fields(Labels) if getattr(labels, each.name) is not None):
            value = getattr(labels, name)
            if name == "intrinsics" and name in said:
                continue
            if name == "tracks" and name in said:
                value = Tracks.beside([said[name], value])
            elif name in said:
                raise UsageError(f"{by[name]} and {own} both give {name}: leave one out")
            said[name], by[name] = value, own
    return Labels(**said)


def _of_pairs(labels: Labels, kept: list[int]) -> Labels:
    """Labels of some of the pairs."""
    rows = torch.tensor(kept)
    given: dict[str, Any] = {name: getattr(labels, name) for name in OF_PAIRS if getattr(labels, name) is not None}
    chosen: dict[str, Any] = {n: Known(each.value[:, rows], each.weight[:, rows]) for n, each in given.items()}
    return replace(labels, **chosen)
