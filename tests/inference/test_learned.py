"""The compact network asked about a view whose cameras are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unproject.data.synthetic import ClipData, handheld_clip
from unproject.inference.learned import LearnedGuess
from unproject.inference.view import View, make_view
from unproject.models.compact import Compact, config


@pytest.fixture(scope="module")
def clip() -> ClipData:
    return handheld_clip(5, frames=20, height=60, width=84, moving=False)


@pytest.fixture(scope="module")
def guess() -> LearnedGuess:
    torch.manual_seed(0)
    return LearnedGuess(Compact(replace(config("tiny"), blocks=0)).eval())


def view_of(clip: ClipData, frame: int, scale: float = 1.0, crop: int = 0) -> View:
    pose = clip.world_from_cam[frame].clone()
    pose[:3, 3] *= scale
    image = np.ascontiguousarray(clip.images[frame][: clip.images.shape[1] - crop])
    return make_view(image, clip.intrinsics[frame], torch.zeros(5), pose)


def test_any_size_comes_back_as_it_was(clip: ClipData, guess: LearnedGuess) -> None:
    found = guess(view_of(clip, 0), [view_of(clip, 10)])
    assert found.shape == (60, 84) and np.isfinite(found).all() and (found > 0).all()
    other_size = guess(view_of(clip, 0), [view_of(clip, 10, crop=20)])
    assert other_size.shape == (60, 84) and np.isfinite(other_size).all()


def test_depth_is_in_the_units_of_the_cameras(clip: ClipData, guess: LearnedGuess) -> None:
    once = guess(view_of(clip, 0), [view_of(clip, 10)])
    twice = guess(view_of(clip, 0, scale=2), [view_of(clip, 10, scale=2)])
    assert np.median(once / twice) == pytest.approx(2, rel=1e-3)


def test_the_farthest_views_are_asked(clip: ClipData, guess: LearnedGuess) -> None:
    near, far, farther = (view_of(clip, frame) for frame in (1, 12, 19))
    three = guess(view_of(clip, 0), [near, far, farther])
    assert np.array_equal(three, guess(view_of(clip, 0), [farther, far]))


def test_the_network_that_ships_sees_depth(clip: ClipData) -> None:
    """Better than a flat guess on a room that it was not trained on."""
    from unproject.models.loading import load

    found = LearnedGuess(load("compact", device="cpu"))(view_of(clip, 0), [view_of(clip, 12), view_of(clip, 19)])
    error = np.log(found * clip.depth[0].numpy())[clip.valid[0].numpy()]
    flat = np.log(clip.depth[0].numpy())[clip.valid[0].numpy()]
    assert np.abs(error - np.median(error)).mean() < 0.6 * np.abs(flat - np.median(flat)).mean()
