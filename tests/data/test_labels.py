"""Clips of label shards as a batch wants them: labels that moved with the pixels, and runs that resume exactly."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from labelled import labelled_clip, only, ring, write_library
from safetensors.torch import load_file
from tiny_training import NETWORK, TinyPairs

from unproject.data import labels as module
from unproject.data.base import Framing
from unproject.data.crop import Crop
from unproject.data.labels import LabelShards
from unproject.errors import InputError, UsageError
from unproject.geometry.camera import pixel_grid, project
from unproject.geometry.flow import sample as look_up
from unproject.geometry.rigid import inverse, transform
from unproject.io.shards import read_clip
from unproject.losses.flow import covisible_flow
from unproject.losses.motion import MotionLoss
from unproject.training.loop import train
from unproject.training.recipe import Clip, Recipe, Schedule, Source
from unproject.training.sampler import Sampler
from unproject.types import Known

SIZES = {"same": (60, 90), "middle": (60, 60), "smaller": (28, 42), "other aspect": (40, 80), "larger": (90, 120)}
TOLERANCE_PX = {"same": 0.03, "middle": 0.03, "smaller": 0.2, "other aspect": 0.2, "larger": 0.5}
"""A larger image repeats its border, which is half of one of its old pixels off."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    write_library(folder, [[labelled_clip(0), only(labelled_clip(1), "flow")], [labelled_clip(2, both_ways=True)]])
    return str(folder)


def framing(size: str = "smaller", views: int = 4, pairs=None) -> Framing:
    height, width = SIZES[size]
    return Framing(views=views, pairs=ring(views) if pairs is None else pairs, height=height, width=width)


@pytest.mark.parametrize("size", SIZES)
def test_flow_is_that_of_points_poses_and_intrinsics(folder, size):
    """After crop and resize, with nothing moving; planted: intrinsics that stayed behind do not fit."""
    how = framing(size)
    labels = LabelShards(folder=folder)([0, 2], how).labels
    assert labels.flow.value.shape == (2, 4, how.height, how.width, 2)
    grid = pixel_grid(how.height, how.width)
    for clip in range(2):
        points, poses, lens = (
            labels.points.value[clip],
            labels.world_from_cam.value[clip],
            labels.intrinsics.value[clip],
        )
        known = labels.points.weight[clip] > 0
        off = (project(points.flatten(1, 2), lens).view(4, *grid.shape) - grid).norm(dim=-1)[known]
        assert off.max() < TOLERANCE_PX[size], "each point lies behind its pixel"
        for pair, (source, target) in enumerate(how.pairs):
            moved = transform(inverse(poses[target]) @ poses[source], points[source].flatten(0, 1))
            seen = known[source] & (labels.flow.weight[clip, pair] > 0)
            assert seen.float().mean() > 0.3
            for intrinsics, fits in ((lens[target], True), (lens[target] + torch.eye(3), False)):
                flow = project(moved, intrinsics).view_as(grid) - grid
                miss = (flow - labels.flow.value[clip, pair]).norm(dim=-1)[seen]
                assert bool(miss.max() < TOLERANCE_PX[size]) == fits


@pytest.mark.parametrize("size", SIZES)
def test_tracks_lie_on_flow(folder, size):
    """Each track of these clips is a pixel of the source and where it went; its rows are as `Tracks` wants them."""
    how = framing(size)
    labels = LabelShards(folder=folder)([2, 1, 0], how).labels
    tracks, flow, found = labels.tracks, labels.flow, 0
    assert tracks.view.max() < 12 and not bool(((tracks.view >= 4) & (tracks.view < 8)).any()), "clip 1 has none"
    assert bool((tracks.lengths() == 2).all()) and bool((tracks.track.diff() >= 0).all())
    size_px = torch.tensor([how.width, how.height])
    assert bool(((tracks.uv >= 0) & (tracks.uv < size_px)).all())
    assert bool((tracks.view[1::2] > tracks.view[::2]).all())
    for first in range(0, len(tracks.view), 2):
        clip, views = tracks.view[first].item() // 4, (tracks.view[first : first + 2] % 4).tolist()
        for pair, (source, target) in enumerate(how.pairs):
            if {source, target} != set(views):
                continue
            start, end = (tracks.uv[first + views.index(view)] for view in (source, target))
            column, row = start.floor().long().tolist()
            around = flow.weight[clip, pair, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            if (around > 0).all():
                there, _ = look_up(flow.value[clip, pair], start[None])
                found += bool((there[0] - (end - start)).norm() < TOLERANCE_PX[size] + 0.1)
    assert found > 0.5 * tracks.count


def narrowed(known: Known, columns: slice) -> Known:
    return Known(known.value[:, :, :, columns], known.weight[:, :, :, columns])


def mirrored(known: Known, flow: bool) -> Known:
    value = known.value.flip(3)
    return Known(value * value.new_tensor([-1.0, 1.0]) if flow else value, known.weight.flip(3))


@pytest.mark.parametrize("side", [60, 28, 75])
def test_framing_a_transformed_clip_is_transforming_a_framed_one(side):
    """What lies outside the crop does not matter, and a mirrored clip is a mirrored batch."""
    how, names, columns = (
        Framing(views=4, pairs=ring(4), height=side, width=side),
        ("flow", "mono_depth"),
        slice(15, 75),
    )
    clip = only(labelled_clip(0), *names)
    labels = clip.labels
    cut = replace(
        clip,
        images=clip.images[:, :, columns],
        labels=replace(labels, **{name: narrowed(getattr(labels, name), columns) for name in names}),
    )
    turned = replace(
        clip,
        images=clip.images[:, :, ::-1],
        labels=replace(labels, **{name: mirrored(getattr(labels, name), name == "flow") for name in names}),
    )
    one, other, back = (module._Framed.of(each, 7, how) for each in (clip, cut, turned))
    assert np.array_equal(one.images(), other.images())
    assert np.abs(one.images() - back.images()[:, :, ::-1].astype(int)).max() <= 1
    for name in names:
        ours, theirs, there = (getattr(each.labels(names), name) for each in (one, other, back))
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.value, theirs.value)
        there = mirrored(there, name == "flow")
        both = (ours.weight > 0) & (there.weight > 0)
        assert both.float().mean() > 0.95 * (ours.weight > 0).float().mean() > 0.3
        assert (ours.value - there.value)[both].abs().max() < 1e-3


def test_pixels_of_two_surfaces_and_of_the_unknown_are_not_known():
    how = Framing(views=1, pairs=(), height=4, width=4)
    crop = Crop.middle(np.zeros((8, 8, 3)), how)
    depth, weight = np.full((8, 8, 1), 2.0, np.float32), np.full((8, 8), 0.5, np.float32)
    depth[:, 3:] = 4.0  # the second column of four would be of both
    weight[0, 7], depth[0, 7] = 0, np.nan
    weight[7, 7] = 1.0
    value, trust = crop.known(np.nan_to_num(depth), weight, module.same_surface)
    assert trust[1].tolist() == [0.5, 0, 0.5, 0.5] and value[1, :, 0].tolist() == [2, 0, 4, 4]
    assert trust[0, 3] == 0 and trust[3, 3] == 0.625


def test_views_are_those_of_the_clip_in_an_order_that_keeps_pairs(folder):
    """Ring pairs of all views stay labelled; the order depends on the number, and on nothing else."""
    data, how = LabelShards(folder=folder), framing()
    rows = module._library(folder, ()).rows
    sample = data([2, 0], how)
    assert sample.views.intrinsics is None and sample.views.pairs[0].tolist() == [list(pair) for pair in how.pairs]
    assert sample.names == (f"{rows[2].file} {rows[2].key}", f"{rows[0].file} {rows[0].key}")
    for place, number in enumerate((2, 0)):
        clip = read_clip(module.Path(folder), rows[number])
        order = (sample.views.times[place][:, None] - torch.tensor(clip.times_s)).abs().argmin(1).tolist()
        crop = Crop.middle(clip.images[0], how)
        for view, original in enumerate(order):
            image = (sample.views.images[place, view] * 255).round().permute(1, 2, 0).numpy()
            assert np.array_equal(image, crop.image(clip.images[original]))
        assert bool((sample.labels.flow.weight[place].flatten(1).sum(1) > 0).all())
    alone = data([0], how)
    assert torch.equal(alone.views.images[0], sample.views.images[1])
    assert torch.equal(alone.labels.points.value[0], sample.labels.points.value[1])


def test_orders_are_as_many_as_keep_most_pairs():
    one_way, both_ways = ring(5), ring(5) + tuple((t, s) for s, t in ring(5))
    assert set(module._orders(one_way, 5, ring(5), 5)) == {tuple((s + k) % 5 for k in range(5)) for s in range(5)}
    assert len(module._orders(both_ways, 5, ring(5), 5)) == 10
    fewer = module._orders(one_way, 5, ring(3), 3)
    assert set(fewer) == {(s, (s + 1) % 5, (s + 2) % 5) for s in range(5)}
    assert set(module._orders(both_ways, 5, ((0, 1), (1, 0)), 2)) == set(both_ways)
    assert module._orders((), 1, (), 1) == ((0,),) and len(module._orders((), 4, (), 2)) == 12
    chosen = {module._Framed.of(labelled_clip(2, both_ways=True), number, framing()).order for number in range(60)}
    assert len(chosen) == 8, "each number takes its own"


def test_pairs_that_were_not_labelled_weigh_nothing(folder):
    labels = LabelShards(folder=folder)([0], framing(views=3)).labels
    assert (labels.flow.weight[0].flatten(1).sum(1) > 0).tolist() == [True, True, False]
    assert not labels.flow.value[0, 2].any()


def test_flow_that_leaves_the_crop_is_not_covisible(folder):
    labels = LabelShards(folder=folder)([0, 2], framing("other aspect")).labels
    assert torch.equal(covisible_flow(labels).weight, labels.flow.weight)


def test_what_a_clip_lacks_weighs_nothing_and_what_all_lack_is_absent(folder, tmp_path):
    labels = LabelShards(folder=folder)([1, 0], framing()).labels
    for name in ("points", "mono_depth", "world_from_cam", "intrinsics"):
        known = getattr(labels, name)
        assert not known.weight[0].any() and known.weight[1].any() and bool(known.value.isfinite().all()), name
    assert labels.flow.weight[0].any() and bool((labels.tracks.view >= 4).all())
    alone = LabelShards(folder=folder)([1], framing()).labels
    assert alone.tracks is not None and alone.tracks.count == 0 and alone.points is not None
    write_library(tmp_path, [[only(labelled_clip(1), "flow")]])
    few = LabelShards(folder=str(tmp_path))([0], framing()).labels
    assert {field.name for field in fields(few) if getattr(few, field.name) is not None} == {"flow"}


def test_networks_are_told_intrinsics_that_are_needed(folder, tmp_path):
    data = LabelShards(folder=folder, needs=("intrinsics",))
    sample = data([1, 0], framing())
    assert torch.equal(sample.views.intrinsics, sample.labels.intrinsics.value)
    clip = labelled_clip(0)
    lens = clip.labels.intrinsics
    hidden = Known(lens.value, torch.tensor([[0.0, 0, 1, 0]], dtype=lens.weight.dtype))
    write_library(tmp_path, [[replace(clip, labels=replace(clip.labels, intrinsics=hidden))]])
    one_camera = LabelShards(folder=str(tmp_path), needs=("intrinsics",))([0], framing()).views.intrinsics
    assert torch.equal(one_camera, data([0], framing()).views.intrinsics)


def test_poses_begin_at_the_first_known_camera(folder, tmp_path):
    """However far the world's origin is; between cameras nothing changes."""
    clip = labelled_clip(0)
    far = clip.labels.world_from_cam.value.double().clone()
    far[..., :3, 3] += torch.tensor([4e6, -2e6, 1e6])
    weight = torch.ones(1, 4)
    weight[0, 1] = 0
    moved = replace(clip, labels=replace(clip.labels, world_from_cam=Known(far, weight)))
    write_library(tmp_path, [[moved]])
    ours, theirs = (LabelShards(folder=each)([0], framing()).labels.world_from_cam for each in (str(tmp_path), folder))
    known = ours.weight[0] > 0
    assert known.sum() == 3 and torch.equal(ours.value[0, ~known], torch.eye(4)[None])
    first = int(known.long().argmax())
    assert torch.allclose(ours.value[0, first], torch.eye(4), atol=1e-6)
    wanted = (inverse(theirs.value[0, first].double()) @ theirs.value[0].double())[known]
    assert (ours.value[0][known] - wanted).abs().max() < 1e-5


def test_what_is_needed_decides_which_clips_there_are(folder):
    assert LabelShards(folder=folder).count == 3 and LabelShards(folder=folder, needs=("flow", "points")).count == 2
    sample = LabelShards(folder=folder, needs=("points",))([1], framing())
    assert sample.names[0].endswith("000001-000000-0000")


def test_folders_that_will_not_do_are_told(folder, tmp_path):
    with pytest.raises(UsageError, match="never hold depth"):
        _ = LabelShards(folder=folder, needs=("depth",)).count
    with pytest.raises(InputError, match="is missing"):
        _ = LabelShards(folder=str(tmp_path / "none")).count
    write_library(tmp_path, [[only(labelled_clip(1), "flow")]])
    with pytest.raises(UsageError, match="no clip with tracks among flow"):
        _ = LabelShards(folder=str(tmp_path), needs=("tracks",)).count
    with pytest.raises(UsageError, match="clips of 4 views, and 5 were asked for"):
        LabelShards(folder=folder)([0], framing(views=5))


def mixed_recipe(folder: str, steps: int = 4) -> Recipe:
    """Shards, and a synthetic world of which everything is known."""
    shards = LabelShards(folder=folder, needs=("points", "flow"))
    return Recipe(
        name="mixed",
        model=NETWORK,
        sources=(
            Source(name="shards", dataset=shards, losses=(MotionLoss(scene_flow=0.0),)),
            Source(name="synthetic", dataset=TinyPairs(), losses=(MotionLoss(),), share=0.5),
        ),
        clip=Clip(sizes=((16, 16), (16, 32)), intrinsics=False),
        schedule=Schedule(steps=steps, batch=4, passes=2, learning_rate=1e-3, last_learning_rate=1e-5, warmup_steps=2),
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_on_shards_and_a_synthetic_world_resumes_exactly(folder, tmp_path, workers):
    recipe = mixed_recipe(folder)
    drawn = {draw.source for draw in Sampler(recipe)}
    assert drawn == {0, 1}
    whole = train(recipe, tmp_path / "whole", workers=0)
    stopped = train(recipe, tmp_path / "parts", workers=workers, steps=2)
    assert stopped.step == 2
    train(recipe, tmp_path / "parts", workers=workers, resume=True)
    ours, theirs = (load_file(tmp_path / name / "weights.safetensors") for name in ("parts", "whole"))
    assert whole.state == "done" and ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(name.startswith("shards/") for name in whole.losses) and all(np.isfinite(list(whole.losses.values())))
