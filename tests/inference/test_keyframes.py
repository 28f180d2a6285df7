"""Which frames of a video are solved for."""

import numpy as np
import pytest
import torch

from unproject.inference.keyframes import path_px, select_keyframes
from unproject.types import Tracks


def tracks_along(path: np.ndarray, points: int = 40, stuck: int = 0, cuts: tuple[int, ...] = ()) -> Tracks:
    """Points that move with the image's path (px per frame), some that stay put, all of them new after each cut."""
    start = np.random.default_rng(0).uniform(0, 600, (points, 2))
    shot = np.searchsorted(np.array(cuts), np.arange(len(path)), side="right")
    view, point = (grid.ravel() for grid in np.meshgrid(np.arange(len(path)), np.arange(points)))
    uv = start[point] + np.where(point < stuck, 0.0, path[view])[:, None] * [0.6, 0.8]
    track = shot[view] * points + point
    order = np.lexsort((view, track))
    return Tracks(
        view=torch.as_tensor(view[order]),
        track=torch.as_tensor(track[order]),
        uv=torch.as_tensor(uv[order], dtype=torch.float32),
        weight=torch.ones(len(order)),
    )


def test_path_is_what_the_image_moved() -> None:
    path = np.cumsum([0, 1.0, 2, 0, 5, 3])
    np.testing.assert_allclose(path_px(tracks_along(path), 6), path, atol=1e-3)


def test_what_sticks_to_the_image_does_not_slow_the_path() -> None:
    path = np.arange(10) * 4.0
    np.testing.assert_allclose(path_px(tracks_along(path, stuck=25), 10), path, atol=1e-3)


def test_even_steps_along_the_path() -> None:
    path = np.concatenate([np.arange(50) * 8.0, 400 + np.arange(100) * 4.0])  # fast, then half as fast
    chosen = select_keyframes(tracks_along(path), 150, 640.0)
    assert chosen[0] == 0 and chosen[-1] == 149
    step = np.diff(path[chosen])
    assert step[:-1].max() <= 0.05 * 640 and step[:-1].min() >= 0.02 * 640 - 8


def test_never_finer_than_wanted() -> None:
    assert len(select_keyframes(tracks_along(np.arange(1000) * 0.5), 1000, 640.0)) < 60


def test_a_camera_at_rest_needs_two() -> None:
    assert list(select_keyframes(tracks_along(np.zeros(30)), 30, 640.0)) == [0, 29]


def test_both_sides_of_a_cut() -> None:
    chosen = select_keyframes(tracks_along(np.zeros(30), cuts=(11, 20)), 30, 640.0)
    assert {10, 11, 19, 20} <= set(chosen.tolist())


def test_frames_without_any_track() -> None:
    nothing = Tracks(
        view=torch.zeros(0, dtype=torch.long),
        track=torch.zeros(0, dtype=torch.long),
        uv=torch.zeros(0, 2),
        weight=torch.zeros(0),
    )
    assert set(select_keyframes(nothing, 5, 640.0)) == {0, 1, 2, 3, 4}
    assert list(select_keyframes(nothing, 1, 640.0)) == [0]


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_very_short_clips(frames: int) -> None:
    chosen = select_keyframes(tracks_along(np.arange(frames) * 10.0), frames, 640.0)
    assert chosen[0] == 0 and chosen[-1] == frames - 1
