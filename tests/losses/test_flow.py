"""Flow against a teacher's: units of the image, only what both views see; and the projective design on exact truth."""

from dataclasses import replace

import pytest
import torch

from unproject.data.base import Framing
from unproject.data.synthetic import handheld, render, sample_world
from unproject.geometry.camera import intrinsics_from_focal
from unproject.geometry.rigid import from_rt, so3_exp
from unproject.losses.flow import FlowLoss, ProjectiveFlowLoss, covisible_flow, robust
from unproject.types import Known, Labels, Prediction

FRAMING = Framing(views=3, pairs=((0, 1), (1, 0), (0, 2)), height=24, width=32)


@pytest.fixture(scope="module")
def clip():
    """Views and labels of two worlds in which nothing moves."""
    world = sample_world(1, batch=2, moving=False)
    path = handheld(world.stage, 1, duration_s=3.0)
    times = torch.tensor([[0.2, 0.7, 1.2]]).expand(2, -1)
    intrinsics = intrinsics_from_focal(torch.full_like(times, 30.0), FRAMING.width, FRAMING.height)
    made = render(world, path, times, intrinsics, FRAMING.height, FRAMING.width)
    pairs = torch.tensor(FRAMING.pairs)
    return made.views(pairs), made.labels(pairs)


def said(clip, flow=None) -> Prediction:
    """The truth, in a world and a scale of its own."""
    labels = clip[1]
    world = from_rt(so3_exp(torch.tensor([0.2, 0.1, -0.7])), torch.tensor([1.0, 2.0, 3.0]))
    poses = world @ labels.world_from_cam.value
    return Prediction(
        points=3 * labels.points.value,
        confidence=torch.full_like(labels.points.weight, 0.5),
        world_from_cam=from_rt(poses[..., :3, :3], 3 * poses[..., :3, 3]),
        flow=labels.flow.value if flow is None else flow,
    )


def value(loss, prediction, clip, labels=None) -> float:
    return loss(prediction, labels or clip[1], clip[0]).total.item()


def test_true_flow_costs_nothing_and_the_penalty_is_that_of_the_formula(clip):
    labels = clip[1]
    assert value(FlowLoss(), said(clip), clip) == 0
    off = said(clip, labels.flow.value + torch.tensor([3.0, 4.0]))
    miss = 5 / 32
    expected = 0.002**0.5 * (((miss / 0.002) ** 2 + 1) ** 0.25 - 1)
    assert value(FlowLoss(), off, clip) == pytest.approx(expected, rel=1e-4)
    assert value(FlowLoss(flow=2.0, power=1.0, bend=0.01), off, clip) == pytest.approx(
        2 * ((miss**2 + 0.01**2) ** 0.5 - 0.01), rel=1e-4
    )


def test_the_value_is_the_mean_over_what_both_views_see(clip):
    """One pixel after the other, as the paper has it."""
    labels = clip[1]
    noise = 5 * torch.randn(labels.flow.value.shape)
    pairs = []
    for b in range(2):
        for p in range(3):
            top, bottom = 0.0, 0.0
            for y in range(24):
                for x in range(32):
                    trust = labels.flow.weight[b, p, y, x].item()
                    place = labels.flow.value[b, p, y, x] + torch.tensor([x + 0.5, y + 0.5])
                    if trust and 0 <= place[0] <= 32 and 0 <= place[1] <= 24:
                        top += trust * robust(noise[b, p, y, x].norm() / 32, 0.5, 0.002).item()
                        bottom += trust
            pairs.append(top / bottom)
    found = value(FlowLoss(), said(clip, labels.flow.value + noise), clip)
    assert found == pytest.approx(sum(pairs) / 6, rel=1e-4)


def test_units_do_not_depend_on_the_images_size(clip):
    labels, views = clip[1], clip[0]
    noise = 4 * torch.randn(labels.flow.value.shape)

    def doubled(value, factor=1.0):
        return factor * value.repeat_interleave(2, 2).repeat_interleave(2, 3)

    big = Labels(flow=Known(doubled(labels.flow.value, 2.0), doubled(labels.flow.weight)))
    prediction = Prediction(
        points=doubled(labels.points.value),
        confidence=doubled(labels.points.weight),
        flow=doubled(labels.flow.value + noise, 2.0),
    )
    small = FlowLoss()(said(clip, labels.flow.value + noise), labels, views).total
    assert FlowLoss()(prediction, big, views).total.item() == pytest.approx(small.item(), rel=0.02)


def test_what_is_hidden_or_ends_outside_is_never_read(clip):
    labels = clip[1]
    flow, weight = labels.flow.value.clone(), labels.flow.weight.clone()
    weight[:, :, :8] = 0
    wrong = said(clip, flow + 2)
    first = replace(labels, flow=Known(flow, weight))
    spoilt = flow.clone()
    spoilt[:, :, :8] = torch.nan
    assert value(FlowLoss(), wrong, clip, first) == value(
        FlowLoss(), wrong, clip, replace(labels, flow=Known(spoilt, weight))
    )
    away = flow.clone()
    away[:, :, 8:12] = 100.0
    out = covisible_flow(replace(labels, flow=Known(away, torch.ones_like(weight))))
    assert bool((out.weight[:, :, 8:12] == 0).all()) and bool((out.weight[:, :, 12:] > 0).any())


def test_pairs_that_share_little_teach_nothing(clip):
    labels = clip[1]
    weight = labels.flow.weight.clone()
    weight[:, 1] = 0
    weight[:, 1, :2] = 1
    few = replace(labels, flow=Known(torch.zeros_like(labels.flow.value), weight))
    flow = torch.zeros_like(labels.flow.value)
    flow[:, 1] = 7.0
    assert value(FlowLoss(), said(clip, flow), clip, few) == 0
    assert value(FlowLoss(least_shared=0.0), said(clip, flow), clip, few) > 0.1


@pytest.mark.parametrize("loss", [FlowLoss(), ProjectiveFlowLoss()], ids=["head", "projective"])
def test_labels_that_know_nothing_ask_for_nothing(clip, loss):
    flow = clip[1].flow
    nothing = Labels(flow=Known(torch.full_like(flow.value, torch.nan), torch.zeros_like(flow.weight)))
    leaves = {name: getattr(said(clip), name).clone().requires_grad_() for name in ("points", "world_from_cam", "flow")}
    total = loss(Prediction(confidence=said(clip).confidence, **leaves), nothing, clip[0]).total
    total.backward()
    assert total.item() == 0
    assert all(leaf.grad is None or bool((leaf.grad == 0).all()) for leaf in leaves.values())


@pytest.mark.parametrize("loss", [FlowLoss(), ProjectiveFlowLoss()], ids=["head", "projective"])
def test_gradients_at_no_error_are_finite(clip, loss):
    leaves = {name: getattr(said(clip), name).clone().requires_grad_() for name in ("points", "world_from_cam", "flow")}
    loss(Prediction(confidence=said(clip).confidence, **leaves), clip[1], clip[0]).total.backward()
    assert all(leaf.grad is None or bool(leaf.grad.isfinite().all()) for leaf in leaves.values())


def test_exact_geometry_projects_to_true_flow_in_any_world_and_scale(clip):
    found = ProjectiveFlowLoss().predicted(said(clip), clip[0])
    both = (clip[1].flow.weight > 0) & (found.weight > 0)
    assert (found.value - clip[1].flow.value)[both].abs().max() < 0.02
    assert value(ProjectiveFlowLoss(), said(clip), clip) < 1e-4


def test_the_projective_loss_feels_depth_pose_and_focal_length_and_moves_them(clip):
    right = said(clip)
    turn = from_rt(so3_exp(torch.tensor([0.0, 0.05, 0.0])), torch.zeros(3))
    poses = right.world_from_cam.clone()
    poses[:, 1] = poses[:, 1] @ turn
    ramp = torch.linspace(0.7, 1.4, 32)[:, None]
    faults = {
        "pose": replace(right, world_from_cam=poses),
        "depth": replace(right, points=right.points * ramp),
        "focal": replace(right, points=right.points * torch.tensor([0.8, 0.8, 1.0])),
    }
    for name, fault in faults.items():
        assert value(ProjectiveFlowLoss(), fault, clip) > 1e-3, name
    points, world = (getattr(faults["depth"], n).clone().requires_grad_() for n in ("points", "world_from_cam"))
    ProjectiveFlowLoss()(replace(right, points=points, world_from_cam=world), clip[1], clip[0]).total.backward()
    assert points.grad.abs().sum() > 0 and world.grad.abs().sum() > 0


def test_points_behind_the_target_are_left_out(clip):
    """Planted: a camera that has run past everything it should see."""
    right = said(clip)
    ahead = from_rt(torch.eye(3), torch.tensor([0.0, 0.0, 1000.0]))
    poses = right.world_from_cam.clone()
    poses[:, 1] = poses[:, 1] @ ahead
    leaf = poses.requires_grad_()
    lost = replace(right, world_from_cam=leaf)
    found = ProjectiveFlowLoss().predicted(lost, clip[0])
    solid = clip[1].points.weight[:, 0] > 0
    assert bool((found.weight[:, 0][solid] == 0).all()) and bool((found.weight[:, 2] > 0).any())
    ProjectiveFlowLoss()(lost, clip[1], clip[0]).total.backward()
    assert bool(leaf.grad.isfinite().all())


def test_what_is_missing_is_named(clip):
    with pytest.raises(ValueError, match=r"Prediction\.flow"):
        FlowLoss()(replace(said(clip), flow=None), clip[1], clip[0])
    with pytest.raises(ValueError, match=r"Labels\.flow"):
        FlowLoss()(said(clip), replace(clip[1], flow=None), clip[0])
    with pytest.raises(ValueError, match=r"Prediction\.world_from_cam"):
        ProjectiveFlowLoss()(replace(said(clip), world_from_cam=None), clip[1], clip[0])
