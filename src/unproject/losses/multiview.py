"""The losses of π³ (arXiv 2507.13347, section 3.4): points of all views in one free scale, normals, cameras, trust.

Neither the world nor its scale is asked for: points are compared in each view's own camera, poses between views.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss

from unproject.geometry.align import mean_distance, weighted_median
from unproject.geometry.motion import transform_map
from unproject.geometry.rigid import inverse, rotation_angle
from unproject.losses.base import Loss, Term, mean_per_clip, read, weighed
from unproject.losses.normals import normal_term
from unproject.types import Known, Labels, Prediction, Views, require

SCALE_POINTS = 4096
"""Points of a clip from which its scale is found."""
NEAR_SHARE = 0.1
"""Points nearer than this share of their view's mean depth count no more than those at it."""
HUBER = 0.1
"""Translations that miss by more are penalised by their distance, not its square."""


@dataclass(frozen=True, kw_only=True)
class MultiViewLoss(Loss):
    """All views of a clip as one scene. Reads ``Labels.points`` and ``Labels.world_from_cam``.

    The fields up to ``confidence`` are the weights of the terms, the defaults those of π³; a term of weight 0 is not
    computed. Both sides are brought to mean distance 1, then the prediction to the truth's scale by `robust_scale`.
    """

    points: float = 1.0
    """L1 distance over true depth, in the view's own camera."""
    normals: float = 1.0
    """For truth whose surfaces are exact: π³ leaves it out where depth was measured by a sensor."""
    rotation: float = 0.1
    """Angle in radians, over all ordered pairs of views."""
    translation: float = 10.0
    """Huber distance in the truth's scale, over all ordered pairs of views."""
    confidence: float = 0.05
    """Cross-entropy against whether the point is right. π³ trains it in a stage of its own, all else held fast."""
    right: float = 0.02
    """A point is right if it misses by less than this share of its depth, as a mean over coordinates."""

    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        """Those of weight other than zero, under the names of their weights."""
        scene = _Scene(prediction, labels)
        makers = (
            ("points", self.points, scene.points_term),
            ("normals", self.normals, lambda: normal_term(scene.points, scene.true_points, scene.known > 0)),
            ("rotation", self.rotation, scene.rotation_term),
            ("translation", self.translation, scene.translation_term),
            ("confidence", self.confidence, lambda: scene.confidence_term(self.right)),
        )
        return weighed(makers)


@dataclass(frozen=True)
class _Scene:
    """Prediction and truth of each clip, in the truth's own scale of mean distance 1."""

    prediction: Prediction
    labels: Labels

    @cached_property
    def known(self) -> Float[Tensor, "B N H W"]:
        """Trust in each true point; 0 for those that are not before their camera."""
        points: Known = require(self.labels, "points")
        return torch.where(read(points)[..., 2] > 0, points.weight, 0)

    @cached_property
    def poses(self) -> Known:
        """world_from_cam of the truth; the identity where it is unknown."""
        poses: Known = require(self.labels, "world_from_cam")
        eye = torch.eye(4, dtype=poses.value.dtype, device=poses.value.device)
        return Known(torch.where((poses.weight > 0)[..., None, None], poses.value, eye), poses.weight)

    @cached_property
    def true_size(self) -> Float[Tensor, " B"]:
        """Mean distance of all true points from the first camera whose pose is known.

        Points of a view without a pose count by the distance from their own camera.
        """
        weight = self.poses.weight
        first = (weight > 0).float().argmax(1)
        origin = self.poses.value[torch.arange(len(first), device=first.device), first]
        eye = torch.eye(4, dtype=origin.dtype, device=origin.device)
        first_from_cam = torch.where((weight > 0)[..., None, None], inverse(origin)[:, None] @ self.poses.value, eye)
        places = transform_map(first_from_cam, read(require(self.labels, "points")))
        return mean_distance(places.flatten(1, 3), self.known.flatten(1))

    @cached_property
    def true_points(self) -> Float[Tensor, "B N H W 3"]:
        points = torch.where((self.known > 0)[..., None], read(require(self.labels, "points")), 0)
        return points / self.true_size[:, None, None, None, None]

    @cached_property
    def scale(self) -> Float[Tensor, " B"]:
        """What the prediction is multiplied with. The gradient flows through its size, not through the fit."""
        points, known = self.prediction.points.flatten(1, 3), self.known.flatten(1)
        size = mean_distance(points, known)
        fit = robust_scale(points / size[:, None, None], self.true_points.flatten(1, 3), self.share.flatten(1))
        return fit / size

    @cached_property
    def share(self) -> Float[Tensor, "B N H W"]:
        """What each point's distance counts for: trust over depth, where depth is at least a tenth of its mean."""
        depth, known = self.true_points[..., 2], self.known
        total = known.sum((-2, -1), keepdim=True)
        mean = (depth * known).sum((-2, -1), keepdim=True) / torch.where(total > 0, total, 1)
        return known / (torch.maximum(depth, NEAR_SHARE * mean) + 1e-6)

    @cached_property
    def points(self) -> Float[Tensor, "B N H W 3"]:
        return self.prediction.points * self.scale[:, None, None, None, None]

    @cached_property
    def miss(self) -> Float[Tensor, "B N H W"]:
        """Mean over coordinates of the distance, over depth; 0 where nothing is known."""
        known = self.known > 0
        away = torch.where(known[..., None], self.points - self.true_points, 0).abs().mean(-1)
        return away * self.share / torch.where(known, self.known, 1)

    def points_term(self) -> Float[Tensor, ""]:
        return mean_per_clip(self.miss, self.known)

    def confidence_term(self, right: float) -> Float[Tensor, ""]:
        """Nothing is asked of pixels that are unknown: our labels do not tell sky from what was not measured."""
        logit = torch.logit(self.prediction.confidence, eps=1e-6)
        wanted = (self.miss.detach() < right).to(logit)
        return mean_per_clip(binary_cross_entropy_with_logits(logit, wanted, reduction="none"), self.known)

    @cached_property
    def pairs(self) -> tuple[Float[Tensor, "B N N 4 4"], Float[Tensor, "B N N 4 4"], Float[Tensor, "B N N"]]:
        """Poses from each view to each other, predicted and true in one scale, and how far they are known."""
        predicted: Tensor = require(self.prediction, "world_from_cam")
        weight = self.poses.weight
        both = weight[:, :, None] * weight[:, None, :] * (1 - torch.eye(weight.shape[1], device=weight.device))
        truth = _scaled(_between(self.poses.value), 1 / self.true_size)
        return _scaled(_between(predicted), self.scale), truth, both

    def rotation_term(self) -> Float[Tensor, ""]:
        motion, truth, weight = self.pairs
        return mean_per_clip(rotation_angle(truth[..., :3, :3].mT @ motion[..., :3, :3]), weight)

    def translation_term(self) -> Float[Tensor, ""]:
        motion, truth, weight = self.pairs
        miss = huber_loss(motion[..., :3, 3], truth[..., :3, 3], reduction="none", delta=HUBER).mean(-1)
        # Without a known point there is no scale to compare in.
        scaled = (self.known.flatten(1).sum(1) > 0)[:, None, None]
        return mean_per_clip(miss, torch.where(scaled, weight, 0))


def _between(world_from_cam: Float[Tensor, "B N 4 4"]) -> Float[Tensor, "B N N 4 4"]:
    """The pose from each camera (second axis) to each (first axis)."""
    return inverse(world_from_cam)[:, :, None] @ world_from_cam[:, None]


def _scaled(motion: Float[Tensor, "B N N 4 4"], factor: Float[Tensor, " B"]) -> Float[Tensor, "B N N 4 4"]:
    """The same in another unit of length."""
    top = torch.cat([motion[..., :3], motion[..., 3:] * factor[:, None, None, None, None]], dim=-1)
    return torch.cat([top[..., :3, :], motion[..., 3:, :]], dim=-2)


@torch.no_grad()
def robust_scale(
    points: Float[Tensor, "B P 3"], true_points: Float[Tensor, "B P 3"], weight: Float[Tensor, "B P"]
) -> Float[Tensor, " B"]:
    """The s > 0 that minimises the sum of weight |s points - true points|_1, without a gradient (MoGe's ROE).

    Exact for the points that are looked at: at most `SCALE_POINTS` of those with weight, evenly in their order. 1 where
    nothing has weight.
    """
    index, taken = _some(weight > 0)
    mine, true = (
        torch.where(taken[..., None], x.gather(1, index[..., None].expand(-1, -1, 3)), 0) for x in (points, true_points)
    )
    trust = torch.where(taken, weight.gather(1, index), 0)[..., None] * mine.abs()
    ratio = torch.where(mine != 0, true / torch.where(mine != 0, mine, 1), 0)
    scale = weighted_median(ratio.flatten(1), trust.flatten(1)).abs()
    return torch.where(scale > 0, scale, 1)


def _some(chosen: Bool[Tensor, "B P"]) -> tuple[Tensor, Bool[Tensor, "B K"]]:
    """Places of up to K of the chosen, the nearest to even steps through them, and which of the K are filled."""
    count = chosen.sum(1, keepdim=True)
    most = min(SCALE_POINTS, chosen.shape[1])
    step = torch.arange(most, device=chosen.device).expand(len(chosen), -1)
    rank = torch.where(count > most, step * count // most, step)
    index = torch.searchsorted(chosen.long().cumsum(1), rank + 1)
    return index.clamp(max=chosen.shape[1] - 1), step < count
