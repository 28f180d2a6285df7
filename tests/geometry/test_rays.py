import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unproject.geometry import camera, rays, rigid

DOUBLE = torch.float64
angles = st.one_of(st.floats(0, math.pi), st.sampled_from([0.0, 1e-5, 1e-3, math.pi / 2, math.pi - 1e-3, math.pi]))


@given(angles, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_angle_of_any_two_lengths(angle, first, second):
    turn = rigid.so3_exp(torch.tensor([0.2, 0.9, -0.4], dtype=DOUBLE))
    a = first * turn @ torch.tensor([1.0, 0, 0], dtype=DOUBLE)
    b = second * turn @ torch.tensor([math.cos(angle), math.sin(angle), 0], dtype=DOUBLE)
    assert abs(rays.angle_between(a, b).item() - angle) < 1.1e-6


@pytest.mark.parametrize("angle", [1e-3, 1.0, 2.0, math.pi - 1e-3])
def test_angle_gradient_has_unit_size_at_every_angle(angle):
    a = torch.tensor([1.0, 0, 0], dtype=DOUBLE)
    b = torch.tensor([math.cos(angle), math.sin(angle), 0], dtype=DOUBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(rays.angle_between(a, b), b)
    assert abs(gradient.norm().item() - 1) < 1e-5
    assert abs(gradient @ b) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_angle_gradient_is_finite_at_its_kinks(dtype):
    b = torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 0, 0], [1e-20, 0, 0]], dtype=dtype, requires_grad=True)
    angle = rays.angle_between(torch.tensor([1.0, 0, 0], dtype=dtype), b)
    assert torch.autograd.grad(angle.sum(), b)[0].isfinite().all()


def test_triangulate_finds_where_rays_meet():
    points = torch.randn(6, 3, dtype=DOUBLE)
    origins = 3 * torch.randn(6, 4, 3, dtype=DOUBLE)
    lengths = torch.rand(6, 4, 1, dtype=DOUBLE) + 0.5
    directions = (points[:, None] - origins) * lengths
    torch.testing.assert_close(rays.triangulate(origins, directions, torch.ones(6, 4, dtype=DOUBLE)), points)
    # A wrong ray without weight changes nothing; with weight it does (the planted fault).
    directions[:, 0] += 1
    weight = torch.ones(6, 4, dtype=DOUBLE)
    assert (rays.triangulate(origins, directions, weight) - points).norm(dim=-1).min() > 1e-3
    weight[:, 0] = 0
    torch.testing.assert_close(rays.triangulate(origins, directions, weight), points)


def test_triangulate_is_equivariant():
    origins, directions = torch.randn(2, 5, 3, 3, dtype=DOUBLE)
    weight = torch.rand(5, 3, dtype=DOUBLE)
    pose = rigid.from_rt(rigid.so3_exp(torch.randn(3, dtype=DOUBLE)), torch.randn(3, dtype=DOUBLE))
    moved = rays.triangulate(rigid.transform(pose, origins), directions @ pose[:3, :3].mT, weight)
    torch.testing.assert_close(moved, rigid.transform(pose, rays.triangulate(origins, directions, weight)))


def test_parallel_rays_and_no_weight_stay_finite():
    origins = torch.tensor([[0.0, 0, 0], [2, 0, 0]], dtype=DOUBLE)
    forward = torch.tensor([0.0, 0, 1], dtype=DOUBLE).expand(2, 3)
    found = rays.triangulate(origins, forward, torch.ones(2, dtype=DOUBLE))
    torch.testing.assert_close(found, torch.tensor([1.0, 0, 0], dtype=DOUBLE))
    assert not rays.triangulate(origins, forward, torch.zeros(2, dtype=DOUBLE)).any()


def homogeneous(xy: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(xy, (0, 1), value=1.0)


def epipolar_pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points in the source camera, their ideal image points in both, and target_from_source."""
    points = torch.randn(40, 3, dtype=DOUBLE) + torch.tensor([0.0, 0, 5], dtype=DOUBLE)
    rotation = rigid.so3_exp(torch.tensor([0.1, -0.2, 0.05], dtype=DOUBLE))
    pose = rigid.from_rt(rotation, torch.tensor([0.5, 0.1, -0.2], dtype=DOUBLE))
    moved = rigid.transform(pose, points)
    return points, points[:, :2] / points[:, 2:], moved[:, :2] / moved[:, 2:], pose


def test_sampson_distance_is_zero_on_the_line_and_first_order_off_it():
    _, source, target, pose = epipolar_pair()
    essential = rigid.skew(pose[:3, 3]) @ pose[:3, :3]
    exact = rays.sampson_distance(essential, source, target)
    torch.testing.assert_close(exact, torch.zeros_like(exact), rtol=0, atol=1e-12)
    # Shift both points by small steps: the distance is that to the nearest pair that fits, to first order.
    step = 1e-6 * torch.randn(2, 40, 2, dtype=DOUBLE)
    found = rays.sampson_distance(essential, source + step[0], target + step[1])
    gradient = torch.cat([homogeneous(target) @ essential, homogeneous(source) @ essential.mT], dim=-1)[:, [0, 1, 3, 4]]
    normal = gradient / gradient.norm(dim=-1, keepdim=True)
    expected = (torch.cat([step[0], step[1]], dim=-1) * normal).sum(-1).abs()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-11)


def test_inverse_depth_is_exact_and_its_residuals_vanish():
    points, source, target, pose = epipolar_pair()
    found = rays.inverse_depth_along_ray(source, target, pose)
    torch.testing.assert_close(found.inverse_depth, 1 / points[:, 2])
    torch.testing.assert_close(found.relative_depth * points[:, 2], rigid.transform(pose, points)[:, 2])
    torch.testing.assert_close(found.epipolar, torch.zeros_like(found.epipolar), rtol=0, atol=1e-14)


def test_sensitivity_is_the_derivative_of_the_observation():
    points, source, target, pose = epipolar_pair()
    inverse_depth = (1 / points[:, 2]).requires_grad_()
    ray = homogeneous(source)
    landed = rigid.transform(pose, ray / inverse_depth[:, None])
    image = landed[:, :2] / landed[:, 2:]
    rows = [torch.autograd.grad(image[:, axis].sum(), inverse_depth, retain_graph=True)[0] for axis in range(2)]
    found = rays.inverse_depth_along_ray(source, target, pose)
    torch.testing.assert_close(found.sensitivity, torch.stack(rows).norm(dim=0))


def test_epipolar_error_is_the_distance_from_the_epipolar_line():
    _, source, target, pose = epipolar_pair()
    shifted = target + 1e-4 * torch.randn(40, 2, dtype=DOUBLE)
    found = rays.inverse_depth_along_ray(source, shifted, pose)
    line = homogeneous(source) @ (rigid.skew(pose[:3, 3]) @ pose[:3, :3]).mT
    distance = (homogeneous(shifted) * line).sum(-1).abs() / line[:, :2].norm(dim=-1)
    torch.testing.assert_close(found.epipolar, distance, rtol=1e-3, atol=1e-9)


def test_a_pair_without_parallax_says_nothing_of_depth():
    _, source, _, pose = epipolar_pair()
    pose[:3, 3] = 0
    turned = homogeneous(source) @ pose[:3, :3].mT
    found = rays.inverse_depth_along_ray(source, turned[:, :2] / turned[:, 2:], pose)
    assert not found.inverse_depth.any() and not found.sensitivity.any()
    assert found.epipolar.abs().max() < 1e-12


def test_depth_from_an_image_of_known_depth():
    # The same, from pixels: what a dense stage does with flow between two real cameras.
    intrinsics = camera.intrinsics_from_focal(torch.tensor(300.0, dtype=DOUBLE), 64, 48)
    depth = 2 + torch.from_numpy(np.random.default_rng(0).random((48, 64)))
    pose = rigid.from_rt(
        rigid.so3_exp(torch.tensor([0.0, 0.02, 0], dtype=DOUBLE)), torch.tensor([0.2, 0, 0], dtype=DOUBLE)
    )
    points = camera.unproject(depth, intrinsics).flatten(0, 1)
    uv = camera.project(rigid.transform(pose, points), intrinsics)
    source = camera.rays(camera.pixel_grid(48, 64, DOUBLE).flatten(0, 1), intrinsics)[:, :2]
    found = rays.inverse_depth_along_ray(source, camera.rays(uv, intrinsics)[:, :2], pose)
    torch.testing.assert_close(1 / found.inverse_depth, depth.flatten())
