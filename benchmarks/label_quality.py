"""How good labels without weights are: `python -m benchmarks.label_quality`, or some of flow, tracks, real, time.

`flow` and `tracks` are measured in rendered rooms, with the blur and noise of a phone, where truth is exact for every
pixel. "direct" is DIS between the two frames alone, "carried" DIS from frame to frame, looked up in one another, and
"teacher" what `DisTeacher` gives. Errors are those of pixels that it trusts (weight over a half) and that the other
frame sees; right is the share of all pixels that the other frame sees which are trusted and within 1 px.

`real` compares with true cameras of real clips: the Sampson distance says how far a match lies from where it may be at
all. It has a floor, that of the cameras themselves, and things that move count as wrong.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import pairwise

import cv2
import numpy as np
import torch

from benchmarks.clips import READERS, Clip, MissingClip
from benchmarks.run import machine
from benchmarks.table import head, line, number
from unproject.data import synthetic
from unproject.geometry.camera import rays
from unproject.geometry.rays import sampson_distance
from unproject.geometry.rigid import inverse, skew
from unproject.io.images import read_header, read_image, resize
from unproject.labelling.clips import label_size, ring
from unproject.labelling.gates import flow_matches, track_matches
from unproject.teachers.base import Shot
from unproject.teachers.flow import DisTeacher, carried_on, covisibility, flow_both_ways
from unproject.teachers.tracks import LEAST_TRUST, KltTeacher

ROOMS = ((1, False), (3, False), (4, True), (6, True))
"""Seeds of rendered rooms, and whether things move there."""
FRAMES, HEIGHT, WIDTH = 48, 288, 384
GAPS = (1, 5, 10, 20, 40)
REAL = ("7scenes_redkitchen", "kitti06_stereo", "strecha_fountain_p11", "ingp_fox")
LONG_SIDE = 512
Flow = tuple[np.ndarray, np.ndarray]
"""Flow [H, W, 2] and weight [H, W]."""
Way = Callable[[Sequence[np.ndarray]], Flow]
"""Flow from the first of some frames of a video to the last."""


def direct(images: Sequence[np.ndarray]) -> Flow:
    """From the two ends alone."""
    ways = flow_both_ways(*(cv2.cvtColor(images[end], cv2.COLOR_RGB2GRAY) for end in (0, -1)))
    return ways[0], covisibility(*ways)


def carried(images: Sequence[np.ndarray]) -> Flow:
    """From frame to frame."""
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    ways = reduce(carried_on, (flow_both_ways(one, two) for one, two in pairwise(greys)))
    return ways[0], covisibility(*ways)


def teacher(images: Sequence[np.ndarray]) -> Flow:
    """As labels have it."""
    shot = Shot(images=images, views=(0, len(images) - 1), pairs=((0, 1),))
    label = DisTeacher().label(shot).flow
    return label.value[0, 0].numpy(), label.weight[0, 0].numpy()


WAYS: dict[str, Way] = {"direct": direct, "carried": carried, "teacher": teacher}


@cache
def room(seed: int, moving: bool) -> synthetic.ClipData:
    """A second and a half of a walk, as a phone films it."""
    sensor = synthetic.Sensor(samples=3)
    return synthetic.handheld_clip(seed, frames=FRAMES, height=HEIGHT, width=WIDTH, moving=moving, sensor=sensor)


def ends(frames: int, gap: int, most: int = 4) -> list[tuple[int, int]]:
    """Pairs of frames that far apart, spread over a clip, every second one backward."""
    starts = np.unique(np.linspace(0, frames - 1 - gap, most).round().astype(int)).tolist()
    return [(start + gap, start) if turn % 2 else (start, start + gap) for turn, start in enumerate(starts)]


def from_to(images: Sequence[np.ndarray], source: int, target: int) -> list[np.ndarray]:
    """Frames from one to the other, in that order."""
    step = 1 if target > source else -1
    return [images[frame] for frame in range(source, target + step, step)]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Pixels of one pair: those that are trusted and truly seen count for errors."""

    error: np.ndarray
    trusted: np.ndarray
    seen: np.ndarray


def flow_table() -> None:
    """End-point error and covisibility by distance in time."""
    print("\nFlow in rendered rooms\n")
    columns = ("frames apart", "way", "seen", "median px", "mean px", "within 1 px", "over 3 px")
    print(head(*columns, "precision", "recall", "right"))
    for gap in GAPS:
        for name, way in WAYS.items() if gap > 1 else [("direct", direct)]:
            parts = list(judged(gap, way))
            error, trusted, seen = (
                np.concatenate([getattr(part, field).ravel() for part in parts])
                for field in ("error", "trusted", "seen")
            )
            both = trusted & seen
            off = error[both]
            shares = (off < 1).mean(), (off > 3).mean(), both.sum() / trusted.sum(), both.sum() / seen.sum()
            right = (both & (error < 1)).sum() / seen.sum()
            cells = [number(value, 3) for value in (np.median(off), off.mean(), *shares, right)]
            print(line(str(gap), name, number(seen.mean(), 2), *cells), flush=True)


def judged(gap: int, way: Way) -> Iterator[Judged]:
    """Pairs of all rooms."""
    for seed, moving in ROOMS:
        made = room(seed, moving)
        for source, target in ends(FRAMES, gap):
            flow, weight = way(from_to(made.images, source, target))
            truth, seen = truth_of(seed, moving, source, target)
            yield Judged(error=np.linalg.norm(flow - truth, axis=2), trusted=weight > 0.5, seen=seen)


@cache
def truth_of(seed: int, moving: bool, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """True flow [H, W, 2] and what the target sees of the source [H, W]."""
    rendering = room(seed, moving).rendering
    flow = synthetic.optical_flow(rendering, source, target)[0].numpy()
    return flow, synthetic.covisibility(rendering, source, target)[0].numpy()


def tracks_table() -> None:
    """How far tracks are from where their points went, by how long they were followed."""
    print("\nTracks in rendered rooms\n")
    print(head("frames apart", "trusted", "points", "still seen", "median px", "within 1 px", "over 3 px", "left"))
    for gap in GAPS:
        found = [followed(seed, moving, gap) for seed, moving in ROOMS]
        begun = sum(start for _, start in found)
        error, trust, seen = (np.concatenate([getattr(part, name) for part, _ in found]) for name in FOLLOWED)
        for name, chosen in (("all", trust > 0), ("yes", trust >= LEAST_TRUST)):
            off = error[chosen]
            shares = [number(value, 3) for value in (np.median(off), (off < 1).mean(), (off > 3).mean())]
            row = [str(gap), name, str(len(off)), number(seen[chosen].mean(), 3), *shares, number(len(off) / begun, 2)]
            print(line(*row), flush=True)


FOLLOWED = ("error", "trust", "seen")


@dataclass(frozen=True, kw_only=True)
class FollowedPoints:
    """Points of one clip after some frames."""

    error: np.ndarray
    trust: np.ndarray
    seen: np.ndarray


@cache
def tracks_of(seed: int, moving: bool):
    """Of every frame of a room."""
    return KltTeacher().label(Shot.of(room(seed, moving).images)).tracks


def followed(seed: int, moving: bool, gap: int) -> tuple[FollowedPoints, int]:
    """Points of some frames that are still held so many frames later, and how many there were."""
    tracks, parts, begun = tracks_of(seed, moving), [], 0
    for source in np.unique(np.linspace(0, FRAMES - 1 - gap, 4).round().astype(int)).tolist():
        now, then = (tracks.view == view for view in (source, source + gap))
        number_now, number_then = tracks.track[now].numpy(), tracks.track[then].numpy()
        _, a, b = np.intersect1d(number_now, number_then, assume_unique=True, return_indices=True)
        begun += len(number_now)
        uv, landed = tracks.uv[now].numpy()[a], tracks.uv[then].numpy()[b]
        flow, seen = truth_of(seed, moving, source, source + gap)
        error, row, column = nearest_surface(uv, landed, flow)
        parts.append(FollowedPoints(error=error, trust=tracks.weight[then].numpy()[b], seen=seen[row, column]))
    return FollowedPoints(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in FOLLOWED}), begun


def nearest_surface(uv: np.ndarray, landed: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Error of each point, by that of the four pixels about it which suits it best: at an edge it may be of either."""
    height, width = flow.shape[:2]
    corner = np.floor(uv - 0.5).astype(int)
    around = corner[:, None] + np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    column, row = around[..., 0].clip(0, width - 1), around[..., 1].clip(0, height - 1)
    errors = np.linalg.norm(uv[:, None] + flow[row, column] - landed[:, None], axis=2)
    best, each = errors.argmin(1), np.arange(len(uv))
    return errors[each, best], row[each, best], column[each, best]


def real_table() -> None:
    """Distance of flow and tracks from the epipolar lines of true cameras."""
    print("\nReal clips: Sampson distance under the true cameras, in pixels of pictures 512 across\n")
    print(head("clip", "frames apart", "labels", "matches", "trusted", "median px", "within 1.5 px", "over 3 px"))
    for name in REAL:
        try:
            clip = READERS[name]()
        except MissingClip as reason:
            print(f"skipped {name}: {reason}")
            continue
        images = pictures(clip)
        for gap in [gap for gap in GAPS if gap == 1 or (clip.ordered and gap < len(images))]:
            for kind, matched in real_matches(clip, images, gap).items():
                distance = np.concatenate([epipolar_px(clip, images, *each[:4]) for each in matched])
                shares = (distance < 1.5).mean(), (distance > 3).mean()
                trusted = number(np.mean([each[4] for each in matched]), 2)
                cells = [number(np.median(distance), 2), *(number(share, 3) for share in shares)]
                print(line(name, str(gap), kind, str(len(distance)), trusted, *cells), flush=True)


def pictures(clip: Clip) -> list[np.ndarray]:
    """At the size of labels."""
    images = (read_image(file) for file in clip.files)
    return [resize(image, *label_size(image.shape[1], image.shape[0], LONG_SIDE)) for image in images]


Matched = tuple[int, int, np.ndarray, np.ndarray, float]
"""Source and target, pixels of each, and the share of pixels or of tracks that they are."""


def real_matches(clip: Clip, images: list[np.ndarray], gap: int) -> dict[str, list[Matched]]:
    """By each way of flow, and by tracks where the clip is a video."""
    ways = WAYS if clip.ordered and gap > 1 else {"direct": direct}
    found: dict[str, list[Matched]] = {}
    for source, target in ends(len(images), gap):
        part = from_to(images, source, target)
        for name, way in ways.items():
            flow, weight = way(part)
            row = source, target, *flow_matches(flow, weight), float((weight > 0.5).mean())
            found.setdefault(f"flow, {name}", []).append(row)
        if clip.ordered:
            tracks = KltTeacher().label(Shot.of(part)).tracks
            uv = track_matches(tracks, 0, len(part) - 1)
            begun = int((tracks.view == 0).sum())
            found.setdefault("tracks", []).append((source, target, *uv, len(uv[0]) / max(begun, 1)))
    return found


def epipolar_px(
    clip: Clip, images: list[np.ndarray], source: int, target: int, source_uv: np.ndarray, target_uv: np.ndarray
) -> np.ndarray:
    """Sampson distances of matches of two pictures."""
    xy, scale = [], []
    for view, uv in ((source, source_uv), (target, target_uv)):
        header = read_header(clip.files[view])
        height, width = images[view].shape[:2]
        shrink = torch.tensor([width / header.width, height / header.height], dtype=torch.float64)
        distortion = None if clip.distortion is None else clip.distortion[view]
        xy.append(rays(torch.from_numpy(uv).double() / shrink, clip.intrinsics[view], distortion)[:, :2])
        scale.append(float(clip.intrinsics[view, 0, 0] * shrink[0]))
    target_from_source = inverse(clip.world_from_cam[target]) @ clip.world_from_cam[source]
    essential = skew(target_from_source[:3, 3]) @ target_from_source[:3, :3]
    return (sampson_distance(essential, *xy) * np.mean(scale)).numpy()


def time_table() -> None:
    """Seconds of a teacher for one clip of eight views, on one thread."""
    print("\nSeconds for a clip of 8 views and 16 pairs, 512x288, one thread of OpenCV\n")
    print(head("frames", "flow", "tracks"))
    cv2.setNumThreads(1)
    images = [resize(image, 512, 288) for image in room(*ROOMS[0]).images]
    for count in (8, 24, 48):
        views = tuple(np.linspace(0, count - 1, 8).round().astype(int).tolist())
        shot = Shot(images=images[:count], views=views, pairs=ring(8))
        cells = []
        for each in (DisTeacher(), KltTeacher()):
            began = time.perf_counter()
            each.label(shot)
            cells.append(number(time.perf_counter() - began, 2))
        print(line(str(count), *cells), flush=True)


TABLES = {"flow": flow_table, "tracks": tracks_table, "real": real_table, "time": time_table}


def main() -> None:
    """Print the tables line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=[*TABLES], metavar="TABLE", help=", ".join(TABLES))
    arguments = parser.parse_args()
    print(machine())
    for name in arguments.tables:
        TABLES[name]()


if __name__ == "__main__":
    main()
