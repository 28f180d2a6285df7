import gc
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_clips import black, snow
from panned import WIDTH, as_frames, panned, steady

from unproject.labelling.cutting import WINDOW, Cut, Frame, Useless, cuts, evenly, flaw, sharpness
from unproject.labelling.wishes import Wishes

WISHES = Wishes(views=4)


def cut(images, wishes=WISHES, fps=30.0):
    return list(cuts(as_frames(images, fps), wishes))


def numbers(clip):
    return [clip.frames[view].number for view in clip.views]


@pytest.fixture(scope="module")
def pan():
    """Three widths of the picture go by, 8 pixels a frame."""
    return panned(steady(96, 8.0))


@pytest.fixture(scope="module")
def of_pan(pan):
    return cut(pan)


def test_a_pan_is_cut_where_the_drawn_share_is_out_of_sight(of_pan):
    clips = [part for part in of_pan if isinstance(part, Cut)]
    assert len(clips) >= 3
    for clip in clips:
        assert WISHES.least_overlap <= clip.overlap <= WISHES.most_overlap
        shown = 8.0 * (clip.frames[-1].number - clip.frames[0].number)
        assert abs(clip.motion_px - shown) < 1
        assert abs(clip.overlap - (1 - shown / WIDTH)) < 0.15


def test_views_of_a_steady_pan_are_as_far_apart(of_pan):
    for clip in (part for part in of_pan if isinstance(part, Cut)):
        gaps = np.diff(numbers(clip))
        assert len(clip.views) == 4
        assert clip.views[0] == 0
        assert clip.views[-1] == len(clip.frames) - 1
        assert np.ptp(gaps) <= 2
        assert clip.scouts.view.max() == 3
        assert (clip.scouts.lengths() >= 2).all()


def test_scouts_lie_where_the_plane_was_moved(of_pan):
    clip = next(part for part in of_pan if isinstance(part, Cut))
    tracks, where = clip.scouts, np.array(numbers(clip))
    same = tracks.track[1:] == tracks.track[:-1]
    moved = (tracks.uv[1:] - tracks.uv[:-1])[same].numpy()
    expected = -8.0 * (where[tracks.view[1:]] - where[tracks.view[:-1]])[same.numpy()]
    np.testing.assert_allclose(np.median(np.abs(moved - np.stack([expected, 0 * expected], -1))), 0, atol=0.1)


def test_every_frame_is_used_or_turned_down_once(pan, of_pan):
    spans = [
        (part.frames[0].number, part.frames[-1].number) if isinstance(part, Cut) else (part.first, part.last)
        for part in of_pan
    ]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(pan) - 1
    assert all(here[1] + 1 == there[0] for here, there in pairwise(spans))


def test_no_clip_reaches_over_a_cut(pan):
    images = pan[:20] + panned(steady(20, 8.0), seed=1) + panned(steady(20, 8.0), seed=2)
    parts = cut(images, Wishes(views=4, most_overlap=0.8))
    clips = [part for part in parts if isinstance(part, Cut)]
    assert clips
    for clip in clips:
        assert len({frame.number // 20 for frame in clip.frames}) == 1


def test_a_station_sign_does_not_hide_a_cut(pan):
    images = [image.copy() for image in pan[:16] + panned(steady(16, 8.0), seed=1)]
    for image in images:
        image[10:40, 10:60] = panned([0.0], seed=9)[0][10:40, 10:60]
    parts = cut(images)
    assert all(len({frame.number // 16 for frame in part.frames}) == 1 for part in parts if isinstance(part, Cut))


def test_a_camera_at_rest_gives_nothing_and_a_clip_begins_where_it_moves(pan):
    rng = np.random.default_rng(0)
    rest = [np.clip(pan[0] + rng.normal(0, 2, pan[0].shape), 0, 255).astype(np.uint8) for _ in range(70)]
    parts = cut(rest + pan[:40])
    assert isinstance(parts[0], Useless)
    assert parts[0].reason == "the camera stands still"
    clip = next(part for part in parts if isinstance(part, Cut))
    assert clip.frames[0].number >= 31
    # what is left of the rest lies before the second view
    assert all(number >= 69 for number in numbers(clip)[1:])


def test_things_that_pass_before_a_camera_at_rest_give_nothing(pan):
    """They hide nearly half of what there was to see, but nothing else has moved."""
    images = []
    for number, thing in enumerate(panned(steady(40, 8.0), seed=5)):
        image = pan[0].copy()
        edge = min(8 * number, 112)
        image[:, :edge] = thing[:, WIDTH - edge :]
        images.append(image)
    first, *rest = cut(images, Wishes(views=4, least_overlap=0.5, most_overlap=0.8))
    assert first.reason == "the camera stands still"
    assert first.last < 30
    assert not [part for part in rest if isinstance(part, Cut)]


def test_too_little_motion_is_told_from_rest(pan):
    parts = cut(panned(steady(60, 0.4)), Wishes(views=4, longest_s=1.5))
    assert [type(part) for part in parts] == [Useless] * len(parts)
    assert parts[0].reason == "moves too little in 1.5 s"


def test_too_fast_to_follow_gives_nothing():
    parts = cut(panned(steady(12, 60.0)))
    assert not [part for part in parts if isinstance(part, Cut)]


def test_too_few_frames_between_cuts_give_nothing(pan):
    parts = cut([*pan[:3], *panned(steady(3, 8.0), seed=1)])
    assert [(part.first, part.last) for part in parts] == [(0, 2), (3, 5)]
    assert parts[0].reason == "fewer than 4 frames in one piece"


def test_a_scene_that_ends_early_is_told(pan):
    (part,) = cut(pan[:8])
    assert part == Useless(first=0, last=7, reason="too little between cuts")


@pytest.mark.parametrize(("spoil", "reason"), [
    (lambda image: 0 * image, "pictures of one colour"),
    (lambda image: np.full_like(image, 200), "pictures of one colour"),
    (lambda image: image // 20, "pictures of one colour"),
    (lambda image: np.where(image > 170, 36, 0).astype(np.uint8), "too dark"),
    (lambda image: cv2.GaussianBlur(image, (0, 0), 6), "too blurred"),
])  # fmt: skip
def test_pictures_that_teach_nothing_end_a_clip(pan, spoil, reason):
    images = list(pan[:30])
    images[10] = spoil(images[10])
    parts = cut(images, Wishes(views=4, most_overlap=0.8))
    assert [(part.first, part.last) for part in parts if isinstance(part, Useless) and part.reason == reason] == [
        (10, 10)
    ]
    assert all(10 not in [frame.number for frame in part.frames] for part in parts if isinstance(part, Cut))
    assert any(isinstance(part, Cut) and part.frames[0].number > 10 for part in parts)


def test_black_and_snow_give_reasons_only():
    for images in (black(), snow()):
        assert all(isinstance(part, Useless) for part in cut(list(images)))


def test_nothing_to_follow_is_told():
    image = np.full((192, 256, 3), 90, np.uint8)
    image[60:140, 60:140] = 180
    (part, *_) = cut([image] * 3)
    assert part.reason == "next to nothing to follow"


def test_no_frames_give_nothing():
    assert cut([]) == []


@pytest.mark.parametrize(("step", "between"), [(0.5, (0.4, 0.6)), (1.0, (1.0, 1.0)), (2.0, (1.9, 2.1))])
def test_the_step_says_where_the_next_clip_begins(pan, step, between):
    parts = cut(pan, Wishes(views=4, step=step))
    for one, two in pairwise(part for part in parts if isinstance(part, Cut)):
        first, last = one.frames[0].number, one.frames[-1].number
        begin = (two.frames[0].number - first) / (last + 1 - first)
        assert between[0] <= begin <= between[1]


def test_another_seed_draws_other_overlaps(pan, of_pan):
    other = cut(pan, Wishes(views=4, seed=1))
    spans = [[numbers(part) for part in parts if isinstance(part, Cut)] for parts in (of_pan, other)]
    assert spans[0] != spans[1]


def test_threads_of_opencv_change_nothing(pan, of_pan):
    cv2.setNumThreads(4)
    try:
        again = cut(pan)
    finally:
        cv2.setNumThreads(1)
    for one, two in zip(of_pan, again, strict=True):
        assert type(one) is type(two)
        if isinstance(one, Cut):
            assert numbers(one) == numbers(two)
            assert (one.scouts.uv == two.scouts.uv).all()


def test_memory_is_bounded_and_a_slow_clip_is_still_whole():
    alive, most = [0], [0]

    class Counted(Frame):
        def __init__(self, *given):
            super().__init__(*given)
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    images = panned(steady(400, 0.35), width=96, height=80)
    parts = cuts((Counted(n, n / 60, image) for n, image in enumerate(images)), Wishes(views=4, longest_s=60))
    clip = next(part for part in parts if isinstance(part, Cut))
    gc.collect()
    assert most[0] <= WINDOW + 3
    assert len(clip.frames) <= WINDOW
    assert clip.frames[-1].number - clip.frames[0].number > WINDOW
    gaps = np.diff([frame.number for frame in clip.frames[:-1]])
    assert len(set(gaps.tolist())) == 1
    assert np.ptp(np.diff(numbers(clip))) < 40


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), st.integers(2, 12))
def test_views_ascend_from_the_first_to_the_last(lost, views):
    overlap = (1 - np.sort(np.array([0.0, *lost] * 6))).tolist()
    chosen = evenly(overlap, views)
    assert chosen[0] == 0
    assert chosen[-1] == len(overlap) - 1
    assert len(chosen) == views
    assert all(one < two for one, two in pairwise(chosen))


def test_rest_between_two_motions_holds_no_view():
    overlap = [1.0, 0.9, 0.8, *[0.7] * 20, 0.6, 0.5, 0.4]
    assert evenly(overlap, 7) == (0, 1, 2, 3, 23, 24, 25)


def test_sharpness_falls_with_blur(pan):
    grey = pan[0][..., 0]
    values = [sharpness(cv2.GaussianBlur(grey, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert flaw(grey) is None
