"""Procedural worlds in which everything is known exactly, for tests, demos and training.

    world = sample_world(seed=0, batch=4)
    path = handheld(world.stage, seed=0, duration_s=3.0)
    rendering = render(world, path, times, intrinsics, height=224, width=224)
    views, labels = rendering.views(pairs), rendering.labels(pairs)

or, for one clip as a phone would film it, `handheld_clip(seed=0)` and its relatives.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from unproject.data.capture import Sensor as Sensor
from unproject.data.capture import display, expose
from unproject.data.paths import CameraPath as CameraPath
from unproject.data.paths import handheld as handheld
from unproject.data.paths import orbit as orbit
from unproject.data.paths import standing as standing
from unproject.data.paths import turning as turning
from unproject.data.raycast import SKY_DEPTH as SKY_DEPTH
from unproject.data.render import trace
from unproject.data.rooms import sample_planar_world as sample_planar_world
from unproject.data.rooms import sample_world as sample_world
from unproject.data.scene import World as World
from unproject.data.truth import Rendering as Rendering
from unproject.data.truth import covisibility as covisibility
from unproject.data.truth import follow as follow
from unproject.data.truth import observations as observations
from unproject.data.truth import optical_flow as optical_flow
from unproject.data.truth import scene_flow as scene_flow
from unproject.data.truth import target_points as target_points
from unproject.data.truth import world_points as world_points
from unproject.geometry.camera import intrinsics_from_focal


def render(
    world: World,
    path: CameraPath,
    times: Float[Tensor, "B N"],
    intrinsics: Float[Tensor, "B N 3 3"],
    height: int,
    width: int,
) -> Rendering:
    """Sharp, noiseless images at the given times, one ray through each pixel centre."""
    world_from_cam = path.world_from_cam(times)
    radiance, depth, surface = trace(world, times, world_from_cam, intrinsics, height, width)
    return Rendering(
        world=world,
        times=times,
        world_from_cam=world_from_cam,
        intrinsics=intrinsics,
        images=display(radiance),
        depth=depth,
        surface=surface,
    )


def photograph(
    world: World,
    path: CameraPath,
    times: Float[Tensor, "B N"],
    intrinsics: Float[Tensor, "B N 3 3"],
    height: int,
    width: int,
    *,
    sensor: Sensor,
    seed: int,
) -> Rendering:
    """The same with the images of a real camera; the truth is that of the middle of each exposure."""
    rendering = render(world, path, times, intrinsics, height, width)
    return replace(rendering, images=expose(world, path, times, intrinsics, height, width, sensor, seed))


@dataclass(frozen=True, kw_only=True)
class ClipData:
    """One clip, as a decoder would give it, and its truth."""

    images: UInt8[np.ndarray, "N H W 3"]
    times: Float[Tensor, " N"]
    intrinsics: Float[Tensor, "N 3 3"]
    world_from_cam: Float[Tensor, "N 4 4"]
    depth: Float[Tensor, "N H W"]
    valid: Bool[Tensor, "N H W"]
    motion: Bool[Tensor, "N H W"]
    rendering: Rendering
    """The same with a batch axis of one: for flow, covisibility and tracks between any two frames."""


def handheld_clip(
    seed: int,
    *,
    frames: int = 90,
    fps: float = 30.0,
    height: int = 240,
    width: int = 320,
    moving: bool = True,
    focal_px: float | None = None,
    sensor: Sensor | None = None,
) -> ClipData:
    """A hand carries a camera through a room.

    Without a focal, one of 45..75 degrees across is drawn; without a sensor, images are sharp.
    """
    world = sample_world(seed, moving=moving)
    return film(
        world, handheld(world.stage, seed, duration_s=frames / fps), seed, frames, fps, height, width, focal_px, sensor
    )


def turning_clip(seed: int, *, frames: int = 30, height: int = 240, width: int = 320) -> ClipData:
    """Pure rotation: no parallax, so no depth can be known."""
    world = sample_world(seed, moving=False)
    path = turning(handheld(world.stage, seed, duration_s=frames / 30))
    return film(world, path, seed, frames, 30.0, height, width)


def standing_clip(seed: int, *, frames: int = 30, height: int = 240, width: int = 320, moving: bool = True) -> ClipData:
    """A camera that does not move at all."""
    world = sample_world(seed, moving=moving)
    path = standing(handheld(world.stage, seed, duration_s=frames / 30))
    return film(world, path, seed, frames, 30.0, height, width)


def planar_clip(seed: int, *, frames: int = 30, height: int = 240, width: int = 320) -> ClipData:
    """A moving camera that sees one plane: relative pose has two solutions, and focal length is weakly known."""
    world = sample_planar_world(seed)
    return film(world, handheld(world.stage, seed, duration_s=frames / 30), seed, frames, 30.0, height, width)


def photo_orbit(seed: int, *, photos: int = 12, sweep: float = 2.0, height: int = 480, width: int = 640) -> ClipData:
    """Photos of a table from all along an arc of `sweep` radians: wide baselines, one second apart, nothing moves."""
    world = sample_world(seed, moving=False, ring=True)
    path = orbit(world.stage, seed, duration_s=float(photos - 1) or 1.0, sweep=sweep)
    return film(world, path, seed, photos, 1.0, height, width)


def film(
    world: World,
    path: CameraPath,
    seed: int,
    frames: int,
    fps: float,
    height: int,
    width: int,
    focal_px: float | None = None,
    sensor: Sensor | None = None,
) -> ClipData:
    """A clip of the first world of a batch."""
    world = world.select(slice(0, 1))
    if focal_px is None:
        angle = 45 + 30 * torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
        focal_px = width / 2 / math.tan(math.radians(angle / 2))
    times = torch.arange(frames, dtype=world.room.half.dtype, device=world.room.half.device)[None] / fps
    intrinsics = intrinsics_from_focal(torch.full_like(times, focal_px), width, height)
    rendering = render(world, path, times, intrinsics, height, width)
    if sensor is not None:
        rendering = replace(rendering, images=expose(world, path, times, intrinsics, height, width, sensor, seed))
    images = (rendering.images[0] * 255).round().to(torch.uint8)
    return ClipData(
        images=rearrange(images, "n c h w -> n h w c").cpu().numpy(),
        times=times[0],
        intrinsics=intrinsics[0],
        world_from_cam=rendering.world_from_cam[0],
        depth=rendering.depth[0],
        valid=rendering.valid[0],
        motion=rendering.motion[0],
        rendering=rendering,
    )
