"""The five losses of Flow4R (arXiv 2602.14021, eq. 10-17)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.geometry.align import intrinsics_from_points, mean_distance
from unproject.geometry.camera import pixel_grid, rays
from unproject.geometry.motion import relative_pose, transform_map
from unproject.losses import targets
from unproject.losses.base import Loss, Term, mean_per_image, read, weighed
from unproject.losses.confidence import confident_mean
from unproject.types import Known, Labels, Prediction, Views, require


@dataclass(frozen=True, kw_only=True)
class MotionLoss(Loss):
    """Each pair of views as a set of P, P_vt, W and C, compared with all that is known of depth, pose and motion.

    The first five fields are the weights of the terms; a term of weight 0 is not computed and needs no label. Both
    sides are divided by their mean distance over the valid pixels of both views, so scale is free, and the gradient
    flows through that of the prediction. Every term is the mean over the known pixels of each image, then over images.
    """

    points: float = 1.0
    """L_P: P against depth. Reads `Labels.points`."""
    scene_flow: float = 0.5
    """L_F: P_vt against 3D motion. Reads `Labels.target_points`, `scene_flow` or `moving_tracks`."""
    optical_flow: float = 0.3
    """L_f: where P_vt lands against 2D motion, in units of focal length. Reads `Labels.flow` or `tracks`."""
    pose_weight: float = 0.5
    """L_W: T P against the true pose; moves W and nothing else. Reads `Labels.world_from_cam`."""
    camera_flow: float = 0.5
    """L_Fv: P_vt against the true pose as if nothing moved. Reads `Labels.world_from_cam`."""
    dynamic: bool = True
    """Things move here: L_Fv counts each pixel by its pose weight. False where the scene is known to stand still."""
    compare_flow: bool = False
    """Compare F = P_vt - P instead of P_vt: the worse variants of the paper's table 3."""
    sureness: float = 0.2
    """alpha: how much log C is worth."""
    farthest_miss: float = 0.2
    """An optical flow that misses by more, in units of focal length, no longer pulls: labels can be wrong."""
    nearest: float = 0.02
    """Points nearer than this share of the median distance, or behind the camera, have no image."""

    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        """Those of weight other than zero, under the names of their weights."""
        pairs = _Pairs(self, prediction, labels, views)
        makers = (
            ("points", self.points, pairs.points_term),
            ("scene_flow", self.scene_flow, pairs.scene_flow_term),
            ("optical_flow", self.optical_flow, pairs.optical_flow_term),
            ("pose_weight", self.pose_weight, pairs.pose_weight_term),
            ("camera_flow", self.camera_flow, pairs.camera_flow_term),
        )
        return weighed(makers)


@dataclass(frozen=True)
class _Pairs:
    """Prediction and truth of each pair of views, both at mean distance 1."""

    loss: MotionLoss
    prediction: Prediction
    labels: Labels
    views: Views

    @cached_property
    def sizes(self) -> tuple[Float[Tensor, "B P 1 1 1"], Float[Tensor, "B P 1 1 1"], Float[Tensor, "B P 1 1"]]:
        """Mean distance of predicted and true points over what is valid in truth, and 1 where anything is."""
        truth: Known = require(self.labels, "points")
        weight = self._of_both(truth.weight)
        predicted = mean_distance(self._of_both(self.prediction.points), weight)
        true = mean_distance(self._of_both(read(truth)), weight)
        known = (weight.sum(-1) > 0).to(weight)
        return predicted[..., None, None, None], true[..., None, None, None], known[..., None, None]

    def _of_both(self, per_view: Tensor) -> Tensor:
        """Pixels of the source, then of the target."""
        return torch.cat([targets.of_pairs(per_view, self.views.pairs, end).flatten(2, 3) for end in (0, 1)], dim=2)

    @cached_property
    def points(self) -> Float[Tensor, "B P H W 3"]:
        """P."""
        return targets.of_pairs(self.prediction.points, self.views.pairs, 0) / self.sizes[0]

    @cached_property
    def target_points(self) -> Float[Tensor, "B P H W 3"]:
        """P_vt."""
        return require(self.prediction, "target_points") / self.sizes[0]

    @cached_property
    def confidence(self) -> Float[Tensor, "B P H W"]:
        return targets.of_pairs(self.prediction.confidence, self.views.pairs, 0)

    @cached_property
    def true_points(self) -> Known:
        points = targets.source_points(self.labels, self.views)
        return Known(points.value / self.sizes[1], points.weight)

    @cached_property
    def still(self) -> Known:
        """P_v."""
        still = targets.still_targets(self.labels, self.views)
        return Known(still.value / self.sizes[1], still.weight)

    def points_term(self) -> Float[Tensor, ""]:
        """L_P = mean of C |P - true P| - alpha log C."""
        distance = (self.points - self.true_points.value).norm(dim=-1)
        return confident_mean(distance, self.confidence, self.true_points.weight, self.loss.sureness)

    def scene_flow_term(self) -> Float[Tensor, ""]:
        """L_F = mean of C |P_vt - true P_vt| - alpha log C."""
        truth = targets.motion_targets(self.labels, self.views)
        weight = truth.weight * self.sizes[2]
        if self.loss.compare_flow:
            weight = torch.where(self.true_points.weight > 0, weight, 0)
        distance = self._miss(truth.value / self.sizes[1])
        return confident_mean(distance, self.confidence, weight, self.loss.sureness)

    def camera_flow_term(self) -> Float[Tensor, ""]:
        """L_Fv = mean of w C |P_vt - true P_v| - alpha log C."""
        attention = _at_mean_one(require(self.prediction, "pose_weight").detach()) if self.loss.dynamic else None
        distance = self._miss(self.still.value)
        return confident_mean(distance, self.confidence, self.still.weight, self.loss.sureness, attention)

    def _miss(self, wanted: Float[Tensor, "B P H W 3"]) -> Float[Tensor, "B P H W"]:
        """|P_vt - wanted|, or the same of F."""
        if self.loss.compare_flow:
            return (self.target_points - self.points - (wanted - self.true_points.value)).norm(dim=-1)
        return (self.target_points - wanted).norm(dim=-1)

    def pose_weight_term(self) -> Float[Tensor, ""]:
        """L_W = mean of |T P - true P_v| with everything but W held fast."""
        weight = require(self.prediction, "pose_weight")
        return mean_per_image(pose_miss(self.points, self.target_points, weight, self.still.value), self.still.weight)

    def optical_flow_term(self) -> Float[Tensor, ""]:
        """L_f = mean of |landing of P_vt - true landing| / focal, as points at depth 1."""
        truth = targets.image_motion_targets(self.labels, self.views)
        points: Tensor = require(self.prediction, "target_points")
        height, width = points.shape[-3:-1]
        intrinsics = self._target_intrinsics()
        landed = pixel_grid(height, width, points.dtype, points.device) + truth.value
        wanted = rays(landed.flatten(-3, -2), intrinsics.value).unflatten(-2, (height, width))[..., :2]
        distance = targets.of_pairs(self.prediction.points, self.views.pairs, 0).detach().norm(dim=-1)
        # The median: a sky that is far would lift a mean above everything else.
        middle = distance.flatten(-2).median(-1).values[..., None, None]
        front = points[..., 2] > self.loss.nearest * middle
        slope = points[..., :2] / torch.where(front, points[..., 2], 1)[..., None]
        miss = (slope - wanted).norm(dim=-1).clamp(max=self.loss.farthest_miss)
        return mean_per_image(miss, torch.where(front, truth.weight * intrinsics.weight[..., None, None], 0))

    def _target_intrinsics(self) -> Known:
        """Of each pair's target: of the labels, else of the views, else those that the predicted points imply."""
        given, prior = self.labels.intrinsics, self.views.intrinsics
        if given is None and prior is not None:
            given = Known(prior, torch.ones_like(prior[..., 0, 0]))
        elif given is None:
            value = intrinsics_from_points(self.prediction.points.detach(), self.prediction.confidence.detach())
            given = Known(value, (value[..., 0, 0] > 0).to(value))
        eye = torch.eye(3, dtype=given.value.dtype, device=given.value.device)
        value = torch.where((given.weight > 0)[..., None, None], given.value, eye)
        return Known(targets.of_pairs(value, self.views.pairs, 1), targets.of_pairs(given.weight, self.views.pairs, 1))


def pose_miss(
    points: Float[Tensor, "B P H W 3"],
    target_points: Float[Tensor, "B P H W 3"],
    weight: Float[Tensor, "B P H W"],
    still_points: Float[Tensor, "B P H W 3"],
) -> Float[Tensor, "B P H W"]:
    """|T P - P_v| of eq. 15: how far the pose of the weights puts points from where the true one does.

    Moves the weights and nothing else.
    """
    points = points.detach()
    pose = relative_pose(points, target_points.detach(), weight)
    return (transform_map(pose, points) - still_points).norm(dim=-1)


def _at_mean_one(weight: Float[Tensor, "B P H W"]) -> Float[Tensor, "B P H W"]:
    """Weight over its mean: HW times W for a softmax."""
    mean = weight.mean((-2, -1), keepdim=True)
    return weight / torch.where(mean > 0, mean, 1)
