from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
import pytest
from planar_world import about, clip, moved

from unproject.data import synthetic
from unproject.teachers.base import Shot
from unproject.teachers.flow import DisTeacher, covisibility, flow_both_ways, round_trip_px


def flow_of(matrix, height, width):
    """What a map of the image does to every pixel."""
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    uv = np.stack([column, row], -1).reshape(-1, 2)
    return (moved(matrix, uv) - uv).reshape(height, width, 2).astype(np.float32)


def slow_round_trip(forward, backward):
    """Pixel by pixel, by hand."""
    height, width = forward.shape[:2]
    error = np.full((height, width), np.inf)
    for row in range(height):
        for column in range(width):
            x, y = column + forward[row, column, 0], row + forward[row, column, 1]
            if 0 <= x <= width - 1 and 0 <= y <= height - 1:
                left, top = min(int(x), width - 2), min(int(y), height - 2)
                a, b = x - left, y - top
                upper = (1 - a) * backward[top, left] + a * backward[top, left + 1]
                lower = (1 - a) * backward[top + 1, left] + a * backward[top + 1, left + 1]
                error[row, column] = np.linalg.norm(forward[row, column] + (1 - b) * upper + b * lower)
    return error


def test_round_trip_equals_the_pixel_by_pixel_twin():
    rng = np.random.default_rng(0)
    forward, backward = (cv2.GaussianBlur(rng.normal(size=(24, 30, 2)) * 20, (0, 0), 3) for _ in range(2))
    forward, backward = forward.astype(np.float32), backward.astype(np.float32)
    fast, slow = round_trip_px(forward, backward), slow_round_trip(forward, backward)
    assert np.isinf(slow).any()
    assert (np.isinf(fast) == np.isinf(slow)).all()
    # remap knows 32 places between two pixels
    np.testing.assert_allclose(fast, slow, atol=0.1)


def test_covisibility_is_one_where_flow_comes_back_half_at_its_scale_and_zero_outside():
    there = np.zeros((20, 30, 2), np.float32)
    there[..., 0] = 4
    back = -there
    back[:, 20:, 1] = 0.7
    weight = covisibility(there, back)
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight[:, :15], 1)
    np.testing.assert_allclose(weight[:, 17:25], 0.5, atol=1e-6)
    assert (weight[:, 26:] == 0).all()


@pytest.mark.parametrize(
    "matrix",
    [about((130, 100), shift=(6.4, -3.3)), about((130, 100), turn_deg=4), about((130, 100), zoom=1.06)],
    ids=["shift", "turn", "zoom"],
)
def test_flow_of_a_known_map(matrix):
    (one, two) = clip([np.eye(3), matrix])
    forward, backward = flow_both_ways(one, two)
    truth, truth_back = flow_of(matrix, *one.shape), flow_of(np.linalg.inv(matrix), *one.shape)
    inside = np.isfinite(round_trip_px(truth, truth_back))
    error = np.linalg.norm(forward - truth, axis=2)
    assert np.median(error[inside]) < 0.1
    assert np.median(np.linalg.norm(backward - truth_back, axis=2)) < 0.1
    weight = covisibility(forward, backward)
    assert (weight[inside] > 0.5).mean() > 0.95
    assert (weight[~inside] > 0.5).mean() < 0.15  # what is wrong there by under a pixel at the border


def test_flow_and_covisibility_against_a_world_where_both_are_exact(walk):
    greys, made = walk
    right, claimed, possible, error = 0, 0, 0, []
    for a, b in ((5, 7), (20, 23), (35, 32)):
        truth = synthetic.optical_flow(made.rendering, a, b)[0].numpy()
        seen = synthetic.covisibility(made.rendering, a, b)[0].numpy()
        forward, backward = flow_both_ways(greys[a], greys[b])
        sure = covisibility(forward, backward) > 0.5
        off = np.linalg.norm(forward - truth, axis=2)
        right += (sure & seen & (off < 1.0)).sum()
        claimed += sure.sum()
        possible += seen.sum()
        error.append(off[sure & seen])
    assert right / claimed > 0.96
    assert right / possible > 0.92
    assert np.median(np.concatenate(error)) < 0.1


def test_the_hidden_is_not_claimed():
    """Half the picture slides over the other half: the strip that it hides has no flow that comes back."""
    (still,) = clip([np.eye(3)], seed=1)
    (sheet,) = clip([np.eye(3)], seed=2)
    one, two = still.copy(), still.copy()
    one[:, 150:], two[:, 130:] = sheet[:, :110], sheet[:, :130]
    weight = covisibility(*flow_both_ways(one, two))
    assert (weight[20:-20, 20:120] > 0.5).mean() > 0.97
    assert (weight[20:-20, 135:145] > 0.5).mean() < 0.1


def test_labels_are_the_flow_of_neighbours_unless_other_pairs_are_asked_for():
    frames = clip([about((130, 100), shift=(3.0 * n, 0)) for n in range(3)])
    images = [np.repeat(frame[..., None], 3, axis=2) for frame in frames]
    label = DisTeacher().label(Shot.of(images)).flow
    assert label.value.shape == (1, 2, 200, 260, 2)
    assert label.weight.shape == (1, 2, 200, 260)
    np.testing.assert_allclose(label.value[0, :, 100, 100], [[3, 0], [3, 0]], atol=0.1)
    asked = DisTeacher().label(Shot(images=images, views=(0, 2), pairs=((1, 0), (0, 1)))).flow
    np.testing.assert_allclose(asked.value[0, :, 100, 100], [[-6, 0], [6, 0]], atol=0.1)


def test_flow_is_the_same_from_several_threads():
    frames = clip([about((130, 100), turn_deg=n) for n in range(5)])
    here = [flow_both_ways(*two)[0] for two in pairwise(frames)]
    with ThreadPoolExecutor(2) as pool:
        there = list(pool.map(lambda two: flow_both_ways(*two)[0], pairwise(frames)))
    for one, two in zip(here, there, strict=True):
        assert (one == two).all()


def test_images_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        flow_both_ways(np.zeros((40, 60), np.uint8), np.zeros((60, 40), np.uint8))
