"""Flow4R's losses against loops over pixels, their stop-gradients, and input that knows nothing."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from unproject.data.synthetic import Rendering, handheld, render, sample_world
from unproject.geometry import align, camera
from unproject.losses.base import LossValue, Term, mean_per_image
from unproject.losses.confidence import confident_mean
from unproject.losses.motion import MotionLoss
from unproject.losses.targets import target_from_source
from unproject.tensors import map_tensors
from unproject.types import Known, Labels, Prediction, Views

DOUBLE = torch.float64
HEIGHT, WIDTH = 6, 8
PAIRS = torch.tensor([[0, 1], [1, 0]])
TERMS = ("points", "scene_flow", "optical_flow", "pose_weight", "camera_flow")


@pytest.fixture(scope="module")
def made() -> Rendering:
    worlds = sample_world(1, batch=3, moving=True, dtype=DOUBLE)
    path = handheld(worlds.stage, 1, duration_s=1.0)
    times = torch.tensor([0.1, 0.6], dtype=DOUBLE).repeat(3, 1)
    focal = torch.tensor([[7.0, 9.0]], dtype=DOUBLE).expand(3, 2)
    return render(worlds, path, times, camera.intrinsics_from_focal(focal, WIDTH, HEIGHT), HEIGHT, WIDTH)


@pytest.fixture
def case(made) -> tuple[Prediction, Labels, Views]:
    """A rough prediction with its gradients asked for, in another scale."""
    labels = made.labels(PAIRS)

    def rough(points: Tensor) -> Tensor:
        # Sky is 10 km away; a network says something near.
        near = points * (8 / points.norm(dim=-1, keepdim=True)).clamp(max=1)
        return (2.5 * (near + 0.1 * torch.randn_like(points))).requires_grad_()

    weight = torch.randn(3, 2, HEIGHT, WIDTH, dtype=DOUBLE).flatten(2).softmax(-1).unflatten(2, (HEIGHT, WIDTH))
    prediction = Prediction(
        points=rough(labels.points.value),
        target_points=rough(labels.target_points.value),
        confidence=(0.8 * torch.rand(3, 2, HEIGHT, WIDTH, dtype=DOUBLE)).requires_grad_(),
        pose_weight=weight.requires_grad_(),
    )
    return prediction, labels, made.views(PAIRS)


def only(name: str, **options) -> MotionLoss:
    weights = {term: float(term == name) for term in TERMS}
    return MotionLoss(**{**weights, **options})


def gradients(value: LossValue, prediction: Prediction) -> dict[str, Tensor]:
    names = ["points", "target_points", "confidence", "pose_weight"]
    found = torch.autograd.grad(value.total, [getattr(prediction, name) for name in names], allow_unused=True)
    return {
        name: torch.zeros_like(getattr(prediction, name)) if gradient is None else gradient
        for name, gradient in zip(names, found, strict=True)
    }


def slow_terms(loss: MotionLoss, prediction: Prediction, labels: Labels, views: Views) -> dict[str, Tensor]:
    """Pair by pair and pixel by pixel, from the formulas."""
    found: dict[str, list[Tensor]] = {name: [] for name in TERMS}
    for clip in range(len(views.images)):
        for number, (source, target) in enumerate(views.pairs[clip].tolist()):
            sums: dict[str, list[Tensor]] = {name: [] for name in TERMS}
            size, true_size = [], []
            for view in (source, target):
                for pixel in np.ndindex(HEIGHT, WIDTH):
                    if labels.points.weight[clip, view][pixel] > 0:
                        size.append(prediction.points[clip, view][pixel].norm())
                        true_size.append(labels.points.value[clip, view][pixel].norm())
            scale, true_scale = torch.stack(size).mean(), torch.stack(true_size).mean()
            poses = labels.world_from_cam.value[clip]
            pose = torch.linalg.inv(poses[target]) @ poses[source]
            weight = prediction.pose_weight[clip, number]
            fitted = align.procrustes(
                (prediction.points[clip, source] / scale).detach().flatten(0, 1),
                (prediction.target_points[clip, number] / scale).detach().flatten(0, 1),
                weight.flatten(),
            )
            nearest = loss.nearest * prediction.points[clip, source].norm(dim=-1).median()
            for row, column in np.ndindex(HEIGHT, WIDTH):
                at = (row, column)
                raw = prediction.target_points[clip, number][at]
                p, p_vt = prediction.points[clip, source][at] / scale, raw / scale
                c = 1 / (1 - prediction.confidence[clip, source][at])
                true_p = labels.points.value[clip, source][at]
                true_pv = (pose[:3, :3] @ true_p + pose[:3, 3]) / true_scale
                true_pvt = labels.target_points.value[clip, number][at] / true_scale
                true_p = true_p / true_scale
                start, true_start = (p, true_p) if loss.compare_flow else (0, 0)
                if labels.points.weight[clip, source][at] > 0:
                    log = loss.sureness * c.log()
                    w = HEIGHT * WIDTH * weight[at].detach() if loss.dynamic else 1
                    sums["points"].append(c * (p - true_p).norm() - log)
                    miss = ((p_vt - start) - (true_pv - true_start)).norm()
                    sums["camera_flow"].append(w * c * miss - log)
                    moved = fitted[:3, :3] @ p.detach() + fitted[:3, 3]
                    sums["pose_weight"].append((moved - true_pv).norm())
                    miss = ((p_vt - start) - (true_pvt - true_start)).norm()
                    sums["scene_flow"].append(c * miss - log)
                flow = labels.flow.value[clip, number][at]
                if labels.flow.weight[clip, number][at] > 0 and raw[2] > nearest:
                    k = labels.intrinsics.value[clip, target]
                    u, v = k[0, 0] * raw[0] / raw[2] + k[0, 2], k[1, 1] * raw[1] / raw[2] + k[1, 2]
                    off = torch.stack([u - (column + 0.5 + flow[0]), v - (row + 0.5 + flow[1])]).norm() / k[0, 0]
                    sums["optical_flow"].append(off.clamp(max=loss.farthest_miss))
            for name, values in sums.items():
                if values:
                    found[name].append(torch.stack(values).mean())
    return {name: torch.stack(values).mean() for name, values in found.items()}


@pytest.mark.parametrize("options", [{}, {"dynamic": False}, {"compare_flow": True, "sureness": 0.3}])
def test_terms_and_gradients_equal_the_slow_twin(case, options):
    prediction, labels, views = case
    # A pixel without depth in one view, besides the sky.
    labels.points.weight[0, 0, 2, 3] = labels.target_points.weight[0, 0, 2, 3] = 0
    loss = MotionLoss(**options)
    value = loss(prediction, labels, views)
    slow = slow_terms(loss, prediction, labels, views)
    assert [term.name for term in value.terms] == list(TERMS)
    assert [term.weight for term in value.terms] == [1.0, 0.5, 0.3, 0.5, 0.5]
    for term in value.terms:
        torch.testing.assert_close(term.value, slow[term.name], msg=lambda text, name=term.name: f"{name}: {text}")
    total = LossValue(tuple(Term(term.name, slow[term.name], term.weight) for term in value.terms))
    torch.testing.assert_close(value.total, total.total)
    expected = gradients(total, prediction)
    for name, gradient in gradients(value, prediction).items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("points", {"points", "confidence"}),
        ("scene_flow", {"points", "target_points", "confidence"}),
        ("optical_flow", {"target_points"}),
        ("pose_weight", {"pose_weight"}),
        ("camera_flow", {"points", "target_points", "confidence"}),
    ],
)
@pytest.mark.parametrize("dynamic", [True, False])
def test_each_term_moves_what_it_may_and_nothing_else(case, name, moved, dynamic):
    # Points move by scene flow only through the common size.
    prediction, labels, views = case
    found = gradients(only(name, dynamic=dynamic)(prediction, labels, views), prediction)
    assert {field for field, gradient in found.items() if gradient.any()} == moved


def test_a_perfect_prediction_in_any_scale_has_no_error(made):
    labels, views = made.labels(PAIRS), made.views(PAIRS)
    still = (made.valid & ~made.motion).to(DOUBLE)
    prediction = Prediction(
        points=3.7 * labels.points.value,
        target_points=3.7 * labels.target_points.value,
        confidence=torch.zeros(3, 2, HEIGHT, WIDTH, dtype=DOUBLE),
        pose_weight=still / still.sum((-2, -1), keepdim=True),
    )
    terms = {term.name: term.value.item() for term in MotionLoss()(prediction, labels, views).terms}
    assert terms == pytest.approx(dict.fromkeys(TERMS, 0.0), abs=1e-6)
    # Trust in what moves is the planted fault that L_W sees, and that L_Fv blames P_vt for.
    everything = replace(prediction, pose_weight=torch.full_like(still, 1 / still[0, 0].numel()))
    terms = {term.name: term.value.item() for term in MotionLoss()(everything, labels, views).terms}
    assert terms["pose_weight"] > 1e-3 and terms["camera_flow"] > 1e-3
    assert max(terms["points"], terms["scene_flow"], terms["optical_flow"]) < 1e-6


def test_a_step_along_the_pose_loss_takes_weight_from_what_moves(made):
    labels, views = made.labels(PAIRS), made.views(PAIRS)
    logits = torch.zeros(3, 2, HEIGHT * WIDTH, dtype=DOUBLE, requires_grad=True)

    # Sky, of which no label speaks, stands still in the corner of a room.
    seen = made.valid[..., None]
    points = torch.where(seen, labels.points.value, 3.0)
    corner = target_from_source(labels, views).value[..., :3, :] @ torch.tensor([3.0, 3, 3, 1], dtype=DOUBLE)
    ahead = torch.where(seen, labels.target_points.value, corner[:, :, None, None])

    def value() -> Tensor:
        prediction = Prediction(
            points=points,
            target_points=ahead,
            confidence=torch.zeros(3, 2, HEIGHT, WIDTH, dtype=DOUBLE),
            pose_weight=logits.softmax(-1).unflatten(-1, (HEIGHT, WIDTH)),
        )
        return only("pose_weight")(prediction, labels, views).total

    optimiser, before = torch.optim.Adam([logits], lr=0.3), value().item()
    for _ in range(40):
        optimiser.zero_grad()
        value().backward()
        optimiser.step()
    assert value().item() < 0.2 * before
    moving = made.motion & made.valid
    mass = (logits.softmax(-1).unflatten(-1, (HEIGHT, WIDTH)) * moving).sum((-2, -1))
    share = moving.double().mean((-2, -1))
    assert mass[share > 0.05].mean() < 0.5 * share[share > 0.05].mean()


def test_intrinsics_of_views_or_of_predicted_points_serve_where_labels_have_none(case):
    prediction, labels, views = case
    exact = replace(prediction, points=labels.points.value, confidence=labels.points.weight)
    expected = only("optical_flow")(exact, labels, views).total
    assert expected > 0
    for prior in (views, replace(views, intrinsics=None)):
        found = only("optical_flow")(exact, replace(labels, intrinsics=None), prior).total
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    # Views' own come before what points imply.
    other = replace(views, intrinsics=2 * views.intrinsics)
    assert only("optical_flow")(exact, replace(labels, intrinsics=None), other).total != expected


def test_scale_of_prediction_and_truth_are_free(case):
    prediction, labels, views = case
    larger = replace(prediction, points=9 * prediction.points, target_points=9 * prediction.target_points)
    for first, second in zip(
        MotionLoss()(prediction, labels, views).terms, MotionLoss()(larger, labels, views).terms, strict=True
    ):
        torch.testing.assert_close(first.value, second.value)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_labels_that_know_nothing_give_zero_and_no_gradient(case, dtype):
    prediction, labels, views = case
    nothing = Labels(
        **{
            field.name: Known(torch.full_like(known.value, torch.nan), torch.zeros_like(known.weight))
            for field in fields(labels)
            if isinstance(known := getattr(labels, field.name), Known)
        }
    )
    prediction = map_tensors(lambda value: value.detach().to(dtype).requires_grad_(), prediction)
    for name in TERMS:
        value = only(name)(prediction, nothing, views)
        assert value.total == 0
        assert not any(gradient.any() for gradient in gradients(value, prediction).values()), name


def test_one_blind_pair_does_not_dilute_the_others(case):
    prediction, labels, views = case
    half = [Known(known.value[:1], known.weight[:1]) for known in (labels.points, labels.target_points)]
    blind = {
        name: Known(known.value, torch.where(torch.arange(3)[:, None, None, None] == 0, known.weight, 0))
        for name, known in (("points", labels.points), ("target_points", labels.target_points))
    }
    first = map_tensors(lambda value: value[:1], prediction)
    alone = only("scene_flow")(
        first,
        Labels(points=half[0], target_points=half[1]),
        replace(views, images=views.images[:1], times=views.times[:1], pairs=views.pairs[:1], intrinsics=None),
    )
    torch.testing.assert_close(only("scene_flow")(prediction, replace(labels, **blind), views).total, alone.total)


def test_motion_without_any_depth_has_no_scale_and_does_not_count(case):
    prediction, labels, views = case
    blind = replace(labels, points=Known(labels.points.value, torch.zeros_like(labels.points.weight)))
    value = only("scene_flow")(prediction, blind, views)
    assert value.total == 0 and not gradients(value, prediction)["target_points"].any()


def test_values_of_unknown_pixels_are_never_read(case):
    prediction, labels, views = case
    labels.points.weight[:, :, 0] = labels.target_points.weight[:, :, 0] = labels.flow.weight[:, :, 0] = 0
    before = gradients(MotionLoss()(prediction, labels, views), prediction)
    poisoned = replace(
        labels,
        **{
            name: Known(torch.where(known.weight[..., None] > 0, known.value, torch.nan), known.weight)
            for name, known in (
                ("points", labels.points),
                ("target_points", labels.target_points),
                ("flow", labels.flow),
            )
        },
    )
    after = gradients(MotionLoss()(prediction, poisoned, views), prediction)
    for name in before:
        torch.testing.assert_close(after[name], before[name])


def test_degenerate_predictions_have_finite_gradients(case):
    _, labels, views = case
    zero = torch.zeros(3, 2, HEIGHT, WIDTH, 3, dtype=DOUBLE)
    for points, weight, confidence in [(zero, 0.0, 0.0), (zero + 1, 0.0, 1.0), (-labels.points.value, 1.0, 0.5)]:
        flat = torch.full((3, 2, HEIGHT, WIDTH), 1.0, dtype=DOUBLE)
        prediction = Prediction(
            points=points.clone().requires_grad_(),
            target_points=points.clone().requires_grad_(),
            confidence=(confidence * flat).requires_grad_(),
            pose_weight=(weight * flat).requires_grad_(),
        )
        value = MotionLoss()(prediction, labels, views)
        assert value.total.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients(value, prediction).values())


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("points", "points"),
        ("scene_flow", "target_points"),
        ("optical_flow", "flow"),
        ("pose_weight", "world_from_cam"),
        ("camera_flow", "world_from_cam"),
    ],
)
def test_a_missing_label_is_named(case, name, field):
    prediction, labels, views = case
    with pytest.raises(ValueError, match=f"Labels.{field} is needed here"):
        only(name)(prediction, replace(labels, **{field: None}), views)
    # And a term of weight 0 asks for nothing.
    others = replace(MotionLoss(), scene_flow=0.0, optical_flow=0.0, pose_weight=0.0, camera_flow=0.0)
    assert len(others(prediction, Labels(points=labels.points), views).terms) == 1


@pytest.mark.parametrize(
    ("name", "field"), [("scene_flow", "target_points"), ("pose_weight", "pose_weight"), ("camera_flow", "pose_weight")]
)
def test_a_missing_prediction_is_named(case, name, field):
    prediction, labels, views = case
    with pytest.raises(ValueError, match=f"Prediction.{field} is needed here"):
        only(name)(replace(prediction, **{field: None}), labels, views)


def test_a_loss_without_terms_says_so(case):
    with pytest.raises(ValueError, match="MotionLoss: every weight is 0"):
        only("none")(*case)


def test_half_precision_is_computed_in_float32(case):
    prediction, labels, views = case
    half = map_tensors(lambda value: value.detach().bfloat16(), prediction)
    same = map_tensors(lambda value: value.float(), half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = MotionLoss()(half, labels, views)
    torch.testing.assert_close(value.total, MotionLoss()(same, labels, views).total)


def test_confident_regression_agrees_with_the_reference_outputs(parity):
    file = np.load(parity / "functions.npz", allow_pickle=False)

    def of(*names: str) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(file[name]) for name in names)

    predicted = tuple(tensor.requires_grad_() for tensor in of("pr1", "pr2"))
    raw = tuple(tensor.requires_grad_() for tensor in of("c1", "c2"))
    truth, valid = of("P", "Q"), of("valid1", "valid2")
    weight = torch.cat([mask.flatten(1) for mask in valid], dim=1).float()
    sizes = [
        align.mean_distance(torch.cat([points.flatten(1, 2) for points in maps], dim=1), weight)[:, None, None, None]
        for maps in (predicted, truth)
    ]
    # The reference takes one mean over a batch, so the batch is one tall image here, and adds both views.
    loss = torch.zeros(())
    for points, true_points, c, mask in zip(predicted, truth, raw, valid, strict=True):
        distance = (points / sizes[0] - true_points / sizes[1]).norm(dim=-1)
        stacked = [map_.flatten(0, 1)[None, None] for map_ in (distance, 1 - 1 / c, mask.float())]
        loss = loss + confident_mean(*stacked, sureness=0.2)
    torch.testing.assert_close(loss, torch.from_numpy(file["loss"]), rtol=0, atol=1e-5)
    found = torch.autograd.grad(loss, [*predicted, *raw])
    for gradient, name in zip(found, ("g_pr1", "g_pr2", "g_c1", "g_c2"), strict=True):
        torch.testing.assert_close(gradient, torch.from_numpy(file[name]), rtol=0, atol=1e-5)


def test_mean_per_image_is_a_mean_of_means():
    value = torch.tensor([[[[1.0, 3.0]]], [[[5.0, torch.nan]]], [[[7.0, 7.0]]]])
    weight = torch.tensor([[[[1.0, 1.0]]], [[[0.5, 0.0]]], [[[0.0, 0.0]]]])
    assert mean_per_image(value, weight) == (2 + 5) / 2
    assert math.isclose(mean_per_image(value, 3 * weight).item(), 3.5)
