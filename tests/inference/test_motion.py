"""What moves: planted movers are found, rest stays at rest."""

import cv2
import numpy as np
import pytest
import torch
from flat_world import POSTER_DEPTH, intrinsics, pose, render, view_at, wall_depth

from unproject.inference.motion import (
    FLOW_STEPS,
    LOOK_STEPS,
    Rest,
    displacement,
    motion,
    rest_by_depth,
    rest_by_homography,
    standing_depth,
    stuck_to_image,
    turn,
)
from unproject.inference.view import View

STEPS = (*LOOK_STEPS, *FLOW_STEPS)


def clip(speed: float, camera_speed: float = 0.01) -> dict[int, tuple[View, np.ndarray, np.ndarray]]:
    """Views, depth and the mover's pixels by step in time; the poster passes the middle at step 0."""
    out = {}
    for step in (0, *STEPS):
        camera = pose(camera_speed * step)
        rgb, depth, mover = render(camera, speed * step)
        out[step] = view_at(camera, rgb), depth, mover
    return out


def rests(frames: dict[int, tuple[View, np.ndarray, np.ndarray]]) -> list[Rest]:
    view = frames[0][0]
    behind = 1 / wall_depth(pose())
    error = np.full(behind.shape, 0.02, np.float32)
    return [rest_by_depth(view, frames[step][0], step, behind, error) for step in STEPS]


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("speed", [0.02, 0.08])
def test_a_planted_mover_is_found_and_nothing_else(speed: float) -> None:
    frames = clip(speed)
    view, _, mover = frames[0]
    found = motion(view.grey, rests(frames)) > 0.5
    assert iou(found, mover) > 0.7
    far = cv2.dilate(mover.astype(np.uint8), np.ones((21, 21))) > 0
    assert not (found & ~far).any()


def test_nothing_moves_where_nothing_moves() -> None:
    frames = {step: (view_at(pose(0.01 * step)), None, None) for step in (0, *STEPS)}
    assert (motion(frames[0][0].grey, rests(frames)) < 0.5).all()


def test_a_camera_that_is_wrong_as_a_whole_moves_nothing() -> None:
    """Rolling shutter and blur shake everything alike."""
    frames = {step: (view_at(pose(0.01 * step)), None, None) for step in (0, *STEPS)}
    shaken = [
        Rest(step=one.step, grey=one.grey, uv=one.uv + np.float32([0.9 * np.sign(one.step), 0]))
        for one in rests(frames)
    ]
    assert (motion(frames[0][0].grey, shaken) > 0.5).mean() < 0.01


def test_without_frames_nearby_nothing_is_known_to_move() -> None:
    assert not motion(view_at(pose()).grey, []).any()


def test_depth_that_is_not_known_excuses_flow_along_its_line() -> None:
    frames = {step: (view_at(pose(0.03 * step)), None, None) for step in (0, *STEPS)}
    view, wrong = frames[0][0], 1.5 / wall_depth(pose())
    moving = []
    for error in (0.01, 0.5):
        doubt = np.full(wrong.shape, error, np.float32)
        found = motion(view.grey, [rest_by_depth(view, frames[step][0], step, wrong, doubt) for step in FLOW_STEPS])
        moving.append(found.mean())
    assert moving[1] < 0.5 * moving[0]


def test_turning_is_found_next_to_a_mover() -> None:
    first, second = pose(), pose(yaw_deg=2.0)
    source, target = view_at(first, render(first, 0.0)[0]), view_at(second, render(second, 0.1)[0])
    rotation = (torch.linalg.inv(second) @ first)[:3, :3].numpy()
    matrix = intrinsics().double().numpy()
    truth = rest_by_homography(matrix @ rotation @ np.linalg.inv(matrix), source.grey.shape, target.grey, 1).uv
    found = rest_by_homography(turn(source.grey, target.grey, np.eye(3)), source.grey.shape, target.grey, 1).uv
    assert np.abs(found - truth).max() < 0.4


def test_a_homography_of_nothing_is_the_pixel_grid() -> None:
    view = view_at(pose())
    np.testing.assert_allclose(rest_by_homography(np.eye(3), view.grey.shape, view.grey, 1).uv, view.pixels)


def branded(camera: torch.Tensor) -> View:
    rgb = render(camera)[0].copy()
    rgb[90:112, 8:48] = np.random.default_rng(7).integers(0, 255, (22, 40, 3))
    return view_at(camera, rgb)


def test_a_watermark_sticks_to_the_image() -> None:
    cameras = [pose(0.1 * step, yaw_deg=4 * step) for step in range(-3, 4)]
    view, *others = [branded(camera) for camera in sorted(cameras, key=lambda one: abs(float(one[0, 3])))]
    truth = np.zeros(view.grey.shape, bool)
    truth[90:112, 8:48] = True
    found = stuck_to_image(view, others, 1 / wall_depth(pose()))
    assert iou(found, truth) > 0.7


def test_nothing_sticks_without_a_watermark_or_without_motion() -> None:
    cameras = [pose(0.1 * step, yaw_deg=4 * step) for step in range(1, 7)]
    depth = wall_depth(pose())
    assert not stuck_to_image(view_at(pose()), [view_at(camera) for camera in cameras], 1 / depth).any()
    assert not stuck_to_image(branded(pose()), [branded(pose(0.001 * step)) for step in range(6)], 1 / depth).any()


def test_a_mover_stands_where_its_foot_is() -> None:
    rows = np.arange(60, dtype=np.float32)[:, None] * np.ones((1, 40), np.float32)
    floor = 600 / (rows + 30)  # nearer at the bottom
    moving = np.zeros((60, 40), bool)
    moving[10:40, 15:25] = True
    depth = standing_depth(moving, floor)
    np.testing.assert_allclose(depth[10:40, 15:25], floor[40, 20])
    np.testing.assert_array_equal(depth[~moving], floor[~moving])


def test_a_mover_is_never_behind_what_is_at_rest() -> None:
    near = np.full((60, 40), 2.0, np.float32)
    near[40:] = 5.0
    moving = np.zeros((60, 40), bool)
    moving[10:40, 15:25] = True
    np.testing.assert_array_equal(standing_depth(moving, near)[10:40], 2.0)


def test_displacement_is_the_way_of_the_mover() -> None:
    speed = 0.06
    frames = {step: render(pose(0.02 * step), speed * step) for step in (0, 1)}
    view, following = (view_at(pose(0.02 * step), frames[step][0]) for step in (0, 1))
    _, depth, mover = frames[0]
    way = displacement(view, following, depth, mover)
    inner = cv2.erode(mover.astype(np.uint8), np.ones((9, 9))) > 0
    np.testing.assert_allclose(np.median(way[inner], 0), [speed, 0, 0], atol=0.005)
    assert not way[~mover].any()
    assert abs(np.median(depth[mover]) - POSTER_DEPTH) < 1e-5
