import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from unproject.geometry import rigid

# Where formulas for rotations break: at and around zero, and at and around half a turn.
ANGLES = [0.0, 1e-12, 1e-8, 1e-4, 1e-3, 0.5, 1.5, 3.0, math.pi - 1e-3, math.pi - 1e-6, math.pi - 1e-10, math.pi]
unit_floats = st.floats(-1, 1, allow_subnormal=False)
axes = st.tuples(unit_floats, unit_floats, unit_floats).filter(lambda v: np.linalg.norm(v) > 1e-3)


def rotvec(axis: tuple[float, float, float], angle: float, dtype: torch.dtype = torch.float64) -> Tensor:
    direction = torch.tensor(axis, dtype=torch.float64)
    return (direction / direction.norm() * angle).to(dtype)


def random_rotations(count: int) -> Tensor:
    return torch.from_numpy(Rotation.random(count, rng=np.random.default_rng(0)).as_matrix())


def random_rigid(*batch: int) -> Tensor:
    rotation = random_rotations(math.prod(batch)).reshape(*batch, 3, 3)
    return rigid.from_rt(rotation, torch.randn(*batch, 3, dtype=torch.float64))


@given(axes, st.sampled_from(ANGLES))
def test_exp_agrees_with_scipy(axis, angle):
    vector = rotvec(axis, angle)
    expected = torch.from_numpy(Rotation.from_rotvec(vector.numpy()).as_matrix())
    torch.testing.assert_close(rigid.so3_exp(vector), expected, rtol=0, atol=1e-14)


@given(axes, st.sampled_from(ANGLES))
def test_log_inverts_exp(axis, angle):
    vector = rotvec(axis, angle)
    found = rigid.so3_log(rigid.so3_exp(vector))
    # At half a turn both axes are right.
    assert min((found - vector).norm(), (found + vector).norm() if angle > math.pi - 1e-9 else 1) < 1e-12


@given(axes, st.sampled_from(ANGLES))
def test_angle_is_accurate_at_both_ends(axis, angle):
    assert abs(rigid.rotation_angle(rigid.so3_exp(rotvec(axis, angle))).item() - angle) < 1e-13
    single = rigid.rotation_angle(rigid.so3_exp(rotvec(axis, angle, torch.float32)))
    assert single.dtype == torch.float32
    assert abs(single.item() - angle) < 1e-6


@given(axes, st.sampled_from(ANGLES))
def test_every_map_has_a_finite_gradient(axis, angle):
    vector = rotvec(axis, angle).requires_grad_()
    rotation = rigid.so3_exp(vector)
    maps = [rigid.so3_log, rigid.rotation_angle, rigid.quaternion_from_rotation, rigid.nearest_rotation]
    for function in maps:
        (gradient,) = torch.autograd.grad(function(rotation).sum(), vector, retain_graph=True)
        assert gradient.isfinite().all(), function


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 1e-3, 2.0, 3.1])
def test_gradients_of_exp_and_log_are_right(angle):
    vector = rotvec((0.3, -0.5, 0.8), angle).requires_grad_()
    assert torch.autograd.gradcheck(rigid.so3_exp, vector)
    jacobian = torch.autograd.functional.jacobian(lambda v: rigid.so3_log(rigid.so3_exp(v)), vector)
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_quaternions_agree_with_scipy_where_any_of_the_four_is_largest():
    rotation = torch.cat([random_rotations(200), torch.diag_embed(torch.eye(3, dtype=torch.float64) * 2 - 1)])
    found = rigid.quaternion_from_rotation(rotation)
    expected = torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_quat(canonical=True, scalar_first=True))
    torch.testing.assert_close(found.abs(), expected.abs())
    torch.testing.assert_close(rigid.rotation_from_quaternion(found), rotation)
    torch.testing.assert_close(rigid.rotation_from_quaternion(-3 * found), rotation)
    assert (found[:, 0] >= 0).all()


def test_inverse_and_composition_are_those_of_a_group():
    a, b = random_rigid(4, 2), random_rigid(4, 2)
    points = torch.randn(4, 2, 7, 3, dtype=torch.float64)
    eye = torch.eye(4, dtype=torch.float64).expand(4, 2, 4, 4)
    torch.testing.assert_close(rigid.inverse(a) @ a, eye)
    torch.testing.assert_close(rigid.inverse(a @ b), rigid.inverse(b) @ rigid.inverse(a))
    torch.testing.assert_close(rigid.transform(a, rigid.transform(b, points)), rigid.transform(a @ b, points))


def test_transform_is_the_homogeneous_product_and_broadcasts():
    a, points = random_rigid(5), torch.randn(7, 3, dtype=torch.float64)
    slow = torch.stack([torch.stack([(pose @ torch.cat([p, p.new_ones(1)]))[:3] for p in points]) for pose in a])
    torch.testing.assert_close(rigid.transform(a, points), slow)
    torch.testing.assert_close(rigid.transform(a[:, None], points.expand(2, 7, 3))[:, 1], slow)


def test_skew_is_the_cross_product():
    a, b = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close((rigid.skew(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


@pytest.mark.parametrize(
    "columns",
    [
        [0.0] * 6,
        [1, 2, 3, 2, 4, 6],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 2, 3],
        [1e-9, 0, 0, 1e-9, 1, 0],
        [3, 1, 2, -1, 4, 0.5],
    ],
)
def test_six_numbers_always_give_a_rotation_with_a_finite_gradient(columns):
    six = torch.tensor(columns, dtype=torch.float64, requires_grad=True)
    rotation = rigid.rotation_from_6d(six)
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(rotation) > 0
    (gradient,) = torch.autograd.grad((rotation * torch.randn(3, 3, dtype=torch.float64)).sum(), six)
    assert gradient.isfinite().all()


def test_six_numbers_of_a_rotation_give_it_back():
    rotation = random_rotations(20)
    torch.testing.assert_close(rigid.rotation_from_6d(rotation[..., :2].mT.flatten(-2)), rotation)


def test_nearest_rotation_keeps_rotations_and_never_reflects():
    rotation = random_rotations(20)
    torch.testing.assert_close(rigid.nearest_rotation(rotation), rotation)
    found = rigid.nearest_rotation(-rotation[0] @ torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)))
    torch.testing.assert_close(torch.linalg.det(found), torch.tensor(1.0, dtype=torch.float64))


def test_nearest_rotation_beats_every_neighbour():
    matrix = torch.randn(30, 3, 3, dtype=torch.float64)
    best = (rigid.nearest_rotation(matrix) * matrix).sum((-2, -1))
    for _ in range(50):
        other = rigid.nearest_rotation(matrix) @ rigid.so3_exp(0.1 * torch.randn(30, 3, dtype=torch.float64))
        assert ((other * matrix).sum((-2, -1)) <= best).all()


def test_nearest_rotation_gradient_is_finite_where_that_of_svd_is_not():
    def by_autograd(matrix: Tensor) -> Tensor:
        u, _, vt = torch.linalg.svd(matrix)
        return u @ vt

    weight = torch.randn(3, 3, dtype=torch.float64)
    isotropic = random_rotations(1)[0].requires_grad_()
    (plain,) = torch.autograd.grad((by_autograd(isotropic) * weight).sum(), isotropic)
    (ours,) = torch.autograd.grad((rigid.nearest_rotation(isotropic) * weight).sum(), isotropic)
    assert not plain.isfinite().all() or plain.abs().max() > 1e6
    assert ours.abs().max() < 10
    assert torch.autograd.gradcheck(rigid.nearest_rotation, isotropic)


def test_nearest_rotation_gradient_agrees_with_finite_differences_also_at_a_reflection():
    matrix = torch.randn(6, 3, 3, dtype=torch.float64)
    assert (torch.linalg.det(matrix) < 0).any()
    assert torch.autograd.gradcheck(rigid.nearest_rotation, matrix.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    vector = torch.randn(4, 3, dtype=dtype)
    rotation = rigid.so3_exp(vector)
    pose = rigid.from_rt(rotation, vector)
    results = [rotation, pose, rigid.inverse(pose), rigid.so3_log(rotation), rigid.nearest_rotation(rotation)]
    assert {result.dtype for result in [*results, rigid.rotation_from_6d(torch.randn(4, 6, dtype=dtype))]} == {dtype}


def test_what_is_no_number_gives_no_rotation_and_leaves_the_others_alone():
    matrix = torch.eye(3).repeat(3, 1, 1)
    matrix[1, 0, 2], matrix[2, 1, 1] = torch.nan, torch.inf
    leaf = matrix.requires_grad_()
    found = rigid.nearest_rotation(leaf)
    assert torch.equal(found[0], torch.eye(3)) and bool(found[1:].isnan().all())
    found[0].sum().backward()
    assert leaf.grad is not None and bool(leaf.grad[0].isfinite().all())
