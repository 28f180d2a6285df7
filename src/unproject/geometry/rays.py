"""Angles between rays, and points where rays meet."""

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor


def angle_between(a: Float[Tensor, "*#batch 3"], b: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch"]:
    """Angle in [0, pi] radians between vectors of any length (Reliev3R, registration loss).

    The arc tangent keeps a gradient of right sign and unit size at every angle; arc cosine explodes at 0 and 1 - cos
    dies at pi. The root is rounded off at 1e-6 rad, where the angle itself has a kink.
    """
    a, b = torch.broadcast_tensors(a, b)
    size = a.detach().square().sum(-1) * b.detach().square().sum(-1)
    across = (torch.linalg.cross(a, b).square().sum(-1) + 1e-12 * size + 1e-30).sqrt()
    return torch.atan2(across, (a * b).sum(-1))


def triangulate(
    origins: Float[Tensor, "*batch V 3"], directions: Float[Tensor, "*batch V 3"], weight: Float[Tensor, "*batch V"]
) -> Float[Tensor, "*batch 3"]:
    """The point with the least weighted sum of squared distances to lines; directions need not be unit vectors.

    Solved in float64. Lines that are parallel, or a single one, do not fix the point: it is then the one of them
    nearest to the weighted mean of the origins; without weight it is the origin.
    """
    unit = torch.nn.functional.normalize(directions.double(), dim=-1)
    start, trust = origins.double(), weight.double()
    eye = torch.eye(3, dtype=unit.dtype, device=unit.device)
    across = trust[..., None, None] * (eye - unit[..., :, None] * unit[..., None, :])
    total = trust.sum(-1, keepdim=True).clamp(min=1e-100)
    middle = (trust[..., None] * start).sum(-2) / total
    matrix = across.sum(-3) + 1e-12 * total[..., None] * eye
    offset = einsum(across, start - middle[..., None, :], "... v r c, ... v c -> ... r")
    return (middle + torch.linalg.solve(matrix, offset)).to(origins.dtype)


def sampson_distance(
    fundamental: Float[Tensor, "*#batch 3 3"],
    source_uv: Float[Tensor, "*#batch P 2"],
    target_uv: Float[Tensor, "*#batch P 2"],
) -> Float[Tensor, "*batch P"]:
    """First-order distance in pixels of a pair of pixels from satisfying target^T F source = 0 (Sampson 1982)."""
    source = torch.nn.functional.pad(source_uv, (0, 1), value=1.0)
    target = torch.nn.functional.pad(target_uv, (0, 1), value=1.0)
    target_line = source @ fundamental.mT
    source_line = target @ fundamental
    slope = target_line[..., :2].square().sum(-1) + source_line[..., :2].square().sum(-1)
    tiny = torch.finfo(slope.dtype).tiny
    return (target * target_line).sum(-1).abs() / slope.clamp(min=tiny).sqrt()


@dataclass(frozen=True)
class RayDepth:
    """What one target observation says about depth along source rays. Times focal, image-plane units are pixels."""

    inverse_depth: Float[Tensor, "*batch P"]
    """1 / z in the source; 0 where the pair has no parallax."""
    relative_depth: Float[Tensor, "*batch P"]
    """Depth in the target over depth in the source; not positive where the rays meet behind the target."""
    epipolar: Float[Tensor, "*batch P"]
    """Distance of the observation from the epipolar line to first order, image-plane units."""
    sensitivity: Float[Tensor, "*batch P"]
    """How far the observation moves per unit of inverse depth, image-plane units."""


def inverse_depth_along_ray(
    source_xy: Float[Tensor, "*#batch P 2"],
    target_xy: Float[Tensor, "*#batch P 2"],
    target_from_source: Float[Tensor, "*#batch 4 4"],
) -> RayDepth:
    """Depth of source pixels from where they are seen in a target; both as ideal normalised image points.

    The point at inverse depth w lands where P = w Q, a linear equation in the image plane; its least-squares answer is
    P.Q / Q.Q, and what Q cannot explain is the epipolar error.
    """
    turned = torch.nn.functional.pad(source_xy, (0, 1), value=1.0) @ target_from_source[..., :3, :3].mT
    shift = target_from_source[..., None, :3, 3]
    p = turned[..., :2] - target_xy * turned[..., 2:]
    q = target_xy * shift[..., 2:] - shift[..., :2]
    square = q.square().sum(-1)
    parallax = square > torch.finfo(square.dtype).tiny
    inverse_depth = torch.where(parallax, (p * q).sum(-1) / torch.where(parallax, square, 1), 0)
    relative_depth = turned[..., 2] + inverse_depth * shift[..., 2]
    distance = relative_depth.abs().clamp(min=1e-6)
    length = torch.where(parallax, square, 1).sqrt()
    cross = p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]
    epipolar = torch.where(parallax, cross.abs() / length, p.norm(dim=-1)) / distance
    sensitivity = torch.where(parallax, length, 0) / distance
    return RayDepth(inverse_depth, relative_depth, epipolar, sensitivity)
