"""Closed-form fits: rigid motion, similarity, focal length, weighted median."""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from unproject.geometry.camera import intrinsics_from_focal, pixel_grid
from unproject.geometry.rigid import from_rt, nearest_rotation, transform


def procrustes(
    x: Float[Tensor, "*batch P 3"], y: Float[Tensor, "*batch P 3"], weight: Float[Tensor, "*batch P"]
) -> Float[Tensor, "*batch 4 4"]:
    """The rigid ``y_from_x`` that minimises sum of weight |y - T x|^2 (Kabsch), weight >= 0.

    Gradients reach points and weights without dividing by differences of singular values (`nearest_rotation`). Where
    the points do not determine the rotation it is the smallest that fits: for collinear points one without roll, for
    a single point none; without weight the result is the identity.
    """
    center_x, center_y, _, covariance = _moments(x, y, weight)
    rotation = nearest_rotation(covariance)
    return from_rt(rotation, center_y - _rotate(rotation, center_x))


def procrustes_unsquared(
    x: Float[Tensor, "*batch P 3"], y: Float[Tensor, "*batch P 3"], weight: Float[Tensor, "*batch P"], rounds: int = 10
) -> Float[Tensor, "*batch 4 4"]:
    """The rigid ``y_from_x`` that minimises sum of weight |y - T x| (Flow4R eq. 2 as it is written).

    Starts at `procrustes` and reweights by the inverse distance; the weights of each round are constants to gradients.
    """
    pose = procrustes(x, y, weight)
    for _ in range(rounds):
        miss = (y - transform(pose, x)).norm(dim=-1).detach()
        least = 1e-6 * miss.amax(-1, keepdim=True).clamp(min=torch.finfo(miss.dtype).tiny * 1e6)
        pose = procrustes(x, y, weight * (least / miss.clamp(min=least)))
    return pose


def similarity(
    x: Float[Tensor, "*batch P 3"], y: Float[Tensor, "*batch P 3"], weight: Float[Tensor, "*batch P"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """(scale, rotation, translation) that minimise sum of weight |y - (scale rotation x + translation)|^2.

    Umeyama 1991. Scale is 1 where all weight lies on one point.
    """
    center_x, center_y, variance, covariance = _moments(x, y, weight)
    rotation = nearest_rotation(covariance)
    spread = variance > 0
    scale = einsum(rotation, covariance, "... r c, ... r c -> ...") / torch.where(spread, variance, 1)
    scale = torch.where(spread, scale, 1)
    return scale, rotation, center_y - scale[..., None] * _rotate(rotation, center_x)


def _moments(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted centres of x and y, variance of x, and covariance of y and x.

    Zero where there is no weight, and where all points are one up to rounding.
    """
    total = weight.sum(-1, keepdim=True)
    share = weight / torch.where(total > 0, total, 1)
    center_x = einsum(share, x, "... p, ... p c -> ... c")
    center_y = einsum(share, y, "... p, ... p c -> ... c")
    away_x, away_y = x - center_x[..., None, :], y - center_y[..., None, :]
    variance_x, variance_y = _variance(share, center_x, away_x), _variance(share, center_y, away_y)
    covariance = (share[..., None] * away_y).mT @ away_x
    spread = (variance_x > 0) & (variance_y > 0)
    return center_x, center_y, variance_x, torch.where(spread[..., None, None], covariance, 0)


def _variance(share: Tensor, center: Tensor, away: Tensor) -> Tensor:
    rounding = (8 * torch.finfo(away.dtype).eps) ** 2 * center.square().sum(-1)
    variance = einsum(share, away, away, "... p, ... p c, ... p c -> ...")
    return torch.where(variance > rounding, variance, 0)


def _rotate(rotation: Tensor, vector: Tensor) -> Tensor:
    return (rotation @ vector[..., None])[..., 0]


def weighted_median(value: Float[Tensor, "*batch P"], weight: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    """The first value, in ascending order, at which half the weight is reached; 0 where there is no weight.

    Values of weight 0 are never read, NaN included.
    """
    ascending, order = torch.where(weight > 0, value, torch.inf).sort(dim=-1)
    reached = weight.double().gather(-1, order).cumsum(-1)
    total = reached[..., -1:]
    index = (reached < total / 2).sum(-1, keepdim=True).clamp(max=value.shape[-1] - 1)
    return torch.where(total > 0, ascending.gather(-1, index), 0)[..., 0]


def focal_from_points(
    points: Float[Tensor, "*batch P 3"],
    centered_uv: Float[Tensor, "*batch P 2"],
    weight: Float[Tensor, "*batch P"],
    rounds: int = 10,
) -> Float[Tensor, "*batch"]:
    """Focal length in pixels of points in the camera's frame, seen at pixels minus the principal point.

    Least squares (Flow4R eq. 7; all there is with no rounds), then rounds of Weiszfeld reweighting, which minimises the
    unsquared distance (DUSt3R, sec. 3.3).
    Points at or behind the camera plane are left out; 0 where none is left.
    """
    depth = points[..., 2]
    front = depth > 1e-6
    slope = points[..., :2] / torch.where(front, depth, 1)[..., None]
    trust = torch.where(front, weight, 0)
    focal = _focal_least_squares(slope, centered_uv, trust)
    for _ in range(rounds):
        miss = (centered_uv - focal[..., None, None] * slope).norm(dim=-1).detach()
        focal = _focal_least_squares(slope, centered_uv, trust / miss.clamp(min=1e-8))
    return focal


def _focal_least_squares(slope: Tensor, centered_uv: Tensor, weight: Tensor) -> Tensor:
    across = einsum(weight, slope, centered_uv, "... p, ... p c, ... p c -> ...")
    along = einsum(weight, slope, slope, "... p, ... p c, ... p c -> ...")
    return torch.where(along > 0, across / torch.where(along > 0, along, 1), 0)


def intrinsics_from_points(
    points: Float[Tensor, "*batch H W 3"], weight: Float[Tensor, "*batch H W"], rounds: int = 10
) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics of the camera that sees each point at its pixel: square pixels, principal point in the middle."""
    height, width = weight.shape[-2:]
    middle = points.new_tensor([width / 2, height / 2])
    centered = (pixel_grid(height, width, points.dtype, points.device) - middle).flatten(0, 1)
    centered = centered.expand(*weight.shape[:-2], -1, 2)
    focal = focal_from_points(points.flatten(-3, -2), centered, weight.flatten(-2), rounds)
    return intrinsics_from_focal(focal, width, height)


def mean_distance(points: Float[Tensor, "*batch P 3"], weight: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    """Weighted mean of |point|, by which DUSt3R and Flow4R take the scale out of a pair; 1 without weight.

    Points of weight 0 are never read, NaN included. A cloud of zeros has distance 1e-8, so that one may divide by it.
    """
    distance = torch.where((weight > 0)[..., None], points, 0).norm(dim=-1)
    total = weight.sum(-1)
    mean = (distance * weight).sum(-1) / torch.where(total > 0, total, 1)
    return torch.where(total > 0, mean.clamp(min=1e-8), 1)
