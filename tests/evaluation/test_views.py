"""What is said of a multi-view network, at the truth and away from it."""

from dataclasses import replace

import pytest
import torch

from unproject.data.base import Framing
from unproject.data.clips import SyntheticClips
from unproject.evaluation.views import view_metrics
from unproject.geometry.rigid import from_rt, so3_exp
from unproject.types import Known, Prediction

FRAMING = Framing(views=3, pairs=((0, 1), (2, 0)), height=24, width=32)


@pytest.fixture(scope="module")
def sample():
    return SyntheticClips(span_s=(0.8, 1.5))(range(4), FRAMING)


def truth(sample) -> Prediction:
    """In a world and a scale of each clip's own."""
    world = from_rt(so3_exp(torch.randn(4, 1, 3)), torch.randn(4, 1, 3))
    scale = torch.tensor([0.5, 1.0, 2.0, 7.0])
    poses = world @ sample.labels.world_from_cam.value
    return Prediction(
        points=scale.view(4, 1, 1, 1, 1) * sample.labels.points.value,
        confidence=torch.ones_like(sample.labels.points.weight),
        world_from_cam=from_rt(poses[..., :3, :3], scale.view(4, 1, 1) * poses[..., :3, 3]),
        flow=sample.labels.flow.value,
    )


def test_the_truth_is_without_fault_in_any_world_and_scale(sample):
    found = view_metrics(truth(sample), sample)
    assert found["rra30"] == found["rta30"] == 1 and found["auc30"] > 0.99
    assert found["rotation_deg"] < 0.01 and found["translation_deg"] < 0.1
    assert found["depth_relative"] < 1e-5 and found["flow_px"] == 0


def test_faults_are_seen_where_they_are(sample):
    right = truth(sample)
    ramp = torch.linspace(0.8, 1.2, 32)[:, None]
    assert 0.05 < view_metrics(replace(right, points=right.points * ramp), sample)["depth_relative"] < 0.15
    off = view_metrics(replace(right, flow=right.flow + torch.tensor([3.0, 4.0])), sample)
    assert off["flow_px"] == pytest.approx(5.0, abs=1e-4)
    turned = right.world_from_cam.clone()
    turned[:, 0, :3, :3] = turned[:, 0, :3, :3] @ so3_exp(torch.tensor([0.0, 0.7, 0.0]))
    found = view_metrics(replace(right, world_from_cam=turned), sample)
    # Two of the three pairs of each clip have the view that was turned by 40 degrees.
    assert found["rra30"] == pytest.approx(1 / 3) and found["rotation_deg"] == pytest.approx(40.1, abs=0.1)
    assert found["auc30"] <= 1 / 3


def test_each_clip_has_a_scale_of_its_own_and_views_of_one_clip_do_not(sample):
    right = truth(sample)
    views = torch.tensor([1.0, 1.3, 0.8]).view(1, 3, 1, 1, 1)
    assert view_metrics(replace(right, points=right.points * views), sample)["depth_relative"] > 0.1


def test_unknown_poses_and_missing_flow_are_left_out(sample):
    poses = sample.labels.world_from_cam
    weight = poses.weight.clone()
    weight[:, 2] = 0
    value = poses.value.clone()
    value[:, 2] = 5.0
    labels = replace(sample.labels, world_from_cam=Known(value, weight))
    right = truth(sample)
    assert view_metrics(right, replace(sample, labels=labels))["rra30"] == 1
    assert "flow_px" not in view_metrics(replace(right, flow=None), sample)
    assert "flow_px" not in view_metrics(right, replace(sample, labels=replace(labels, flow=None)))
