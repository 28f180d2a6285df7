"""Rotary positions on a grid (RoPE-2D, base 100): attention sees where two tokens lie relative to each other."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BASE = 100.0


def grid_positions(rows: int, columns: int, device: torch.device | None = None) -> Int[Tensor, "L 2"]:
    """(y, x) of every token of a grid, row by row."""
    y, x = torch.arange(rows, device=device), torch.arange(columns, device=device)
    return torch.cartesian_prod(y, x)


def angles(positions: Int[Tensor, "*batch L 2"], head_dim: int) -> Float[Tensor, "*batch L 2 K"]:
    """Angle of each rotated plane: ``position * 100^(-2k/D)`` with D the half of a head that belongs to one axis.

    Always float32: an angle of 31 rad in bfloat16 is off by up to 0.06 rad.
    """
    planes = head_dim // 4
    frequency = BASE ** (-torch.arange(planes, device=positions.device, dtype=torch.float32) / planes)
    return positions[..., None].float() * frequency


def rotate(
    heads: Float[Tensor, "*batch L D"], cos: Float[Tensor, "*#batch L 2 K"], sin: Float[Tensor, "*#batch L 2 K"]
) -> Float[Tensor, "*batch L D"]:
    """Queries or keys turned by the angles of their positions.

    A head lies in memory as ``[u_y | v_y | u_x | v_x]``; each (u, v) is turned as a vector of the plane.
    """
    u, v = heads.unflatten(-1, (2, 2, -1)).unbind(-2)
    cos, sin = cos.to(heads.dtype), sin.to(heads.dtype)
    return torch.stack([u * cos - v * sin, v * cos + u * sin], dim=-2).flatten(-3)
