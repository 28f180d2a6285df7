"""π³'s losses: scale and world are free, what is unknown is never read, and each term feels its own fault."""

from dataclasses import replace

import pytest
import torch

from unproject.data.base import Framing
from unproject.data.synthetic import handheld, render, sample_world
from unproject.geometry.align import weighted_median
from unproject.geometry.camera import intrinsics_from_focal
from unproject.geometry.rigid import from_rt, inverse, so3_exp, transform
from unproject.geometry.surface import depth_edges
from unproject.losses import multiview
from unproject.losses.multiview import MultiViewLoss, robust_scale
from unproject.losses.normals import normal_term
from unproject.types import Known, Labels, Prediction

FRAMING = Framing(views=3, pairs=((0, 1), (1, 2)), height=20, width=28)
NAMES = ("points", "normals", "rotation", "translation", "confidence")


@pytest.fixture(scope="module")
def clip():
    """Views and labels of two worlds, three views each."""
    world = sample_world(3, batch=2)
    path = handheld(world.stage, 3, duration_s=3.0)
    times = torch.tensor([[0.2, 1.0, 2.1]]).expand(2, -1)
    intrinsics = intrinsics_from_focal(torch.full_like(times, 25.0), FRAMING.width, FRAMING.height)
    made = render(world, path, times, intrinsics, FRAMING.height, FRAMING.width)
    pairs = torch.tensor(FRAMING.pairs)
    return made.views(pairs), made.labels(pairs)


def truth(clip) -> Prediction:
    labels = clip[1]
    known = labels.points.weight
    return Prediction(
        points=torch.where(known[..., None] > 0, labels.points.value, 1.0),
        confidence=torch.where(known > 0, 1.0, 0.5),
        world_from_cam=labels.world_from_cam.value,
    )


def moved(prediction: Prediction, scale: float) -> Prediction:
    """In another world, another unit."""
    world = from_rt(so3_exp(torch.tensor([0.3, -1.0, 0.5])), torch.tensor([2.0, -1.0, 4.0]))
    poses = world @ prediction.world_from_cam
    poses = from_rt(poses[..., :3, :3], scale * poses[..., :3, 3])
    return replace(prediction, points=scale * prediction.points, world_from_cam=poses)


def bent(clip) -> Prediction:
    """Wrong in everything."""
    right = truth(clip)
    noise = torch.Generator().manual_seed(1)
    turn = so3_exp(0.1 * torch.randn(2, 3, 3, generator=noise))
    shift = 0.2 * torch.randn(2, 3, 3, generator=noise)
    return Prediction(
        points=right.points * (1 + 0.1 * torch.rand(right.points.shape, generator=noise)),
        confidence=torch.full_like(right.confidence, 0.7),
        world_from_cam=right.world_from_cam @ from_rt(turn, shift),
    )


def values(prediction, clip, loss=None, labels=None) -> dict[str, float]:
    said = (loss or MultiViewLoss())(prediction, labels or clip[1], clip[0])
    return {term.name: term.value.item() for term in said.terms}


@pytest.mark.parametrize("scale", [1.0, 1 / 3, 7.0])
def test_the_truth_costs_nothing_in_any_world_and_scale(clip, scale):
    found = values(moved(truth(clip), scale), clip)
    assert tuple(found) == NAMES
    assert all(abs(value) < 2e-5 for value in found.values()), found


def test_the_weights_are_those_of_the_paper(clip):
    said = MultiViewLoss()(bent(clip), clip[1], clip[0])
    weights = {term.name: term.weight for term in said.terms}
    assert weights == {"points": 1, "normals": 1, "rotation": 0.1, "translation": 0.1 * 100, "confidence": 0.05}
    only = MultiViewLoss(points=0, normals=0, translation=0, confidence=0)(bent(clip), clip[1], clip[0])
    assert [term.name for term in only.terms] == ["rotation"]


@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_no_term_asks_for_world_or_scale(clip, scale):
    one, other = values(bent(clip), clip), values(moved(bent(clip), scale), clip)
    assert one == pytest.approx(other, rel=1e-3)
    assert min(one.values()) > 1e-4


def test_points_and_cameras_are_those_of_a_slow_twin(clip):
    """Written as the paper has it: one pixel and one pair after the other, the scale tried out."""
    prediction, labels = bent(clip), clip[1]
    points_sum, rotation_sum, translation_sum = 0.0, 0.0, 0.0
    for b in range(2):
        known = labels.points.weight[b] > 0
        poses = inverse(labels.world_from_cam.value[b, :1]) @ labels.world_from_cam.value[b]
        places = torch.stack([transform(poses[n], labels.points.value[b, n].flatten(0, 1)) for n in range(3)])
        size = places.view(3, 20, 28, 3)[known].norm(dim=-1).mean()
        true = labels.points.value[b] / size
        mean = torch.stack([true[n, ..., 2][known[n]].mean() for n in range(3)])[:, None, None]
        weight = 1 / (torch.maximum(true[..., 2], 0.1 * mean) + 1e-6)
        mine = prediction.points[b] / prediction.points[b][known].norm(dim=-1).mean()

        def cost(s, mine=mine, true=true, weight=weight, known=known):
            return ((s * mine - true).abs().sum(-1) * weight)[known].sum() / known.sum() / 3

        low, high = 0.01, 100.0
        for _ in range(100):  # the cost is convex
            third = (high - low) / 3
            low, high = (low + third, high) if cost(low + third) > cost(high - third) else (low, high - third)
        best = (low + high) / 2
        points_sum += cost(best)
        factor = best / prediction.points[b][known].norm(dim=-1).mean()
        for i in range(3):
            for j in range(3):
                if i == j:
                    continue
                a = inverse(prediction.world_from_cam[b, i]) @ prediction.world_from_cam[b, j]
                t = inverse(poses[i]) @ poses[j]
                trace = (a[:3, :3].T @ t[:3, :3]).trace()
                rotation_sum += torch.arccos(((trace - 1) / 2).clamp(-1 + 1e-6, 1 - 1e-6)) / 6
                off = (factor * a[:3, 3] - t[:3, 3] / size).abs()
                translation_sum += torch.where(off < 0.1, off**2 / 2, 0.1 * (off - 0.05)).mean() / 6
    found = values(prediction, clip)
    expected = {"points": points_sum / 2, "rotation": rotation_sum / 2, "translation": translation_sum / 2}
    assert {name: found[name] for name in expected} == pytest.approx({k: float(v) for k, v in expected.items()}, 1e-3)


def test_scale_is_exact_and_robust():
    points = torch.randn(3, 50, 3)
    weight = torch.rand(3, 50)
    weight[2] = 0
    assert torch.allclose(robust_scale(points / 3, points, weight), torch.tensor([3.0, 3.0, 1.0]))
    assert torch.allclose(robust_scale(-points, points, weight)[:2], torch.ones(2)), "a scale is never negative"
    spoilt = points.clone()
    spoilt[:, :20] = 100.0
    light = weight.clone()
    light[:, :20] *= 0.01
    assert torch.allclose(robust_scale(points / 3, spoilt, light)[:2], torch.tensor(3.0), rtol=1e-4)


def test_scale_minimises_the_weighted_distance():
    points, true, weight = torch.randn(1, 40, 3), torch.randn(1, 40, 3) + 0.5, torch.rand(1, 40)
    found = robust_scale(points, true, weight).item()
    tried = torch.linspace(-3, 3, 6001)
    cost = (weight[..., None] * (tried[:, None, None] * points - true).abs()).sum((1, 2))
    # A scale that came out negative is given without its sign.
    assert cost[(tried.abs() - found).abs() < 1e-3].min() <= cost.min() + 1e-2
    assert cost[(tried.abs() - 1.5 * found).abs() < 1e-3].min() > cost.min() + 1e-2


def test_a_large_cloud_is_looked_at_evenly(monkeypatch):
    monkeypatch.setattr(multiview, "SCALE_POINTS", 64)
    points = torch.rand(1, 1000, 3) + 0.1
    ramp = torch.linspace(1, 3, 1000)[None, :, None].expand(-1, -1, 3)
    known = torch.ones(1, 1000)
    # The middle of what is known: half of the cloud is not.
    known[:, :500] = 0
    whole = weighted_median((ramp).flatten(1), (known[..., None] * points).flatten(1))
    assert robust_scale(points, points * ramp, known).item() == pytest.approx(whole.item(), rel=0.05)


def test_each_term_feels_its_own_fault(clip):
    right = truth(clip)
    ripple = 1 + 0.004 * torch.randn(right.points.shape[:-1])[..., None]
    shift = torch.eye(4).repeat(2, 3, 1, 1)
    shift[:, 1, 0, 3] = 0.5
    turn = from_rt(so3_exp(torch.tensor([0.0, 0.1, 0.0])), torch.zeros(3))
    turned = right.world_from_cam.clone()
    turned[:, 2] = turned[:, 2] @ turn
    cases = {
        "points": replace(right, points=right.points * torch.tensor([1.2, 1.0, 1.0])),
        "normals": replace(right, points=right.points * ripple),
        "translation": replace(right, world_from_cam=right.world_from_cam @ shift),
        "rotation": replace(right, world_from_cam=turned),
        "confidence": replace(right, confidence=torch.full_like(right.confidence, 0.5)),
    }
    base = values(right, clip)
    for name, fault in cases.items():
        assert values(fault, clip)[name] > base[name] + 1e-5, name


def test_gradients_at_no_error_are_finite(clip):
    right = truth(clip)
    leaves = {
        name: getattr(right, name).clone().requires_grad_() for name in ("points", "confidence", "world_from_cam")
    }
    MultiViewLoss()(replace(right, **leaves), clip[1], clip[0]).total.backward()
    assert all(leaf.grad is not None and bool(leaf.grad.isfinite().all()) for leaf in leaves.values())


def test_the_gradient_is_that_of_differences(clip):
    views, labels = clip
    start = bent(clip)
    leaf = start.points.double().requires_grad_()
    loss = MultiViewLoss(confidence=0)

    def total(points):
        return loss(replace(start, points=points), labels, views).terms[0].value

    total(leaf).backward()
    assert leaf.grad is not None
    # At the optimum of the scale a change of it costs nothing to first order, so that its fit need not be seen.
    direction = leaf.grad / leaf.grad.norm()
    step = 1e-6
    with torch.no_grad():
        difference = (total(leaf + step * direction) - total(leaf - step * direction)) / (2 * step)
    assert difference.item() == pytest.approx(leaf.grad.norm().item(), rel=0.02) and difference > 0


def test_labels_that_know_nothing_ask_for_nothing(clip):
    views, labels = clip
    nothing = Labels(
        points=Known(torch.full_like(labels.points.value, torch.nan), torch.zeros_like(labels.points.weight)),
        world_from_cam=Known(
            torch.full_like(labels.world_from_cam.value, torch.nan), torch.zeros_like(labels.world_from_cam.weight)
        ),
    )
    wrong = bent(clip)
    leaves = {
        name: getattr(wrong, name).clone().requires_grad_() for name in ("points", "confidence", "world_from_cam")
    }
    said = MultiViewLoss()(replace(wrong, **leaves), nothing, views)
    said.total.backward()
    assert said.total.item() == 0
    assert all(bool((leaf.grad == 0).all()) for leaf in leaves.values())


def test_what_is_unknown_is_never_read(clip):
    labels = clip[1]
    weight = labels.points.weight.clone()
    weight[..., :6, :] = 0
    poses = labels.world_from_cam.weight.clone()
    poses[:, 0] = 0
    value, pose = labels.points.value.clone(), labels.world_from_cam.value.clone()
    first = replace(labels, points=Known(value, weight), world_from_cam=Known(pose, poses))
    spoilt, lost = value.clone(), pose.clone()
    spoilt[..., :6, :, :] = torch.nan
    lost[:, 0] = torch.nan
    second = replace(labels, points=Known(spoilt, weight), world_from_cam=Known(lost, poses))
    one, other = (values(bent(clip), clip, labels=some) for some in (first, second))
    assert one == other and min(one[name] for name in NAMES if name != "normals") > 0


def test_a_clip_without_truth_does_not_dilute_the_others(clip):
    labels = clip[1]
    weight = labels.points.weight.clone()
    weight[1] = 0
    poses = labels.world_from_cam.weight.clone()
    poses[1] = 0
    half = replace(
        labels, points=Known(labels.points.value, weight), world_from_cam=Known(labels.world_from_cam.value, poses)
    )
    wrong = bent(clip)
    alone = Prediction(
        points=wrong.points[:1], confidence=wrong.confidence[:1], world_from_cam=wrong.world_from_cam[:1]
    )
    first = Labels(
        points=Known(labels.points.value[:1], labels.points.weight[:1]),
        world_from_cam=Known(labels.world_from_cam.value[:1], labels.world_from_cam.weight[:1]),
    )
    one, two = values(alone, clip, labels=first), values(wrong, clip, labels=half)
    assert one.pop("normals") == pytest.approx(2 * two.pop("normals"))  # a mean over all pixels, known or not
    assert one == pytest.approx(two, rel=1e-4)


def plane(slope: float, height: int = 12, width: int = 16) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    depth = 1 / (0.5 + slope * x)
    return torch.stack([x * depth, y * depth, depth], dim=-1)[None, None]


def test_normals_of_a_plane_cost_nothing_and_those_of_another_do():
    known = torch.ones(1, 1, 12, 16, dtype=torch.bool)
    flat = plane(0.01)
    assert normal_term(flat, flat, known).item() == 0
    assert normal_term(3 * flat + torch.tensor([0.0, 0.0, 1.0]), flat, known).item() == 0, "place and scale are free"
    tilted = normal_term(plane(0.03), flat, known).item()
    assert tilted > 1e-4
    assert normal_term(plane(0.05), flat, known).item() > tilted


def test_a_step_in_depth_is_an_edge_and_asks_nothing_of_normals():
    known = torch.ones(1, 1, 12, 16, dtype=torch.bool)
    flat = plane(0.0)
    step = flat.clone()
    step[..., 8:, :] *= 2
    edges = depth_edges(step[..., 2], known)
    assert bool(edges[..., 7:9].all()) and not bool(edges[..., :7].any()) and not bool(edges[..., 9:].any())
    # Rounding the corner is what a network does; where depth jumps it is not held against it.
    rounded = step.clone()
    rounded[..., 8, :] = 1.5 * flat[..., 8, :]
    assert normal_term(rounded, step, known).item() == 0
    hidden = known.clone()
    hidden[..., 8:] = False
    assert not bool(depth_edges(step[..., 2], hidden).any()), "what is unknown is no neighbour"


def test_points_on_one_spot_have_no_normal_and_no_gradient():
    known = torch.ones(1, 1, 12, 16, dtype=torch.bool)
    spot = torch.ones(1, 1, 12, 16, 3, requires_grad=True)
    normal_term(spot, plane(0.0), known).backward()
    assert bool((spot.grad == 0).all())


def test_a_missing_label_is_named(clip):
    with pytest.raises(ValueError, match=r"Labels\.world_from_cam"):
        MultiViewLoss()(truth(clip), replace(clip[1], world_from_cam=None), clip[0])
    with pytest.raises(ValueError, match=r"Prediction\.world_from_cam"):
        MultiViewLoss()(replace(truth(clip), world_from_cam=None), clip[1], clip[0])
