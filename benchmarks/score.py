"""One clip, one solver: the row of figures that the truth allows. What they mean stands in docs/benchmarks.md."""

from dataclasses import asdict, dataclass

import cv2
import torch
from torch import Tensor

from benchmarks.clips import Clip, Reader
from benchmarks.solvers import Solved
from unproject.evaluation import metrics
from unproject.geometry.camera import pixel_grid
from unproject.io.result import Reconstruction
from unproject.teachers.tracks import follow
from unproject.types import FrameMaps


@dataclass(frozen=True, kw_only=True)
class DepthRow:
    """Depth against truth after one scale for the whole clip."""

    coverage: float
    rel: float
    inlier: float
    rel_all: float
    inlier_all: float
    frames: int


@dataclass(frozen=True, kw_only=True)
class TrackRow:
    """Joints followed from every annotation to the later ones of the same joint."""

    next_px: float
    """Median distance from the next annotated frame in which the joint is visible."""
    next_pairs: int
    later_px: float
    """From all later ones."""
    later_pairs: int
    held: float
    """Share of the later pairs in which the tracker does not say that it lost the point."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the benchmark; None where the clip has no such truth or nothing was found."""

    clip: str
    solver: str
    views: int
    found: int = 0
    unit: str = "scene"
    ate: float | None = None
    auc5: float | None = None
    auc30: float | None = None
    seconds: float | None = None
    stages_s: dict[str, float] | None = None
    peak_mib: float | None = None
    notes: tuple[str, ...] = ()
    depth: DepthRow | None = None
    motion_iou: float | None = None
    tracks: TrackRow | None = None
    failure: str | None = None

    @staticmethod
    def failed(clip: Clip, solver: str, reason: Exception) -> "Row":
        """The row of a run that ended with an error."""
        return Row(clip=clip.name, solver=solver, views=len(clip.files), failure=str(reason))

    @staticmethod
    def from_json(saved: dict) -> "Row":
        """The row that `to_json` saved."""
        depth, tracks = saved["depth"], saved["tracks"]
        parts = {"depth": depth and DepthRow(**depth), "tracks": tracks and TrackRow(**tracks)}
        return Row(**{**saved, **parts, "notes": tuple(saved["notes"])})

    def to_json(self) -> dict:
        """Plain values, for `--json`."""
        return asdict(self)

    def line(self) -> str:
        """What is said while the benchmark runs."""
        if self.failure is not None:
            return f"{self.clip} {self.solver}: failed: {self.failure.splitlines()[-1]}"
        figures = {"ATE": self.ate, "AUC@5": self.auc5, "AUC@30": self.auc30, "motion IoU": self.motion_iou}
        said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
        return (
            f"{self.clip} {self.solver}: {self.found}/{self.views} views in {self.seconds:.1f} s, {said or 'no truth'}"
        )


def rate(clip: Clip, solver: str, solved: Solved) -> Row:
    """Compare an answer with what is known of the clip."""
    result = solved.result if solved.result is not None and solved.result.maps else None
    pairs = None if clip.world_from_cam is None else metrics.pair_errors(solved.world_from_cam, clip.world_from_cam)
    return Row(
        clip=clip.name,
        solver=solver,
        views=len(clip.files) if result is None else len(result),
        found=solved.found,
        unit=clip.unit,
        ate=metrics.ate(solved.world_from_cam, clip.world_from_cam) if pairs and solved.found >= 3 else None,
        auc5=100 * pairs.auc(5) if pairs else None,
        auc30=100 * pairs.auc(30) if pairs else None,
        seconds=solved.seconds,
        stages_s=solved.stages_s,
        peak_mib=solved.peak_mib,
        notes=solved.notes,
        depth=rate_depth(result, clip.depth) if result and clip.depth else None,
        motion_iou=rate_motion(result, clip.moving) if result and clip.moving else None,
        tracks=rate_tracks(clip) if result and clip.joints else None,
    )


def rate_depth(result: Reconstruction, truth_of: Reader) -> DepthRow:
    """Depth of frames with a camera against the truth, on the pixels of our maps."""
    depth, truth, claimed, solved = [], [], [], []
    for index, maps in enumerate(result.maps):
        found = result.cameras.found[index]
        depth.append(maps.depth.flatten())
        truth.append(at_map_pixels(truth_of(index), maps).float().flatten())
        claimed.append((maps.valid & found).flatten())
        solved.append(found.expand(maps.depth.numel()))
    depths, truths = torch.cat(depth), torch.cat(truth)
    strict = metrics.depth_error(depths, truths, torch.cat(claimed))
    every = metrics.depth_error(depths, truths, torch.cat(solved), strict.scale)
    return DepthRow(
        coverage=strict.coverage,
        rel=strict.rel,
        inlier=strict.inlier_ratio,
        rel_all=every.rel,
        inlier_all=every.inlier_ratio,
        frames=int(result.cameras.found.sum()),
    )


def rate_motion(result: Reconstruction, truth_of: Reader) -> float:
    """Mean over frames that have movers of the IoU of motion > 0.5, on the pixels of the true mask."""
    scores = []
    for index, maps in enumerate(result.maps):
        truth = truth_of(index)
        if truth.any():
            scores.append(metrics.iou(at_original_pixels(maps.motion > 0.5, maps, *truth.shape), truth))
    return sum(scores) / len(scores)


def rate_tracks(clip: Clip) -> TrackRow:
    """Follow every visible joint from every annotated frame to the end of the clip."""
    joints = clip.joints
    greys = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in clip.files]
    error, is_next, held = [], [], []
    for start, frame in enumerate(joints.frames.tolist()):
        chosen = joints.visible[start].nonzero()[:, 0]
        waiting = torch.ones(len(chosen), dtype=torch.bool)
        path = list(follow(greys[frame:], joints.uv[start, chosen].numpy()))
        for later in range(start + 1, len(joints.frames)):
            uv, visible = path[joints.frames[later] - frame]
            seen = joints.visible[later, chosen]
            error.append((torch.from_numpy(uv) - joints.uv[later, chosen]).norm(dim=-1)[seen])
            is_next.append(waiting[seen])
            held.append(torch.from_numpy(visible)[seen])
            waiting &= ~seen
    errors, nexts = torch.cat(error), torch.cat(is_next)
    return TrackRow(
        next_px=errors[nexts].median().item(),
        next_pairs=int(nexts.sum()),
        later_px=errors.median().item(),
        later_pairs=len(errors),
        held=torch.cat(held).double().mean().item(),
    )


def at_map_pixels(original: Tensor, maps: FrameMaps) -> Tensor:
    """Values [H, W] of the original pixels in which the centres of the map's pixels lie; 0 outside."""
    return _look_up(original, maps.to_original.double(), *maps.depth.shape)


def at_original_pixels(values: Tensor, maps: FrameMaps, height: int, width: int) -> Tensor:
    """Values of the map's pixels in which the centres of the original's pixels lie; 0 outside."""
    return _look_up(values, torch.linalg.inv(maps.to_original.double()), height, width)


def _look_up(values: Tensor, there_from_here: Tensor, height: int, width: int) -> Tensor:
    here = torch.nn.functional.pad(pixel_grid(height, width, torch.float64), (0, 1), value=1.0)
    there = here @ there_from_here.T
    column, row = torch.floor(there[..., :2] / there[..., 2:]).long().unbind(-1)
    inside = (row >= 0) & (row < values.shape[0]) & (column >= 0) & (column < values.shape[1])
    nearest = values[row.clamp(0, values.shape[0] - 1), column.clamp(0, values.shape[1] - 1)]
    return torch.where(inside, nearest, torch.zeros_like(nearest))
