"""Normals of point maps against true ones (π³, arXiv 2507.13347, section 3.4; the form is that of MoGe)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unproject.geometry.rays import angle_between
from unproject.geometry.surface import depth_edges

LEAST, MOST, BEND = math.radians(1), math.radians(90), math.radians(3)
"""Radians: errors below and above pull no more; up to the last the penalty is a square."""
SHORTEST = 1e-12
"""Length of a normal below which a triangle has no side."""


def normal_term(
    points: Float[Tensor, "B N H W 3"], true_points: Float[Tensor, "B N H W 3"], known: Bool[Tensor, "B N H W"]
) -> Float[Tensor, ""]:
    """Penalty on the angle between normals, over the four triangles of every 2x2 pixels.

    The mean over all of them, unknown ones and edges too, over the longer side in pixels; scale does not matter.
    """
    height, width = known.shape[-2:]
    smooth = known & ~depth_edges(true_points[..., 2], known)
    counted = torch.stack(_corners(smooth[..., None])).all(0)[..., 0]
    total = points.new_zeros(())
    for normal, wanted in zip(_normals(points), _normals(true_points), strict=True):
        length, true_length = normal.detach().norm(dim=-1, keepdim=True), wanted.norm(dim=-1, keepdim=True)
        sided = (length > SHORTEST) & (true_length > SHORTEST) & counted[..., None]
        # Angles do not depend on lengths, so a constant factor changes neither them nor their gradients.
        unit, true_unit = (
            torch.where(sided, side / torch.where(sided, long, 1), side.new_tensor([0.0, 0.0, 1.0]))
            for side, long in ((normal, length), (wanted, true_length))
        )
        angle = angle_between(unit, true_unit).clamp(LEAST, MOST)
        # Less what the smallest angle costs, so that the truth costs nothing.
        penalty = torch.where(angle < BEND, angle.square() - LEAST**2, 2 * BEND * angle - BEND**2 - LEAST**2)
        penalty = penalty / (2 * BEND)
        total = total + torch.where(sided[..., 0], penalty, 0).mean()
    return total / (4 * max(height, width))


def _corners(maps: Tensor) -> list[Tensor]:
    """Of every 2x2 pixels, clockwise from the upper left one."""
    left, right = maps[..., :-1, :], maps[..., 1:, :]
    upper, lower = slice(None, -1), slice(1, None)
    return [left[..., upper, :, :], right[..., upper, :, :], right[..., lower, :, :], left[..., lower, :, :]]


def _normals(points: Float[Tensor, "B N H W 3"]) -> list[Tensor]:
    """At each corner, across the two edges that meet there."""
    corners = _corners(points)
    return [
        torch.linalg.cross(corners[(n + 1) % 4] - corner, corners[n - 1] - corner) for n, corner in enumerate(corners)
    ]
