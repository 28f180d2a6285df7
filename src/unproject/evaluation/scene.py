"""All views of a clip as one scene, in the protocol of MapAnything's benchmark that Reliev3R reports (its section 4).

Nothing is aligned but the first camera and one scale, the mean distance of all known points from it: what is wrong of
that camera's pose is wrong everywhere.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.data.base import Sample
from unproject.evaluation.metrics import pair_errors
from unproject.geometry.align import mean_distance, procrustes
from unproject.geometry.motion import transform_map
from unproject.geometry.rigid import inverse, transform
from unproject.types import Prediction, require

INLIER = 1.1
"""A distance is right if it is off by less than this factor."""


def scene_metrics(prediction: Prediction, sample: Sample) -> dict[str, float]:
    """Means over views, then over the clips of the batch, of which all poses must be known.

    - ``point_relative``, ``point_inliers``: distance of points over theirs from the first camera, and the share whose
      distances from it agree within a tenth, whatever their directions.
    - ``depth_relative``, ``depth_inliers``: the same of depth, in the same scale.
    - ``ate``: mean distance of cameras after a rigid alignment, in units of the scene's size.
    - ``auc30``: over all pairs of views, of the larger of both angles, up to 30 degrees.
    """
    labels = sample.labels
    truth, poses = require(labels, "points"), require(labels, "world_from_cam")
    if not (poses.weight > 0).all():
        raise ValueError("scene_metrics needs the pose of every view")
    clips = [
        _clip(*each)
        for each in zip(
            prediction.points.double(),
            require(prediction, "world_from_cam").double(),
            torch.where((truth.weight > 0)[..., None], truth.value, 0).double(),
            poses.value.double(),
            (truth.weight > 0).double(),
            strict=True,
        )
    ]
    return {name: sum(clip[name] for clip in clips) / len(clips) for name in clips[0]}


def _clip(
    points: Float[Tensor, "N H W 3"],
    world_from_cam: Float[Tensor, "N 4 4"],
    true_points: Float[Tensor, "N H W 3"],
    true_poses: Float[Tensor, "N 4 4"],
    known: Float[Tensor, "N H W"],
) -> dict[str, float]:
    first_from_cam, true_from_cam = (inverse(pose[0]) @ pose for pose in (world_from_cam, true_poses))
    placed, true_placed = transform_map(first_from_cam, points), transform_map(true_from_cam, true_points)
    size, true_size = (mean_distance(x.flatten(0, 2)[None], known.flatten()[None])[0] for x in (placed, true_placed))
    placed, true_placed = placed / size, true_placed / true_size
    depth, true_depth = points[..., 2] / size, true_points[..., 2] / true_size
    distance, true_distance = placed.norm(dim=-1), true_placed.norm(dim=-1)
    centres, true_centres = first_from_cam[:, :3, 3] / size, true_from_cam[:, :3, 3] / true_size
    rigid = procrustes(centres, true_centres, torch.ones_like(centres[:, 0]))
    return {
        "point_relative": _mean((placed - true_placed).norm(dim=-1) / _some(true_distance), known),
        "point_inliers": _mean(_within(distance, true_distance), known),
        "depth_relative": _mean((depth - true_depth).abs() / _some(true_depth), known),
        "depth_inliers": _mean(_within(depth, true_depth), known),
        "ate": (transform(rigid, centres) - true_centres).norm(dim=-1).mean().item(),
        "auc30": pair_errors(world_from_cam, true_poses).auc(30),
    }


def _within(found: Tensor, true: Tensor) -> Tensor:
    found, true = _some(found), _some(true)
    return (torch.maximum(found / true, true / found) < INLIER).double()


def _some(distance: Tensor) -> Tensor:
    return distance.clamp(min=1e-9)


def _mean(value: Float[Tensor, "N H W"], known: Float[Tensor, "N H W"]) -> float:
    """Over known pixels of each view, then over views that have any."""
    total = known.sum((-2, -1))
    means = (value * known).sum((-2, -1))[total > 0] / total[total > 0]
    return means.mean().item()
