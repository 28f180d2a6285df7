"""Figures of labels that are right, or wrong by a known amount."""

import cv2
import numpy as np
import pytest
import torch

from benchmarks.clips import Clip
from benchmarks.label_quality import ends, epipolar_px, from_to, nearest_surface
from unproject.geometry.camera import intrinsics_from_focal, project
from unproject.geometry.rigid import from_rt, inverse, so3_exp, transform


@pytest.mark.parametrize("gap", [1, 5, 20])
def test_pairs_are_as_far_apart_as_asked_and_go_both_ways(gap):
    pairs = ends(24, gap)
    assert {abs(one - two) for one, two in pairs} == {gap}
    assert all(min(pair) >= 0 and max(pair) < 24 for pair in pairs)
    assert {one < two for one, two in pairs} == {True, False}


def test_frames_come_in_the_order_asked():
    assert from_to(range(9), 2, 5) == [2, 3, 4, 5]
    assert from_to(range(9), 5, 2) == [5, 4, 3, 2]


def test_a_point_at_an_edge_may_go_with_either_side_and_no_other():
    flow = np.zeros((20, 30, 2), np.float32)
    flow[:, 15:] = [6, 0]
    uv = np.array([[15.0, 10.0]] * 3)
    landed = uv + np.array([[0, 0], [6, 0], [3, 0]])
    error, _, column = nearest_surface(uv, landed, flow)
    np.testing.assert_allclose(error, [0, 0, 3])
    assert column[:2].tolist() == [14, 15]


def test_distance_is_in_pixels_of_the_picture_that_was_labelled(tmp_path):
    poses = from_rt(
        so3_exp(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.0]], dtype=torch.float64)),
        torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64),
    )
    files = tuple(tmp_path / f"{view}.png" for view in range(2))
    for file in files:
        cv2.imwrite(str(file), np.zeros((480, 640, 3), np.uint8))
    intrinsics = intrinsics_from_focal(torch.full((2,), 600.0, dtype=torch.float64), 640, 480)
    clip = Clip(name="made up", files=files, ordered=True, world_from_cam=poses, intrinsics=intrinsics)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50, 3, dtype=torch.float64, generator=generator) * 2 + torch.tensor([-0.5, -1.0, 4.0])
    uv = [(project(transform(inverse(pose), points), intrinsics[0]) / 2).numpy() for pose in poses]
    pictures = [np.zeros((240, 320, 3), np.uint8)] * 2
    assert epipolar_px(clip, pictures, 0, 1, *uv).max() < 1e-6
    off = epipolar_px(clip, pictures, 0, 1, uv[0], uv[1] + [0.0, 2.0])
    # the two views share what does not fit
    np.testing.assert_allclose(off, 2 / 2**0.5, rtol=0.15)
