"""Flow4R's property set compared in logarithms of depth and in angles: for small networks (measured).

The paper's own losses compare points, so a far wall outweighs everything that stands before it. Logarithms weigh every
depth alike, which a network that has explained most of a scene already needs.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.geometry.align import weighted_median
from unproject.geometry.camera import rays
from unproject.geometry.motion import landing
from unproject.losses import targets
from unproject.losses.base import Loss, Term, mean_per_image, weighed
from unproject.losses.confidence import confident_mean
from unproject.losses.motion import pose_miss
from unproject.types import Known, Labels, Prediction, Views, require

NEAREST = 1e-3
"""Depth below which a point counts as behind the camera."""


@dataclass(frozen=True, kw_only=True)
class LogGeometryLoss(Loss):
    """Depth, how it changes between the views, where points land, and what may be trusted for pose.

    Reads of ``Labels`` what its terms need: ``points``, ``target_points``, ``world_from_cam``, ``intrinsics``. Scale is
    free: the median of the logarithms of both views of a pair is taken out.
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
        """Those of weight other than zero, under the names of their weights."""
        pairs = _Pairs(self, prediction, labels, views)
        makers = (
            ("depth", self.depth, pairs.depth_term),
            ("ratio", self.ratio, pairs.ratio_term),
            ("ray", self.ray, pairs.ray_term),
            ("pose", self.pose, pairs.pose_term),
            ("still", self.still, pairs.still_term),
        )
        return weighed(makers)


@dataclass(frozen=True)
class _Pairs:
    """Of each pair: predicted and true points of the source, in its own camera and in the target's at its time."""

    loss: LogGeometryLoss
    prediction: Prediction
    labels: Labels
    views: Views

    @cached_property
    def points(self) -> Float[Tensor, "B P H W 3"]:
        return targets.of_pairs(self.prediction.points, self.views.pairs, 0)

    @cached_property
    def target_points(self) -> Float[Tensor, "B P H W 3"]:
        return require(self.prediction, "target_points")

    @cached_property
    def true(self) -> Known:
        """Where the true point is in front of the camera."""
        true = targets.source_points(self.labels, self.views)
        return Known(true.value, torch.where(true.value[..., 2] > NEAREST, true.weight, 0))

    @cached_property
    def moved(self) -> Known:
        moved = targets.motion_targets(self.labels, self.views)
        return Known(moved.value, torch.where(moved.value[..., 2] > NEAREST, moved.weight * self.true.weight, 0))

    @cached_property
    def still(self) -> Known:
        still = targets.still_targets(self.labels, self.views)
        return Known(still.value, torch.where(self.true.weight > 0, still.weight, 0))

    @cached_property
    def shift(self) -> Float[Tensor, "B P 1 1"]:
        """Median of log z - log z* over both views."""
        return _shift(self.prediction, self.labels, self.views)

    @cached_property
    def depth_miss(self) -> Float[Tensor, "B P H W"]:
        return (_log(self.points) - _log(self.true.value) - self.shift).abs()

    @cached_property
    def ray_miss(self) -> Float[Tensor, "B P H W"]:
        intrinsics = targets.of_pairs(require(self.labels, "intrinsics").value, self.views.pairs, 1)
        wanted = rays(landing(self.moved.value, intrinsics).flatten(-3, -2), intrinsics)[..., :2]
        depth = self.target_points[..., 2:].clamp(min=NEAREST)
        return (self.target_points[..., :2] / depth - wanted.unflatten(-2, depth.shape[-3:-1])).norm(dim=-1)

    def depth_term(self) -> Float[Tensor, ""]:
        confidence = targets.of_pairs(self.prediction.confidence, self.views.pairs, 0)
        return confident_mean(self.depth_miss, confidence, self.true.weight, self.loss.sureness)

    def ratio_term(self) -> Float[Tensor, ""]:
        true = _log(self.moved.value) - _log(self.true.value)
        miss = (_log(self.target_points) - _log(self.points) - true).abs()
        return mean_per_image(miss.clamp(max=1), self.moved.weight)

    def ray_term(self) -> Float[Tensor, ""]:
        return mean_per_image(self.ray_miss.clamp(max=self.loss.farthest_miss), self.moved.weight)

    def pose_term(self) -> Float[Tensor, ""]:
        scale = self.shift[..., None].exp()
        weight = require(self.prediction, "pose_weight")
        miss = pose_miss(self.points / scale, self.target_points / scale, weight, self.still.value)
        return mean_per_image(miss / self.true.value.norm(dim=-1).clamp(min=NEAREST), self.still.weight)

    def still_term(self) -> Float[Tensor, ""]:
        limit, weight = self.loss.right, require(self.prediction, "pose_weight")
        away = (self.still.value - self.moved.value).norm(dim=-1) / self.still.value.norm(dim=-1).clamp(min=1e-6)
        right = (self.depth_miss < limit) & (self.ray_miss < limit / 4) & (away < limit / 2)
        chosen = (right & (self.moved.weight > 0)).to(weight)
        size = weight.shape[-2] * weight.shape[-1]
        return mean_per_image(-(size * weight).clamp(min=1e-6).log(), chosen)


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
