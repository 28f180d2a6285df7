"""Every view is in a window, windows hang together, and loops are found where frames look alike again."""

from itertools import pairwise

import numpy as np
import pytest

from unproject.data.synthetic import handheld_clip, photo_orbit
from unproject.inference.view_windows import by_likeness, homes, in_time, loops, pair_homes, thumbnail


@pytest.mark.parametrize(("count", "length", "overlap"), [(1, 8, 2), (8, 8, 2), (9, 8, 2), (300, 32, 8), (61, 10, 9)])
def test_windows_in_time_cover_and_overlap(count, length, overlap):
    windows = in_time(count, length, overlap)
    assert sorted({view for window in windows for view in window}) == list(range(count))
    assert all(len(window) == min(count, length) for window in windows)
    for before, after in pairwise(windows):
        assert len(set(before) & set(after)) >= overlap
    assert len(windows) <= 1 + max(0, -(-(count - length) // (length - overlap)))


def test_views_live_where_they_are_central():
    windows = in_time(20, 8, 4)
    home = homes(windows, 20)
    assert home == sorted(home) and all(view in windows[home[view]] for view in range(20))
    assert home[:6] == [0] * 6 and home[-6:] == [len(windows) - 1] * 6


@pytest.mark.parametrize(("count", "length", "overlap"), [(5, 8, 2), (30, 8, 3), (31, 10, 4), (17, 16, 4)])
def test_photos_hang_together_in_any_order(count, length, overlap):
    place = np.random.permutation(count) / count
    alike = np.exp(-4 * np.abs(place[:, None] - place[None]))
    windows = by_likeness(alike, length, overlap)
    seen = set(windows[0])
    for window in windows[1:]:
        assert len(window) == len(set(window)) <= length and len(seen & set(window)) >= overlap
        old = seen & set(window)
        new = sorted(set(window) - seen)
        gap = np.abs(place[new][:, None] - place[sorted(old)][None]).min()
        assert gap <= 3 / count
        seen |= set(window)
    assert seen == set(range(count))


def test_photos_of_a_scene_are_alike_by_their_angle():
    clip = photo_orbit(2, photos=10, height=72, width=96)
    marks = np.stack([thumbnail(image) for image in clip.images])
    alike = marks @ marks.T
    near = np.mean([alike[n, n + 1] for n in range(9)])
    far = np.mean([alike[n, n + 5] for n in range(5)])
    assert near > far and np.allclose(np.diag(alike), 1, atol=1e-5)


def test_a_walk_back_is_a_loop_and_a_walk_on_is_none():
    clip = handheld_clip(8, frames=40, height=48, width=64, fps=8)
    marks = [thumbnail(image) for image in clip.images]
    there = np.stack([*marks, *marks[::-1]])
    windows = in_time(80, 12, 4)
    found = loops(there, windows, 12)
    assert found and len(found) <= len(windows)
    for window in found:
        gap = np.diff(window)
        assert len(window) == len(set(window)) == 8 and (gap > 1).sum() == 1
    other = [thumbnail(image) for image in handheld_clip(1, frames=40, height=48, width=64, fps=8).images]
    on = loops(np.stack([*marks[:20], *other[:20]]), in_time(40, 12, 4), 12)
    assert not any(min(window) < 20 <= max(window) for window in on)


def test_images_of_one_colour_are_like_nothing():
    assert not thumbnail(np.full((20, 30, 3), 77, np.uint8)).any()


@pytest.mark.parametrize(("count", "length", "overlap"), [(1, 8, 2), (2, 2, 1), (9, 2, 1), (6, 3, 1), (20, 8, 4)])
def test_neighbours_in_time_are_taken_once_and_both_ways_round(count, length, overlap):
    windows = in_time(count, length, overlap)
    home = homes(windows, count)
    found = pair_homes(windows, home, ring=False)
    assert set(found) == {(a, b) for a in range(count) for b in (a - 1, a + 1) if 0 <= b < count}
    assert all({*pair} <= {*windows[number]} for pair, number in found.items())
    assert all(number == home[a] for (a, b), number in found.items() if b in windows[home[a]])


@pytest.mark.parametrize(("count", "length"), [(1, 8), (2, 8), (3, 8), (30, 8)])
def test_photos_are_paired_in_a_ring(count, length):
    marks = np.random.default_rng(1).normal(size=(count, 20))
    windows = by_likeness(marks @ marks.T, length, 2)
    found = pair_homes(windows, homes(windows, count), ring=True)
    assert set(found) == {(b, a) for a, b in found} and all(a != b for a, b in found)
    assert {a for a, _ in found} == (set(range(count)) if count > 1 else set())
    assert len(found) <= 2 * sum(map(len, windows))
    assert all({*pair} <= {*windows[number]} for pair, number in found.items())
