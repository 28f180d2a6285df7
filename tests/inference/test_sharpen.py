"""Tracks placed anew against the picture: on a textured wall with exact cameras, where the truth is known."""

from dataclasses import replace

import cv2
import flat_world as wall
import numpy as np
import pytest
import torch
from solved_world import all_found

from unproject.geometry import camera, rigid
from unproject.inference import sharpen
from unproject.inference.refine import Solved
from unproject.inference.reprojection import Observations, State
from unproject.types import Cameras, Tracks

POSES = [wall.pose(x=0.16 * n - 0.4, y=0.05 * n, z=0.1 * n, yaw_deg=4 * n - 10) for n in range(6)]
NOISE_PX = 0.7


def cameras() -> Cameras:
    return all_found(torch.stack(POSES), wall.intrinsics().double().expand(len(POSES), 3, 3))


def greys() -> list[np.ndarray]:
    return [cv2.cvtColor(wall.render(pose)[0], cv2.COLOR_RGB2GRAY) for pose in POSES]


def wall_points(count: int = 120) -> np.ndarray:
    """On the wall, in sight of all views with a margin for patches."""
    x, y = np.random.default_rng(3).uniform(-0.55, 0.55, (2, 40 * count))
    points = np.stack([x, y, (wall.OFFSET - wall.NORMAL[0] * x - wall.NORMAL[1] * y) / wall.NORMAL[2]], 1)
    uv = seen_at(points)
    return points[((uv > 8) & (uv < [wall.WIDTH - 8, wall.HEIGHT - 8])).all((0, 2))][:count]


def seen_at(points: np.ndarray) -> np.ndarray:
    """V P 2."""
    local = rigid.transform(rigid.inverse(torch.stack(POSES)), torch.as_tensor(points)[None])
    return camera.project(local, wall.intrinsics().double()).numpy()


def tracked(points: np.ndarray, noise_px: float) -> Tracks:
    uv = seen_at(points).transpose(1, 0, 2) + noise_px * np.random.default_rng(5).standard_normal((len(points), 6, 2))
    track, view = np.mgrid[: len(points), :6]
    return Tracks(
        view=torch.as_tensor(view.ravel()),
        track=torch.as_tensor(track.ravel()),
        uv=torch.as_tensor(uv.reshape(-1, 2), dtype=torch.float32),
        weight=torch.ones(uv.size // 2),
    )


def solved(tracks: Tracks, points: np.ndarray) -> Solved:
    poses = torch.stack(POSES).numpy()
    state = State(
        rotation=poses[:, :3, :3],
        centre=poses[:, :3, 3],
        points=points,
        log_focal=np.log([wall.FOCAL_PX]),
        radial=np.zeros(1),
        group=np.zeros(6, int),
    )
    xy = tracks.uv.double().numpy() - [wall.WIDTH / 2, wall.HEIGHT / 2]
    seen = Observations(view=tracks.view.numpy(), point=tracks.track.numpy(), xy=xy, weight=np.ones(len(xy)))
    good = np.ones(len(xy), bool)
    return Solved(views=np.arange(6), motion="full", state=state, seen=seen, good=good, track=np.arange(len(points)))


def on_wall(tracks: Tracks) -> np.ndarray:
    """Where on the wall each observation looks, P 6 3."""
    normal = torch.as_tensor(np.tile(wall.NORMAL, (len(tracks.uv), 1)))
    anywhere = torch.as_tensor(np.tile([0.0, 0.0, wall.OFFSET], (len(tracks.uv), 1)))
    seen = sharpen._on_plane(tracks.uv.double(), anywhere, normal, cameras(), tracks.view.numpy())
    return seen.numpy().reshape(-1, 6, 3)


def spread_px(tracks: Tracks) -> np.ndarray:
    """How far apart the views of each track look, in pixels of the reference distance."""
    places = on_wall(tracks)
    apart = np.linalg.norm(places - np.median(places, axis=1, keepdims=True), axis=2)
    return np.median(apart, axis=1) * wall.FOCAL_PX / wall.OFFSET


@pytest.mark.parametrize("ordered", [True, False])
def test_the_views_of_a_track_come_to_look_at_one_place(ordered: bool) -> None:
    """Which place is the reference view's affair: its noise stays, and bends no camera."""
    points = wall_points()
    noisy = tracked(points, NOISE_PX)
    sharp = sharpen.sharpened(noisy, [solved(noisy, points)], cameras(), greys(), ordered=ordered)
    assert np.median(spread_px(noisy)) > 0.5
    assert np.median(spread_px(sharp)) < 0.05
    assert np.percentile(spread_px(sharp), 90) < 0.15
    assert (sharp.weight == 1).float().mean() > 0.97
    unmoved = (sharp.uv == noisy.uv).all(1).reshape(-1, 6)
    assert (unmoved.sum(1) >= 1).all()  # the reference
    if ordered:
        assert unmoved[:, 0].all()


def test_photos_are_compared_with_the_view_that_faces_the_point_most() -> None:
    points = wall_points()
    tracks = tracked(points, 0.0)
    sightings = sharpen._sightings(tracks, [solved(tracks, points)], cameras(), ordered=False)
    sight = torch.stack(POSES).numpy()[None, :, :3, 3] - points[:, None]
    sight /= np.linalg.norm(sight, axis=2, keepdims=True)
    mean = sight.sum(1, keepdims=True)
    np.testing.assert_array_equal(sightings.view[sightings.reference], (sight * mean).sum(2).argmax(1))


def test_the_warp_is_that_of_the_wall() -> None:
    """Pixels per pixel between two views, against the wall's homography differentiated by hand."""
    points = wall_points(20)
    tracks = tracked(points, 0.0)
    sightings = sharpen._sightings(tracks, [solved(tracks, points)], cameras(), ordered=True)
    sightings = replace(sightings, normal=np.tile(wall.NORMAL / np.linalg.norm(wall.NORMAL), (20, 1)))
    last = np.flatnonzero(sightings.view == 5)
    warp = sharpen._Sharpener(tracks, sightings, cameras())._warp(last)
    matrix = wall.intrinsics().double().numpy()
    last_from_first = np.linalg.inv(POSES[5].numpy()) @ POSES[0].numpy()
    normal = wall.NORMAL @ POSES[0].numpy()[:3, :3]
    offset = wall.OFFSET - wall.NORMAL @ POSES[0].numpy()[:3, 3]
    plane = matrix @ (last_from_first[:3, :3] + np.outer(last_from_first[:3, 3], normal) / offset)
    homography = plane @ np.linalg.inv(matrix)
    for uv, found in zip(seen_at(points)[0], warp, strict=True):
        step = [homography @ [*(uv + sign * axis), 1] for axis in 0.5 * np.eye(2) for sign in (1, -1)]
        place = [one[:2] / one[2] for one in step]
        expected = np.stack([place[0] - place[1], place[2] - place[3]], 1)
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_patch_is_found_where_it_was_put_turned_and_larger() -> None:
    """Fault: without the warp it is not."""
    source = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (80, 80)).astype(np.float32), (0, 0), 1.5)
    angle = np.deg2rad(35)
    warp = 1.25 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    middle, target = np.array([40.3, 39.8]), np.array([50.6, 52.1])
    shown = np.column_stack([warp, (target - 0.5) - warp @ (middle - 0.5)])  # OpenCV counts centres by integers
    image = cv2.warpAffine(source, shown, (100, 100), flags=cv2.INTER_CUBIC)
    patch = sharpen._lookup(source, middle[None, None] + sharpen._WITH_MARGIN)
    start = np.float32([target + np.array([0.9, -0.7])])
    uv, likeness = sharpen.align(image, patch, warp[None], start)
    np.testing.assert_allclose(uv[0], target, atol=0.03)
    assert likeness[0] > 0.97
    _, unwarped = sharpen.align(image, patch, np.eye(2, dtype=np.float32)[None], start)
    assert unwarped[0] < sharpen.LEAST_LIKENESS


def test_brightness_and_contrast_do_not_matter() -> None:
    points = wall_points(40)
    noisy = tracked(points, NOISE_PX)
    darker = [np.round(0.5 * grey + 30).astype(np.uint8) if view % 2 else grey for view, grey in enumerate(greys())]
    sharp = sharpen.sharpened(noisy, [solved(noisy, points)], cameras(), darker, ordered=True)
    assert np.median(spread_px(sharp)) < 0.06


def test_what_is_not_found_keeps_its_place_and_loses_its_weight() -> None:
    points = wall_points(40)
    noisy = tracked(points, NOISE_PX)
    shown = greys()
    shown[3] = np.ascontiguousarray(shown[3][::-1, ::-1])  # another picture
    sharp = sharpen.sharpened(noisy, [solved(noisy, points)], cameras(), shown, ordered=True)
    there = noisy.view == 3
    lost = sharp.weight[there] < 0.5
    assert lost.float().mean() > 0.9
    torch.testing.assert_close(sharp.uv[there][lost], noisy.uv[there][lost])
    assert (sharp.weight[~there] == 1).float().mean() > 0.97


def test_without_solved_points_nothing_changes() -> None:
    points = wall_points(10)
    noisy = tracked(points, NOISE_PX)
    turning = replace(solved(noisy, points), motion="rotation_only")
    for parts in ([], [turning]):
        assert sharpen.sharpened(noisy, parts, cameras(), greys(), ordered=True) is noisy
    astray = solved(noisy, points + 5.0)  # every observation is far from its point
    assert sharpen.sharpened(noisy, [astray], cameras(), greys(), ordered=True) is noisy


def test_flat_patches_move_nothing_and_break_nothing() -> None:
    points = wall_points(10)
    noisy = tracked(points, NOISE_PX)
    grey = [np.full((wall.HEIGHT, wall.WIDTH), 90, np.uint8)] * 6
    sharp = sharpen.sharpened(noisy, [solved(noisy, points)], cameras(), grey, ordered=True)
    torch.testing.assert_close(sharp.uv, noisy.uv)
    assert torch.isfinite(sharp.uv).all()
