"""WorldTrack: 3D tracks and point maps in the first camera's frame (St4RTrack, arXiv 2504.13152), as its code scores.

A method sees the first 64 frames at `network_images` size and gives, for every pixel of frame 0, its place at each
frame's time (tracking), or every frame's own points (reconstruction), all in camera 0. One scale per sequence is
forgiven and nothing else: the ratio of median distances from camera 0. Numbers of forks of this protocol do not
compare: they have depth-relative thresholds, other frame counts, or fit a shift.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from unproject.errors import InputError
from unproject.evaluation.protocols.worldtrack_files import Sequence, read_sequence
from unproject.geometry.align import similarity
from unproject.geometry.camera import unproject
from unproject.geometry.motion import transform_map
from unproject.io.images import natural_key
from unproject.types import require

THRESHOLDS_M = (0.1, 0.3, 0.5, 1.0)
MOVES_M = 0.01
"""A track is dynamic if its whole path in the world is longer."""
NEAREST_M, FARTHEST_M = 0.1, 5.0
"""Depths that the reconstruction score looks at."""

Alignment = Literal["global", "per_track", "similarity"]
Task = Literal["tracking", "reconstruction"]
NEEDS: dict[Task, str] = {"tracking": "tracks_XYZ", "reconstruction": "depth_map"}
"""The array of a file that holds the truth."""


@dataclass(frozen=True)
class Score:
    """Distances to the truth after alignment; NaN where there is no point."""

    apd: float
    """Mean over `THRESHOLDS_M` of the share of points at most that far off, in [0, 1]; papers print it in %."""
    epe: float
    """Mean distance in metres."""
    within: tuple[float, ...]
    """The share for each threshold."""


def score(points: Float[Tensor, "T K 3"], truth: Float[Tensor, "T K 3"], alignment: Alignment = "global") -> Score:
    """Score of K tracks through T frames; the published numbers are those of the global alignment.

    A predicted point that is not finite is infinitely far off (the original leaves such a sequence out of the mean).
    """
    if not truth.numel() or bool(truth.isnan().any()):
        return Score(math.nan, math.nan, (math.nan,) * len(THRESHOLDS_M))
    lost = ~points.isfinite().all(-1)
    aligned = align(torch.where(lost[..., None], truth.to(points), points), truth, alignment)
    error = torch.where(lost, torch.inf, (aligned - truth.double()).norm(dim=-1))
    within = tuple((error <= threshold).double().mean().item() for threshold in THRESHOLDS_M)
    return Score(sum(within) / len(within), error.mean().item(), within)


def align(
    points: Float[Tensor, "T K 3"], truth: Float[Tensor, "T K 3"], alignment: Alignment
) -> Float[Tensor, "T K 3"]:
    """Points scaled (one factor, or one per track) to the truth's median distance, or moved by the best similarity."""
    x, y = points.double(), truth.double()
    if alignment == "similarity":
        # The original adds up singular values without Umeyama's sign: it differs if the best fit is a reflection.
        flat = x.flatten(0, 1)
        scale, rotation, translation = similarity(flat, y.flatten(0, 1), torch.ones_like(flat[:, 0]))
        return scale * x @ rotation.mT + translation
    axis = 0 if alignment == "per_track" else None
    far, wanted = (torch.as_tensor(np.median(tracks.norm(dim=-1).numpy(), axis=axis)) for tracks in (x, y))
    return torch.where(far > 0, wanted / far, 1)[..., None] * x


def dynamic(truth: Float[Tensor, "T K 3"]) -> Bool[Tensor, " K"]:
    """Tracks that move in the world."""
    return truth.double().diff(dim=0).norm(dim=-1).sum(0) > MOVES_M


def network_size(height: int, width: int, long_side: int = 512, patch: int = 16) -> tuple[int, int]:
    """(height, width) of what the network sees: the long side scaled, then both rounded down to whole patches."""
    scale = long_side / max(height, width)
    return round(height * scale) // patch * patch, round(width * scale) // patch * patch


def network_images(sequence: Sequence) -> Float[Tensor, "T 3 h w"]:
    """The frames at `network_size`, RGB in [0, 1]: resized, Lanczos to smaller and bicubic to larger, never cropped."""
    height, width = sequence.size
    rows, columns = network_size(height, width)
    kernel = Image.Resampling.LANCZOS if max(height, width) > 512 else Image.Resampling.BICUBIC
    scale = 512 / max(height, width)
    between = (round(width * scale), round(height * scale))
    frames = [np.asarray(frame.resize(between, kernel).resize((columns, rows), kernel)) for frame in sequence.frames()]
    return torch.from_numpy(np.stack(frames)).movedim(-1, 1).float() / 255


def queries(
    sequence: Sequence, height: int, width: int
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Tracks that frame 0 sees inside the image, and the row and column where a map of that size is read.

    Truncated, not rounded nor interpolated, with K as the file has it: so does the benchmark.
    """
    start = require(sequence, "tracks")[0]
    uv = start @ sequence.intrinsics.T
    uv = uv[:, :2] / uv[:, 2:] * uv.new_tensor([width / sequence.size[1], height / sequence.size[0]])
    inside = (start[:, 2] > 0) & (uv >= 0).all(-1) & (uv < uv.new_tensor([width, height])).all(-1)
    index = (require(sequence, "visible")[0] & inside).nonzero()[:, 0]
    return index, uv[index, 1].long(), uv[index, 0].long()


@dataclass(frozen=True)
class TrackingScore:
    """Of the tracks of one sequence."""

    everything: Score
    dynamic: Score
    """Of those that move, with a scale of their own."""


def score_tracking(
    places: Float[Tensor, "T h w 3"], sequence: Sequence, alignment: Alignment = "global"
) -> TrackingScore:
    """Score of the places, in camera 0, of every pixel of frame 0 at each frame's time.

    Every track counts in every frame, also in frame 0 and where it is hidden.
    """
    truth: Tensor = require(sequence, "tracks")
    if len(places) != len(truth):
        raise ValueError(f"{sequence.name}: {len(places)} maps for {len(truth)} frames")
    index, row, column = queries(sequence, *places.shape[1:3])
    points, truth = places[:, row, column].cpu(), truth[:, index]
    moving = dynamic(truth)
    return TrackingScore(score(points, truth, alignment), score(points[:, moving], truth[:, moving], alignment))


def score_reconstruction(points: Float[Tensor, "T h w 3"], sequence: Sequence) -> Score:
    """Score of every frame's own points in camera 0, enlarged to the size of the true depth."""
    depth: Tensor = require(sequence, "depth")
    if len(points) != len(depth):
        raise ValueError(f"{sequence.name}: {len(points)} maps for {len(depth)} frames")
    found, true = [], []
    for map_, z, pose in zip(points, depth, torch.linalg.inv(sequence.cam_from_world), strict=True):
        known = (z > NEAREST_M) & (z < FARTHEST_M)
        large = torch.nn.functional.interpolate(
            map_.to(z).movedim(-1, 0)[None], size=z.shape, mode="bilinear", align_corners=False
        )
        found.append(large[0].movedim(0, -1)[known])
        true.append(transform_map(pose, unproject(z, sequence.intrinsics))[known])
    return score(torch.cat(found)[None], torch.cat(true)[None])


def mean_score(scores: Iterable[Score]) -> Score:
    """The unweighted mean over sequences; those without a number (no dynamic track, say) are left out."""
    rows = np.array([[one.apd, one.epe, *one.within] for one in scores])
    rows = rows[~np.isnan(rows).any(-1)] if rows.size else rows.reshape(0, 2 + len(THRESHOLDS_M))
    if not len(rows):
        return Score(math.nan, math.nan, (math.nan,) * len(THRESHOLDS_M))
    apd, epe, *within = rows.mean(0).tolist()
    return Score(apd, epe, tuple(within))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a method says of one sequence, in camera 0; what nobody asked for may be left out."""

    places: Float[Tensor, "T h w 3"] | None = None
    """Every pixel of frame 0 at each frame's time: tracking."""
    points: Float[Tensor, "T h w 3"] | None = None
    """Every frame's own points: reconstruction."""


@dataclass(frozen=True, kw_only=True)
class SequenceScore:
    """What one file says of a method; None for a task that nobody asked for."""

    name: str
    tracking: TrackingScore | None
    reconstruction: Score | None


def score_folder(
    folder: Path, method: Callable[[Float[Tensor, "T 3 h w"]], Answer], tasks: Collection[Task] = ("tracking",)
) -> Iterator[SequenceScore]:
    """Scores of every npz file of a folder, in natural order of their names; the method sees `network_images`.

    InputError with the file's name where it holds no truth for a task, before the method sees it: `tum` has no tracks,
    `adt_mini` and `pstudio_mini` have no depth.
    """
    files = sorted(folder.glob("*.npz"), key=natural_key)
    if not files:
        raise InputError(f"{folder}: no .npz files; give the folder of one WorldTrack set")
    for path in files:
        sequence = read_sequence(path)
        for task, truth in (("tracking", sequence.tracks), ("reconstruction", sequence.depth)):
            if task in tasks and truth is None:
                raise InputError(
                    f"{path} holds no {NEEDS[task]}, so there is no {task} to score: ask for the other task"
                )
        answer = method(network_images(sequence))
        tracking = score_tracking(require(answer, "places"), sequence) if "tracking" in tasks else None
        points = require(answer, "points") if "reconstruction" in tasks else None
        reconstruction = None if points is None else score_reconstruction(points, sequence)
        yield SequenceScore(name=sequence.name, tracking=tracking, reconstruction=reconstruction)
