"""Track worlds for the solver: points on an arc of cameras, seen exactly or with noise, no images needed."""

from dataclasses import dataclass

import numpy as np
import torch

from unproject.inference.problem import CameraPrior
from unproject.types import Tracks

WIDTH, HEIGHT = 640.0, 480.0


@dataclass(frozen=True)
class TrackWorld:
    """Tracks with the truth behind them."""

    tracks: Tracks
    rotation: np.ndarray
    centre: np.ndarray
    points: np.ndarray
    focal: float

    def prior(self, *, focal: float | None = None, fixed: bool = False) -> CameraPrior:
        """Nothing known but the image size, or a focal length as well."""
        views = len(self.centre)
        return CameraPrior(
            principal_px=np.tile([WIDTH / 2, HEIGHT / 2], (views, 1)),
            long_side_px=np.full(views, WIDTH),
            group=np.zeros(views, int),
            focal_px=np.array([np.nan if focal is None else focal]),
            focal_fixed=np.array([fixed]),
            radial=np.zeros(1),
            world_from_cam=np.full((views, 4, 4), np.nan),
        )


def looking_at_origin(centre: np.ndarray) -> np.ndarray:
    """Rotations (world from camera) of cameras at ``centre`` that look at the origin, y down."""
    forward = -centre / np.linalg.norm(centre, axis=1, keepdims=True)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(forward, right), forward], axis=2)


def make_world(
    views: int = 12,
    points: int = 400,
    *,
    focal: float = 600.0,
    noise_px: float = 0.3,
    outliers: float = 0.0,
    turn_only: bool = False,
    flat: bool = False,
    radial: float = 0.0,
    arc: float = 1.2,
    astray: float = 0.0,
    window: int | None = None,
    seed: int = 0,
) -> TrackWorld:
    """Cameras on an arc of radius 4 around a cloud of radius 0.8; ``window`` limits how many views see a point.

    They look at its middle, or up to ``astray`` beside it.
    """
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, arc, views)
    centre = np.stack([4 * np.sin(angle), 0.3 * np.sin(3 * angle), -4 * np.cos(angle)], axis=1)
    rotation = looking_at_origin(centre - np.random.default_rng(seed).uniform(-astray, astray, centre.shape))
    cloud = 0.8 * rng.normal(size=(points, 3)).clip(-1.6, 1.6)
    if flat:
        cloud[:, 2] = 0
    if turn_only:
        sway = np.stack([0.15 * np.sin(3 * angle), 0.1 * np.cos(5 * angle), np.ones(views)], axis=1)
        rotation = looking_at_origin(-sway)
        centre = np.tile([[0.0, 0.0, -4.0]], (views, 1))
    first = rng.integers(0, views - window + 1, points) if window else np.zeros(points, int)
    view = (first[:, None] + np.arange(window or views)).ravel()
    track = np.repeat(np.arange(points), window or views)
    local = np.einsum("oji,oj->oi", rotation[view], cloud[track] - centre[view])
    plane = local[:, :2] / local[:, 2:]
    plane = plane * (1 + radial * (plane**2).sum(1, keepdims=True))
    uv = focal * plane + [WIDTH / 2, HEIGHT / 2] + noise_px * rng.normal(size=plane.shape)
    wrong = rng.random(len(uv)) < outliers
    uv[wrong] += rng.uniform(-60, 60, (wrong.sum(), 2))
    tracks = Tracks(
        view=torch.as_tensor(view),
        track=torch.as_tensor(track),
        uv=torch.as_tensor(uv, dtype=torch.float32),
        weight=torch.ones(len(uv)),
    )
    return TrackWorld(tracks=tracks, rotation=rotation, centre=centre, points=cloud, focal=focal)


def similarity_error(found: np.ndarray, true: np.ndarray) -> float:
    """Root mean square distance of centres (V 3) after the best similarity, as a share of the true spread."""
    a, b = found - found.mean(0), true - true.mean(0)
    u, singular, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.linalg.det(u @ vt)])
    scale = np.trace(np.diag(singular) @ sign) / (a**2).sum()
    return float(np.sqrt(((scale * a @ (u @ sign @ vt).T - b) ** 2).sum() / (b**2).sum()))
