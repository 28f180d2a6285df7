"""Losses that need no 3D annotation (Reliev3R, arXiv 2604.00548)."""

import torch
from jaxtyping import Float
from torch import Tensor


def registration_residual_px(
    points_world: Float[Tensor, "O 3"],
    world_from_cam: Float[Tensor, "O 4 4"],
    rays: Float[Tensor, "O 3"],
    focal_px: Float[Tensor, " O"],
) -> Float[Tensor, "O 3"]:
    """Difference of two unit vectors in the camera, times focal: where the point is against where it was seen.

    Its length is ``2 f sin(angle / 2)``, the chord of the angle that Reliev3R's registration loss (its section 3.2)
    takes between the two directions, so it points the right way at any pose, also for points behind the camera.
    ``rays`` are unit directions in the camera.
    """
    offset = points_world - world_from_cam[:, :3, 3]
    direction_world = offset / offset.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    direction_cam = torch.einsum("oji,oj->oi", world_from_cam[:, :3, :3], direction_world)
    return focal_px[:, None] * (direction_cam - rays)


def cauchy(residual_px: Float[Tensor, "O D"], scale_px: float) -> Float[Tensor, " O"]:
    """Cauchy penalty ``s^2/2 log(1 + |r|^2 / s^2)``: quadratic within ``scale_px``, nearly blind far beyond it."""
    return 0.5 * scale_px**2 * torch.log1p(residual_px.square().sum(-1) / scale_px**2)
