"""Labelled clips in shards: they come back as exactly as is promised, in the same bytes, in a layout others read."""

import io
import json
import math
import tarfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from labelled import labelled_clip, only, write_library

from unproject.errors import InputError
from unproject.io import shard_labels
from unproject.io.shard_labels import Extent
from unproject.io.shards import document_of, read_clip, row_of, write_shard
from unproject.types import Known, Labels, Tracks

KEYS = ("000000-000000-0000", "000000-000001-0000")
SMALL = Extent(views=2, pairs=3, height=3, width=4)


@pytest.fixture(scope="module")
def clips():
    return labelled_clip(0), only(labelled_clip(1), "flow", "tracks")


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    write_library(folder, [clips])
    return folder


@pytest.fixture(scope="module")
def rows(folder, clips):
    return write_shard(folder / "shards" / "000000.tar", zip(KEYS, clips, strict=True))


def assert_near(found: Known, truth: Known, absolute: float, share: float, trust: float = 1 / 510) -> None:
    """Within so much where something is known, and known in the same places."""
    assert found.value.shape == truth.value.shape and found.weight.shape == truth.weight.shape
    assert (found.weight - truth.weight).abs().max() <= trust + 1e-7
    known = found.weight > 0
    off, size = (found.value - truth.value)[known].abs(), truth.value[known].abs()
    assert bool((off <= absolute * (1 + 1e-5) + share * size).all())


def test_a_clip_comes_back_as_exactly_as_promised(clips, folder, rows):
    for clip, row in zip(clips, rows, strict=True):
        found = read_clip(folder, row)
        for name in ("file", "frames", "times_s", "pairs", "quality"):
            assert getattr(found, name) == getattr(clip, name)
        lost = np.abs(found.images.astype(int) - clip.images).mean()
        assert found.images.dtype == np.uint8 and 0 < lost < 4
        assert_near(found.labels.flow, clip.labels.flow, 1 / 64, 0)
        for name in ("view", "track", "uv"):
            assert torch.equal(getattr(found.labels.tracks, name), getattr(clip.labels.tracks, name))
        assert (found.labels.tracks.weight - clip.labels.tracks.weight).abs().max() <= 1 / 510 + 1e-7
        if row.labels == shard_labels.KEPT:
            assert_near(found.labels.mono_depth, clip.labels.mono_depth, 0, 1 / 2048)
            assert_near(found.labels.points, clip.labels.points, 0, 1 / 131072 * (1 + 1e-5))
            assert_near(found.labels.world_from_cam, clip.labels.world_from_cam, 0, 0)
            assert_near(found.labels.intrinsics, clip.labels.intrinsics, 0, 0)
    assert rows[1].labels == ("flow", "tracks") and found.labels.points is None


WEIGHTS = arrays.arrays(np.float32, (1, 3, 3, 4), elements=st.floats(0, 1, width=32))
FLOWS = arrays.arrays(np.float32, (1, 3, 3, 4, 2), elements=st.floats(-1200, 1200, width=32))


@given(value=FLOWS, weight=WEIGHTS)
def test_any_flow_comes_back_within_a_64th_of_a_pixel(value, weight):
    labels = Labels(flow=Known(torch.from_numpy(value), torch.from_numpy(weight)))
    found = shard_labels.unpack(shard_labels.pack(labels, SMALL), ("flow",), SMALL).flow
    near = (labels.flow.value.abs() <= shard_labels.LONGEST_FLOW_PX).all(-1)
    assert (found.value - labels.flow.value)[found.weight > 0].abs().max().item() <= 1 / 64 if found.weight.any() else 1
    assert torch.equal(found.weight > 0, near & (labels.flow.weight >= 0.5 / 255))
    assert not found.value[found.weight == 0].any()


@given(
    value=arrays.arrays(np.float32, (1, 2, 3, 4), elements=st.floats(-1, np.float32(1e9), width=32)),
    weight=arrays.arrays(np.float32, (1, 2, 3, 4), elements=st.sampled_from([0.0, 0.5, 1.0])),
)
def test_any_depth_comes_back_within_a_share(value, weight):
    labels = Labels(mono_depth=Known(torch.from_numpy(value), torch.from_numpy(weight)))
    found = shard_labels.unpack(shard_labels.pack(labels, SMALL), ("mono_depth",), SMALL).mono_depth
    known, truth = found.weight > 0, labels.mono_depth.value
    assert bool(((found.value - truth).abs() <= truth.abs() / 2047)[known].all())
    assert bool((truth[known] > 0).all()) and not bool(known[labels.mono_depth.weight == 0].any())


@given(value=arrays.arrays(np.float32, (1, 2, 3, 4, 3), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)))
def test_any_points_come_back_within_a_share_of_each_coordinate(value):
    labels = Labels(points=Known(torch.from_numpy(value), torch.ones(1, 2, 3, 4)))
    found = shard_labels.unpack(shard_labels.pack(labels, SMALL), ("points",), SMALL).points
    assert bool(((found.value - labels.points.value).abs() <= labels.points.value.abs() / 131072).all())


def test_what_is_unknown_may_be_anything():
    """NaN under a weight of 0 is kept from the disk; cameras that were not found come back as the identity."""
    pose = torch.eye(4, dtype=torch.float64).repeat(1, 2, 1, 1)
    pose[0, 0, 0, 3], pose[0, 1] = 7.0, torch.nan
    flow = torch.full((1, 3, 3, 4, 2), torch.nan)
    flow[..., 0, :, :] = 2.5
    known = torch.zeros(1, 3, 3, 4)
    known[..., 0, :] = 1
    labels = Labels(world_from_cam=Known(pose, torch.tensor([[1.0, 0.0]])), flow=Known(flow, known))
    found = shard_labels.unpack(shard_labels.pack(labels, SMALL), ("flow", "world_from_cam"), SMALL)
    assert torch.equal(found.flow.value, torch.nan_to_num(flow)) and torch.equal(found.flow.weight, known)
    assert found.world_from_cam.value[0, 0, 0, 3] == 7 and torch.equal(
        found.world_from_cam.value[0, 1], pose.new_tensor(np.eye(4))
    )


def test_trust_in_a_track_never_becomes_none():
    tracks = Tracks(
        view=torch.tensor([0, 1]), track=torch.tensor([0, 0]), uv=torch.rand(2, 2), weight=torch.tensor([1e-6, 1.0])
    )
    found = shard_labels.unpack(shard_labels.pack(Labels(tracks=tracks), SMALL), ("tracks",), SMALL).tracks
    assert found.weight.tolist() == [pytest.approx(1 / 255), 1]


def test_the_same_clips_are_the_same_bytes(clips, folder, rows, tmp_path):
    again = write_shard(tmp_path / "000000.tar", iter(list(zip(KEYS, clips, strict=True))))
    data = (tmp_path / "000000.tar").read_bytes()
    assert again == rows and data == (folder / "shards" / "000000.tar").read_bytes()
    for row in rows:
        with tarfile.open(fileobj=io.BytesIO(data[row.offset : row.offset + row.length])) as part:
            assert {member.name.split(".")[0] for member in part} == {row.key}
            assert {(member.mtime, member.uid, member.gid, member.uname) for member in part} == {(0, 0, 0, "")}
    other = replace(clips[0], images=clips[0].images[:, ::-1].copy())
    changed = write_shard(tmp_path / "000000.tar", [(KEYS[0], other)])
    assert changed[0].sha256 != rows[0].sha256


def test_a_shard_is_read_as_webdataset_reads_it(clips, folder, rows):
    """By the names up to the first dot, with nothing of ours."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(folder / "shards" / "000000.tar", "r|") as stream:
        for member in stream:
            key, _, suffix = member.name.partition(".")
            samples.setdefault(key, {})[suffix] = stream.extractfile(member).read()
    assert list(samples) == list(KEYS)
    pictures = {f"{view:03d}.jpg" for view in range(4)}
    assert set(samples[KEYS[1]]) == {"json", "flow.npz", "tracks.npz", *pictures}
    sample, clip = samples[KEYS[0]], clips[0]
    said = json.loads(sample["json"])
    assert said["frames"] == list(clip.frames) and said["pairs"] == [list(pair) for pair in clip.pairs]
    picture = cv2.imdecode(np.frombuffer(sample["002.jpg"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(picture.astype(int) - clip.images[2]).mean() < 4
    flow = np.load(io.BytesIO(sample["flow.npz"]))
    whole = flow["steps"].cumsum(-1, dtype=np.int16).transpose(0, 2, 3, 1) / 32
    seen = flow["covisible"] > 0
    assert np.abs(whole - clip.labels.flow.value[0].numpy())[seen].max() <= 1 / 64


def without(clip, name: str):
    return replace(clip, labels=replace(clip.labels, **{name: None}))


def with_known(clip, name: str, **change):
    return replace(clip, labels=replace(clip.labels, **{name: replace(getattr(clip.labels, name), **change)}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda clip: replace(clip, frames=(5, 5, 8, 11)), "ascend"),
        (lambda clip: replace(clip, frames=(5, 8, 11)), "times_s"),
        (lambda clip: replace(clip, times_s=(0.0, 0.1, math.nan, 0.3)), "times_s"),
        (lambda clip: replace(clip, times_s=(0.0, 0.1, 0.3), frames=(5, 8, 11)), "images"),
        (lambda clip: replace(clip, images=clip.images.astype(np.float32)), "float32"),
        (lambda clip: replace(clip, pairs=((0, 1), (1, 2), (2, 3), (3, 4))), "two of the 4 views"),
        (lambda clip: replace(clip, pairs=((0, 1), (1, 2), (2, 3), (0, 1))), "twice"),
        (lambda clip: replace(clip, pairs=clip.pairs[:3]), "flow is"),
        (lambda clip: replace(clip, quality={"cycle": math.nan}), "quality"),
        (lambda clip: replace(clip, file="\ud800"), "surrogates"),
        (lambda clip: with_known(clip, "flow", weight=2 * clip.labels.flow.weight), "lie in"),
        (lambda clip: with_known(clip, "points", value=clip.labels.points.value * torch.inf), "points must be finite"),
        (lambda clip: with_known(clip, "tracks", view=clip.labels.tracks.view + 1), "views other than"),
        (lambda clip: with_known(clip, "tracks", track=clip.labels.tracks.track.flip(0)), "sorted"),
        (lambda clip: with_known(clip, "tracks", weight=0 * clip.labels.tracks.weight), "weights"),
        (
            lambda clip: replace(clip, labels=replace(clip.labels, target_points=clip.labels.flow)),
            "cannot hold target_points",
        ),
    ],
)
def test_a_clip_that_contradicts_itself_is_not_written(clips, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        write_shard(tmp_path / "000000.tar", [(KEYS[0], change(clips[0]))])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "keys"), [("a.tar", KEYS), ("000000.tar", KEYS[:1] * 2), ("000000.tar", ("a", "b"))])
def test_names_that_are_none_are_not_written(clips, tmp_path, name, keys):
    with pytest.raises(ValueError, match="cannot be called"):
        write_shard(tmp_path / name, zip(keys, clips, strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", "../a"), ("key", 3), ("shard", "../000000.tar"), ("shard", "/etc/passwd"), ("shard", "000000.tar\n"),
        ("offset", -512), ("offset", 1), ("offset", 0.5), ("length", 1 << 40), ("length", True), ("sha256", "x" * 64),
        ("file", ""), ("file", "x" * 5000), ("frames", []), ("frames", [3, 2, 1, 0]), ("frames", [0, 1, 2, 1 << 60]),
        ("frames", list(range(100))), ("times_s", [0, 1, 2, "3"]), ("width", 0), ("height", 1024),
        ("labels", ["depth"]), ("labels", ["flow", "flow"]),
        ("quality", {"a": "b"}), ("quality", {"a": math.inf}), ("quality", None),
        ("more", 1),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_is_refused(rows, name, value):
    document = document_of(rows[0])
    assert row_of(document) == rows[0]
    with pytest.raises(ValueError):
        row_of({**document, name: value})


def test_a_changed_or_missing_shard_is_told_with_its_clip(clips, tmp_path):
    rows = write_library(tmp_path, [clips])
    shard = tmp_path / "shards" / "000000.tar"
    data = bytearray(shard.read_bytes())
    data[rows[1].offset + 5000] ^= 1
    shard.write_bytes(data)
    read_clip(tmp_path, rows[0])
    with pytest.raises(InputError, match=rf"clip {rows[1].key} of shard 000000\.tar: its bytes are not"):
        read_clip(tmp_path, rows[1])
    shard.write_bytes(data[: rows[1].offset + 512])
    with pytest.raises(InputError, match="are no clip"):
        read_clip(tmp_path, rows[1])
    shard.unlink()
    with pytest.raises(InputError, match="the shard is missing"):
        read_clip(tmp_path, rows[0])
