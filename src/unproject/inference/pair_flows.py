"""What a multi-view network says of pairs of views: flow, what both see, what the camera's motion alone would cause."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unproject.geometry.align import weighted_median
from unproject.geometry.camera import pixel_grid
from unproject.geometry.flow import covisible, forward_backward_error, induced_flow, sample
from unproject.geometry.rigid import inverse
from unproject.types import Prediction, require

STRONG = 4.0
"""How many times its usual miss flow may differ from that of a still scene: how exact a network is differs."""
LEAST_TOLERANCE_PX = 0.25


@dataclass(frozen=True, kw_only=True)
class PairFlows:
    """Of P ordered pairs, at the pixels of their sources."""

    flow: Float[Tensor, "*batch P H W 2"]
    """Pixels, source to target, as the network says it."""
    induced: Float[Tensor, "*batch P H W 2"]
    """What the cameras and the source's depth say of a scene that stands still."""
    covisible: Bool[Tensor, "*batch P H W"]
    """By geometry: the target's depth is that of the source's surface, if it stands still."""
    motion: Float[Tensor, "*batch P H W"]
    """In [0, 1], one half where flow and induced flow differ by four times what is usual where both see a surface; 0
    where nothing confirms it: flow does not come back by the pair the other way round, and there is no covisibility."""

    def resized(self, height: int, width: int) -> "PairFlows":
        """For images of another size, as the originals: linear between pixels, or the nearest where it is yes or no."""
        rows, columns = self.flow.shape[-3:-1]
        ratio = self.flow.new_tensor([width / columns, height / rows])
        uv = (pixel_grid(height, width).to(self.flow) / ratio).expand(*self.flow.shape[:-3], -1, -1, -1)
        near = (uv.floor() + 0.5).flatten(-3, -2)
        seen, _ = sample(self.covisible[..., None].to(self.flow), near)
        motion, _ = sample(self.motion[..., None], uv)
        return replace(
            self,
            flow=sample(self.flow, uv)[0] * ratio,
            induced=sample(self.induced, uv)[0] * ratio,
            covisible=(seen > 0.5)[..., 0].unflatten(-1, (height, width)),
            motion=motion[..., 0],
        )


def pair_flows(
    prediction: Prediction,
    pairs: Int[Tensor, "B P 2"],
    intrinsics: Float[Tensor, "B N 3 3"],
) -> PairFlows:
    """The flows that a prediction holds of these pairs, which were those of its `Views`.

    The cameras' matrices are for the network's pixels. ValueError where the network has said no flow or no poses.
    """
    flow, poses = require(prediction, "flow"), require(prediction, "world_from_cam")
    item = torch.arange(len(pairs), device=pairs.device)[:, None]
    source, target = pairs.to(flow.device).unbind(-1)
    depth = prediction.points[..., 2]
    target_from_source = inverse(poses[item, target]) @ poses[item, source]
    ours, theirs = intrinsics[item, source], intrinsics[item, target]
    induced, valid = induced_flow(depth[item, source], ours, theirs, target_from_source)
    seen = covisible(depth[item, source], depth[item, target], ours, theirs, target_from_source)
    miss = (flow - induced).norm(dim=-1)
    usual = weighted_median(miss.flatten(-2), (valid & seen).to(miss).flatten(-2))
    allowed = (STRONG * usual).clamp(min=LEAST_TOLERANCE_PX)[..., None, None]
    square = (miss / allowed).square()
    witness = seen | (_return_error(flow, pairs) < 2 * allowed)
    motion = torch.where(valid & witness, square / (1 + square), 0).nan_to_num()
    return PairFlows(flow=flow, induced=induced, covisible=seen, motion=motion)


def _return_error(flow: Float[Tensor, "B P H W 2"], pairs: Int[Tensor, "B P 2"]) -> Float[Tensor, "B P H W"]:
    """Pixels by which a source pixel misses itself there and back; infinite where the pair back was not asked for."""
    back = (pairs[:, :, None] == pairs[:, None].flip(-1)).all(-1)
    known, place = back.any(-1), back.long().argmax(-1)
    item = torch.arange(len(pairs), device=pairs.device)[:, None]
    error = forward_backward_error(flow, flow[item, place])
    return torch.where(known[..., None, None], error, torch.inf)
