"""Textured flat walls seen by pinhole cameras, with exact depth; optionally a poster that moves in front."""

from functools import cache

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from unproject.inference.neighbours import SparseDepth
from unproject.inference.view import View, make_view

HEIGHT, WIDTH, FOCAL_PX = 120, 160, 150.0
NORMAL, OFFSET = np.array([0.25, -0.15, 1.0]), 2.0
"""The wall: normal . X = offset, about 2 deep."""
POSTER_DEPTH, POSTER_HALF = 1.4, 0.25
TEXELS_PER_UNIT = 64


def intrinsics() -> torch.Tensor:
    return torch.tensor([[FOCAL_PX, 0.0, WIDTH / 2], [0.0, FOCAL_PX, HEIGHT / 2], [0.0, 0.0, 1.0]])


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw_deg: float = 0.0) -> torch.Tensor:
    """world_from_cam."""
    out = torch.eye(4, dtype=torch.float64)
    angle = np.deg2rad(yaw_deg)
    out[0, 0] = out[2, 2] = np.cos(angle)
    out[0, 2], out[2, 0] = np.sin(angle), -np.sin(angle)
    out[:3, 3] = torch.tensor([x, y, z])
    return out


def world_rays(world_from_cam: torch.Tensor) -> np.ndarray:
    """H W 3, with z = 1 in the camera."""
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([(u - WIDTH / 2) / FOCAL_PX, (v - HEIGHT / 2) / FOCAL_PX, np.ones_like(u)], -1)
    return rays @ world_from_cam[:3, :3].numpy().T


def wall_depth(world_from_cam: torch.Tensor) -> np.ndarray:
    centre = world_from_cam[:3, 3].numpy()
    return ((OFFSET - NORMAL @ centre) / (world_rays(world_from_cam) @ NORMAL)).astype(np.float32)


def render(
    world_from_cam: torch.Tensor, poster_x: float | None = None, poster_seed: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RGB, depth, and where the poster is; its centre is at ``poster_x`` (and y = 0)."""
    rays, centre = world_rays(world_from_cam), world_from_cam[:3, 3].numpy()
    depth = wall_depth(world_from_cam)
    points = centre + rays * depth[..., None]
    rgb = _paint(points[..., 0], points[..., 1], seed=1)
    on_poster = np.zeros(depth.shape, bool)
    if poster_x is not None:
        poster_depth = (POSTER_DEPTH - centre[2]) / rays[..., 2]
        x, y = (centre + rays * poster_depth[..., None])[..., :2].transpose(2, 0, 1)
        on_poster = (np.abs(x - poster_x) < POSTER_HALF) & (np.abs(y) < POSTER_HALF)
        rgb = np.where(on_poster[..., None], _paint(x - poster_x, y, poster_seed), rgb)
        depth = np.where(on_poster, poster_depth, depth).astype(np.float32)
    return rgb, depth, on_poster


def _paint(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Smooth random colours, repeating every 8 world units."""
    places = [(np.mod(axis + 4, 8) * TEXELS_PER_UNIT).astype(np.float32) for axis in (x, y)]
    return np.round(cv2.remap(_texture(seed), *places, cv2.INTER_LINEAR)).clip(0, 255).astype(np.uint8)


@cache
def _texture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((8 * TEXELS_PER_UNIT, 8 * TEXELS_PER_UNIT, 3))
    waves = sum(gaussian_filter(noise, (sigma, sigma, 0), mode="wrap") * sigma for sigma in (1.5, 4.0))
    return np.pad(128 + 45 * waves / waves.std(), ((0, 1), (0, 1), (0, 0)), mode="wrap").astype(np.float32)


def view_at(world_from_cam: torch.Tensor, rgb: np.ndarray | None = None) -> View:
    rgb = render(world_from_cam)[0] if rgb is None else rgb
    return make_view(rgb, intrinsics(), torch.zeros(5), world_from_cam)


def sparse_points(depth: np.ndarray, keep: np.ndarray | None = None, count: int = 60, seed: int = 0) -> SparseDepth:
    """Some pixels with their true depth."""
    generator = np.random.default_rng(seed)
    row, column = np.nonzero(np.ones(depth.shape, bool) if keep is None else keep)
    chosen = generator.choice(len(row), min(count, len(row)), replace=False)
    uv = np.stack([column[chosen] + 0.5, row[chosen] + 0.5], 1).astype(np.float32)
    return SparseDepth(uv=uv, depth=depth[row[chosen], column[chosen]])
