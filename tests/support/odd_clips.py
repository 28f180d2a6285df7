"""Clips that go wrong in the field, small: cameras that do not move, that only turn, scenes with nothing to follow."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from unproject.data.capture import display
from unproject.data.paths import look_at
from unproject.data.render import trace
from unproject.data.synthetic import World, handheld, sample_planar_world, sample_world, standing, turning
from unproject.geometry.camera import intrinsics_from_focal

WIDTH, HEIGHT, FPS = 256, 192, 30
FOCAL = 240.0


@dataclass(frozen=True)
class Shot:
    """Frames as a decoder gives them, and where the camera was."""

    images: np.ndarray
    """uint8 N H W 3."""
    world_from_cam: np.ndarray
    """N 4 4."""
    focal_px: np.ndarray
    """N."""

    def every(self, step: int) -> "Shot":
        """Fewer frames of the same way."""
        return Shot(self.images[::step], self.world_from_cam[::step], self.focal_px[::step])


def shoot(world: World, world_from_cam: torch.Tensor) -> Shot:
    """One frame per pose (N 4 4)."""
    world = world.select(slice(0, 1))
    times = torch.arange(len(world_from_cam), dtype=torch.float32)[None] / FPS
    focal = torch.full_like(times, FOCAL)
    radiance, _, _ = trace(
        world, times, world_from_cam[None], intrinsics_from_focal(focal, WIDTH, HEIGHT), HEIGHT, WIDTH
    )
    images = (display(radiance[0]) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return Shot(images, world_from_cam.double().numpy(), focal[0].double().numpy())


def walk(world: World, frames: int, seed: int = 0, change: Callable = lambda path: path) -> torch.Tensor:
    """Poses of a hand that carries the camera across the world's stage (N 4 4)."""
    path = change(handheld(world.stage, seed, duration_s=frames / FPS))
    return path.world_from_cam(torch.arange(frames, dtype=torch.float32)[None] / FPS)[0]


def room(seed: int = 0, *, moving: bool = False) -> World:
    return sample_world(seed, moving=moving)


def moving_camera(frames: int = 24, seed: int = 0) -> Shot:
    return shoot(room(seed), walk(room(seed), frames, seed))


def only_turning(frames: int = 24, seed: int = 0) -> Shot:
    return shoot(room(seed), walk(room(seed), frames, seed, turning))


def at_rest(frames: int = 16, seed: int = 0, *, moving: bool = False) -> Shot:
    return shoot(room(seed, moving=moving), walk(room(seed), frames, seed, standing))


def one_wall(frames: int = 24, seed: int = 0) -> Shot:
    world = sample_planar_world(seed)
    return shoot(world, walk(world, frames, seed))


def two_scenes(frames: int = 20) -> Shot:
    """A hard cut between two rooms."""
    first, second = moving_camera(frames, 0), moving_camera(frames, 3)
    return Shot(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.world_from_cam, second.world_from_cam]),
        np.concatenate([first.focal_px, second.focal_px]),
    )


def rest_then_walk(rest: int = 20, frames: int = 24, seed: int = 0) -> Shot:
    poses = walk(room(seed), frames, seed)
    return shoot(room(seed), torch.cat([poses[:1].repeat(rest, 1, 1), poses]))


def forward(frames: int = 24, seed: int = 0) -> Shot:
    """Straight ahead, towards what there is to see: the focus of expansion lies in the image."""
    stage = room(seed).stage
    ahead = torch.stack([stage.heading.cos(), stage.heading.sin(), torch.zeros(1)], -1)
    reach = float(stage.outer[0]) - 0.2
    eye = stage.centre + torch.linspace(-reach, reach, frames)[:, None] * ahead
    return shoot(room(seed), look_at(eye, eye + ahead - torch.tensor([0.0, 0.0, 0.15])))


def gripper(frames: int = 24, seed: int = 0) -> Shot:
    """Something textured held before a walking camera, over a third of the image."""
    shot = moving_camera(frames, seed)
    held = cv2.resize(np.random.default_rng(5).integers(0, 255, (24, 40, 3), dtype=np.uint8), (WIDTH, HEIGHT // 3))
    images = shot.images.copy()
    images[:, -(HEIGHT // 3) :] = held
    return replace(shot, images=images)


def black(frames: int = 10) -> np.ndarray:
    return np.zeros((frames, HEIGHT, WIDTH, 3), np.uint8)


def snow(frames: int = 10) -> np.ndarray:
    """Nothing but noise."""
    return np.random.default_rng(0).integers(0, 256, (frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
