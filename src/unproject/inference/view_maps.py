"""From what a network says of a window of views to depth, focal lengths, motion, and what stitching reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unproject.geometry import motion
from unproject.geometry.align import intrinsics_from_points
from unproject.geometry.camera import pixel_grid
from unproject.geometry.surface import patch_pattern, torn, without_pattern
from unproject.inference.pair_flows import PairFlows, pair_flows
from unproject.inference.stitching import ThinView
from unproject.types import FlowMaps, Prediction, require

LEAST_CONFIDENCE = 0.1
"""Below, depth is not claimed (as π³'s own tools do)."""
GRID = 24
"""Rows and columns of pixels that stitching compares."""
PATTERN_VIEWS = 8
"""Views that tell the patches' pattern: it is the head's, and the same in all."""


Box = tuple[slice, slice]
"""Rows and columns of an image on a canvas."""
Flows = Iterator[tuple[int, int, FlowMaps]]
"""Source, target (numbers of views) and what is known of the pair; worked out pair by pair as they are asked for."""


@dataclass(frozen=True, kw_only=True)
class DenseView:
    """The maps of one view, in its window's world and unit."""

    depth: Float[Tensor, "H W"]
    valid: Bool[Tensor, "H W"]
    confidence: Float[Tensor, "H W"]
    motion: Float[Tensor, "H W"]
    scene_flow: Float[Tensor, "H W 3"] | None
    """Until the next view."""


@dataclass(frozen=True, kw_only=True)
class SeenWindow:
    """What is kept of a window of V views while others are run."""

    views: list[ThinView]
    focal_px: Float[Tensor, " V"]
    """In the network's pixels; 0 where the points say none."""
    trust: Float[Tensor, " V"]
    """Mean confidence of each view's valid pixels, times their share."""
    reach: float
    """Usual distance of points, in the window's unit."""
    pattern: float
    """Size (root mean square) of the patches' pattern that was taken off log depth."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a network was asked, and how its images lie on the canvas that all share."""

    window: list[int]
    pairs: Int[Tensor, "P 2"]
    """Places in the window; each pair both ways round."""
    in_time: bool
    """The views follow each other, and neighbours are among the pairs if the network tells flow."""
    boxes: list[Box]
    usable: list[Tensor | None]
    """Of each image: 0 on pixels that may not speak."""


def read(said: Prediction, asked: Asked, patch: int) -> tuple[SeenWindow, list[DenseView], Flows]:
    """Of a prediction for one window: what stitching needs of it, the maps of its views, the flow of its pairs."""
    poses = require(said, "world_from_cam")
    pattern = _pattern(said, asked.boxes, patch)
    points = [_smoothed(said.points[0, n][box], pattern) for n, box in enumerate(asked.boxes)]
    valid, trust, matrices = [], [], []
    for number, box in enumerate(asked.boxes):
        confidence, usable = said.confidence[0, number][box].float().clamp(0, 1), asked.usable[number]
        clear = points[number].isfinite().all(-1) & (points[number][..., 2] > 0)
        sure = clear & (confidence > LEAST_CONFIDENCE)
        whole = sure & ~torn(points[number].nan_to_num(posinf=0, neginf=0)[None], sure[None])[0]
        allowed = torch.ones_like(confidence) if usable is None else usable.to(confidence)
        weight = confidence * whole * allowed
        if not bool((weight > 0).any()):  # a network without training sees edges everywhere
            weight = confidence * clear * allowed
        valid.append(whole)
        trust.append(weight)
        matrices.append(intrinsics_from_points(torch.where(clear[..., None], points[number], 0), weight))
    dense = [
        DenseView(
            depth=points[n][..., 2].float().cpu(),
            valid=valid[n].cpu(),
            confidence=(said.confidence[0, n][box].float().clamp(0, 1) * valid[n]).cpu(),
            motion=torch.zeros(valid[n].shape),
            scene_flow=None,
        )
        for n, box in enumerate(asked.boxes)
    ]
    pairs = None if said.flow is None else _Pairs(said, points, torch.stack(matrices), asked)
    if pairs is not None and asked.in_time:
        dense = _moving(pairs, points, dense)
    seen = SeenWindow(
        views=[_thin(view, poses[0, n], points[n], trust[n]) for n, view in enumerate(asked.window)],
        focal_px=torch.stack([matrix[0, 0] for matrix in matrices]).double().cpu().clamp(min=0).nan_to_num(0, 0, 0),
        trust=torch.stack([weight.mean() for weight in trust]).double().cpu(),
        reach=_reach(points, trust),
        pattern=float(pattern.square().mean().sqrt()),
    )
    return seen, dense, iter(()) if pairs is None else pairs.flows()


def _pattern(said: Prediction, boxes: Sequence[Box], patch: int) -> Float[Tensor, "patch patch"]:
    """Of log depth, from some views spread over the window; images of one size only are compared at once."""
    shape = said.points[0, 0][boxes[0]].shape
    alike = [n for n, box in enumerate(boxes) if said.points[0, n][box].shape == shape]
    some = alike[:: -(-len(alike) // PATTERN_VIEWS)]
    depth = torch.stack([said.points[0, n][boxes[n]][..., 2] for n in some]).float()
    trust = torch.stack([said.confidence[0, n][boxes[n]] for n in some])
    clear = (depth > 0) & depth.isfinite() & (trust > LEAST_CONFIDENCE)
    return patch_pattern(torch.where(clear, depth, 1).log(), clear, patch)


def _smoothed(points: Float[Tensor, "H W 3"], pattern: Float[Tensor, "patch patch"]) -> Float[Tensor, "H W 3"]:
    """The points on their rays, without the pattern of depth."""
    nothing = torch.zeros_like(points[None, ..., 2])
    return points.float() * without_pattern(nothing, pattern)[0, ..., None].exp()


class _Pairs:
    """The pairs of a window on the canvas, worked out two at a time: all at once would take more than the network."""

    def __init__(
        self, said: Prediction, points: Sequence[Tensor], intrinsics: Float[Tensor, "V 3 3"], asked: Asked
    ) -> None:
        canvas, corners = torch.zeros_like(said.points, dtype=torch.float32), intrinsics.clone()
        for number, (rows, columns) in enumerate(asked.boxes):
            canvas[0, number, rows, columns] = points[number]
            corners[number, :2, 2] += corners.new_tensor([columns.start, rows.start])
        self.said, self.intrinsics, self.asked = replace(said, points=canvas), corners, asked
        self.row = {(source, target): row for row, (source, target) in enumerate(asked.pairs.tolist())}

    def both(self, one: int, other: int) -> PairFlows:
        """From one view to the other and back."""
        rows = [self.row[one, other], self.row[other, one]]
        some = replace(self.said, flow=require(self.said, "flow")[:, rows])
        return pair_flows(some, self.asked.pairs[None, rows], self.intrinsics[None])

    def flows(self) -> Flows:
        """Of all pairs, each at the pixels of its source's image."""
        for one, other in (pair for pair in self.row if pair[0] < pair[1]):
            flows = self.both(one, other)
            for place, pair in enumerate([(one, other), (other, one)]):
                source, target = (self.asked.window[view] for view in pair)
                yield source, target, self._of_images(flows, place, *pair)

    def _of_images(self, flows: PairFlows, place: int, source: int, target: int) -> FlowMaps:
        (rows, columns), (target_rows, target_columns) = self.asked.boxes[source], self.asked.boxes[target]
        flow = flows.flow[0, place, rows, columns].float()
        flow = flow + flow.new_tensor([columns.start - target_columns.start, rows.start - target_rows.start])
        told = flow.isfinite().all(-1)
        return FlowMaps(
            flow=torch.where(told[..., None], flow, 0).cpu(),
            covisible=(flows.covisible[0, place, rows, columns] & told).cpu(),
            motion=flows.motion[0, place, rows, columns].float().cpu(),
        )


def _moving(pairs: _Pairs, points: list[Tensor], dense: list[DenseView]) -> list[DenseView]:
    """The maps with what moves in the world: by the flow to the next view, of the last view to the one before."""
    result = list(dense)
    for number in range(len(dense)):
        other = number + 1 if number + 1 < len(dense) else number - 1
        if (number, other) not in pairs.row:
            continue
        flows = pairs.both(number, other)
        moves = flows.motion[0, 0] * (points[number][..., 2] > 0)
        ahead = other > number
        shift = _shift(pairs.said, flows, points, number, other) if ahead else torch.zeros_like(points[number])
        shift = torch.where((moves > 0.5)[..., None] & shift.isfinite(), shift, 0)
        result[number] = replace(dense[number], motion=moves.float().cpu(), scene_flow=shift.float().cpu())
    return result


def _shift(said: Prediction, flows: PairFlows, points: list[Tensor], number: int, other: int) -> Float[Tensor, "H W 3"]:
    """How far each pixel's surface goes in the window's world until the other view, by where flow says it is there."""
    poses = require(said, "world_from_cam")
    height, width = points[number].shape[:2]
    landed = (pixel_grid(height, width).to(flows.flow) + flows.flow[0, 0]).flatten(0, 1)
    there = motion.surface_at(points[other], points[other], landed).unflatten(0, (height, width))
    ours, theirs = (
        motion.transform_map(poses[0, view][None].to(place), place[None])[0]
        for view, place in ((number, points[number]), (other, there))
    )
    return theirs - ours


def _thin(view: int, pose: Float[Tensor, "4 4"], points: Tensor, trust: Tensor) -> ThinView:
    rows, columns = (
        ((torch.arange(GRID, device=trust.device) + 0.5) * side / GRID).long().unique() for side in trust.shape
    )
    chosen, sure = points[rows][:, columns].flatten(0, 1), trust[rows][:, columns].flatten()
    clear = chosen.isfinite().all(-1)
    return ThinView(
        view=view,
        world_from_cam=pose.double().cpu(),
        points=torch.where(clear[:, None], chosen, 0).float().cpu(),
        trust=(sure * clear).float().cpu(),
    )


def _reach(points: list[Tensor], trust: list[Tensor]) -> float:
    """Median distance of what is trusted; 1 where nothing is."""
    usual = [p[w > 0].norm(dim=-1).median() for p, w in zip(points, trust, strict=True) if bool((w > 0).any())]
    return float(torch.stack(usual).median()) if usual else 1.0
