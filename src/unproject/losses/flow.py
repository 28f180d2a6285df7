"""Flow of a multi-view network against that of a teacher: from a head (Flow3r, arXiv 2602.20157), or from geometry."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.geometry.align import intrinsics_from_points
from unproject.geometry.camera import pixel_grid
from unproject.geometry.flow import ends_inside
from unproject.geometry.motion import landing, transform_map
from unproject.geometry.rigid import inverse
from unproject.losses import targets
from unproject.losses.base import Loss, Term, mean_per_image, read
from unproject.types import Known, Labels, Prediction, Views, require


@dataclass(frozen=True, kw_only=True)
class FlowLoss(Loss):
    """Robust distance of flow where both views see the surface: the mean over each pair, then over pairs.

    Reads ``Labels.flow``, whose weight is covisibility. The paper says that the penalty is robust (Charbonnier) and no
    more: ``power``, ``bend``, ``least_shared`` and the weight are our choice.
    """

    flow: float = 1.0
    power: float = 0.5
    """What the penalty grows with where flow is far off: 2 is a square, 1 the distance, less bears with bad labels."""
    bend: float = 0.002
    """Distance, as a share of the image's longer side, up to which the penalty is a square: a pixel of 500."""
    least_shared: float = 0.1
    """Pairs of which less than this share is covisible teach nothing: their labels are seldom right."""

    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        """``flow``."""
        found, truth = self.predicted(prediction, views), covisible_flow(labels)
        miss = (found.value - truth.value).norm(dim=-1) / max(truth.value.shape[2:4])
        shared = truth.weight.mean((-2, -1), keepdim=True) >= self.least_shared
        weight = torch.where(shared, truth.weight * found.weight, 0)
        return (Term("flow", mean_per_image(robust(miss, self.power, self.bend), weight), self.flow),)

    def predicted(self, prediction: Prediction, views: Views) -> Known:
        """What the network says of flow, in pixels."""
        flow: Tensor = require(prediction, "flow")
        return Known(flow, torch.ones_like(flow[..., 0]))


@dataclass(frozen=True, kw_only=True)
class ProjectiveFlowLoss(FlowLoss):
    """The same of the flow that predicted points and poses imply as if nothing moved: the paper's flow-projective.

    Intrinsics are those that the target's own points imply; the gradient flows through all three.
    """

    nearest: float = 0.02
    """Points nearer to the target than this share of the source's median depth, or behind it, have no image."""

    def predicted(self, prediction: Prediction, views: Views) -> Known:
        """Where the source's points are seen in the target's camera, less the pixels they are of."""
        poses: Tensor = require(prediction, "world_from_cam")
        points = targets.of_pairs(prediction.points, views.pairs, 0)
        source, target = (targets.of_pairs(poses, views.pairs, end) for end in (0, 1))
        moved = transform_map(inverse(target) @ source, points)
        # Slopes do not depend on depth, so there are no outliers that more rounds would bear with.
        intrinsics = intrinsics_from_points(prediction.points, torch.ones_like(prediction.confidence), rounds=0)
        height, width = points.shape[2:4]
        middle = points[..., 2].detach().flatten(-2).median(-1).values[..., None, None]
        front = moved[..., 2] > self.nearest * middle
        seen = torch.where(front[..., None], moved, moved.new_tensor([0.0, 0.0, 1.0]))
        places = landing(seen, targets.of_pairs(intrinsics, views.pairs, 1))
        return Known(places - pixel_grid(height, width, points.dtype, points.device), front.to(points))


def covisible_flow(labels: Labels) -> Known:
    """True flow, without what ends outside the target's image."""
    flow: Known = require(labels, "flow")
    value = read(flow)
    return Known(value, torch.where(ends_inside(value), flow.weight, 0))


def robust(distance: Float[Tensor, "*batch"], power: float, bend: float) -> Float[Tensor, "*batch"]:
    """Generalised Charbonnier penalty bend^power ((x / bend)^2 + 1)^(power / 2), less its value at 0."""
    return bend**power * (((distance / bend).square() + 1) ** (power / 2) - 1)
