"""Maps of a frame, and the flow of a pair, at another size, such as the original's."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from unproject.geometry.camera import pixel_grid
from unproject.geometry.flow import sample
from unproject.types import FlowMaps, FrameMaps

EDGE = 0.05
"""Share by which depth between pixels may differ from that of the nearest: beyond, there are two surfaces."""


def at_size(maps: FrameMaps, width: int, height: int) -> FrameMaps:
    """The same on a grid of this size, corner to corner.

    Between pixels of one surface inverse depth is linear, as on a plane; at an edge the nearest pixel is taken, so that
    nothing floats between near and far. What is valid is what the nearest pixel says.
    """
    rows, columns = maps.depth.shape
    ratio = torch.tensor([width / columns, height / rows])
    uv = pixel_grid(height, width) / ratio
    near = uv.floor() + 0.5
    depth = maps.depth.float()
    nearest = _at(depth[..., None], near)[..., 0]
    between = 1 / _at(1 / depth.clamp(min=1e-12)[..., None], uv)[..., 0]
    smooth = (between / nearest - 1).abs() <= EDGE
    shares = torch.stack([maps.confidence, maps.motion], dim=-1)
    between_shares, nearest_shares = _at(shares, uv), _at(shares, near)
    shrink = torch.diag(torch.cat([1 / ratio, torch.ones(1)])).double()
    return FrameMaps(
        depth=torch.where(smooth, between, nearest),
        valid=_at(maps.valid[..., None], near)[..., 0] > 0.5,
        confidence=torch.where(smooth, between_shares[..., 0], nearest_shares[..., 0]),
        motion=torch.where(smooth, between_shares[..., 1], nearest_shares[..., 1]),
        to_original=maps.to_original.double() @ shrink,
        rgb=None if maps.rgb is None else _at(maps.rgb, uv).round().to(torch.uint8),
        scene_flow=None if maps.scene_flow is None else _at(maps.scene_flow, near),
    )


def flow_at_size(maps: FlowMaps, width: int, height: int, target_to_original: Float[Tensor, "3 3"]) -> FlowMaps:
    """The same on a grid of this size, that of the source's original, with flow in original pixels.

    Linear between pixels; what both see is what the nearest pixel says.
    """
    rows, columns = maps.covisible.shape
    grid = pixel_grid(height, width)
    uv = grid / torch.tensor([width / columns, height / rows])
    landed = uv + _at(maps.flow, uv)
    place = target_to_original.float()
    return FlowMaps(
        flow=landed @ place[:2, :2].mT + place[:2, 2] - grid,
        covisible=_at(maps.covisible[..., None], uv.floor() + 0.5)[..., 0] > 0.5,
        motion=_at(maps.motion[..., None], uv)[..., 0],
    )


def _at(values: Shaped[Tensor, "H W C"], uv: Float[Tensor, "h w 2"]) -> Float[Tensor, "h w C"]:
    return sample(values.float(), uv)[0]
