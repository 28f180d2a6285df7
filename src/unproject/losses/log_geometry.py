"""Flow4R's property set compared in logarithms of depth and in angles: for small networks (measured).

The paper's own losses compare points, so a far wall outweighs everything that stands before it. Logarithms weigh every
depth alike, which a network that has explained most of a scene already needs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.geometry.align import weighted_median
from unproject.geometry.camera import rays
from unproject.geometry.motion import landing
from unproject.losses import targets
from unproject.losses.base import Loss, Term, mean_per_image
from unproject.losses.confidence import confident_mean
from unproject.losses.motion import pose_miss
from unproject.types import Labels, Prediction, Views, require

NEAREST = 1e-3
"""Depth below which a point counts as behind the camera."""


@dataclass(frozen=True, kw_only=True)
class LogGeometryLoss(Loss):
    """Depth, how it changes between the views, where points land, and what may be trusted for pose.

    Reads ``Labels.points``, ``target_points``, ``world_from_cam`` and ``intrinsics``. Scale is free: the median of the
    logarithms of both views of a pair is taken out.
    """

    depth: float = 1.0
    """C |log z - log z*| - alpha log C."""
    ratio: float = 3.0
    """|log (z_vt / z) - log (z*_vt / z*)|."""
    ray: float = 4.0
    """Between where P_vt is seen and where it should be, in units of focal length."""
    pose: float = 0.5
    """L_W of the paper: T P against the true pose, moves W only; as a share of each point's distance."""
    still: float = 0.05
    """Cross-entropy of W against pixels that stand still and whose points are right within ``right``."""
    sureness: float = 0.05
    """alpha: the error of log depth at which C is 1."""
    farthest_miss: float = 0.2
    right: float = 0.05

    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        """Under the names of their weights."""
        pairs = _Pairs.of(prediction, labels, views)
        miss = pairs.log_depth_miss()
        ray = pairs.ray_miss(labels, views)
        terms = (
            Term("depth", confident_mean(miss, pairs.confidence, pairs.known, self.sureness), self.depth),
            Term("ratio", mean_per_image(pairs.log_ratio_miss().clamp(max=1), pairs.moved_known), self.ratio),
            Term("ray", mean_per_image(ray.clamp(max=self.farthest_miss), pairs.moved_known), self.ray),
            Term("pose", pairs.pose_miss(), self.pose),
            Term("still", self._still(pairs, miss, ray), self.still),
        )
        return tuple(term for term in terms if term.weight)

    def _still(self, pairs: "_Pairs", miss: Float[Tensor, "B P H W"], ray: Float[Tensor, "B P H W"]) -> Tensor:
        share = (pairs.still_points - pairs.moved_points).norm(dim=-1) / pairs.still_points.norm(dim=-1).clamp(min=1e-6)
        right = (miss < self.right) & (ray < self.right / 4) & (share < self.right / 2)
        chosen = (right & (pairs.moved_known > 0)).to(miss)
        size = miss.shape[-2] * miss.shape[-1]
        return mean_per_image(-(size * pairs.pose_weight).clamp(min=1e-6).log(), chosen)


@dataclass(frozen=True)
class _Pairs:
    """Of each pair: predicted and true points of the source, in its own camera and in the target's at its time."""

    points: Float[Tensor, "B P H W 3"]
    target_points: Float[Tensor, "B P H W 3"]
    pose_weight: Float[Tensor, "B P H W"]
    confidence: Float[Tensor, "B P H W"]
    true_points: Float[Tensor, "B P H W 3"]
    moved_points: Float[Tensor, "B P H W 3"]
    still_points: Float[Tensor, "B P H W 3"]
    known: Float[Tensor, "B P H W"]
    moved_known: Float[Tensor, "B P H W"]
    still_known: Float[Tensor, "B P H W"]
    shift: Float[Tensor, "B P 1 1"]
    """Median of log z - log z* over both views."""

    @staticmethod
    def of(prediction: Prediction, labels: Labels, views: Views) -> "_Pairs":
        true, still = targets.source_points(labels, views), targets.still_targets(labels, views)
        moved = targets.motion_targets(labels, views)
        points = targets.of_pairs(prediction.points, views.pairs, 0)
        known = torch.where(true.value[..., 2] > NEAREST, true.weight, 0)
        return _Pairs(
            points=points,
            target_points=require(prediction, "target_points"),
            pose_weight=require(prediction, "pose_weight"),
            confidence=targets.of_pairs(prediction.confidence, views.pairs, 0),
            true_points=true.value,
            moved_points=moved.value,
            still_points=still.value,
            known=known,
            moved_known=torch.where(moved.value[..., 2] > NEAREST, moved.weight * known, 0),
            still_known=torch.where(known > 0, still.weight, 0),
            shift=_shift(prediction, labels, views),
        )

    def log_depth_miss(self) -> Float[Tensor, "B P H W"]:
        return (_log(self.points) - _log(self.true_points) - self.shift).abs()

    def log_ratio_miss(self) -> Float[Tensor, "B P H W"]:
        return (_log(self.target_points) - _log(self.points) - _log(self.moved_points) + _log(self.true_points)).abs()

    def ray_miss(self, labels: Labels, views: Views) -> Float[Tensor, "B P H W"]:
        intrinsics = targets.of_pairs(require(labels, "intrinsics").value, views.pairs, 1)
        wanted = rays(landing(self.moved_points, intrinsics).flatten(-3, -2), intrinsics)[..., :2]
        depth = self.target_points[..., 2:].clamp(min=NEAREST)
        return (self.target_points[..., :2] / depth - wanted.unflatten(-2, depth.shape[-3:-1])).norm(dim=-1)

    def pose_miss(self) -> Float[Tensor, ""]:
        scale = self.shift[..., None].exp()
        miss = pose_miss(self.points / scale, self.target_points / scale, self.pose_weight, self.still_points)
        return mean_per_image(miss / self.true_points.norm(dim=-1).clamp(min=NEAREST), self.still_known)


def _log(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    return points[..., 2].clamp(min=NEAREST).log()


def _shift(prediction: Prediction, labels: Labels, views: Views) -> Float[Tensor, "B P 1 1"]:
    truth = require(labels, "points")
    depth = torch.where(truth.weight > 0, truth.value[..., 2], 1)
    front = torch.where(depth > NEAREST, truth.weight, 0)
    ratio = prediction.points[..., 2].detach().clamp(min=NEAREST).log() - depth.clamp(min=NEAREST).log()
    both = [
        torch.cat([targets.of_pairs(x, views.pairs, end).flatten(2) for end in (0, 1)], dim=2) for x in (ratio, front)
    ]
    return weighted_median(both[0], both[1])[..., None, None]
