"""Geometry that needs no learning: from flow and cameras to relative pose and depth, in closed form.

All maps are of 2 F sides: the first images of F pairs, then the second ones. Depth is in units in which the median
depth of both images of a pair is 1; so is translation.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.geometry.align import weighted_median
from unproject.geometry.camera import pixel_grid, rays
from unproject.geometry.epipolar import solve_epipolar
from unproject.geometry.flow import forward_backward_error
from unproject.geometry.rays import inverse_depth_along_ray
from unproject.geometry.rigid import from_rt, inverse
from unproject.models.matcher import swap

LEAST, MOST = 1 / 30, 8.0
"""Bounds of inverse depth: what lies beyond is as good as infinite, what lies nearer is a mistake."""


@dataclass(frozen=True)
class Explained:
    """What flow says when nothing moves but the camera."""

    target_from_source: Float[Tensor, "S 4 4"]
    scale: Float[Tensor, " S"]
    """Median inverse depth of the pair in the units of the pose that was found or given."""
    inverse_depth: Float[Tensor, "S H W"]
    """Of each pixel, between `LEAST` and `MOST`."""
    source_xy: Float[Tensor, "S H W 2"]
    """Normalised image points: rays at depth 1."""
    target_xy: Float[Tensor, "S H W 2"]
    parallax: Float[Tensor, "S H W"]
    """How far the point has moved against points at infinity, image-plane units."""
    epipolar: Float[Tensor, "S H W"]
    """How far it lies off its epipolar line, image-plane units."""
    trust: Float[Tensor, "S H W"]
    """In [0, 1]: the flow is sure of itself and comes back."""


def explain(
    flow: Float[Tensor, "S H W 2"],
    confidence: Float[Tensor, "S H W"],
    intrinsics: Float[Tensor, "S 3 3"],
    noise_px: float,
    every: int = 1,
    known_pose: Float[Tensor, "F 4 4"] | None = None,
) -> Explained:
    """Pose from every ``every``-th pixel of both directions together, and every pixel's depth from the pose.

    ``noise_px`` is the usual error of the flow, in pixels of its own grid. A pose (second from first) that is known is
    taken as it is.
    """
    with torch.no_grad():
        grid = pixel_grid(flow.shape[1], flow.shape[2], flow.dtype, flow.device)
        miss = forward_backward_error(flow, swap(flow)) / (2 * noise_px)
        trust = confidence * (-miss.square().clamp(max=80)).exp()
        source_xy, target_xy = _plane(grid.expand_as(flow), intrinsics), _plane(grid + flow, swap(intrinsics))
        noise = noise_px / intrinsics[:, 0, 0]
        pose = _pose(source_xy, target_xy, trust, noise, every) if known_pose is None else known_pose
        pose = torch.cat([pose, inverse(pose)])
        ray = inverse_depth_along_ray(source_xy.flatten(1, 2), target_xy.flatten(1, 2), pose)
        inverse_depth, sensitivity, epipolar = (
            x.unflatten(1, flow.shape[1:3]) for x in (ray.inverse_depth, ray.sensitivity, ray.epipolar)
        )
        scale = _median(inverse_depth, trust, pose[:, :3, 3].norm(dim=-1))
        # Near the epipole depth moves nothing: the less it can be seen, the nearer to infinity it is put.
        visible = (sensitivity * (scale / noise)[:, None, None]).square()
        share = (inverse_depth / scale[:, None, None]) * visible / (1 + visible)
        return Explained(
            target_from_source=from_rt(pose[:, :3, :3], pose[:, :3, 3] * scale[:, None]),
            scale=scale,
            inverse_depth=share.clamp(LEAST, MOST),
            source_xy=source_xy,
            target_xy=target_xy,
            parallax=sensitivity * inverse_depth,
            epipolar=epipolar,
            trust=trust,
        )


def _plane(uv: Float[Tensor, "S H W 2"], intrinsics: Float[Tensor, "S 3 3"]) -> Float[Tensor, "S H W 2"]:
    return rays(uv.flatten(1, 2), intrinsics)[..., :2].unflatten(1, uv.shape[1:3])


def _pose(source_xy: Tensor, target_xy: Tensor, trust: Tensor, noise: Tensor, every: int) -> Float[Tensor, "F 4 4"]:
    start = every // 2
    a, b, weight = (x[:, start::every, start::every].flatten(1, 2) for x in (source_xy, target_xy, trust))
    (a1, a2), (b1, b2), (w1, w2) = a.chunk(2), b.chunk(2), weight.chunk(2)
    first, second = torch.cat([a1, b2], dim=1), torch.cat([b1, a2], dim=1)
    return solve_epipolar(first, second, torch.cat([w1, w2], dim=1), noise.chunk(2)[0])


def _median(inverse_depth: Tensor, trust: Tensor, baseline: Tensor) -> Float[Tensor, " S"]:
    """One of both images of each pair; where there is no parallax, a hundred baselines are as far as makes sense."""
    value, weight = (torch.cat(x.chunk(2), dim=1).flatten(1) for x in (inverse_depth, trust))
    return torch.maximum(weighted_median(value, weight).repeat(2), 1e-2 / baseline.clamp(min=1e-9))
