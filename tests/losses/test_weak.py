"""Reliev3R's losses: what they are, what they do not depend on, and the gradients of the angle.

Where other losses pull, and from how far away each finds the poses: `test_weak_basin.py`.
"""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from unproject.errors import UsageError
from unproject.geometry.align import weighted_median
from unproject.geometry.camera import intrinsics_from_focal, unproject
from unproject.geometry.rigid import from_rt, so3_exp, transform
from unproject.losses.base import Loss
from unproject.losses.weak import (
    WeakLoss,
    ambiguous_depth,
    normalised,
    registration_angles,
    surface_points,
)
from unproject.types import Known, Labels, Prediction, Tracks, Views

BATCH, VIEWS, HEIGHT, WIDTH = 2, 3, 12, 16


def random_poses(*batch: int, spread: float = 0.3) -> Tensor:
    return from_rt(so3_exp(spread * torch.randn(*batch, 3).double()), torch.randn(*batch, 3).double())


def scene() -> tuple[Prediction, Labels, Views]:
    """Random maps, and tracks in no order over the clips."""
    torch.manual_seed(1)
    depth = (0.3 * torch.randn(BATCH, VIEWS, HEIGHT, WIDTH).double()).exp().requires_grad_()
    intrinsics = intrinsics_from_focal(torch.tensor(14.0).double(), WIDTH, HEIGHT).expand(BATCH, VIEWS, 3, 3)
    view = torch.tensor([3, 4, 5, 0, 1, 1, 2, 3, 5, 0, 1, 2])
    track = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4])
    uv = torch.rand(len(view), 2).double() * torch.tensor([WIDTH, HEIGHT])
    prediction = Prediction(
        points=unproject(depth, intrinsics),
        confidence=torch.rand(BATCH, VIEWS, HEIGHT, WIDTH).double().requires_grad_(),
        world_from_cam=random_poses(BATCH, VIEWS),
        intrinsics=intrinsics,
    )
    said = Known(
        torch.rand(BATCH, VIEWS, HEIGHT, WIDTH).double() + 0.5, torch.rand(BATCH, VIEWS, HEIGHT, WIDTH).double()
    )
    tracks = Tracks(view=view, track=track, uv=uv, weight=torch.rand(len(view)).double() + 0.1)
    views = Views(
        images=torch.rand(BATCH, VIEWS, 3, HEIGHT, WIDTH).double(),
        times=torch.zeros(BATCH, VIEWS).double(),
        pairs=torch.zeros(BATCH, 0, 2, dtype=torch.long),
    )
    return prediction, Labels(mono_depth=said, tracks=tracks), views


def value(loss: Loss, prediction: Prediction, labels: Labels, views: Views) -> dict[str, Tensor]:
    return {term.name: term.value for term in loss(prediction, labels, views).terms}


def test_each_term_alone_is_the_same_and_needs_its_label_only():
    prediction, labels, views = scene()
    loss = WeakLoss(least_shared=1)
    whole = value(loss, prediction, labels, views)
    assert list(whole) == ["depth", "registration", "gauge"]
    none = replace(loss, depth=0.0, registration=0.0, gauge=0.0)
    depth = value(replace(none, depth=1.0), prediction, replace(labels, tracks=None), views)
    tracks = value(replace(none, registration=1.0), prediction, replace(labels, mono_depth=None), views)
    assert depth["depth"] == whole["depth"] and tracks["registration"] == whole["registration"]
    with pytest.raises(ValueError, match="tracks"):
        loss(prediction, replace(labels, tracks=None), views)
    with pytest.raises(UsageError, match=r"mono_depth or \.points"):
        loss(prediction, replace(labels, mono_depth=None), views)


def test_where_nobody_says_relative_depth_it_is_that_of_points():
    prediction, labels, views = scene()
    loss, said = WeakLoss(registration=0.0, gauge=0.0), labels.mono_depth
    points = Known(torch.stack([3 * said.value, -said.value, said.value], dim=-1), said.weight)
    by_points = value(loss, prediction, Labels(points=points), views)
    assert by_points == value(loss, prediction, labels, views)


def test_registration_is_the_mean_angle_of_its_definition():
    """The slow twin: every clip, ordered pair of views and track by itself."""
    prediction, labels, views = scene()
    found = value(WeakLoss(least_shared=1), prediction, labels, views)["registration"]
    tracks, poses = labels.tracks, prediction.world_from_cam
    means = []
    for clip in range(BATCH):
        total = weights = 0.0
        for i, j in product(range(VIEWS), repeat=2):
            for number in range(tracks.count):
                rows = [((tracks.track == number) & (tracks.view == clip * VIEWS + view)).nonzero() for view in (i, j)]
                if i == j or not len(rows[0]) or not len(rows[1]):
                    continue
                (first,), (second,) = rows[0][0].tolist(), rows[1][0].tolist()
                points = [
                    transform(
                        poses[clip, v],
                        surface_points(prediction.points[clip : clip + 1, v : v + 1], tracks.uv[None, None, [r]])[0, 0],
                    )[0]
                    for v, r in ((i, first), (j, second))
                ]
                own, other = (point - poses[clip, i, :3, 3] for point in points)
                angle = torch.acos((own @ other / own.norm() / other.norm()).clamp(-1, 1))
                weight = min(tracks.weight[first], tracks.weight[second])
                total, weights = total + weight * angle, weights + weight
        means.append(total / weights)
    assert found.item() == pytest.approx(torch.stack(means).mean().item(), rel=1e-6)


@pytest.mark.parametrize("how", ["scale", "mad", "mean"])
def test_relative_depth_is_the_mean_of_its_definition_with_its_gradients(how):
    """The slow twin, view by view; trust decides the normalisation, and no gradient reaches it there."""
    prediction, labels, views = scene()
    found = value(WeakLoss(ambiguity=0.7, normalisation=how), prediction, labels, views)["depth"]
    known, trust = labels.mono_depth, 2 * prediction.confidence

    def middle(x: Tensor, weight: Tensor) -> Tensor:
        order = x.argsort()
        return x[order][(weight[order].cumsum(0) >= weight.sum() / 2).nonzero()[0, 0]]

    def evened(x: Tensor, weight: Tensor) -> Tensor:
        away = x - middle(x, weight)
        if how == "scale":
            return x / middle(x, weight)
        mean = (weight * away.abs()).sum() / weight.sum()
        return away / (middle(away.abs(), weight) if how == "mad" else mean)

    means = []
    for at in product(range(BATCH), range(VIEWS)):
        said, w, true, k = (x[at].flatten() for x in (prediction.points[..., 2], trust, known.value, known.weight))
        held = (w * k).detach()
        off = (evened(said, held) - evened(true, held)).abs()
        means.append(((w * off - 0.7 * w.log()) * k).sum() / k.sum())
    twin = torch.stack(means).mean()
    torch.testing.assert_close(found, twin, rtol=1e-5, atol=0)
    reached = prediction.points, prediction.confidence
    for ours, its in zip(torch.autograd.grad(found, reached), torch.autograd.grad(twin, reached), strict=True):
        torch.testing.assert_close(ours, its, rtol=1e-3, atol=1e-5 * its.abs().max().item())


def test_a_plane_between_its_pixels_is_exact():
    rays = unproject(
        torch.ones(1, 1, HEIGHT, WIDTH).double(),
        intrinsics_from_focal(torch.tensor(14.0).double(), WIDTH, HEIGHT)[None, None],
    )
    plane = rays * (2 / (rays @ torch.tensor([0.2, -0.3, 1.0]).double()))[..., None]
    uv = torch.tensor([[[[3.2, 7.7], [9.0, 4.1]]]]).double()
    found = surface_points(plane, uv)
    assert torch.allclose(found @ torch.tensor([0.2, -0.3, 1.0]).double(), torch.tensor(2.0).double())
    assert torch.allclose(found[..., :2] / found[..., 2:] * 14 + torch.tensor([WIDTH / 2, HEIGHT / 2]), uv)


def test_nothing_depends_on_a_similarity_of_the_world():
    prediction, labels, views = scene()
    loss = WeakLoss(least_shared=1, gauge=0.0)
    moved = random_poses() @ prediction.world_from_cam
    scaled = torch.cat([moved[..., :3], torch.cat([3 * moved[..., :3, 3:], moved[..., 3:, 3:]], -2)], -1)
    other = replace(prediction, points=3 * prediction.points, world_from_cam=scaled)
    for name, term in value(loss, prediction, labels, views).items():
        assert value(loss, other, labels, views)[name].item() == pytest.approx(term.item(), rel=1e-9)


@pytest.mark.parametrize("how", ["scale", "mad", "mean"])
def test_relative_depth_has_a_scale_of_its_own_in_every_view(how):
    prediction, labels, views = scene()
    loss = WeakLoss(registration=0.0, gauge=0.0, normalisation=how)
    scale = torch.tensor([[0.1, 2, 30], [7, 1, 5]]).double()[..., None, None]
    known = labels.mono_depth
    other = replace(labels, mono_depth=Known(scale * known.value, known.weight))
    same = value(loss, prediction, labels, views)["depth"]
    assert value(loss, prediction, other, views)["depth"].item() == pytest.approx(same.item(), rel=1e-4)
    shifted = replace(labels, mono_depth=Known(known.value + 1, known.weight))
    moved = value(loss, prediction, shifted, views)["depth"]
    assert (moved.item() == pytest.approx(same.item(), rel=1e-4)) == (how != "scale")
    (gradient,) = torch.autograd.grad(same, prediction.points)
    per_view = (gradient * prediction.points).sum((-3, -2, -1))
    assert per_view.abs().max() < 1e-5 * gradient.abs().sum()  # along its own scale nothing pulls


def test_normalisations_are_what_they_are_called():
    depth, weight = torch.tensor([[1.0, 2, 4, 8, 100]]).double(), torch.tensor([[1.0, 1, 1, 1, 0]]).double()
    assert weighted_median(depth, weight) == 2
    for how, expected in (("scale", depth / 2), ("mad", (depth - 2) / 1), ("mean", (depth - 2) / (9 / 4))):
        torch.testing.assert_close(normalised(depth, weight, how), expected, rtol=1e-5, atol=1e-5)


def test_trust_finds_what_distrust_is_worth_over_how_far_depth_is_off():
    """W = min(2, ambiguity / difference), and no use in moving the normalisation."""
    depth = torch.tensor([1.0, 1, 1, 1, 1, 1.6, 2.0, 5.0]).double().view(1, 1, 1, -1)
    said, logit = Known(torch.ones_like(depth), torch.ones_like(depth)), torch.zeros_like(depth, requires_grad=True)
    descent = torch.optim.Adam([logit], lr=0.2)
    for _ in range(300):
        descent.zero_grad()
        trust = 2 * logit.sigmoid()
        loss = ambiguous_depth(depth, trust, said, 1.0, "scale")
        loss.backward()
        descent.step()
    best = torch.tensor([2, 2, 2, 2, 2, 1 / 0.6, 1 / 1.0, 1 / 4.0]).double()
    torch.testing.assert_close(2 * logit.sigmoid().detach()[0, 0, 0], best, rtol=0.01, atol=0)


def test_what_is_unknown_is_never_read_and_without_labels_there_is_no_gradient():
    prediction, labels, views = scene()
    loss, known = WeakLoss(least_shared=1), labels.mono_depth
    hidden = torch.where(torch.rand_like(known.weight) < 0.3, 0, known.weight)
    bad = Known(torch.where(hidden > 0, known.value, torch.nan), hidden)
    total = loss(prediction, replace(labels, mono_depth=bad), views).total
    assert total.isfinite()
    assert torch.autograd.grad(total, prediction.points, retain_graph=True)[0].isfinite().all()
    none = Tracks(
        view=torch.zeros(0, dtype=torch.long),
        track=torch.zeros(0, dtype=torch.long),
        uv=torch.zeros(0, 2).double(),
        weight=torch.zeros(0).double(),
    )
    empty = Labels(mono_depth=Known(known.value, 0 * known.weight), tracks=none)
    total = replace(loss, gauge=0.0)(prediction, empty, views).total
    assert total == 0 and not torch.autograd.grad(total, prediction.points)[0].any()


def test_sky_that_a_teacher_puts_anywhere_is_as_far_as_a_hundred_medians():
    prediction, labels, views = scene()
    known, loss = labels.mono_depth, WeakLoss(registration=0.0, gauge=0.0)
    far, farther = (known.value.index_fill(3, torch.tensor([0]), away) for away in (1e3, 1e6))
    values = [
        value(loss, prediction, Labels(mono_depth=Known(x, known.weight)), views)["depth"].item()
        for x in (far, farther)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_pairs_that_share_few_tracks_say_nothing():
    prediction, labels, views = scene()
    few, some = (value(WeakLoss(least_shared=least), prediction, labels, views)["registration"] for least in (3, 2))
    assert few == 0 < some


def test_rays_that_are_held_learn_nothing():
    prediction, labels, views = scene()
    focal = torch.tensor(14.0).double().requires_grad_()
    intrinsics = intrinsics_from_focal(focal.expand(BATCH, VIEWS), WIDTH, HEIGHT)
    said = replace(prediction, points=unproject(prediction.points[..., 2].detach(), intrinsics), intrinsics=intrinsics)
    loss = WeakLoss(depth=0.0, gauge=0.0, least_shared=1)
    (pull,) = torch.autograd.grad(loss(said, labels, views).total, focal, retain_graph=True)
    assert pull.abs() > 1e-4
    held = replace(loss, registers_rays=False)(said, labels, views).total
    assert held == loss(said, labels, views).total
    assert not held.requires_grad or not torch.autograd.grad(held, focal, allow_unused=True)[0]


def test_rays_that_look_one_way_fulfil_any_track_so_something_else_must_hold_them():
    prediction, labels, views = scene()
    alike = replace(prediction, world_from_cam=torch.eye(4).double().expand(BATCH, VIEWS, 4, 4))
    loss = WeakLoss(depth=0.0, gauge=0.0, least_shared=1)
    narrow = alike.points * torch.tensor([1e-6, 1e-6, 1]).double()
    assert loss(alike, labels, views).total > 0.1
    assert loss(replace(alike, points=narrow), labels, views).total < 1e-5


def test_what_is_infinitely_far_is_not_known():
    prediction, labels, views = scene()
    known, loss = labels.mono_depth, WeakLoss(registration=0.0, gauge=0.0)
    sky = torch.zeros_like(known.weight, dtype=torch.bool)
    sky[..., : HEIGHT - 3, :] = True  # more than half of every view
    infinite = Known(torch.where(sky, torch.inf, known.value), known.weight)
    unknown = Known(known.value, torch.where(sky, 0, known.weight))
    said, kept = (value(loss, prediction, Labels(mono_depth=each), views)["depth"] for each in (infinite, unknown))
    assert said == kept and torch.autograd.grad(said, prediction.confidence)[0].isfinite().all()


def test_the_view_angle_is_compared_where_it_is_known():
    prediction, labels, views = scene()
    true = prediction.intrinsics.clone()
    true[:, :, :2, :2] *= 1.1
    weight = torch.tensor([[1.0, 1, 0], [0, 0, 0]]).double()
    true[weight == 0] = torch.nan
    loss = WeakLoss(depth=0.0, registration=0.0, gauge=0.0, view_angle=1.0)
    found = value(loss, prediction, replace(labels, intrinsics=Known(true, weight)), views)["view_angle"]
    assert found.item() == pytest.approx(math.log(1.1))


def test_only_the_scale_of_a_clip_has_a_gauge():
    prediction, labels, views = scene()
    loss = WeakLoss(depth=0.0, registration=0.0, gauge=1.0)
    size = prediction.points[..., 2].flatten(2).median(-1).values.log().mean(1).exp()[:, None, None, None, None]
    assert value(loss, replace(prediction, points=prediction.points / size), labels, views)["gauge"] < 1e-12
    assert value(loss, replace(prediction, points=math.e * prediction.points / size), labels, views)[
        "gauge"
    ].item() == pytest.approx(1)


def test_gradients_of_the_angle_are_those_of_its_geometry():
    """A unit pull on the ray's own rotation, parallax on depth."""
    torch.manual_seed(3)
    local = torch.rand(1, 2, 1, 3).double() + torch.tensor([0.0, 0.0, 2.0])
    log_depth = torch.zeros(2).double().requires_grad_()
    centre = torch.randn(2, 3).double().requires_grad_()
    spin = torch.zeros(2, 3).double().requires_grad_()
    rotation = so3_exp(torch.randn(2, 3).double())
    poses = from_rt(so3_exp(spin) @ rotation, centre)[None]
    angle = registration_angles(local * log_depth.exp()[:, None, None], poses, torch.ones(1, 2, 1).double())[0][
        0, 0, 1, 0
    ]
    by_spin, by_centre, by_depth = torch.autograd.grad(angle, (spin, centre, log_depth))
    with torch.no_grad():
        own, turned = (rotation[view] @ local[0, view, 0] for view in (0, 1))
        other = turned + centre[1] - centre[0]
        a, b = own / own.norm(), other / other.norm()
        n = torch.linalg.cross(a, b) / torch.linalg.cross(a, b).norm()
        g = (a - (a @ b) * b) / (a - (a @ b) * b).norm()
        expected = -n, -torch.linalg.cross(turned, g) / other.norm()
        torch.testing.assert_close(by_spin, torch.stack(expected), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(by_centre, torch.stack([g, -g]) / other.norm(), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(
            by_depth, torch.stack([0 * a[0], g @ (centre[1] - centre[0]) / other.norm()]), rtol=1e-6, atol=1e-8
        )
