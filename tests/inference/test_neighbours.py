"""Which frames a frame is measured with."""

import math

import numpy as np
import pytest
import torch
from flat_world import HEIGHT, WIDTH, intrinsics, pose, sparse_points, wall_depth

from unproject.inference.neighbours import PARALLAX, Layout, among_photos, in_time, keyframes, parallax


def layout_of(poses: list[torch.Tensor], component: list[int] | None = None) -> Layout:
    return Layout(
        world_from_cam=np.stack([one.numpy() for one in poses]),
        intrinsics=np.stack([intrinsics().double().numpy()] * len(poses)),
        size=np.array([[WIDTH, HEIGHT]] * len(poses)),
        component=np.array(component or [0] * len(poses)),
        sparse=[sparse_points(wall_depth(one)) for one in poses],
    )


def test_parallax_is_the_angle_between_sight_lines() -> None:
    """Against each point looked at by itself."""
    layout = layout_of([pose(), pose(0.2), pose(z=-0.5), pose(yaw_deg=180)])
    shared, angle = parallax(layout, 0, np.array([1, 2, 3]))
    sparse, focal = layout.sparse[0], float(intrinsics()[0, 0])
    rays = np.column_stack([(sparse.uv - [WIDTH / 2, HEIGHT / 2]) / focal, np.ones(len(sparse.uv))])
    for place, centre in enumerate(([0.2, 0, 0], [0, 0, -0.5])):
        seen, angles = [], []
        for point in rays * sparse.depth[:, None]:
            local = point - centre
            uv = focal * local[:2] / local[2] + [WIDTH / 2, HEIGHT / 2]
            seen.append(bool((uv >= 0).all() and (uv < [WIDTH, HEIGHT]).all()))
            if seen[-1]:
                angles.append(math.acos(point @ local / math.sqrt((point @ point) * (local @ local))))
        assert shared[place] == pytest.approx(np.mean(seen))
        assert angle[place] == pytest.approx(np.median(angles), rel=1e-4)
    assert angle[0] == pytest.approx(0.2 / 2, rel=0.15)
    assert shared[2] == 0.0


def test_both_sides_in_time_and_all_parallaxes() -> None:
    layout = layout_of([pose(0.02 * step) for step in range(61)])
    chosen = in_time(layout, 30)
    _, angle = parallax(layout, 30, np.array(chosen))
    assert sum(frame < 30 for frame in chosen) >= 4
    assert sum(frame > 30 for frame in chosen) >= 4
    for wanted in PARALLAX:
        assert np.abs(np.log(angle / wanted)).min() < np.log(1.6)


def test_the_farthest_frame_where_all_are_too_near() -> None:
    layout = layout_of([pose(0.0005 * step) for step in range(11)])
    assert in_time(layout, 5) == [0, 10]


def test_no_frame_of_another_world() -> None:
    poses = [pose(0.05 * step) for step in range(12)]
    layout = layout_of(poses, [0, 1] * 6)
    assert all(frame % 2 == 0 for frame in [*in_time(layout, 4), *among_photos(layout, 4)])


def test_nobody_is_asked_where_nothing_is_known() -> None:
    assert in_time(layout_of([pose()]), 0) == []
    assert among_photos(layout_of([pose()]), 0) == []
    assert in_time(layout_of([pose(), pose()]), 0) == []


def test_photos_that_look_elsewhere_are_not_asked() -> None:
    layout = layout_of([pose(), pose(0.3), pose(yaw_deg=120), pose(-0.3), pose(0.02)])
    chosen = among_photos(layout, 0)
    assert set(chosen[:2]) == {1, 3}
    assert 2 not in chosen


def test_keyframes_come_at_least_every_eighth_frame_and_sooner_when_the_camera_is_fast() -> None:
    slow, fast = (layout_of([pose(step * pace) for step in range(25)]) for pace in (0.002, 0.2))
    assert keyframes(slow, np.arange(25)) == [0, 8, 16, 24]
    assert len(keyframes(fast, np.arange(25))) > 12
