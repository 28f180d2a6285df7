"""One scene of all views: right in any world and scale, wrong where it was made wrong."""

from dataclasses import replace

import pytest
import torch

from unproject.data.base import Framing, Sample
from unproject.data.clips import SyntheticClips
from unproject.evaluation.scene import scene_metrics
from unproject.geometry.motion import transform_map
from unproject.geometry.rigid import from_rt, inverse, so3_exp
from unproject.types import Known, Prediction

FRAMING = Framing(views=4, pairs=((0, 1),), height=24, width=32)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return SyntheticClips(span_s=(0.8, 1.5), moving=False)(range(3), FRAMING)


def truth(sample: Sample, scale: float = 3.0) -> Prediction:
    """In a world of its own."""
    labels = sample.labels
    poses = from_rt(so3_exp(torch.randn(3, 1, 3)), torch.randn(3, 1, 3)) @ labels.world_from_cam.value
    return Prediction(
        points=scale * labels.points.value,
        confidence=torch.ones_like(labels.points.weight),
        world_from_cam=from_rt(poses[..., :3, :3], scale * poses[..., :3, 3]),
    )


def test_the_truth_is_without_fault_in_any_world_and_scale(sample):
    found = scene_metrics(truth(sample), sample)
    assert found["point_relative"] < 1e-4 and found["depth_relative"] < 1e-5 and found["ate"] < 1e-5
    assert found["point_inliers"] == found["depth_inliers"] == 1 and found["auc30"] > 0.99


def test_it_is_what_its_definition_says(sample):
    """Computed by hand for one clip: the first camera and the mean distance are all that is aligned."""
    torch.manual_seed(2)
    one = Sample(
        views=sample.views,
        labels=replace(
            sample.labels,
            points=Known(sample.labels.points.value[:1], sample.labels.points.weight[:1]),
            world_from_cam=Known(sample.labels.world_from_cam.value[:1], torch.ones(1, 4)),
        ),
        names=sample.names,
    )
    said = truth(sample)
    noisy = said.points[:1] * (0.2 * torch.randn(1, 4, 24, 32, 1)).exp()
    found = scene_metrics(
        Prediction(points=noisy, confidence=said.confidence[:1], world_from_cam=said.world_from_cam[:1]), one
    )
    known = one.labels.points.weight[0] > 0
    sides = []
    for points, poses in (
        (noisy[0], said.world_from_cam[0]),
        (one.labels.points.value[0], one.labels.world_from_cam.value[0]),
    ):
        placed = transform_map(inverse(poses[:1]) @ poses, points).double()
        size = placed[known].norm(dim=-1).mean()
        sides.append((placed / size, points[..., 2].double() / size))
    (placed, depth), (true, true_depth) = sides
    for view_mean, name in (
        (lambda v: ((placed - true).norm(dim=-1) / true.norm(dim=-1))[v][known[v]].mean(), "point_relative"),
        (lambda v: ((depth - true_depth).abs() / true_depth)[v][known[v]].mean(), "depth_relative"),
        (
            lambda v: (
                ((placed.norm(dim=-1) / true.norm(dim=-1)).log().abs()[v][known[v]] < torch.tensor(1.1).log())
                .double()
                .mean()
            ),
            "point_inliers",
        ),
        (
            lambda v: ((depth / true_depth).log().abs()[v][known[v]] < torch.tensor(1.1).log()).double().mean(),
            "depth_inliers",
        ),
    ):
        assert found[name] == pytest.approx(sum(view_mean(v).item() for v in range(4)) / 4, rel=1e-5)


def test_a_first_camera_that_is_wrong_is_wrong_of_all_points(sample):
    right = truth(sample)
    turned = right.world_from_cam.clone()
    turned[:, 0, :3, :3] = turned[:, 0, :3, :3] @ so3_exp(torch.tensor([0.0, 0.3, 0.0]))
    found = scene_metrics(replace(right, world_from_cam=turned), sample)
    assert 0.15 < found["point_relative"] < 0.3  # three views of four are turned by .3
    assert found["depth_relative"] < 1e-2 and found["auc30"] < 0.8


def test_views_share_one_scale_and_centres_are_not_scaled(sample):
    right = truth(sample)
    views = torch.tensor([1.0, 1.3, 0.8, 1.0]).view(1, 4, 1, 1, 1)
    apart = scene_metrics(replace(right, points=right.points * views), sample)
    assert apart["depth_relative"] > 0.05 and apart["depth_inliers"] < 0.8 and apart["auc30"] > 0.99
    far = from_rt(right.world_from_cam[..., :3, :3], 2 * right.world_from_cam[..., :3, 3])
    assert scene_metrics(replace(right, world_from_cam=far), sample)["ate"] > 0.005


def test_inliers_are_right_of_distance_in_whatever_direction(sample):
    """All points and cameras turned about the first camera: every distance stays, and no point is where it was."""
    right = truth(sample)
    mirrored = torch.diag(torch.tensor([-1.0, 1, 1]))
    poses = right.world_from_cam
    first = poses[:, :1]
    local = inverse(first) @ poses
    flipped = from_rt(mirrored @ local[..., :3, :3] @ mirrored, local[..., :3, 3] @ mirrored)
    found = scene_metrics(replace(right, points=right.points @ mirrored, world_from_cam=flipped), sample)
    assert found["point_inliers"] > 0.999 and found["point_relative"] > 0.1


def test_a_view_without_a_pose_is_refused(sample):
    labels = replace(sample.labels, world_from_cam=Known(sample.labels.world_from_cam.value, torch.zeros(3, 4)))
    with pytest.raises(ValueError, match="pose of every view"):
        scene_metrics(truth(sample), replace(sample, labels=labels))
