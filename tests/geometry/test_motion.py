"""On the synthetic world P, P_vt and the poses are exact, so every closed form has a true answer."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from unproject.data.synthetic import (
    Rendering,
    covisibility,
    handheld,
    optical_flow,
    render,
    sample_world,
    scene_flow,
    target_points,
)
from unproject.geometry import align, camera, motion, rigid

DOUBLE = torch.float64
HEIGHT, WIDTH = 36, 48


@dataclass(frozen=True)
class Pair:
    """Both directions of one pair of views of three worlds."""

    made: Rendering
    points: Tensor
    ahead: Tensor
    back_points: Tensor
    back_ahead: Tensor
    pose: Tensor
    """target_from_source"""

    @property
    def still(self) -> Tensor:
        """1 on what is seen and stands still."""
        return (self.made.valid & ~self.made.motion)[:, 0].double()

    @property
    def back_still(self) -> Tensor:
        return (self.made.valid & ~self.made.motion)[:, 1].double()


@pytest.fixture(scope="module")
def pair() -> Pair:
    worlds = sample_world(3, batch=4, moving=True, dtype=DOUBLE)
    path = handheld(worlds.stage, 3, duration_s=1.0)
    times = torch.tensor([0.1, 0.7], dtype=DOUBLE).repeat(4, 1)
    focal = torch.tensor([[40.0, 52.0]], dtype=DOUBLE).expand(4, 2)
    made = render(worlds, path, times, camera.intrinsics_from_focal(focal, WIDTH, HEIGHT), HEIGHT, WIDTH)
    pose = rigid.inverse(made.world_from_cam[:, 1]) @ made.world_from_cam[:, 0]
    points = made.points
    return Pair(made, points[:, 0], target_points(made, 0, 1), points[:, 1], target_points(made, 1, 0), pose)


def maps_of(pair: Pair) -> tuple[motion.PointMaps, motion.PointMaps]:
    ahead = motion.point_maps(pair.points, pair.ahead, pair.pose)
    return ahead, motion.point_maps(pair.back_points, pair.back_ahead, rigid.inverse(pair.pose))


def largest(error: Tensor, mask: Tensor) -> float:
    return error[mask.bool()].abs().max().item()


def test_the_pose_is_that_of_what_has_weight(pair):
    found = motion.relative_pose(pair.points, pair.ahead, pair.still)
    torch.testing.assert_close(found, pair.pose, rtol=0, atol=1e-9)
    back = motion.relative_pose(pair.back_points, pair.back_ahead, pair.back_still)
    torch.testing.assert_close(back, rigid.inverse(pair.pose), rtol=0, atol=1e-9)
    # Trusting what moves as well is a planted fault.
    everything = motion.relative_pose(pair.points, pair.ahead, pair.made.valid[:, 0].double())
    assert (everything - pair.pose).abs().amax((1, 2)).max() > 1e-3


def test_the_unsquared_fit_bears_with_movers_that_the_squared_one_follows(pair):
    seen = pair.made.valid[:, 0].double()
    squared = motion.relative_pose(pair.points, pair.ahead, seen)
    unsquared = motion.relative_pose(pair.points, pair.ahead, seen, unsquared=True)
    errors = [(found - pair.pose).abs().amax((1, 2)) for found in (squared, unsquared)]
    assert (errors[1] < 0.2 * errors[0]).all()


def test_unsquared_procrustes_beats_every_neighbour():
    x, y = torch.randn(2, 30, 3, dtype=DOUBLE), torch.randn(2, 30, 3, dtype=DOUBLE)
    weight = torch.rand(2, 30, dtype=DOUBLE)

    def cost(pose: Tensor) -> Tensor:
        return (weight * (y - rigid.transform(pose, x)).norm(dim=-1)).sum(-1)

    pose = align.procrustes_unsquared(x, y, weight, rounds=60)
    for _ in range(30):
        step = rigid.from_rt(rigid.so3_exp(1e-2 * torch.randn(2, 3, dtype=DOUBLE)), 1e-2 * torch.randn(2, 3))
        assert (cost(step @ pose) >= cost(pose)).all()
    assert align.procrustes_unsquared(x, x, weight).allclose(torch.eye(4, dtype=DOUBLE))
    assert align.procrustes_unsquared(x, y, 0 * weight).allclose(torch.eye(4, dtype=DOUBLE))


def test_one_fit_over_both_directions_averages_their_noise(pair):
    def noisy(points: Tensor) -> Tensor:
        return points + 0.05 * torch.randn_like(points)

    noise = pair.points, noisy(pair.ahead), pair.back_points, noisy(pair.back_ahead)
    fused = motion.fused_pose(noise[0], noise[1], pair.still, noise[2], noise[3], pair.back_still)
    single = motion.relative_pose(noise[0], noise[1], pair.still)
    torch.testing.assert_close(
        motion.fused_pose(pair.points, pair.ahead, pair.still, pair.back_points, pair.back_ahead, pair.back_still),
        pair.pose,
        rtol=0,
        atol=1e-9,
    )
    assert (fused - pair.pose).norm() < (single - pair.pose).norm()


def test_scene_flow_splits_into_camera_and_object(pair):
    maps, _ = maps_of(pair)
    torch.testing.assert_close(maps.camera_flow + maps.object_flow, maps.scene_flow)
    # The object's part is the world's scene flow, along the target camera's axes.
    in_world = scene_flow(pair.made, 0, 1)
    turned = motion.transform_map(
        rigid.from_rt(pair.made.world_from_cam[:, 1, :3, :3], torch.zeros(4, 3, dtype=DOUBLE)), maps.object_flow
    )
    seen = pair.made.valid[:, 0]
    assert largest((turned - in_world).norm(dim=-1), seen) < 1e-6
    # Where nothing moves P + F = T P.
    assert largest((maps.points + maps.scene_flow - maps.seen_by_target).norm(dim=-1), pair.still) < 1e-9
    assert maps.object_flow.norm(dim=-1)[pair.made.motion[:, 0]].median() > 0.01


def test_tracks_are_points_in_the_own_camera_at_the_other_time(pair):
    maps, _ = maps_of(pair)
    at_target_time = motion.transform_map(pair.made.world_from_cam[:, 0], maps.points) + scene_flow(pair.made, 0, 1)
    expected = motion.transform_map(rigid.inverse(pair.made.world_from_cam[:, 0]), at_target_time)
    assert largest((maps.at_target_time - expected).norm(dim=-1), pair.made.valid[:, 0]) < 1e-6


def test_flow_of_points_is_the_optical_flow(pair):
    intrinsics = pair.made.intrinsics
    flow, valid = motion.flow_of_points(pair.points, pair.ahead, intrinsics[:, 0], intrinsics[:, 1])
    truth = optical_flow(pair.made, 0, 1)
    seen = covisibility(pair.made, 0, 1)
    assert valid[seen].all()
    assert largest(flow - truth, seen) < 1e-8
    # The source's focal for both is a planted fault: the cameras differ.
    wrong, _ = motion.flow_of_points(pair.points, pair.ahead, intrinsics[:, 0], intrinsics[:, 0])
    assert largest(wrong - truth, seen) > 1
    behind, valid = motion.flow_of_points(-pair.points, pair.ahead, intrinsics[:, 0], intrinsics[:, 1])
    assert not valid.any() and not behind.any()


@pytest.mark.parametrize("rounds", [0, 10])
def test_intrinsics_come_back_from_points_and_from_target_points(pair, rounds):
    seen = pair.made.valid[:, 0].double()
    found = align.intrinsics_from_points(pair.points, seen, rounds)
    torch.testing.assert_close(found, pair.made.intrinsics[:, 0], rtol=1e-9, atol=1e-9)
    blind = align.intrinsics_from_points(pair.points, 0 * seen, rounds)
    assert not blind[:, 0, 0].any()


def test_visibility_agrees_with_rays_cast_anew(pair):
    intrinsics = pair.made.intrinsics[:, 1]
    found = motion.visibility(pair.points, pair.ahead, pair.back_points, pair.back_ahead, intrinsics)
    truth = covisibility(pair.made, 0, 1)
    known = pair.made.valid[:, 0]
    assert (found == truth)[known].double().mean() > 0.95
    assert 0.3 < truth[known].double().mean() < 0.98
    # Half the depth in the target hides everything.
    assert not motion.visibility(pair.points, pair.ahead, pair.back_points / 2, pair.back_ahead, intrinsics).any()
    # A surface at the right depth that returns to another place is another surface.
    elsewhere = motion.visibility(pair.points, pair.ahead, pair.back_points, pair.back_ahead + 9, intrinsics)
    assert not elsewhere[known].any()


def test_motion_mask_is_what_moves_and_is_seen_twice(pair):
    maps, back = maps_of(pair)
    found = motion.motion_mask(maps, back, pair.made.intrinsics[:, 1])
    far = (
        scene_flow(pair.made, 0, 1).norm(dim=-1)
        > 0.02 * pair.points.norm(dim=-1).flatten(1).median(1).values[:, None, None]
    )
    seen = covisibility(pair.made, 0, 1) & pair.made.valid[:, 0]
    assert not found[pair.still.bool()].any()
    assert (found & seen)[far & seen].double().mean() > 0.85
    # With a pose that is off, everything moves.
    wrong = pair.pose.clone()
    wrong[:, 0, 3] += 0.5
    off = motion.point_maps(pair.points, pair.ahead, wrong)
    off_back = motion.point_maps(pair.back_points, pair.back_ahead, rigid.inverse(wrong))
    assert motion.motion_mask(off, off_back, pair.made.intrinsics[:, 1])[seen].double().mean() > 0.8


def test_a_mask_switches_the_reference_to_an_object(pair):
    checked = 0
    for world in range(4):
        moving = pair.made.motion[world, 0]
        body = pair.made.world.surface_body()[pair.made.surface[world, 0]]
        for number in body[moving].unique():
            mask = body == number
            if mask.sum() < 20:
                continue
            pose = motion.relative_pose(pair.points[world], pair.ahead[world], mask.double())
            maps = motion.point_maps(pair.points[world], pair.ahead[world], pose)
            # Against itself the object stands still, and the world moves.
            assert largest(maps.object_flow.norm(dim=-1), mask) < 1e-6
            room = pair.still[world].bool()
            speed = scene_flow(pair.made, 0, 1)[world][mask].norm(dim=-1).max()
            assert maps.object_flow.norm(dim=-1)[room].median() > 0.2 * speed
            checked += 1
    assert checked


def test_gradients_reach_points_and_weight():
    points, ahead = torch.randn(2, 3, 3, dtype=DOUBLE), torch.randn(2, 3, 3, dtype=DOUBLE)
    weight = torch.rand(2, 3, dtype=DOUBLE)

    def track(points: Tensor, ahead: Tensor, weight: Tensor) -> Tensor:
        return motion.point_maps(points, ahead, motion.relative_pose(points, ahead, weight)).at_target_time

    inputs = tuple(tensor.requires_grad_() for tensor in (points, ahead, weight))
    assert torch.autograd.gradcheck(track, inputs)


def test_fits_agree_with_the_reference_outputs(parity):
    file = np.load(parity / "functions.npz", allow_pickle=False)
    x, y, weight = (torch.from_numpy(file[name]) for name in ("pr_x", "pr_y", "pr_w"))
    pose = align.procrustes(x, y, weight)
    scale, rotation, translation = align.similarity(x, y, weight)
    found = [pose[:, :3, :3], pose[:, :3, 3], scale, rotation, translation]
    for value, name in zip(found, ["pr_R", "pr_t", "pr_sim_s", "pr_sim_R", "pr_sim_t"], strict=True):
        torch.testing.assert_close(value, torch.from_numpy(file[name]), rtol=0, atol=1e-14)


def test_the_weight_gradient_agrees_with_the_reference_outputs(parity):
    # Of which scalar is not said: its 100 numbers must be a mix of our 6 rows, one for each freedom of a pose.
    file = np.load(parity / "functions.npz", allow_pickle=False)
    for x, y, weight, expected in zip(*(torch.from_numpy(file[f"pr_{n}"]) for n in ("x", "y", "w", "gw")), strict=True):
        best = align.procrustes(x, y, weight).detach()

        def freedoms(weight: Tensor, x: Tensor = x, y: Tensor = y, best: Tensor = best) -> Tensor:
            step = rigid.inverse(best) @ align.procrustes(x, y, weight)
            return torch.cat([rigid.so3_log(step[:3, :3]), step[:3, 3]])

        rows = torch.autograd.functional.jacobian(freedoms, weight).T
        mix = torch.linalg.lstsq(rows, expected, driver="gelsd").solution
        torch.testing.assert_close(rows @ mix, expected, rtol=0, atol=1e-10)


def test_focal_and_size_of_a_pair_agree_with_the_reference_outputs(parity):
    file = np.load(parity / "functions.npz", allow_pickle=False)
    points = torch.from_numpy(file["P_noisy"])
    focal = align.intrinsics_from_points(points, torch.ones(points.shape[:-1]))[:, 0, 0]
    torch.testing.assert_close(focal, torch.from_numpy(file["focal_weiszfeld"]), rtol=1e-5, atol=0)
    both = torch.cat([torch.from_numpy(file[name]).flatten(1, 2) for name in ("P", "Q")], dim=1)
    valid = torch.cat([torch.from_numpy(file[name]).flatten(1) for name in ("valid1", "valid2")], dim=1)
    size = align.mean_distance(both, valid.float())
    torch.testing.assert_close(size, torch.from_numpy(file["norm_factor"]).flatten(), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        both[:, :768].unflatten(1, (24, 32)) / size[:, None, None, None],
        torch.from_numpy(file["norm1"]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_scale_between_two_clouds_agrees_with_the_reference_outputs(parity):
    """Of which clouds is not said; its value is that of P and what is 1.7 times as large, in this order."""
    file = np.load(parity / "functions.npz", allow_pickle=False)
    small, expected = torch.from_numpy(file["P"]).flatten(1, 2), torch.from_numpy(file["opt_scale"])
    even = torch.ones(small.shape[:-1])
    scale, rotation, translation = align.similarity(small, 1.7 * small, even)
    torch.testing.assert_close(scale, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(rotation, torch.eye(3).expand(2, 3, 3), rtol=0, atol=1e-5)
    assert translation.abs().max() < 1e-5
    ratio = align.mean_distance(1.7 * small, even) / align.mean_distance(small, even)
    torch.testing.assert_close(ratio, expected, rtol=1e-5, atol=0)


def test_mean_distance_never_reads_what_has_no_weight():
    points = torch.tensor([[3.0, 4, 0], [torch.nan] * 3, [0, 0, 1]], requires_grad=True)
    size = align.mean_distance(points, torch.tensor([1.0, 0, 3]))
    assert size == 2
    (gradient,) = torch.autograd.grad(size, points)
    assert gradient.isfinite().all() and not gradient[1].any()
    assert align.mean_distance(points, torch.zeros(3)) == 1
    assert align.mean_distance(torch.zeros(3, 3), torch.ones(3)) == pytest.approx(1e-8)


def test_a_plane_between_its_pixels_is_exact():
    """Rays meet a tilted plane; a rigid motion of it is read between the pixels, where plain interpolation bends it."""
    matrix = camera.intrinsics_from_focal(torch.tensor(30.0, dtype=DOUBLE), WIDTH, HEIGHT)
    normal, distance = torch.tensor([0.3, -0.5, 0.8], dtype=DOUBLE), 2.0
    uv = torch.rand(200, 2, dtype=DOUBLE) * torch.tensor([WIDTH - 1, HEIGHT - 1]) + 0.5

    def points_at(places):
        rays = camera.rays(places, matrix)
        return rays * (distance / (rays @ normal))[..., None]

    grid = points_at(camera.pixel_grid(HEIGHT, WIDTH, DOUBLE).flatten(0, 1)).unflatten(0, (HEIGHT, WIDTH))
    pose = rigid.from_rt(rigid.so3_exp(torch.tensor([0.2, -0.4, 0.1], dtype=DOUBLE)), torch.ones(3, dtype=DOUBLE))
    moved = motion.transform_map(pose, grid)
    truth = rigid.transform(pose, points_at(uv))
    assert (motion.surface_at(moved, grid, uv) - truth).abs().max() < 1e-12
    assert (motion.sample(moved, uv)[0] - truth).abs().max() > 1e-4


def test_between_points_that_mean_nothing_stands_something_finite():
    points = torch.randn(6, 8, 3)  # half of them behind the camera
    found = motion.surface_at(points, points, torch.rand(50, 2) * 6)
    assert found.isfinite().all() and (found.abs() <= points.abs().amax()).all()
