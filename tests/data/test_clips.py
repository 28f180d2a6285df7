"""Endless clips of any number of views: pure functions of their numbers, spread in time, and domains that differ."""

from dataclasses import dataclass, fields, replace

import pytest
import torch

from unproject.data.base import Chosen, Dataset, FlowOnly, Framing, Remembered, _remembered, joined
from unproject.data.clips import GROUP, JITTER, SyntheticClips, moments
from unproject.data.pairs import SyntheticPairs
from unproject.geometry.motion import landing, transform_map
from unproject.geometry.rigid import inverse, rotation_angle
from unproject.types import Known, Labels, MovingTracks

SMALL = Framing(views=4, pairs=((0, 1), (2, 0), (3, 2)), height=24, width=32)


def same(one, other, row: int, other_row: int) -> None:
    for field in fields(one.labels):
        known, twin = getattr(one.labels, field.name), getattr(other.labels, field.name)
        assert (known is None) == (twin is None)
        if isinstance(known, Known):
            assert torch.equal(known.value[row], twin.value[other_row]), field.name
            assert torch.equal(known.weight[row], twin.weight[other_row]), field.name
    for field in fields(one.views):
        assert torch.equal(getattr(one.views, field.name)[row], getattr(other.views, field.name)[other_row])


def test_a_clip_is_the_same_in_any_company():
    data = SyntheticClips(seed=3)
    alone, among = data([GROUP + 2], SMALL), data([5, GROUP + 1, GROUP + 2], SMALL)
    same(alone, among, 0, 2)
    assert alone.names[0] == among.names[2] == "synthetic clip 18 of seed 3"
    assert alone.views.images.shape == (1, 4, 3, 24, 32) and alone.labels.flow.value.shape == (1, 3, 24, 32, 2)


def test_two_views_are_a_pair():
    framing = Framing(views=2, pairs=((0, 1), (1, 0)), height=24, width=32)
    clips, pairs = SyntheticClips(seed=1, span_s=(0.3, 0.9)), SyntheticPairs(seed=1, gap_s=(0.3, 0.9))
    same(clips([4, 20], framing), pairs([4, 20], framing), 1, 1)


@pytest.mark.parametrize("views", [1, 2, 3, 8])
def test_views_spread_evenly_over_the_span_in_random_order(views):
    when = moments(GROUP, views, torch.Generator().manual_seed(0))
    ordered = when.sort(1).values
    assert when.shape == (GROUP, views)
    if views > 1:
        assert bool((ordered[:, 0] == 0).all()) and bool((ordered[:, -1] == 1).all())
        even = torch.arange(views) / (views - 1)
        assert float((ordered - even).abs().max()) <= JITTER / 2 / (views - 1) + 1e-6
        firsts = when[:, 0].unique()
        assert len(firsts) > 1, "some clips begin at their end"


def test_labels_of_many_views_agree_with_each_other():
    """Where nothing moves, true flow is that of true points and poses; planted: another pose does not fit."""
    sample = SyntheticClips(seed=2, moving=False, augmentation=None)([0, 1], SMALL)
    labels, points = sample.labels, sample.labels.points.value
    for number, (source, target) in enumerate(SMALL.pairs):
        poses = labels.world_from_cam.value
        seen = labels.flow.weight[:, number] > 0
        for wrong in (False, True):
            other = poses[:, source] if wrong else poses[:, target]
            moved = transform_map(inverse(other) @ poses[:, source], points[:, source])
            places = landing(moved, labels.intrinsics.value[:, target])
            start = landing(points[:, source], labels.intrinsics.value[:, source])
            off = (places - start - labels.flow.value[:, number]).norm(dim=-1)[seen]
            assert bool((off < 0.02).all()) != wrong
    assert len(sample.views.times.unique()) == 8


def test_domains_differ_in_what_surfaces_show_and_in_nothing_else():
    plain = SyntheticClips(augmentation=None)([0, 1], SMALL)
    for change in ({"textures": 1}, {"colour": 0.8}):
        other = replace(SyntheticClips(augmentation=None), **change)([0, 1], SMALL)
        difference = (other.views.images - plain.views.images).abs().mean((1, 2, 3, 4))
        assert bool((difference > 0.02).all()), change
        assert torch.equal(other.views.times, plain.views.times)
        assert torch.equal(other.labels.flow.value, plain.labels.flow.value)
        assert other.views.images.min() >= 0 and other.views.images.max() <= 1


def test_a_camera_that_looks_about_turns_more_from_the_same_places():
    turned, places = [], []
    for wander in (0.0, 1.0, 4.0):
        sample = SyntheticClips(wander=wander, augmentation=None)(range(8), SMALL)
        rotations = sample.labels.world_from_cam.value[..., :3, :3]
        turned.append(rotation_angle(rotations[:, 1:].mT @ rotations[:, :-1]).mean())
        places.append((inverse(sample.labels.world_from_cam.value[:, :1]) @ sample.labels.world_from_cam.value)[..., 3])
    assert turned[0] < turned[1] < turned[2] / 1.5, "it turns without looking about, too: towards what it films"
    torch.testing.assert_close(places[0].norm(dim=-1), places[2].norm(dim=-1))


def test_of_raw_video_nothing_is_known_but_flow():
    data = FlowOnly(dataset=Chosen(dataset=SyntheticClips(), numbers=(3, 5)))
    sample, whole = data([1], SMALL), SyntheticClips()([5], SMALL)
    assert data.count == 2 and FlowOnly(dataset=SyntheticClips()).count is None
    assert torch.equal(sample.views.images, whole.views.images) and sample.views.intrinsics is None
    assert torch.equal(sample.labels.flow.value, whole.labels.flow.value) and sample.names == whole.names
    assert [f.name for f in fields(sample.labels) if getattr(sample.labels, f.name) is not None] == ["flow"]


def test_clips_that_are_remembered_are_the_same_and_made_once():
    data = Chosen(dataset=SyntheticClips(seed=4), numbers=(3, 9))
    kept = Remembered(dataset=data)
    one, other = kept([1, 0, 1], SMALL), data([1, 0, 1], SMALL)
    for row in range(3):
        same(one, other, row, row)
    assert one.names == other.names and kept.count == 2
    before = _remembered.cache_info()
    kept([0, 1], SMALL)
    after = _remembered.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 2)


def paths(tracks: int, rows: int) -> MovingTracks:
    return MovingTracks(
        xyz=torch.rand(rows, tracks, 3),
        uv=torch.rand(rows, tracks, 2),
        visible=torch.ones(rows, tracks, dtype=torch.bool),
        confidence=torch.ones(rows, tracks),
        moving=torch.ones(tracks, dtype=torch.bool),
    )


@dataclass(frozen=True, kw_only=True)
class Followed(Dataset):
    """Clips with 3D tracks: as many as each has."""

    dataset: Dataset

    @property
    def count(self):
        return self.dataset.count

    def __call__(self, numbers, framing):
        sample = self.dataset(numbers, framing)
        moving = tuple(paths(5, framing.views) for _ in numbers)
        return replace(sample, labels=replace(sample.labels, moving_tracks=moving))


def test_3d_tracks_of_a_batch_stay_those_of_their_clips():
    one, other = (Labels(moving_tracks=(paths(count, 2),)) for count in (3, 3))
    both = joined([one, other], 2).moving_tracks
    assert both is not None and both[0] is one.moving_tracks[0] and both[1] is other.moving_tracks[0]
    with pytest.raises(ValueError, match="have tracks and others have none"):
        joined([one, Labels()], 2)
    few = Followed(dataset=Chosen(dataset=SyntheticClips(), numbers=(3, 5)))
    with pytest.raises(ValueError, match="Remembered keeps no tracks, 2D or 3D"):
        Remembered(dataset=few)([0], SMALL)
