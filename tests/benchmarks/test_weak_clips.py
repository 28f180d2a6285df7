"""Clips that are cut from footage and shrunk keep what was known of them: tracks lie where points are seen."""

import pytest
import torch

from benchmarks.weak_clips import KEPT, SPAN, Footage
from unproject.data.base import Framing
from unproject.data.labels import LabelShards
from unproject.data.synthetic import handheld_clip
from unproject.geometry.camera import project, unproject
from unproject.geometry.flow import sample as sample_at
from unproject.geometry.rigid import inverse, transform
from unproject.losses.weak import Sightings, surface_points
from unproject.teachers.base import Shot
from unproject.teachers.tracks import KltTeacher
from unproject.types import Known, Labels, require

NUMBERS = [10 * place for place in range(12)]


@pytest.fixture(scope="module")
def footage() -> Footage:
    clip = handheld_clip(3, frames=len(NUMBERS), fps=10, moving=False)
    every = torch.ones(1, len(NUMBERS))
    images = list(clip.images)
    lenses = clip.intrinsics.float()
    points = torch.stack([unproject(*each) for each in zip(clip.depth, lenses, strict=True)])
    labels = Labels(
        points=Known(points[None], clip.valid[None].float()),
        world_from_cam=Known(clip.world_from_cam[None].float(), every),
        intrinsics=Known(lenses[None], every),
        tracks=KltTeacher().label(Shot.of(images)).tracks,
    )
    return Footage(numbers=NUMBERS, images=images, labels=labels)


def test_windows_span_what_they_should_and_none_is_like_the_next(footage):
    found = footage.windows(40)
    spans = [NUMBERS[views[-1]] - NUMBERS[views[0]] for views in found]
    assert len({tuple(views) for views in found}) > 20
    assert min(spans) >= SPAN[0] - 10 and max(spans) <= SPAN[1] + 10


def test_tracks_of_shards_lie_where_the_points_of_another_view_are_seen(footage, tmp_path):
    footage.write(tmp_path, clips=6)
    shards = LabelShards(folder=str(tmp_path), needs=("points", "tracks", "intrinsics"))
    sample = shards(range(shards.count), Framing(views=4, pairs=(), height=KEPT.height // 2, width=KEPT.width // 2))
    labels = sample.labels
    points, poses = require(labels, "points"), require(labels, "world_from_cam").value
    seen = Sightings.of(require(labels, "tracks"), len(poses), 4)
    whole, _ = sample_at(points.weight[..., None], seen.uv)
    # A wrong crop, lens or pose would leave the pixel; what is left is depth between pixels.
    own = transform(poses, surface_points(torch.where(points.weight[..., None] > 0, points.value, 1), seen.uv))
    there = transform(inverse(poses)[:, :, None], own[:, None])
    uv = project(there, require(sample.views, "intrinsics")[:, :, None])
    both = (seen.weight[:, :, None] > 0) & (seen.weight[:, None] > 0) & ~torch.eye(4, dtype=torch.bool)[:, :, None]
    off = (uv - seen.uv[:, :, None]).norm(dim=-1)[both & (whole[:, None, :, :, 0] > 0.999)]
    assert len(off) > 500
    assert off.median() < 0.3


def test_a_track_is_at_the_same_point_of_space_in_small(footage):
    small, large = footage.shrunk().labels, footage.labels
    tracks = require(small, "tracks")
    uv = tracks.uv[tracks.view == 0]
    whole_uv = 3 * uv + torch.tensor([10.0, 0.0])  # 300 of 320 columns are kept, at a third
    known_uv = require(large, "tracks").uv[require(large, "tracks").view == 0]
    apart = torch.cdist(whole_uv, known_uv, compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.min(dim=1).values.max() < 1e-3
    points = require(small, "points")
    weight, _ = sample_at(points.weight[:, 0, ..., None], uv[None])
    known = weight[0, :, 0] > 0.999
    found = surface_points(torch.where(points.weight[:, :1, ..., None] > 0, points.value[:, :1], 1), uv[None, None])
    whole = require(large, "points").value[0, :1]
    true = surface_points(torch.where(whole[..., 2:] > 0, whole, 1)[None], whole_uv[None, None])
    off = (found - true)[0, 0].norm(dim=-1) / true[0, 0].norm(dim=-1)
    assert known.sum() > 100
    assert off[known].median() < 0.01
