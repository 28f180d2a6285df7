"""Optical flow (target minus source, pixels) of known geometry, lookups at moved pixels, and what two views share."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unproject.geometry.camera import pixel_grid, project, unproject
from unproject.geometry.rigid import transform


def sample(
    values: Float[Tensor, "*batch H W C"], uv: Float[Tensor, "*query 2"]
) -> tuple[Float[Tensor, "*query C"], Bool[Tensor, "*query"]]:
    """Bilinear lookup at pixels, and whether the pixel lies in the image [0, W] x [0, H].

    `uv` starts with the same batch axes as `values`; any axes may follow. Outside (and for NaN) the value carries no
    meaning.
    """
    height, width, channels = values.shape[-3:]
    batch = values.shape[:-3]
    if uv.shape[: len(batch)] != batch:
        raise ValueError(f"pixels of shape {tuple(uv.shape)} do not start with the batch axes {tuple(batch)}")
    valid = (uv[..., 0] >= 0) & (uv[..., 0] <= width) & (uv[..., 1] >= 0) & (uv[..., 1] <= height)
    size = uv.new_tensor([width, height])
    # NaN would spread through the gradient of every pixel it touches.
    grid = (torch.where(valid[..., None], uv, 0) / size * 2 - 1).to(values.dtype)
    found = torch.nn.functional.grid_sample(
        values.reshape(-1, height, width, channels).movedim(-1, 1),
        grid.reshape(batch.numel(), 1, -1, 2),
        padding_mode="border",
        align_corners=False,
    )
    return found.movedim(1, -1).reshape(*uv.shape[:-1], channels), valid


def ends_inside(flow: Float[Tensor, "*batch H W 2"]) -> Bool[Tensor, "*batch H W"]:
    """Whether flow in pixels leads from each pixel to a place in an image of the same size."""
    height, width = flow.shape[-3:-1]
    place = pixel_grid(height, width, flow.dtype, flow.device) + flow
    return ((place >= 0) & (place <= place.new_tensor([width, height]))).all(-1)


def induced_flow(
    depth: Float[Tensor, "*batch H W"],
    source_intrinsics: Float[Tensor, "*#batch 3 3"],
    target_intrinsics: Float[Tensor, "*#batch 3 3"],
    target_from_source: Float[Tensor, "*#batch 4 4"],
    source_distortion: Float[Tensor, "*#batch 5"] | None = None,
    target_distortion: Float[Tensor, "*#batch 5"] | None = None,
) -> tuple[Float[Tensor, "*batch H W 2"], Bool[Tensor, "*batch H W"]]:
    """Flow that camera motion alone causes, and where it is defined: depth is positive on both sides.

    The flow may leave the target image; where it is undefined it points far outside.
    """
    height, width = depth.shape[-2:]
    points = unproject(depth, source_intrinsics, source_distortion).flatten(-3, -2)
    moved = transform(target_from_source, points)
    landed = project(moved, target_intrinsics, target_distortion).unflatten(-2, (height, width))
    valid = (depth > 0) & (moved[..., 2] > 1e-6).unflatten(-1, (height, width))
    return landed - pixel_grid(height, width, depth.dtype, depth.device), valid


def forward_backward_error(
    forward: Float[Tensor, "*batch H W 2"], backward: Float[Tensor, "*batch H2 W2 2"]
) -> Float[Tensor, "*batch H W"]:
    """Pixels by which a source pixel misses itself after going there and back; infinite where it leaves the target."""
    height, width = forward.shape[-3:-1]
    landed = pixel_grid(height, width, forward.dtype, forward.device) + forward
    returned, valid = sample(backward, landed)
    return torch.where(valid, (forward + returned).norm(dim=-1), torch.inf)


def covisible(
    source_depth: Float[Tensor, "*batch H W"],
    target_depth: Float[Tensor, "*batch H2 W2"],
    source_intrinsics: Float[Tensor, "*#batch 3 3"],
    target_intrinsics: Float[Tensor, "*#batch 3 3"],
    target_from_source: Float[Tensor, "*#batch 4 4"],
    tolerance: float = 0.05,
) -> Bool[Tensor, "*batch H W"]:
    """Source pixels of a static scene whose surface the target sees: its depth there agrees within a share of depth."""
    moved = transform(target_from_source, unproject(source_depth, source_intrinsics).flatten(-3, -2))
    moved = moved.unflatten(-2, source_depth.shape[-2:])
    return visible(moved, target_depth, target_intrinsics, tolerance) & (source_depth > 0)


def visible(
    points: Float[Tensor, "*batch H W 3"],
    depth: Float[Tensor, "*batch H2 W2"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    tolerance: float = 0.05,
) -> Bool[Tensor, "*batch H W"]:
    """Points in a camera that lie on the surface it sees: its depth agrees with theirs within a share of depth."""
    landed = project(points.flatten(-3, -2), intrinsics).unflatten(-2, points.shape[-3:-1])
    met, inside = sample(depth[..., None], landed)
    expected = points[..., 2]
    return inside & (expected > 1e-6) & ((met[..., 0] - expected).abs() < tolerance * expected)
