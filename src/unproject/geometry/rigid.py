"""Rotations and rigid transforms. A transform is ``a_from_b``, a 4x4 matrix that takes points of frame b to frame a.

Every map here has a finite value and a finite gradient at the identity, at half a turn and at degenerate input.
"""

from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def from_rt(
    rotation: Float[Tensor, "*#batch 3 3"], translation: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """The 4x4 transform x -> rotation x + translation."""
    # Not torch.broadcast_shapes: its first call imports sympy, which takes a second.
    batch = torch.broadcast_tensors(rotation[..., 0, 0], translation[..., 0])[0].shape
    top = torch.cat([rotation.expand(*batch, 3, 3), translation.expand(*batch, 3)[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*batch, 1, 4)
    return torch.cat([top, bottom], dim=-2)


def inverse(a_from_b: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """``b_from_a`` of a rigid transform, by transposing its rotation."""
    rotation = a_from_b[..., :3, :3].mT
    return from_rt(rotation, -(rotation @ a_from_b[..., :3, 3:])[..., 0])


def transform(
    a_from_b: Float[Tensor, "*#batch 4 4"], points: Float[Tensor, "*#batch P 3"]
) -> Float[Tensor, "*batch P 3"]:
    """Points of frame b in frame a. The batch axes of both broadcast; the axis before the last counts points."""
    return points @ a_from_b[..., :3, :3].mT + a_from_b[..., None, :3, 3]


def skew(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix [v]x with [v]x u = v x u."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return rearrange([zero, -z, y, z, zero, -x, -y, x, zero], "(r c) ... -> ... r c", r=3)


def so3_exp(rotvec: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation by |rotvec| radians about rotvec (Rodrigues); any angle, exact derivative at zero."""
    square = rotvec.square().sum(-1)[..., None, None]
    small = square < 1e-6
    angle = torch.where(small, 1, square).sqrt()
    # Half-angle form of (1 - cos) / angle^2: the plain one cancels in float32.
    first = torch.where(small, 1 - square / 6 * (1 - square / 20), angle.sin() / angle)
    second = torch.where(small, 0.5 - square / 24 * (1 - square / 30), 2 * ((angle / 2).sin() / angle).square())
    cross = skew(rotvec)
    return torch.eye(3, dtype=rotvec.dtype, device=rotvec.device) + first * cross + second * (cross @ cross)


def so3_log(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector with angle in [0, pi]; at exactly half a turn one of the two equal axes is returned."""
    real, imaginary = quaternion_from_rotation(rotation).split([1, 3], dim=-1)
    square = imaginary.square().sum(-1, keepdim=True)
    small = square < 1e-8
    length = torch.where(small, 1, square).sqrt()
    safe_real = torch.where(small, real, 1)
    near_zero = 2 / safe_real * (1 - square / (3 * safe_real.square()))
    return imaginary * torch.where(small, near_zero, 2 * torch.atan2(length, real) / length)


def rotation_angle(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Angle in [0, pi] radians, accurate at both ends (arc cosine of the trace is not)."""
    real, imaginary = quaternion_from_rotation(rotation).split([1, 3], dim=-1)
    square = imaginary.square().sum(-1)
    positive = square > 0
    length = torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)
    return 2 * torch.atan2(length, real[..., 0])


def quaternion_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion (w, x, y, z) with w >= 0.

    Row i of the matrix below is 4 q_i q; the row with the largest diagonal is at least |q| long, so dividing by its
    length never loses digits (Shepperd's method without square roots of differences).
    """
    m = rearrange(rotation, "... r c -> r c ...")
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    diagonal = [1 + trace, *(1 - trace + 2 * m[i, i] for i in range(3))]
    wx, wy, wz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    entries = [diagonal[0], wx, wy, wz, wx, diagonal[1], xy, xz, wy, xy, diagonal[2], yz, wz, xz, yz, diagonal[3]]
    rows = rearrange(entries, "(r c) ... -> ... r c", r=4)
    best = torch.stack(diagonal, dim=-1).argmax(-1)[..., None, None].expand(*rotation.shape[:-2], 1, 4)
    quaternion = torch.nn.functional.normalize(rows.gather(-2, best)[..., 0, :], dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotation_from_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of a quaternion (w, x, y, z) of any non-zero length."""
    real, imaginary = torch.nn.functional.normalize(quaternion, dim=-1).split([1, 3], dim=-1)
    cross = skew(imaginary)
    eye = torch.eye(3, dtype=quaternion.dtype, device=quaternion.device)
    return eye + 2 * real[..., None] * cross + 2 * (cross @ cross)


def rotation_from_6d(columns: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Gram-Schmidt of two columns, first three numbers then last three (Zhou et al. 2019, eq. 15).

    A zero or parallel column is replaced by a coordinate axis, so the result is a rotation for every finite input.
    """
    first, second = columns.unflatten(-1, (2, 3)).unbind(-2)
    x = _unit_or_axis(first, torch.zeros_like(first))
    y = _unit_or_axis(second - (x * second).sum(-1, keepdim=True) * x, x)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def _unit_or_axis(vector: Float[Tensor, "*batch 3"], normal: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The unit vector; where the vector is nearly zero, the axis furthest from `normal`, made perpendicular to it."""
    axis = torch.nn.functional.one_hot(normal.detach().abs().argmin(-1), 3).to(vector)
    axis = axis - (axis * normal).sum(-1, keepdim=True) * normal
    usable = vector.detach().norm(dim=-1, keepdim=True) > 1e-6
    vector = torch.where(usable, vector, axis)
    return vector / vector.norm(dim=-1, keepdim=True)


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation R that maximises tr(R^T matrix), i.e. the nearest one in the Frobenius norm.

    Solved in float64. The backward is implicit differentiation of the optimum: it divides by pairwise *sums* of
    singular values, where autograd's SVD divides by their differences and is NaN at an exact rotation. Where the best
    rotation is not unique (rank below two) it is the best one with the smallest angle, with zero gradient. What
    is not finite gives NaN.
    """
    return _NearestRotation.apply(matrix)


class _NearestRotation(torch.autograd.Function):
    """R = U diag(1, 1, det UV^T) V^T with the closed-form backward."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        tolerance = max(1e-9, 4 * torch.finfo(matrix.dtype).eps)
        eye = torch.eye(3, dtype=torch.float64, device=matrix.device)
        finite = matrix.detach().isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        # The decomposition raises for what is not finite, and would hide who said it.
        wide = torch.where(finite, matrix.detach().double(), eye)
        u, singular, vt = torch.linalg.svd(wide)
        sign = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0)
        rotation = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], dim=-1) @ vt
        known = singular[..., 1] + sign * singular[..., 2] > tolerance * singular[..., 0]
        unrolled = _least_roll(rotation, u[..., 0])
        unrolled = torch.where(singular[..., :1, None] > 0, unrolled, eye)
        rotation = torch.where(known[..., None, None], rotation, unrolled)
        ctx.save_for_backward(rotation, wide, known)
        return torch.where(finite, rotation, torch.nan).to(matrix.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        # At the optimum K = R^T M is symmetric, and dR = R [q]x with (tr(K) I - K) q = vee(G - G^T), G = R^T dM.
        rotation, matrix, known = ctx.saved_tensors
        eye = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
        symmetric = torch.where(known[..., None, None], rotation.mT @ matrix, eye)
        trace = einsum(symmetric, "... i i -> ...")[..., None, None]
        inner = rotation.mT @ grads[0].double()
        q = torch.linalg.solve((1 + 1e-12) * trace * eye - symmetric, _vee(inner - inner.mT))
        return torch.where(known[..., None, None], rotation @ skew(q), 0).to(grads[0].dtype)


def _least_roll(rotation: Tensor, axis: Tensor) -> Tensor:
    """Of all exp(roll axis) rotation the one with the smallest angle: its trace is a + b cos(roll) + c sin(roll)."""
    c = einsum(skew(axis), rotation, "... i j, ... j i -> ...")
    b = einsum(rotation, "... i i -> ...") - einsum(axis, rotation, axis, "... i, ... i j, ... j -> ...")
    return so3_exp(torch.atan2(c, b)[..., None] * axis) @ rotation


def _vee(antisymmetric: Tensor) -> Tensor:
    """The vector v of [v]x."""
    return torch.stack([antisymmetric[..., 2, 1], antisymmetric[..., 0, 2], antisymmetric[..., 1, 0]], dim=-1)
