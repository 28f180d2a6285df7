"""How far a two-view network's answers are from the truth."""

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.data.base import Sample
from unproject.evaluation.metrics import motion_errors
from unproject.geometry.align import weighted_median
from unproject.geometry.motion import flow_of_points, relative_pose
from unproject.losses import targets
from unproject.types import Prediction, require


def pair_metrics(prediction: Prediction, sample: Sample) -> dict[str, float]:
    """Means over the batch; every pair of an item counts. NaN for what the truth of this batch says nothing of.

    An answer that is not a number is infinitely far off.

    - ``flow_px``, ``flow_within_1px``: median distance and share of the flow, where the target sees the surface. Flow
      is the network's, or what its points imply.
    - ``pose_auc30``: of the pose that W makes of P and P_vt, with the medians ``rotation_deg`` and ``translation_deg``.
    - ``depth_relative``: median relative error of depth with one scale for both views of a pair.
    - ``target_relative``: median distance of P_vt from the truth over its true distance, same scale.
    - ``weight_on_movers``: share of W that lies on what moves in the world.
    """
    labels, views = sample.labels, sample.views
    true, still = targets.source_points(labels, views), targets.still_targets(labels, views)
    moved = targets.motion_targets(labels, views)
    points = targets.of_pairs(prediction.points, views.pairs, 0)
    target_points, weight = require(prediction, "target_points"), require(prediction, "pose_weight")
    known = (true.weight > 0) & (moved.weight > 0) & (moved.value[..., 2] > 0)
    depth, true_depth = points[..., 2], true.value[..., 2]
    ratio = torch.where(known, true_depth / depth.clamp(min=1e-9), 1)
    scale = weighted_median(ratio.flatten(1), known.flatten(1).to(ratio))[:, None, None, None]
    moving = (moved.value - still.value).norm(dim=-1) > 0.01 * moved.value.norm(dim=-1)
    off = (scale[..., None] * target_points - moved.value).norm(dim=-1) / moved.value.norm(dim=-1).clamp(min=1e-9)
    poses = relative_pose(points, target_points, weight), targets.target_from_source(labels, views).value
    errors = motion_errors(*(pose.flatten(0, 1).double() for pose in poses))
    return {
        **_flow_metrics(prediction, sample),
        "pose_auc30": errors.auc_integral(30.0),
        "rotation_deg": errors.rotation_deg.median().item(),
        "translation_deg": errors.translation_deg.median().item(),
        "depth_relative": _median((scale * depth / true_depth - 1).abs()[known]),
        "target_relative": _median(off[known]),
        "weight_on_movers": (weight * (moving & known)).sum((-2, -1)).mean().item(),
    }


def _flow_metrics(prediction: Prediction, sample: Sample) -> dict[str, float]:
    truth = require(sample.labels, "flow")
    flow = prediction.flow
    if flow is None:
        pairs = sample.views.pairs
        intrinsics = require(sample.labels, "intrinsics").value
        source, target = (targets.of_pairs(intrinsics, pairs, end) for end in (0, 1))
        points = targets.of_pairs(prediction.points, pairs, 0)
        flow, _ = flow_of_points(points, require(prediction, "target_points"), source, target)
    miss = (flow - truth.value).norm(dim=-1)[truth.weight > 0.5]
    return {"flow_px": _median(miss), "flow_within_1px": (miss < 1).float().mean().item()}


def _median(error: Float[Tensor, " M"]) -> float:
    return error.nan_to_num(nan=torch.inf, posinf=torch.inf).median().item()
