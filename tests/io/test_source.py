"""One way in for files, folders, globs and videos; which frames are chosen; what is said about it."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from unproject.errors import InputError, UsageError
from unproject.io.source import in_memory, open_source, select


def picture(path, value=0, size=(32, 24), focal_35=None):
    exif = Image.Exif()
    if focal_35:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal_35
    Image.new("RGB", size, (value, 0, 0)).save(path, exif=exif)
    return path


def values(source):
    return [int(frame.image[0, 0, 0]) for frame in source]


@pytest.fixture
def folder(tmp_path):
    """Twelve numbered photographs among what folders hold besides."""
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(12):
        picture(place / f"{number}.png", 10 * number)
    (place / "Thumbs.db").write_bytes(b"junk")
    (place / ".hidden.jpg").write_bytes(b"junk")
    (place / "notes.txt").write_text("words")
    (place / "sub").mkdir()
    return place


@pytest.fixture
def clip(tmp_path, write_video):
    return write_video(tmp_path / "clip.mp4", [np.full((24, 32, 3), 8 * i, np.uint8) for i in range(30)])


def test_folder_glob_list_and_file(folder):
    expected = [10 * number for number in range(12)]
    whole = open_source(folder)
    assert whole.kind == "images"
    assert values(whole) == values(open_source(str(folder / "*.png"))) == expected
    assert any("Thumbs.db" in note and "notes.txt" in note and "sub" in note for note in whole.notes)
    backwards = [folder / f"{number}.png" for number in reversed(range(12))]
    assert values(open_source(backwards)) == expected[::-1]
    single = open_source(folder / "3.png")
    assert (single.kind, values(single)) == ("images", [30])
    assert [info.time_s for info in whole.infos] == list(range(12))


def test_video_is_told_by_its_content(clip):
    for path in (clip, shutil.copy(clip, clip.with_name("clip.png")), shutil.copy(clip, clip.with_name("clip"))):
        source = open_source(path)
        assert source.kind == "video"
        assert len(list(source)) == len(source) == 30
    assert [info.index for info in source.infos] == list(range(30))
    assert len({info.camera for info in source.infos}) == 1


def test_moving_gif_is_a_video_and_a_still_one_an_image(tmp_path):
    frames = [Image.new("RGB", (16, 16), (i * 20, 0, 0)) for i in range(5)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=50)
    frames[0].save(tmp_path / "still.gif")
    assert open_source(tmp_path / "moving.gif").kind == "video"
    assert open_source(tmp_path / "still.gif").kind == "images"


def test_a_source_reads_the_same_twice(clip, folder):
    for source in (open_source(clip, every=4), open_source(folder)):
        assert values(source) == values(source)
        for frame, info in zip(source, source.infos, strict=True):
            assert frame.info is info
            assert frame.image.shape == (info.height, info.width, 3)
            assert frame.image.flags.writeable and frame.image.flags.c_contiguous


def test_mixed_sizes_are_kept_and_cameras_told_apart(tmp_path):
    picture(tmp_path / "1.jpg", size=(60, 40), focal_35=36)
    picture(tmp_path / "2.jpg", size=(40, 60), focal_35=36)
    picture(tmp_path / "3.jpg", size=(60, 40), focal_35=72)
    picture(tmp_path / "4.jpg", size=(60, 40), focal_35=36)
    source = open_source(tmp_path)
    assert [(info.width, info.height) for info in source.infos] == [(60, 40), (40, 60), (60, 40), (60, 40)]
    assert [info.camera for info in source.infos] == [0, 1, 2, 0]
    assert [info.focal_prior_px for info in source.infos] == pytest.approx([60, 60, 120, 60])
    assert any("mixed sizes" in note for note in source.notes)


def test_one_picture_twice_is_said(folder):
    shutil.copy(folder / "3.png", folder / "99.png")
    assert "99.png is the same picture as 3.png" in open_source(folder).notes


def test_content_hash_knows_bytes_and_order_only(folder, tmp_path, clip):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in range(12):
        shutil.copy(folder / f"{number}.png", elsewhere / f"image{number}.png")
    assert open_source(folder).content_hash == open_source(elsewhere).content_hash
    backwards = [folder / f"{number}.png" for number in reversed(range(12))]
    assert open_source(backwards).content_hash != open_source(folder).content_hash
    picture(elsewhere / "image7.png", 1)
    assert open_source(folder).content_hash != open_source(elsewhere).content_hash
    assert open_source(clip, every=3).content_hash == open_source(clip).content_hash


def test_images_in_memory_are_a_source_like_any_other():
    images = [np.full((4, 6, 3), number, np.uint8) for number in range(3)] + [np.zeros((6, 4, 3), np.uint8)]
    source = in_memory(images, "video")
    assert len(source) == 4 and source.kind == "video"
    assert values(source) == values(source) == [0, 1, 2, 0]
    assert [info.camera for info in source.infos] == [0, 0, 0, 1]
    assert [info.time_s for info in source.infos] == [0, 1, 2, 3]
    assert source.content_hash == in_memory([image.copy() for image in images], "images").content_hash
    turned = [*images[:3], np.zeros((4, 6, 3), np.uint8)]
    others = [images[:3], images[::-1], turned, [image + 1 for image in images]]
    assert len({source.content_hash, *(in_memory(some, "video").content_hash for some in others)}) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: place / "missing.mp4", "missing.mp4 does not exist"),
        (lambda place: place / "none*.png", r"no file matches .*none\*\.png"),
        (lambda place: place / "empty", "holds no image"),
        (lambda place: place / "zero.jpg", "zero.jpg is empty"),
        (lambda place: place / "text.jpg", "text.jpg holds no frame that can be decoded"),
        (lambda place: [], "no input"),
        (lambda place: [place / "a.png", place / "zero.jpg"], "zero.jpg is empty"),
        (lambda place: [place / "a.png", place / "text.jpg"], "text.jpg is not an image"),
        (lambda place: [place / "a.png", place / "empty"], "is a folder among files"),
        (lambda place: place, "zero.jpg is empty: copy or record it again"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(tmp_path, make, message):
    picture(tmp_path / "a.png")
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.jpg").write_text("words\n" * 100)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        open_source(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_damaged_picture_in_a_folder_is_named(folder):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "5.png")
    whole = (folder / "5.png").read_bytes()
    (folder / "5.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"5\.png is damaged .* replace it or leave it out"):
        list(open_source(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(folder):
    (folder / "5.png").chmod(0)
    with pytest.raises(InputError, match=r"5\.png cannot be read: Permission denied"):
        open_source(folder)


def test_changed_file_is_noticed(folder):
    source = open_source(folder)
    picture(folder / "5.png", size=(10, 10))
    with pytest.raises(InputError, match=r"5\.png changed while it was read"):
        list(source)


def pick(times, **flags):
    every_flag = dict.fromkeys(("every", "fps", "start", "end", "max_frames"))
    return select(np.asarray(times, float), **every_flag | flags)


STEADY = np.arange(90) / 30


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, list(range(90))),
        ({"every": 7}, list(range(0, 90, 7))),
        ({"fps": 10.0}, list(range(0, 90, 3))),
        ({"fps": 30.0}, list(range(90))),
        ({"fps": 1000.0}, list(range(90))),
        ({"fps": 1.0}, [0, 30, 60]),
        ({"start": 1.0, "end": 1.1}, [30, 31, 32]),
        ({"start": 1.0, "every": 20}, [30, 50, 70]),
        ({"max_frames": 3}, [0, 44, 89]),
        ({"max_frames": 1}, [0]),
        ({"max_frames": 500}, list(range(90))),
        ({"start": 0.5, "end": 2.5, "fps": 5.0, "max_frames": 4}, [15, 33, 51, 69]),
    ],
)
def test_selection_of_a_steady_video(flags, expected):
    assert pick(STEADY, **flags) == expected


def test_asking_for_the_rate_itself_loses_nothing_to_rounding_and_jitter():
    jitter = np.random.default_rng(0).uniform(-0.004, 0.004, 90)
    assert pick(np.round(STEADY, 3), fps=30.0) == list(range(90))
    assert pick(STEADY + np.where(np.arange(90) > 0, jitter, 0), fps=30.0) == list(range(90))


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=200), st.floats(0.5, 60))
def test_no_stretch_holds_more_frames_than_asked(gaps, fps):
    times = np.cumsum([0, *gaps])
    chosen = pick(times, fps=fps)
    assert len(chosen) <= (times[-1] + max(gaps)) * fps + 1
    # and every tick has the frame nearest to it
    for tick in np.arange(0, times[-1], 1 / fps):
        assert min(abs(times[chosen] - tick)) <= min(abs(times - tick)) + 1e-9


@given(st.integers(1, 300), st.integers(1, 300))
def test_max_frames_spreads_evenly(count, most):
    chosen = pick(np.arange(count), max_frames=most)
    assert len(chosen) == min(count, most)
    steps = np.diff(chosen)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1
    assert most == 1 or count == 1 or (chosen[0], chosen[-1]) == (0, count - 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"every": 0}, "--every must be positive"),
        ({"fps": -1.0}, "--fps must be positive"),
        ({"fps": float("nan")}, "--fps must be positive"),
        ({"max_frames": 0}, "--max-frames must be positive"),
        ({"every": 2, "fps": 3.0}, "exclude each other"),
        ({"start": 5.0}, "no frame from 5 on: the source goes from 0"),
        ({"start": 2.0, "end": 1.0}, "no frame from 2 to before 1: the source goes from 0 to 0.966667"),
    ],
)
def test_senseless_selection(clip, flags, message):
    with pytest.raises(UsageError, match=message):
        open_source(clip, **flags)


def test_images_have_no_rate(folder):
    with pytest.raises(UsageError, match="--fps needs a video"):
        open_source(folder, fps=2.0)
    assert values(open_source(folder, start=2.0, end=6.0, every=2)) == [20, 40]
    assert "2 of 12 frames selected" in open_source(folder, start=2.0, end=6.0, every=2).notes
