"""What teachers would say of clips that are labelled, and crops of them."""

from dataclasses import replace

import pytest
import torch

from unproject.data.base import Chosen, Framing, Remembered
from unproject.data.clips import SyntheticClips
from unproject.data.weak import Weakened
from unproject.data.zoomed import Zoomed
from unproject.geometry.align import weighted_median
from unproject.geometry.camera import project
from unproject.geometry.rigid import inverse, transform
from unproject.losses.weak import WeakLoss
from unproject.types import Prediction

WORLD = SyntheticClips(span_s=(0.8, 2.0), moving=False, augmentation=None)
FRAMING = Framing(views=3, pairs=(), height=40, width=56)
PAIRED = replace(FRAMING, pairs=((0, 1), (2, 0)))


@pytest.fixture(scope="module")
def exact():
    return WORLD([0, 5], FRAMING)


@pytest.fixture(scope="module")
def weak():
    return Weakened(dataset=WORLD)([0, 5], FRAMING)


def said(exact) -> Prediction:
    labels = exact.labels
    return Prediction(
        points=torch.where((labels.points.weight > 0)[..., None], labels.points.value, 50.0),
        confidence=torch.full_like(labels.points.weight, 0.999),
        world_from_cam=labels.world_from_cam.value,
    )


def test_only_what_teachers_know_is_left_and_images_stay(exact, weak):
    assert torch.equal(weak.views.images, exact.views.images)
    left = {name for name in vars(weak.labels) if getattr(weak.labels, name) is not None}
    assert left == {"mono_depth", "tracks", "intrinsics"}
    free = Weakened(dataset=WORLD, intrinsics=False)([0], FRAMING)
    assert free.labels.intrinsics is None and free.views.intrinsics is None


def test_each_clip_is_its_own_and_the_same_every_time(weak):
    alone = Weakened(dataset=WORLD)([5], FRAMING)
    assert torch.equal(alone.labels.mono_depth.value[0], weak.labels.mono_depth.value[1])
    rows = weak.labels.tracks.view >= 3
    assert torch.equal(alone.labels.tracks.uv, weak.labels.tracks.uv[rows])
    assert torch.equal(alone.labels.tracks.view, weak.labels.tracks.view[rows] - 3)


def test_relative_depth_is_right_up_to_a_scale_of_each_view_and_a_smooth_error(exact, weak):
    true, known = exact.labels.points.value[..., 2], exact.labels.points.weight > 0
    off = torch.where(known, (weak.labels.mono_depth.value / true).log(), torch.nan)
    middle = weighted_median(off.flatten(2), known.flatten(2).float())
    assert middle.std() > 0.3  # no two views share a scale
    left = (off - middle[..., None, None])[known]
    assert 0.01 < left.abs().median() < 0.08
    exactly = Weakened(dataset=WORLD, error=0.0)([0, 5], FRAMING).labels.mono_depth.value
    ratio = torch.where(known, exactly / true, 1)
    assert ((ratio / ratio.flatten(2).median(-1).values[..., None, None])[known] - 1).abs().max() < 1e-4


def test_a_lens_that_is_guessed_is_off_by_one_share_for_each_clip_and_nothing_else_is(weak):
    guessed = Weakened(dataset=WORLD, lens_error=0.1)([0, 5], FRAMING)
    ratio = guessed.labels.intrinsics.value / torch.where(weak.views.intrinsics == 0, 1, weak.views.intrinsics)
    focal = ratio[:, :1, :1, :1]
    assert torch.allclose(ratio[..., [0, 1], [0, 1]], focal[..., 0].expand(2, 3, 2)) and focal[0] != focal[1]
    assert torch.equal(guessed.labels.intrinsics.value[..., 2], weak.labels.intrinsics.value[..., 2])
    assert torch.equal(guessed.views.intrinsics, guessed.labels.intrinsics.value)
    assert torch.equal(guessed.labels.mono_depth.value, weak.labels.mono_depth.value)
    assert torch.equal(guessed.labels.tracks.uv, weak.labels.tracks.uv)
    many = Weakened(dataset=WORLD, lens_error=0.1)._zooms(list(range(400)))[:, 0, 0, 0].log()
    assert 0.08 < many.std() < 0.12 and abs(many.mean()) < 0.02


def test_tracks_are_where_the_world_has_them(exact, weak):
    """Any two views of a track see one point of the world."""
    tracks = weak.labels.tracks
    assert tracks.count > 150 and tracks.lengths().min() >= 2
    loss = WeakLoss(depth=0.0, gauge=0.0, least_shared=1)
    miss = loss(said(exact), weak.labels, weak.views).total
    wrong = Weakened(dataset=WORLD, outliers=0.2)([0, 5], FRAMING)
    assert miss < 2e-4 and loss(said(exact), wrong.labels, wrong.views).total > 0.01  # radians


def test_what_the_truth_says_fulfils_the_weak_losses_better_than_what_it_does_not(exact, weak):
    right = WeakLoss(gauge=0.0)(said(exact), weak.labels, weak.views)
    flat = replace(said(exact), points=said(exact).points / said(exact).points[..., 2:])
    wrong = WeakLoss(gauge=0.0)(flat, weak.labels, weak.views)
    assert all(a.value < b.value for a, b in zip(right.terms, wrong.terms, strict=True))


def test_a_crop_keeps_what_its_labels_say_of_each_other():
    data = Zoomed(dataset=WORLD, least=0.5)
    whole, crop = WORLD([3, 4], PAIRED), data([3, 4], PAIRED)
    assert crop.views.images.shape == whole.views.images.shape
    focal, before = crop.labels.intrinsics.value[:, 0, 0, 0], whole.labels.intrinsics.value[:, 0, 0, 0]
    assert (focal > before).all() and (focal < 2.05 * before).all() and focal[0] / before[0] != focal[1] / before[1]
    assert torch.equal(crop.views.intrinsics, crop.labels.intrinsics.value)
    labels, (source, target) = crop.labels, (0, 1)
    points, pose = labels.points.value[0, source], labels.world_from_cam.value[0]
    there = transform((inverse(pose[target]) @ pose[source]), points.flatten(0, 1))
    landed = project(there, labels.intrinsics.value[0, target]).view(40, 56, 2)
    own = project(points.flatten(0, 1), labels.intrinsics.value[0, source]).view(40, 56, 2)
    seen = labels.flow.weight[0, 0] > 0
    inside = ((landed >= 0) & (landed <= torch.tensor([56.0, 40.0]))).all(-1)
    assert seen.any() and inside[seen].all()  # what leaves the crop is seen by one view only
    assert torch.allclose((landed - own)[seen], labels.flow.value[0, 0][seen], atol=1e-2)


def test_cropped_tracks_fit_the_cropped_depth():
    crop = Zoomed(dataset=Weakened(dataset=WORLD, error=0.0))([3, 4], FRAMING)
    exact = Zoomed(dataset=WORLD)([3, 4], FRAMING)
    tracks = crop.labels.tracks
    assert (tracks.uv >= 0).all() and (tracks.uv <= torch.tensor([56.0, 40.0])).all() and tracks.lengths().min() >= 2
    assert WeakLoss(depth=0.0, gauge=0.0)(said(exact), crop.labels, crop.views).total < 0.004


def test_without_a_crop_nothing_changes():
    whole, crop = WORLD([3], PAIRED), Zoomed(dataset=WORLD, least=1.0)([3], PAIRED)
    assert torch.equal(whole.views.images, crop.views.images)
    assert torch.equal(whole.labels.flow.value, crop.labels.flow.value)


def test_tracks_are_not_remembered_wrongly():
    some = Chosen(dataset=Weakened(dataset=WORLD), numbers=(0, 1))
    with pytest.raises(ValueError, match="around it"):
        Remembered(dataset=some)([0], FRAMING)
    assert Weakened(dataset=Remembered(dataset=Chosen(dataset=WORLD, numbers=(0, 1))))([1], FRAMING).labels.tracks.count
