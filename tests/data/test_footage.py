"""Clips of video files: each a pure function of its number, with the frames and times that were asked for."""

import numpy as np
import pytest
import torch

from unproject.data.base import Framing
from unproject.data.footage import Footage
from unproject.errors import InputError

FRAMING = Framing(views=3, pairs=((0, 1), (2, 0)), height=28, width=42)


@pytest.fixture(scope="module")
def files(tmp_path_factory, write_video) -> tuple[str, ...]:
    """Two videos at 30 frames per second whose frames brighten with time, one wide and one tall."""
    folder = tmp_path_factory.mktemp("footage")
    made = []
    for name, shape in (("wide", (48, 96)), ("tall", (96, 48))):
        frames = [np.full((*shape, 3), 10 + 4 * n, np.uint8) for n in range(50)]
        for frame in frames:
            frame[shape[0] // 2 - 4 : shape[0] // 2 + 4, shape[1] // 2 - 4 : shape[1] // 2 + 4, 0] = 255
        made.append(str(write_video(folder / f"{name}.mp4", frames)))
    return tuple(made)


def test_a_clip_is_the_same_in_any_company(files):
    data = Footage(files=files)
    alone, among = data([5], FRAMING), data([0, 5, 7], FRAMING)
    assert torch.equal(alone.views.images[0], among.views.images[1])
    assert torch.equal(alone.views.times[0], among.views.times[1])
    assert not torch.equal(among.views.times[0], among.views.times[1])
    assert alone.names == ("footage 5",) and data.count is None
    other = Footage(files=files, seed=1)([5], FRAMING)
    assert not torch.equal(other.views.times, alone.views.times)


def test_frames_are_those_of_their_times_and_the_middle_is_kept(files):
    sample = Footage(files=files, span_s=(0.4, 0.8))(range(12), FRAMING)
    views = sample.views
    assert views.images.shape == (12, 3, 3, 28, 42) and views.intrinsics is None and sample.labels.flow is None
    # Green says which frame it is; red marks the middle.
    frame = (255 * views.images[:, :, 1, 2, 2] - 10) / 4
    assert (frame / 30 - views.times).abs().max() < 0.6 / 30
    assert bool((views.images[:, :, 0, 13:15, 20:22] > 0.9).all())
    ordered = views.times.sort(1).values
    span = ordered[:, -1] - ordered[:, 0]
    assert span.min() > 0.4 - 2 / 30 and span.max() < 0.8 + 2 / 30
    assert (views.times[:, 0] > views.times[:, 1]).any(), "in no order"


def test_a_span_longer_than_the_file_is_the_whole_file(files):
    sample = Footage(files=files, span_s=(20.0, 30.0))([0, 1], FRAMING)
    ordered = sample.views.times.sort(1).values
    assert torch.allclose(ordered[:, 0], torch.zeros(2)) and torch.allclose(ordered[:, -1], torch.tensor(49 / 30))


def test_files_that_are_none_are_told(tmp_path):
    with pytest.raises(InputError, match="no files"):
        Footage(files=())([0], FRAMING)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(InputError):
        Footage(files=(str(tmp_path / "a.mp4"),))([0], FRAMING)
