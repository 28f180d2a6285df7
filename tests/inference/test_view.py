"""Where pixels land, and lookups there."""

import cv2
import numpy as np
import pytest
import torch
from flat_world import HEIGHT, WIDTH, intrinsics, pose, render, view_at, wall_depth

from unproject.geometry.flow import induced_flow
from unproject.inference.view import (
    FARTHEST_PX,
    flow_between,
    inside,
    landing,
    length,
    lookup,
    make_view,
    relative_depth,
    relative_pose,
)

SOURCE, TARGET = pose(), pose(0.2, -0.05, 0.1, yaw_deg=4)


@pytest.mark.parametrize("lens", [torch.zeros(5), torch.tensor([-0.1, 0.03, 0.002, -0.001, 0.0])])
def test_landing_is_what_the_geometry_layer_says(lens: torch.Tensor) -> None:
    image = render(SOURCE)[0]
    source = make_view(image, intrinsics(), lens, SOURCE)
    target = make_view(image, intrinsics() * torch.tensor([[1.1], [1.1], [1.0]]), lens, TARGET)
    depth = wall_depth(SOURCE)
    flow, _ = induced_flow(
        torch.from_numpy(depth),
        source.intrinsics,
        target.intrinsics,
        torch.from_numpy(relative_pose(source, target)).float(),
        lens,
        lens,
    )
    np.testing.assert_allclose(landing(source, target, 1 / depth) - source.pixels, flow.numpy(), atol=2e-3)


def test_relative_depth_is_the_depth_of_the_landed_point() -> None:
    source, target = view_at(SOURCE), view_at(TARGET)
    depth = wall_depth(SOURCE)
    seen_depth = lookup(wall_depth(TARGET), landing(source, target, 1 / depth))
    ok = inside(landing(source, target, 1 / depth), target.grey)
    np.testing.assert_allclose((depth * relative_depth(source, target, 1 / depth))[ok], seen_depth[ok], rtol=2e-3)


def test_what_lies_behind_the_target_lands_outside() -> None:
    source, target = view_at(SOURCE), view_at(pose(z=10.0))
    uv = landing(source, target, 1 / wall_depth(SOURCE))
    assert np.isfinite(uv).all()
    assert np.abs(uv).max() <= FARTHEST_PX
    assert inside(uv, target.grey).mean() < 0.01


def test_lookup_at_the_pixel_centres_changes_nothing() -> None:
    view = view_at(SOURCE)
    np.testing.assert_array_equal(lookup(view.rgb, view.pixels), view.rgb)
    shifted = lookup(view.grey, view.pixels + np.float32([3, 2]))
    np.testing.assert_array_equal(shifted[:-2, :-3], view.grey[2:, 3:])


def test_lookup_beyond_the_edge() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    places = np.float32([[[-5, 1.5], [9, 1.5]]])
    np.testing.assert_array_equal(lookup(values, places), [[4, 7]])
    np.testing.assert_array_equal(lookup(values, places, outside=-1.0), [[-1, -1]])
    assert not inside(places, values).any()


def test_inside_needs_no_pixel_beyond_the_edge() -> None:
    edge = np.float32([[[0.5, 0.5], [0.4, 0.5], [3.5, 2.5], [3.6, 2.5]]])
    np.testing.assert_array_equal(inside(edge, np.zeros((3, 4))), [[True, False, True, False]])


def test_length_is_the_norm() -> None:
    vectors = np.random.default_rng(0).standard_normal((4, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(length(vectors), np.linalg.norm(vectors, axis=-1), rtol=1e-6)


@pytest.mark.parametrize("thorough", [False, True])
def test_flow_of_a_shifted_image_is_the_shift(thorough: bool) -> None:
    grey = view_at(SOURCE).grey
    moved = cv2.warpAffine(
        grey, np.float32([[1, 0, 3.0], [0, 1, -2.0]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT
    )
    middle = flow_between(grey, moved, thorough=thorough)[20:-20, 20:-20]
    assert np.abs(middle - [3.0, -2.0]).mean() < 0.1
