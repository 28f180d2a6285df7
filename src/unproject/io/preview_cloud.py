"""The preview's 3D scene: points thinned to what a browser turns smoothly, cameras and moving points, as binaries.

Everything is given in a display frame: y up (by the cameras), centred on the points, about one unit large.
"""

import base64
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unproject.io.result import Reconstruction
from unproject.types import FrameMaps

MAX_POINTS = 160_000
MAX_CANDIDATES = 400_000
MAX_MOMENTS = 48
"""Frames, spread over the clip, whose maps are looked at."""
MAX_MOVING = 1500
"""Moving points per moment."""
MAX_TRAILS = 250
MAX_TRAIL_STEPS = 200
YAW, PITCH = 0.3, 0.36
"""Radians: where the viewer first looks from."""
MARGIN, FARTHER = 0.4, 2.0
"""Tangent that still counts as in the picture (the viewer's is 0.447); how much farther off the path may push it."""


@dataclass(frozen=True)
class Display:
    """Display point = turn (world - centre) * zoom."""

    turn: np.ndarray
    centre: np.ndarray
    zoom: float

    def place(self, world: np.ndarray) -> np.ndarray:
        """Display points of world points [..., 3]."""
        return (world - self.centre) @ self.turn.T * self.zoom


@dataclass(frozen=True)
class Clouds:
    """Points at rest over the whole clip, and the points that move at some moments of it; world coordinates."""

    xyz: np.ndarray
    rgb: np.ndarray
    moments: list[int]
    """Frames spread over the clip."""
    moving: list[tuple[np.ndarray, np.ndarray]]
    """(xyz, rgb) at each moment."""


def gather(part: Reconstruction) -> Clouds:
    """Both clouds from one pass over the maps; without maps the sparse points stand for the points at rest."""
    found = part.cameras.found.nonzero()[:, 0].tolist() if len(part.maps) else []
    moments = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(len(found), MAX_MOMENTS)).astype(int))]
    still, moving = [(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0))], []
    for index in moments:
        maps = part.maps[index]
        whole = ~_torn(maps.depth) & (maps.depth > 0)
        sure = whole & maps.valid & (maps.confidence >= 0.5) & (maps.motion < 0.5)
        still.append(_pixels(part, index, maps, sure, MAX_CANDIDATES // len(moments)))
        moving.append(_pixels(part, index, maps, whole & (maps.confidence > 0) & (maps.motion >= 0.5), MAX_MOVING)[:2])
    xyz, rgb, trust = (np.concatenate(values) for values in zip(*still, strict=True))
    if not len(xyz) and part.sparse is not None:
        xyz, rgb, trust = part.sparse.xyz.double().numpy(), part.sparse.rgb.numpy(), np.ones(len(part.sparse.xyz))
    kept = _tidied(xyz, trust)
    return Clouds(xyz=xyz[kept], rgb=rgb[kept], moments=moments, moving=moving)


def scene_data(part: Reconstruction, clouds: Clouds) -> dict[str, Any]:
    """What the viewer draws, ready for JSON. At least one camera of ``part`` is found."""
    poses = part.cameras.world_from_cam.double().numpy()
    display = _display(clouds.xyz, poses[part.cameras.found.numpy()])
    shown = [display.place(clouds.xyz), *[display.place(points) for points, _ in clouds.moving]]
    trail_frames, trails, seen = _trails(part)
    shown.append(display.place(trails.reshape(-1, 3)))
    everything = np.concatenate(shown)
    low, high = (everything.min(0), everything.max(0)) if len(everything) else (np.zeros(3), np.ones(3))
    size = np.maximum(high - low, 1e-9)
    packed = [_binary(((points - low) / size * 65535).round().astype("<u2")) for points in (shown[0], shown[-1])]
    movers = np.concatenate([np.zeros((0, 3)), *shown[1:-1]])
    mover_colours = np.concatenate([np.zeros((0, 3), np.uint8), *(colour for _, colour in clouds.moving)])
    return {
        "low": _short(low),
        "size": _short(size),
        "count": len(clouds.xyz),
        "position": packed[0],
        "colour": _binary(clouds.rgb),
        "movingFrames": clouds.moments,
        "movingOffsets": np.cumsum([0, *(len(points) for points, _ in clouds.moving)]).tolist(),
        "movingPosition": _binary(((movers - low) / size * 65535).round().astype("<u2")),
        "movingColour": _binary(mover_colours),
        "trailFrames": trail_frames,
        "trailCount": trails.shape[0],
        "trailPosition": packed[1],
        "trailSeen": _binary(seen),
        "cameras": [_camera(part, index, display) for index in range(len(part.frames))],
        "times": [round(info.time_s, 4) for info in part.frames],
        "view": _first_view(shown[0], poses[part.cameras.found.numpy()], display),
    }


def _pixels(
    part: Reconstruction, index: int, maps: FrameMaps, keep: Tensor, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World points, colours and confidence of at most so many of the pixels: at random, but the same each time."""
    pixels = keep.flatten().nonzero()[:, 0]
    if len(pixels) > most:
        pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:most]]
    rgb = np.full((len(pixels), 3), 170, np.uint8) if maps.rgb is None else maps.rgb.flatten(0, 1)[pixels].numpy()
    return part.world_points(index, maps, pixels).double().numpy(), rgb, maps.confidence.flatten()[pixels].numpy()


def _torn(depth: Float[Tensor, "H W"]) -> Tensor:
    """Where depth jumps by more than a twentieth to a neighbour: such pixels hang in the air between two surfaces."""
    around = np.ones((3, 3), np.uint8)
    values = depth.numpy()
    return torch.from_numpy(cv2.dilate(values, around) > 1.05 * cv2.erode(values, around))


def _tidied(xyz: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """Indices of at most `MAX_POINTS` points: the most trusted one of each cell, cells growing with the distance."""
    offset = xyz - np.median(xyz, axis=0) if len(xyz) else xyz
    radius = np.linalg.norm(offset, axis=-1)
    order = np.argsort(-trust, kind="stable")
    # One wild point would shrink the rest to a dot.
    order = order[radius[order] <= 3 * np.percentile(radius, 95)] if len(xyz) else order
    if len(order) <= MAX_POINTS:
        return order
    offset, radius = offset[order], radius[order, None]
    warped = offset / (radius + 1e-12) * np.log1p(radius / (np.median(radius) + 1e-12))
    cell = 0.005
    while True:
        keys = np.floor(warped / cell).astype(np.int64) + (1 << 19)
        first = np.unique((keys[:, 0] << 40) | (keys[:, 1] << 20) | keys[:, 2], return_index=True)[1]
        if len(first) <= MAX_POINTS:
            return order[first]
        cell *= 1.15


def _trails(part: Reconstruction) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Frames, positions [K, S, 3] and visibility of tracks that move."""
    if part.tracks is None or not bool(part.tracks.moving.any()):
        return [], np.zeros((0, 0, 3)), np.zeros((0, 0), np.uint8)
    steps = np.unique(np.linspace(0, len(part.frames) - 1, min(len(part.frames), MAX_TRAIL_STEPS)).astype(int))
    which = part.tracks.moving.nonzero()[:, 0]
    which = which[np.unique(np.linspace(0, len(which) - 1, min(len(which), MAX_TRAILS)).astype(int))]
    xyz = part.tracks.xyz[steps][:, which].double().transpose(0, 1).numpy()
    seen = part.tracks.visible[steps][:, which].T.numpy() & np.isfinite(xyz).all(-1)
    middle = np.median(xyz[seen], axis=0) if seen.any() else np.zeros(3)
    return steps.tolist(), np.where(seen[..., None], xyz, middle), seen.astype(np.uint8)


def upright(poses: np.ndarray) -> np.ndarray:
    """Rotation from the world into axes with y up, x and -z level, looking the way the cameras look on the whole."""
    up = -poses[:, :3, 1].mean(0)
    up = up if np.linalg.norm(up) > 0.1 else -poses[0, :3, 1]
    up = up / np.linalg.norm(up)
    ahead = poses[:, :3, 2].mean(0)
    level = ahead - (ahead @ up) * up
    if np.linalg.norm(level) < 0.05:
        level = np.cross(up, poses[0, :3, 0])
    back = -level / np.linalg.norm(level)
    return np.stack([np.cross(up, back), up, back])


def _display(xyz: np.ndarray, poses: np.ndarray) -> Display:
    centres = poses[:, :3, 3]
    centre = np.median(xyz, axis=0) if len(xyz) else centres.mean(0)
    spread = np.linalg.norm((xyz if len(xyz) else centres) - centre, axis=-1)
    size = float(np.median(spread)) if len(spread) else 1.0
    return Display(turn=upright(poses), centre=centre, zoom=1 / size if size > 1e-9 else 1.0)


def _first_view(points: np.ndarray, poses: np.ndarray, display: Display) -> dict[str, Any]:
    """From behind and above the cameras, near enough that the points fill the picture, unless that hides the path."""
    centres = display.place(poses[:, :3, 3])
    target = points.mean(0) * 0.7 + centres.mean(0) * 0.3 if len(points) else centres.mean(0)
    reach = np.linalg.norm(np.concatenate([points, centres]) - target, axis=-1)
    near = max(float(2.0 * np.percentile(reach, 80)), 0.5)
    distances = near * np.geomspace(1, FARTHER, 8)
    distance = next((far for far in distances if _share_in_picture(centres - target, far) >= 0.9), distances[-1])
    return {"target": _short(target), "distance": round(float(distance), 4), "yaw": YAW, "pitch": PITCH}


def _share_in_picture(offset: np.ndarray, distance: float) -> float:
    """How many of the places, from what is looked at, lie in the viewer's picture with a margin; 3:2 and wider."""
    sine, cosine = np.sin([YAW, PITCH]), np.cos([YAW, PITCH])
    right = np.array([cosine[0], 0, -sine[0]])
    back = np.array([cosine[1] * sine[0], sine[1], cosine[1] * cosine[0]])
    ahead = distance - offset @ back
    across, upwards = np.abs(offset @ right), np.abs(offset @ np.cross(back, right))
    return float(np.mean((ahead > 0) & (across < 1.5 * MARGIN * ahead) & (upwards < MARGIN * ahead)))


def _camera(part: Reconstruction, index: int, display: Display) -> list[float] | None:
    """Rotation (rows), centre and half openings (tangents) of one camera in the display frame."""
    if not bool(part.cameras.found[index]):
        return None
    pose, matrix = part.cameras.world_from_cam[index].double().numpy(), part.cameras.intrinsics[index].double().numpy()
    info = part.frames[index]
    opening = [info.width / 2 / matrix[0, 0], info.height / 2 / matrix[1, 1]]
    return _short(np.concatenate([(display.turn @ pose[:3, :3]).ravel(), display.place(pose[:3, 3]), opening]))


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _binary(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
