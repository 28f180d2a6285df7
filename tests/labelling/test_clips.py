import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import final

import cv2
import numpy as np
import pytest
import torch
from odd_clips import black, moving_camera
from panned import panned, steady

from unproject.errors import InputError, UsageError
from unproject.io.images import resize
from unproject.io.shards import LabelledClip, Rejection
from unproject.io.video import decode, index_video
from unproject.labelling import clips as module
from unproject.labelling.clips import label_size, labelled_clips, ring, taught
from unproject.labelling.wishes import Wishes
from unproject.teachers.base import Shot, Teacher
from unproject.teachers.flow import DisTeacher
from unproject.teachers.tracks import KltTeacher
from unproject.types import Known, Labels

WISHES = Wishes(views=4, most_clips=2)
TEACHERS = (DisTeacher(), KltTeacher(target=300))


def made(video, wishes=WISHES, teachers=(), name="the/clip.mp4"):
    return list(labelled_clips(video, name, wishes, teachers))


def split(parts):
    return [p for p in parts if isinstance(p, LabelledClip)], [p for p in parts if isinstance(p, Rejection)]


def known(labels):
    return {field.name for field in fields(Labels) if getattr(labels, field.name) is not None}


def same(one, two):
    """Whether two clips or rejections are the same to the bit."""
    if type(one) is not type(two) or isinstance(one, Rejection):
        return one == two
    plain = ("file", "frames", "times_s", "pairs", "quality")
    parts = [getattr(one, name) == getattr(two, name) for name in plain] + [(one.images == two.images).all()]
    for name in known(one.labels) | known(two.labels):
        label, again = getattr(one.labels, name), getattr(two.labels, name)
        parts += [bool((getattr(label, part) == getattr(again, part)).all()) for part in label.__dataclass_fields__]
    return all(parts)


@pytest.fixture(scope="module")
def pan():
    return panned(steady(60, 6.0), width=192, height=144)


@pytest.fixture(scope="module")
def pan_video(tmp_path_factory, write_video, pan):
    return write_video(tmp_path_factory.mktemp("pan") / "pan.mp4", pan)


@pytest.fixture(scope="module")
def of_pan(pan_video):
    return made(pan_video, teachers=TEACHERS)


@pytest.fixture(scope="module")
def room_video(tmp_path_factory, write_video):
    """A walk through a rendered room."""
    return write_video(tmp_path_factory.mktemp("room") / "room.mp4", list(moving_camera(24).images))


def test_a_clip_has_everything_that_was_promised(of_pan, pan_video):
    clips, _ = split(of_pan)
    assert len(clips) == 2
    index = index_video(pan_video)
    for clip in clips:
        assert clip.file == "the/clip.mp4"
        assert list(clip.frames) == sorted(set(clip.frames))
        assert clip.times_s == tuple(index.times_s[list(clip.frames)].tolist())
        assert clip.images.shape == (4, 144, 192, 3)
        assert (clip.images == np.stack(list(decode(index, clip.frames)))).all()
        assert set(clip.pairs) == set(ring(4))
        assert known(clip.labels) == {"flow", "tracks"}
        assert clip.labels.flow.value.shape == (1, 8, 144, 192, 2)
        assert clip.labels.tracks.view.max() < 4
        json.dumps(clip.quality, allow_nan=False)
    assert clips[0].frames[-1] < clips[1].frames[0]


def test_labels_say_how_the_plane_slid(of_pan):
    clip = split(of_pan)[0][0]
    for number, (source, target) in enumerate(clip.pairs):
        sure = clip.labels.flow.weight[0, number] > 0.5
        shift = clip.labels.flow.value[0, number][sure].median(0).values
        np.testing.assert_allclose(shift, [-6.0 * (clip.frames[target] - clip.frames[source]), 0], atol=0.2)


def test_quality_says_what_the_pan_is(of_pan):
    for clip in split(of_pan)[0]:
        quality = clip.quality
        assert quality["pairs"] == 1
        assert quality["flow_inliers"] > 0.9
        assert quality["tracks_inliers"] > 0.9
        assert quality["flow_flat"] > 0.9  # one plane
        assert quality["tracks_sampson_px"] < 0.5
        assert 0.1 <= quality["overlap"] <= 0.6
        assert quality["round_trip_px"] < 0.5
        assert 0 < quality["covisible"] < 1


def test_a_room_has_parallax(room_video):
    wishes = Wishes(views=4, most_overlap=0.9)
    clips, _ = split(made(room_video, wishes, TEACHERS))
    assert clips
    assert all(clip.quality["flow_flat"] < 0.9 for clip in clips)
    assert all(clip.quality["flow_inliers"] > 0.8 for clip in clips)


def test_the_same_bytes_give_the_same_clips_on_any_number_of_threads(pan_video, of_pan):
    cv2.setNumThreads(4)
    cv2.setRNGSeed(7)
    try:
        again = made(pan_video, teachers=TEACHERS)
    finally:
        cv2.setNumThreads(1)
    assert len(again) == len(of_pan)
    assert all(same(one, two) for one, two in zip(of_pan, again, strict=True))


def test_without_teachers_scouts_judge_and_labels_are_empty(pan_video, of_pan):
    clips, _ = split(made(pan_video))
    assert [clip.frames for clip in clips] == [clip.frames for clip in split(of_pan)[0]]
    assert all(known(clip.labels) == set() for clip in clips)
    assert all(clip.quality["tracks_matches"] >= 32 for clip in clips)


def test_no_more_clips_than_asked_and_the_rest_is_not_decoded(pan_video, monkeypatch):
    read = []
    every = module.decode
    monkeypatch.setattr(module, "decode", lambda *given: (read.append(0) or image for image in every(*given)))
    clips, _ = split(made(pan_video, Wishes(views=4, most_clips=1)))
    assert len(clips) == 1
    assert len(read) <= clips[0].frames[-1] + 2
    assert len(read) < 60


def test_fewer_frames_per_second_are_looked_at(pan_video):
    clips, _ = split(made(pan_video, Wishes(views=4, fps=15.0, most_clips=1)))
    assert all(frame % 2 == clips[0].frames[0] % 2 for frame in clips[0].frames)


def test_large_videos_are_shrunk_and_no_pixel_is_stretched_much(tmp_path, write_video):
    path = write_video(tmp_path / "large.mp4", panned(steady(40, 12.0), width=400, height=226))
    wishes = Wishes(views=4, long_side=256, most_clips=1)
    clips, _ = split(made(path, wishes, TEACHERS))
    assert clips[0].images.shape == (4, 144, 256, 3)
    frames = list(decode(index_video(path), clips[0].frames))
    assert (clips[0].images == np.stack([resize(frame, 256, 144) for frame in frames])).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1920, 1080), (512, 288)), ((1080, 1920), (288, 512)), ((320, 240), (320, 240)), ((321, 241), (320, 240)),
     ((2048, 858), (512, 214)), ((4000, 3), (512, 2))],
)  # fmt: skip
def test_sides_are_even_and_never_larger(size, expected):
    assert label_size(*size, 512) == expected


@pytest.mark.parametrize("views", range(2, 9))
def test_the_ring_holds_each_pair_of_neighbours_both_ways_once(views):
    pairs = ring(views)
    assert len(set(pairs)) == len(pairs) == (2 if views == 2 else 2 * views)
    assert set(pairs) == {pair[::-1] for pair in pairs}
    assert all((one - two) % views in (1, views - 1) for one, two in pairs)


@final
@dataclass(frozen=True)
class Lying(Teacher):
    """Flow of DIS, but that of some pairs is drawn by lot."""

    pairs: tuple[tuple[int, int], ...]

    def label(self, shot: Shot) -> Labels:
        flow = DisTeacher().label(shot).flow
        value, weight = flow.value.clone(), flow.weight.clone()
        for number in (shot.pairs.index(pair) for pair in self.pairs):
            value[0, number] = 40 * torch.randn(value[0, number].shape, generator=torch.Generator().manual_seed(number))
            weight[0, number] = 1
        return Labels(flow=Known(value, weight))


def test_a_pair_that_contradicts_itself_is_dropped_with_its_labels(pan_video):
    honest, lying = (
        split(made(pan_video, replace(WISHES, most_clips=1), (teacher,)))[0][0]
        for teacher in (DisTeacher(), Lying(((1, 2),)))
    )
    assert set(lying.pairs) == set(honest.pairs) - {(1, 2), (2, 1)}, "one of the two lies, and neither is believed"
    assert lying.quality["pairs"] == 0.75
    for number, pair in enumerate(lying.pairs):
        assert (lying.labels.flow.value[0, number] == honest.labels.flow.value[0, honest.pairs.index(pair)]).all()
    assert lying.labels.flow.weight.shape[1] == len(lying.pairs)


def test_a_clip_that_falls_apart_is_turned_down(pan_video):
    clips, turned_down = split(made(pan_video, teachers=(Lying(((1, 2), (3, 0))),)))
    assert not clips
    assert turned_down[0].reason == "labels of 4 of 8 pairs can be believed"
    first, last = turned_down[0].where.split("..")
    assert int(first) < int(last)


@final
@dataclass(frozen=True)
class Refusing(Teacher):
    """Says nothing of shots that begin with this frame of the pan, or of any."""

    first: np.ndarray | None = None

    def label(self, shot: Shot) -> Labels:
        if self.first is None or np.array_equal(shot.images[0], self.first):
            raise InputError("no parallax: label without it")
        return DisTeacher().label(shot)


def test_a_clip_of_which_a_teacher_says_nothing_is_one_line_and_the_next_is_labelled(pan_video, of_pan):
    honest = split(of_pan)[0]
    said = made(pan_video, teachers=(Refusing(honest[0].images[0]),))
    assert said[0] == Rejection(
        file="the/clip.mp4",
        where=f"{honest[0].frames[0]}..{honest[0].frames[-1]}",
        reason="no parallax: label without it",
    )
    assert split(said)[0][0].frames == honest[1].frames


def test_no_more_clips_are_tried_in_vain_than_may_be_given(pan_video):
    """A teacher that takes a minute for each clip shall not take a day for a long video."""
    clips, turned_down = split(made(pan_video, Wishes(views=4, most_clips=1), (Refusing(),)))
    assert not clips and len(turned_down) == 1


def test_two_teachers_of_one_label_are_refused_by_name(pan_video):
    with pytest.raises(UsageError, match="DisTeacher and Lying both give flow: leave one out"):
        made(pan_video, teachers=(DisTeacher(), Lying(())))


def test_tracks_of_several_teachers_lie_side_by_side():
    shot = Shot.of(panned(steady(3, 4.0)))
    few, many = KltTeacher(target=40), KltTeacher(target=200)
    both = taught(shot, (few, many)).tracks
    parts = [teacher.label(shot).tracks for teacher in (few, many)]
    assert both.count == parts[0].count + parts[1].count
    first = both.track < parts[0].count
    for part, chosen in zip(parts, (first, ~first), strict=True):
        seen = both.select(chosen)
        assert torch.equal(seen.uv, part.uv) and torch.equal(seen.track, part.track)


@final
@dataclass(frozen=True)
class Lens(Teacher):
    """Says a focal length."""

    focal_px: float

    def label(self, shot: Shot) -> Labels:
        value = torch.diag(torch.tensor([self.focal_px, self.focal_px, 1.0])).expand(1, len(shot.views), 3, 3)
        return Labels(intrinsics=Known(value, torch.ones(1, len(shot.views))))


def test_of_two_teachers_of_the_lens_the_first_stands():
    shot = Shot.of(panned(steady(3, 4.0)))
    assert taught(shot, (Lens(300.0), Lens(400.0))).intrinsics.value[0, 0, 0, 0] == 300


def test_what_teachers_say_is_put_together():
    images = panned(steady(3, 4.0))
    labels = taught(Shot.of(images), TEACHERS)
    assert known(labels) == {"flow", "tracks"}
    assert known(taught(Shot.of(images), ())) == set()


@pytest.mark.parametrize("rotation", [90, 270])
def test_a_phone_held_upright_gives_upright_clips(tmp_path, write_video, pan, rotation):
    path = write_video(tmp_path / "upright.mp4", pan[:40], rotation=rotation)
    clips, _ = split(made(path, teachers=TEACHERS))
    assert clips
    assert clips[0].images.shape == (4, 192, 144, 3)
    shift = clips[0].labels.flow.value[0, 0][clips[0].labels.flow.weight[0, 0] > 0.5].median(0).values
    assert abs(shift[1]) > 5
    assert abs(shift[0]) < 1


def test_what_is_no_video_is_one_line_that_names_it_as_the_list_does(tmp_path):
    (tmp_path / "junk.mp4").write_bytes(b"\0" * 4096)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("junk.mp4", "empty.mp4", "missing.mp4"):
        (part,) = made(tmp_path / name, name="a/name.mp4")
        assert isinstance(part, Rejection)
        assert (part.file, part.where) == ("a/name.mp4", "")
        assert "a/name.mp4" in part.reason
        assert str(tmp_path) not in part.reason
        assert "\n" not in part.reason


def test_a_video_that_was_cut_short_is_used_as_far_as_it_goes(tmp_path, write_video, pan):
    path = write_video(tmp_path / "cut.mkv", pan)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    clips, turned_down = split(made(path, replace(WISHES, most_clips=9)))
    assert clips
    assert any("cut short" in part.reason for part in turned_down)


def test_a_hole_in_a_video_ends_it_and_is_told(tmp_path, write_video, pan):
    path = write_video(tmp_path / "hole.mp4", pan, options={"g": "10"})
    data = bytearray(path.read_bytes())
    begin = len(data) * 3 // 4
    data[begin : begin + len(data) // 20] = bytes(len(data) // 20)
    path.write_bytes(data)
    clips, turned_down = split(made(path, replace(WISHES, most_clips=9)))
    assert clips
    assert turned_down
    assert all("\n" not in part.reason and str(tmp_path) not in part.reason for part in turned_down)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_is_an_error(tmp_path, write_video, pan, seed):
    path = write_video(tmp_path / "a.mp4", pan[:16])
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    rng = np.random.default_rng(seed)
    data[rng.integers(0, len(data), 30)] = rng.integers(0, 256, 30)
    path.write_bytes(data.tobytes())
    assert made(path)


def test_one_frame_black_videos_and_tiny_ones_are_turned_down(tmp_path, write_video, pan):
    tiny = [np.ascontiguousarray(image[:48, :64]) for image in pan[:10]]
    for name, frames, reason in (
        ("one.mp4", pan[:1], "fewer than 4 frames in one piece"),
        ("black.mp4", list(black()), "pictures of one colour"),
        ("tiny.mp4", tiny, "64x48 pixels are too few: 64 are needed"),
    ):
        (part,) = made(write_video(tmp_path / name, frames))
        assert part.reason == reason


def test_frames_of_one_reason_are_one_line(tmp_path, write_video):
    (part,) = made(write_video(tmp_path / "black.mp4", list(black(10))))
    assert part.where == "0..9"


@pytest.mark.data
@pytest.mark.parametrize("name", ["cotracker_apple", "davis_rollercoaster"])
def test_real_clips(shared_data, name):
    path = Path(shared_data) / "clips" / f"{name}.mp4"
    clips, _ = split(made(path, Wishes(long_side=320, most_clips=1), TEACHERS))
    assert len(clips) == 1
    assert clips[0].quality["flow_sampson_px"] < 1.5
    assert math.isfinite(sum(clips[0].quality.values()))
