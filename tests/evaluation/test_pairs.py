"""What is said of a two-view network, at the truth and away from it."""

import math
from dataclasses import replace

import pytest
import torch

from unproject.data.base import Framing
from unproject.data.pairs import SyntheticPairs
from unproject.evaluation.pairs import pair_metrics
from unproject.types import Prediction

FRAMING = Framing(views=2, pairs=((0, 1), (1, 0)), height=24, width=32)


@pytest.fixture(scope="module")
def sample():
    return SyntheticPairs(gap_s=(0.5, 1.0))(range(4), FRAMING)


def truth(sample, scale: float = 1.0) -> Prediction:
    poses, points = sample.labels.world_from_cam.value, sample.labels.points.value
    moved = sample.labels.target_points.value
    pose = torch.linalg.inv(poses[:, [1, 0]]) @ poses
    rigid = points @ pose[:, :, None, :3, :3].mT + pose[:, :, None, None, :3, 3]
    weight = ((rigid - moved).norm(dim=-1) < 1e-3) & (sample.labels.points.weight > 0)
    return Prediction(
        points=scale * points,
        target_points=scale * moved,
        confidence=torch.ones_like(points[..., 0]),
        pose_weight=weight / weight.sum((-2, -1), keepdim=True),
        flow=sample.labels.flow.value,
    )


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_truth_is_without_fault(sample, scale):
    found = pair_metrics(truth(sample, scale), sample)
    assert found["flow_px"] == 0 and found["flow_within_1px"] == 1
    assert found["pose_auc30"] > 0.99 and found["rotation_deg"] < 0.01 and found["translation_deg"] < 0.1
    assert found["depth_relative"] < 1e-5 and found["target_relative"] < 1e-5
    assert found["weight_on_movers"] == 0


def test_flow_can_be_that_of_the_points(sample):
    assert pair_metrics(replace(truth(sample), flow=None), sample)["flow_px"] < 1e-3


def test_faults_are_seen_where_they_are(sample):
    right = truth(sample)
    off = pair_metrics(replace(right, flow=right.flow + torch.tensor([3.0, 4.0])), sample)
    assert off["flow_px"] == pytest.approx(5.0, abs=1e-4) and off["flow_within_1px"] == 0
    ramp = torch.linspace(0.8, 1.2, 32)[:, None]
    bent = pair_metrics(replace(right, points=right.points * ramp), sample)
    assert 0.05 < bent["depth_relative"] < 0.15 and bent["pose_auc30"] < 0.9
    even = torch.full_like(right.pose_weight, 1 / (24 * 32))
    assert pair_metrics(replace(right, pose_weight=even), sample)["weight_on_movers"] > 0.01


def test_what_the_truth_says_nothing_of_is_nan_and_what_the_network_does_not_know_is_not(sample):
    blind = replace(sample.labels.flow, weight=torch.zeros_like(sample.labels.flow.weight))
    found = pair_metrics(truth(sample), replace(sample, labels=replace(sample.labels, flow=blind)))
    assert {name for name, value in found.items() if math.isnan(value)} == {"flow_px", "flow_within_1px"}
    right = truth(sample)
    lost = pair_metrics(replace(right, flow=torch.full_like(right.flow, torch.nan)), sample)
    assert lost["flow_px"] == math.inf and lost["flow_within_1px"] == 0
