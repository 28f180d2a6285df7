"""Flow4R's property set in logarithms: the truth is free, scale does not count, and W is moved by its own terms."""

from dataclasses import replace

import pytest
import torch

from unproject.data.base import Framing
from unproject.data.pairs import SyntheticPairs
from unproject.losses.log_geometry import LogGeometryLoss
from unproject.types import Known, Prediction

FRAMING = Framing(views=2, pairs=((0, 1), (1, 0)), height=24, width=32)


@pytest.fixture(scope="module")
def sample():
    return SyntheticPairs(gap_s=(0.5, 1.0))([0, 1, 2, 3], FRAMING)


def still(sample):
    """Where the surface does not move in the world."""
    poses, points = sample.labels.world_from_cam.value, sample.labels.points.value
    moved = sample.labels.target_points.value
    pose = torch.linalg.inv(poses[:, [1, 0]]) @ poses
    rigid = points @ pose[:, :, None, :3, :3].mT + pose[:, :, None, None, :3, 3]
    return ((rigid - moved).norm(dim=-1) < 1e-3) & (sample.labels.points.weight > 0)


def truth(sample, scale: float = 1.0) -> Prediction:
    weight = still(sample).float()
    return Prediction(
        points=scale * sample.labels.points.value,
        target_points=scale * sample.labels.target_points.value,
        confidence=torch.full_like(weight, 0.5),
        pose_weight=weight / weight.sum((-2, -1), keepdim=True),
    )


def values(prediction, sample, loss=None):
    return {t.name: t.value.item() for t in (loss or LogGeometryLoss())(prediction, sample.labels, sample.views).terms}


@pytest.mark.parametrize("scale", [1.0, 0.1, 7.0])
def test_the_truth_costs_nothing_in_any_scale(sample, scale):
    found = values(truth(sample, scale), sample)
    # What is left of the depth term is the price of not being sure.
    assert found["depth"] == pytest.approx(0.05 * torch.tensor(0.5).log().item(), abs=1e-3)
    assert found["ratio"] < 1e-4 and found["ray"] < 1e-4 and found["pose"] < 1e-3


def test_each_term_feels_its_own_fault(sample):
    right = values(truth(sample), sample)
    bent = truth(sample)
    ramp = torch.linspace(0.8, 1.25, 32)[:, None]
    for fault, name in (
        (replace(bent, points=bent.points * ramp, target_points=bent.target_points * ramp), "depth"),
        (replace(bent, target_points=bent.target_points * ramp), "ratio"),
        (replace(bent, target_points=bent.target_points + torch.tensor([0.1, 0.0, 0.0])), "ray"),
    ):
        assert values(fault, sample)[name] > right[name] + 0.01, name


def test_weight_on_movers_costs_pose_and_weight_on_rest_does_not(sample):
    moving = ~still(sample) & (sample.labels.points.weight > 0)
    wrong = truth(sample)
    some = moving.flatten(2).any(-1)
    weight = torch.where(some[..., None, None], moving.float(), wrong.pose_weight)
    wrong = replace(wrong, pose_weight=weight / weight.sum((-2, -1), keepdim=True))
    a, b = values(truth(sample), sample), values(wrong, sample)
    assert b["pose"] > 10 * a["pose"] + 1e-3 and b["still"] > a["still"]


def test_terms_of_w_move_nothing_else(sample):
    start = truth(sample, 1.1)
    # Off the truth, so that there is something to learn.
    leaves = {
        "points": (start.points * 1.05 + 0.01).requires_grad_(),
        "target_points": (start.target_points + 0.02).requires_grad_(),
        "pose_weight": (start.pose_weight + 1e-4).requires_grad_(),
    }
    loss = LogGeometryLoss(depth=0, ratio=0, ray=0, still=0)
    loss(replace(start, **leaves), sample.labels, sample.views).total.backward()
    assert leaves["points"].grad is None and leaves["target_points"].grad is None
    assert leaves["pose_weight"].grad.abs().max() > 0


def test_unknown_pixels_are_never_read(sample):
    labels = sample.labels
    weight = labels.points.weight.clone()
    weight[..., :8, :] = 0
    first = replace(sample, labels=replace(labels, points=Known(labels.points.value, weight)))
    value = labels.points.value.clone()
    value[..., :8, :, :] = torch.nan
    again = replace(sample, labels=replace(labels, points=Known(value, weight)))
    assert values(truth(sample), first) == values(truth(sample), again)


def test_a_missing_label_is_named(sample):
    with pytest.raises(ValueError, match=r"Labels\.world_from_cam"):
        LogGeometryLoss()(truth(sample), replace(sample.labels, world_from_cam=None), sample.views)


def test_a_term_without_weight_needs_no_label(sample):
    alone = LogGeometryLoss(ratio=0, ray=0, pose=0, still=0)
    only_depth = replace(sample.labels, world_from_cam=None, intrinsics=None, target_points=None)
    (term,) = alone(truth(sample), only_depth, sample.views).terms
    assert term.name == "depth" and term.value == alone(truth(sample), sample.labels, sample.views).terms[0].value
    with pytest.raises(ValueError, match="every weight is 0"):
        LogGeometryLoss(depth=0, ratio=0, ray=0, pose=0, still=0)(truth(sample), sample.labels, sample.views)
