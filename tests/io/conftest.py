"""A small scene of exact geometry for tests of what is written: a room with a ball at rest and a ball that rolls."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unproject.geometry import camera, rigid
from unproject.io.result import Reconstruction
from unproject.types import Cameras, FrameInfo, FrameMaps, MovingTracks, Points3D, Tracks

WIDTH, HEIGHT = 320, 240
FLOOR, WALL = 1.0, 6.0
STILL_BALL = torch.tensor([0.7, 0.5, 3.6], dtype=torch.float64)


def rolling_ball(time: float) -> Tensor:
    return torch.tensor([-1.2 + 0.8 * time, 0.65, 3.0], dtype=torch.float64)


@dataclass(frozen=True)
class Seen:
    """What the rays of one view hit: distance along z, colour, and whether it is the rolling ball."""

    depth: Tensor
    rgb: Tensor
    moving: Tensor


def look(world_from_cam: Tensor, directions: Tensor, time: float) -> Seen:
    """Cast rays (z = 1 in the camera) of one view into the scene."""
    origin, rays = world_from_cam[:3, 3], directions @ world_from_cam[:3, :3].T
    distances = [(FLOOR - origin[1]) / rays[..., 1], (WALL - origin[2]) / rays[..., 2]]
    distances += [_ball(origin, rays, STILL_BALL, 0.5), _ball(origin, rays, rolling_ball(time), 0.35)]
    reach = torch.stack([torch.where(distance > 1e-3, distance, torch.inf) for distance in distances], dim=-1)
    depth, what = reach.min(-1)
    point = origin + depth[..., None] * rays
    return Seen(depth=depth, rgb=_colour(point, what, time), moving=what == 3)


def _ball(origin: Tensor, rays: Tensor, centre: Tensor, radius: float) -> Tensor:
    a, b = (rays * rays).sum(-1), (rays * (origin - centre)).sum(-1)
    under = b * b - a * ((origin - centre).square().sum() - radius**2)
    return torch.where(under > 0, (-b - under.clamp(min=0).sqrt()) / a, torch.inf)


def _colour(point: Tensor, what: Tensor, time: float) -> Tensor:
    base = torch.tensor([[150, 120, 90], [90, 130, 150], [200, 180, 70], [200, 70, 60]], dtype=torch.float64)
    moved = point - torch.where((what == 3)[..., None], rolling_ball(time), 0)
    waves = [(moved * torch.tensor([f, 1.7 * f, 0.6 * f])).sum(-1).sin() for f in (3.0, 7.0, 17.0)]
    shade = 1 + 0.12 * waves[0] + 0.15 * waves[1] + 0.1 * waves[2] + 0.2 * ((moved * 2).floor().sum(-1) % 2)
    return (base[what] * shade[..., None]).clamp(0, 255).to(torch.uint8)


def pose_at(share: float) -> Tensor:
    """World-from-camera on an arc around the middle of the room."""
    yaw = 0.5 * (share - 0.5)
    rotation = rigid.so3_exp(torch.tensor([-0.08 + 0.03 * math.sin(9 * share), -yaw, 0.0], dtype=torch.float64))
    centre = torch.tensor([3.5 * math.sin(yaw), -0.1 * math.sin(7 * share), 3.5 - 3.5 * math.cos(yaw)])
    return rigid.from_rt(rotation, centre.double())


def make_scene(
    frames: int = 8, *, lens: tuple[float, ...] = (0.0,) * 5, shrink: int = 2, seed: int = 0
) -> Reconstruction:
    """The scene as a perfect reconstruction; maps are 1/``shrink`` of the files' 320x240 pixels."""
    share = torch.linspace(0, 1, frames).tolist()
    poses = torch.stack([pose_at(s) for s in share])
    intrinsics = camera.intrinsics_from_focal(torch.tensor(260.0, dtype=torch.float64), WIDTH, HEIGHT)
    distortion = torch.tensor(lens, dtype=torch.float64)
    to_original = torch.diag(torch.tensor([shrink, shrink, 1.0], dtype=torch.float64))
    grid = camera.pixel_grid(HEIGHT // shrink, WIDTH // shrink, torch.float64) * shrink
    directions = camera.rays(grid.flatten(0, 1), intrinsics, distortion).view(*grid.shape[:2], 3)
    maps = [_maps(look(pose, directions, s), to_original, frames) for pose, s in zip(poses, share, strict=True)]
    cameras = Cameras(
        world_from_cam=poses,
        intrinsics=intrinsics.expand(frames, 3, 3).clone(),
        distortion=distortion.expand(frames, 5).clone(),
        found=torch.ones(frames, dtype=torch.bool),
        component=torch.zeros(frames, dtype=torch.long),
        quality=torch.linspace(0.9, 1, frames, dtype=torch.float64),
    )
    infos = tuple(
        FrameInfo(file="clip <b>&.mp4", index=index, time_s=index / 10, width=WIDTH, height=HEIGHT)
        for index in range(frames)
    )
    return Reconstruction(
        frames=infos,
        cameras=cameras,
        maps=maps,
        sparse=_sparse(cameras, share, seed),
        tracks=_rolling_tracks(cameras, share),
        provenance={"version": "0.1.0", "notes": ["the focal length was <assumed>"], "timings_s": {"cameras": 1.5}},
    )


def _maps(seen: Seen, to_original: Tensor, frames: int) -> FrameMaps:
    valid = torch.ones_like(seen.moving)
    valid[:, :4] = False
    flow = torch.where(seen.moving[..., None], rolling_ball(1) - rolling_ball(0), 0) / max(frames - 1, 1)
    return FrameMaps(
        depth=seen.depth.float(),
        valid=valid,
        confidence=torch.where(valid, 0.9, 0.2) * torch.where(seen.moving, 0.6, 1.0),
        motion=seen.moving.float(),
        to_original=to_original,
        rgb=seen.rgb,
        scene_flow=flow.float(),
    )


def _observe(points: Tensor, cameras: Cameras, index: int, time: float) -> tuple[Tensor, Tensor]:
    """Original pixels of world points in one view, and which of them it really sees."""
    in_cam = rigid.transform(rigid.inverse(cameras.world_from_cam[index]), points)
    uv = camera.project(in_cam, cameras.intrinsics[index], cameras.distortion[index])
    inside = (uv > 0).all(-1) & (uv[:, 0] < WIDTH) & (uv[:, 1] < HEIGHT)
    hit = look(cameras.world_from_cam[index], in_cam / in_cam[:, 2:], time).depth
    return uv, inside & ((in_cam[:, 2] - hit).abs() < 1e-6)


def _sparse(cameras: Cameras, share: list[float], seed: int) -> Points3D:
    """Points on what does not move, with every view that sees them."""
    generator = torch.Generator().manual_seed(seed)
    middle = len(share) // 2
    uv = torch.rand(400, 2, generator=generator, dtype=torch.float64) * torch.tensor([WIDTH, HEIGHT])
    directions = camera.rays(uv, cameras.intrinsics[middle], cameras.distortion[middle])
    seen = look(cameras.world_from_cam[middle], directions, share[middle])
    points = rigid.transform(cameras.world_from_cam[middle], directions * seen.depth[:, None])[~seen.moving]
    rows = [_observe(points, cameras, index, time) for index, time in enumerate(share)]
    visible = torch.stack([row[1] for row in rows], dim=1)
    enough = visible.sum(1) >= min(3, len(share))
    track, view = visible[enough].nonzero().unbind(1)
    uv = torch.stack([row[0] for row in rows], dim=1)[enough][track, view]
    tracks = Tracks(view=view, track=track, uv=uv.float(), weight=torch.ones(len(view)))
    return Points3D(xyz=points[enough], rgb=seen.rgb[~seen.moving][enough], tracks=tracks)


def _rolling_tracks(cameras: Cameras, share: list[float]) -> MovingTracks:
    """Twelve points on the rolling ball's near side (it slides), four on the wall."""
    side = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    side[:, 2] = -side[:, 2].abs() - 0.5
    side = 0.35 * side / side.norm(dim=-1, keepdim=True)
    still = torch.tensor([[-1.0, -0.5, WALL], [1.0, -0.5, WALL], [0.0, -1.0, WALL], [0.0, 0.0, WALL]])
    xyz = torch.stack([torch.cat([side + rolling_ball(time), still.double()]) for time in share])
    seen = [_observe(points, cameras, index, share[index]) for index, points in enumerate(xyz)]
    return MovingTracks(
        xyz=xyz.float(),
        uv=torch.stack([uv for uv, _ in seen]).float(),
        visible=torch.stack([visible for _, visible in seen]),
        confidence=torch.full(xyz.shape[:2], 0.8),
        moving=torch.arange(16) < 12,
    )


@pytest.fixture(scope="session")
def scene() -> Callable[..., Reconstruction]:
    return make_scene


@pytest.fixture(scope="session")
def perfect() -> Reconstruction:
    """The scene with eight frames; never changed by a test."""
    return make_scene()


@pytest.fixture(scope="session")
def saved(perfect: Reconstruction, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`perfect` on disk; never changed by a test."""
    folder = tmp_path_factory.mktemp("saved") / "out"
    perfect.save(folder)
    return folder
