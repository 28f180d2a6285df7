"""Relative pose of two views from where pixels of one land in the other, in batches and without random sampling.

Points are normalised image points (x/z, y/z). The result is ``target_from_source`` with a translation of length 1.
"""

from collections.abc import Sequence

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, pad

from unproject.geometry.rays import inverse_depth_along_ray, sampson_distance
from unproject.geometry.rigid import from_rt, nearest_rotation, so3_exp

ROTATION_ROUNDS, EIGHT_POINT_ROUNDS, NEWTON_ROUNDS = 5, 5, 20


def solve_epipolar(
    source_xy: Float[Tensor, "B P 2"],
    target_xy: Float[Tensor, "B P 2"],
    weight: Float[Tensor, "B P"],
    scale: Float[Tensor, " B"],
) -> Float[Tensor, "B 4 4"]:
    """The pose that minimises the weighted Cauchy cost of the Sampson error at ``scale`` (image-plane units; measured).

    Four starts are refined side by side and the cheapest is kept: three from the rotation that turns one bundle of rays
    into the other, which is near where parallax is small, and one from weighted eight points, which is where it is
    large. Where nothing is known the rotation is that of the rays and the translation arbitrary. Not differentiable.
    """
    with torch.no_grad():
        source, target = pad(source_xy, (0, 1), value=1.0), pad(target_xy, (0, 1), value=1.0)
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        turned = robust_rotation(source, target, weight, scale)
        far_rotation, far_direction = _eight_point(source, target, weight, scale)
        rotation = torch.stack([turned, turned, turned, far_rotation], dim=1)
        direction = torch.cat([_translations(turned, source, target, weight), far_direction[:, None]], dim=1)
        rotation, direction, cost = _refined(rotation, direction, source, target, weight, scale)
        best = cost.argmin(-1)
        row = torch.arange(len(best), device=best.device)
        return _facing(rotation[row, best], direction[row, best], source_xy, target_xy, weight)


def robust_rotation(
    source: Float[Tensor, "B P 3"],
    target: Float[Tensor, "B P 3"],
    weight: Float[Tensor, "B P"],
    scale: Float[Tensor, " B"],
) -> Float[Tensor, "B 3 3"]:
    """The rotation that best turns rays into rays (Wahba), Cauchy weights at no less than ``scale`` radians."""
    source, target = normalize(source, dim=-1), normalize(target, dim=-1)
    rotation = nearest_rotation((weight[..., None] * target).mT @ source)
    for _ in range(ROTATION_ROUNDS):
        miss = (target - source @ rotation.mT).square().sum(-1)
        spread = miss.median(-1).values.clamp(min=scale.square())
        trust = weight / (1 + miss / spread[:, None])
        rotation = nearest_rotation((trust[..., None] * target).mT @ source)
    return rotation


def _translations(rotation: Tensor, source: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, "B 3 3"]:
    """Three directions, one a row: a translation is square to every normal of an epipolar plane."""
    normal = torch.linalg.cross(source @ rotation.mT, target)
    matrix = einsum(weight, normal, normal, "b p, b p r, b p c -> b r c")
    return torch.linalg.eigh(matrix.double()).eigenvectors.mT.to(source.dtype)


def _eight_point(source: Tensor, target: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """(rotation, direction) of the essential matrix of weighted eight points, reweighted by the Sampson error."""
    rows = einsum(target, source, "b p r, b p c -> b p r c").flatten(-2)
    essential = _least(rows, weight)
    for _ in range(EIGHT_POINT_ROUNDS):
        error = sampson_distance(essential, source[..., :2], target[..., :2]).square()
        spread = error.median(-1).values.clamp(min=scale.square())
        essential = _least(rows, weight / (1 + error / spread[:, None]))
    return _nearest_pose(essential, source, target, weight)


def _least(rows: Float[Tensor, "B P 9"], weight: Float[Tensor, "B P"]) -> Float[Tensor, "B 3 3"]:
    """The unit matrix that the weighted rows see least of."""
    matrix = (weight[..., None] * rows).mT @ rows
    return torch.linalg.eigh(matrix.double()).eigenvectors[..., 0].to(rows.dtype).unflatten(-1, (3, 3))


def _nearest_pose(essential: Tensor, source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of the two rotations of an essential matrix, the one under which rays move least; the sign is left open."""
    u, _, vh = torch.linalg.svd(essential.double())
    u, vh = (m * torch.linalg.det(m).sign()[:, None, None] for m in (u, vh))
    quarter = u.new_tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    both = torch.stack([u @ quarter @ vh, u @ quarter.mT @ vh], dim=1).to(source.dtype)
    cosine = (normalize(target, dim=-1)[:, None] * (normalize(source, dim=-1)[:, None] @ both.mT)).sum(-1)
    best = (cosine * weight[:, None]).sum(-1).argmax(-1)
    return both[torch.arange(len(best), device=best.device), best], u[..., 2].to(source.dtype)


def _refined(
    rotation: Float[Tensor, "B S 3 3"],
    direction: Float[Tensor, "B S 3"],
    source: Float[Tensor, "B P 3"],
    target: Float[Tensor, "B P 3"],
    weight: Float[Tensor, "B P"],
    scale: Float[Tensor, " B"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Newton from every start, damped; a step that costs more is taken back. Also the cost of each."""
    source_xy, target_xy = (points[:, None, :, :2].movedim(-1, 0).contiguous() for points in (source, target))
    matches = source_xy.unbind(0), target_xy.unbind(0), weight[:, None]
    square = scale.square()[:, None, None]
    damping = torch.full_like(direction[..., 0], 1e-3)
    matrix, gradient, cost = _normal_equations(rotation, direction, *matches, square)
    for _ in range(NEWTON_ROUNDS):
        size = matrix.diagonal(dim1=-2, dim2=-1)
        step = torch.linalg.solve(matrix + (damping[..., None] * size + 1e-12).diag_embed(), -gradient)
        new_rotation = so3_exp(step[..., :3]) @ rotation
        tangent = _tangent(direction)
        new_direction = normalize(direction + (tangent @ step[..., 3:, None])[..., 0], dim=-1)
        new = _normal_equations(new_rotation, new_direction, *matches, square)
        better = new[2] < cost
        keep, keep2 = better[..., None], better[..., None, None]
        rotation, direction = torch.where(keep2, new_rotation, rotation), torch.where(keep, new_direction, direction)
        matrix, gradient = torch.where(keep2, new[0], matrix), torch.where(keep, new[1], gradient)
        cost = torch.where(better, new[2], cost)
        damping = torch.where(better, damping * 0.3, damping * 8).clamp(1e-6, 1e3)
    return rotation, direction, cost


def _normal_equations(
    rotation: Float[Tensor, "B S 3 3"],
    direction: Float[Tensor, "B S 3"],
    source_xy: Sequence[Float[Tensor, "B 1 P"]],
    target_xy: Sequence[Float[Tensor, "B 1 P"]],
    weight: Float[Tensor, "B 1 P"],
    square: Float[Tensor, "B 1 1"],
) -> tuple[Float[Tensor, "B S 5 5"], Float[Tensor, "B S 5"], Float[Tensor, "B S"]]:
    """(matrix, gradient, cost) for a turn from the left and a step along the sphere of directions.

    The denominator of the Sampson error is held still, as it hardly changes. Written out by components: products of
    matrices as small as these take ten times as long (measured).
    """
    r = [[rotation[..., row, column, None] for column in range(3)] for row in range(3)]
    (x, y), (u, v) = source_xy, target_xy
    tx, ty, tz = direction[..., None].unbind(-2)
    # a = R x, the source's ray in the target; c = a x b with b = (u, v, 1); the constraint is t . c = 0.
    ax, ay, az = (torch.addcmul(row[0] * x + row[2], row[1], y) for row in r)
    cx, cy, cz = ay - az * v, az * u - ax, ax * v - ay * u
    # t x a and R^T (b x t): lines in the target and in the source.
    line = ty * az - tz * ay, tz * ax - tx * az
    bx, by, bz = v * tz - ty, tx - u * tz, u * ty - v * tx
    back = [r[0][column] * bx + r[1][column] * by + r[2][column] * bz for column in range(2)]
    slope_square = line[0].square() + line[1].square() + back[0].square() + back[1].square()
    divisor = slope_square.clamp(min=1e-12).rsqrt()
    error = (tx * cx + ty * cy + tz * cz) * divisor
    along, across = ax * tx + ay * ty + az * tz, ax * u + ay * v + az
    tangent = _tangent(direction)
    by_step = (
        tangent[..., 0, k, None] * cx + tangent[..., 1, k, None] * cy + tangent[..., 2, k, None] * cz for k in range(2)
    )
    by_turn = u * along - tx * across, v * along - ty * across, along - tz * across
    slope = torch.stack([*by_turn, *by_step], dim=-2) * divisor[..., None, :]
    share = error.square() / square
    weighed = (weight / (1 + share))[..., None, :] * slope
    return weighed @ slope.mT, (weighed @ error[..., None])[..., 0], (weight * share.log1p()).sum(-1)


def _tangent(direction: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 2"]:
    """Two unit vectors square to a direction and to each other."""
    axis = torch.nn.functional.one_hot(direction.abs().argmin(-1), 3).to(direction)
    first = normalize(torch.linalg.cross(direction, axis), dim=-1)
    return torch.stack([first, torch.linalg.cross(direction, first)], dim=-1)


def _facing(rotation: Tensor, direction: Tensor, source_xy: Tensor, target_xy: Tensor, weight: Tensor) -> Tensor:
    """The pose with the sign of translation that puts the points before both cameras."""
    pose = from_rt(rotation, direction)
    ray = inverse_depth_along_ray(source_xy, target_xy, pose)
    # A point without parallax has no side; one that needs much of it to move has a sure one.
    vote = (weight * ray.inverse_depth.sign() * ray.sensitivity).sum(-1)
    return from_rt(rotation, direction * torch.where(vote < 0, -1.0, 1.0)[:, None])
