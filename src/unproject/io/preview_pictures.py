"""The strips of the preview: photograph, depth, motion and confidence of a few frames as small JPEG pictures."""

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from unproject.io.result import Reconstruction
from unproject.types import FrameMaps

WIDTH = 400
"""Pixels of the longer side of a picture."""
_UNKNOWN = np.array([22, 25, 31], dtype=np.float32)
_MOVING = np.array([255, 92, 64], dtype=np.float32)


@dataclass(frozen=True)
class Strips:
    """Data URLs of the pictures, one row per kind, one column per frame."""

    columns: list[int]
    """Frame of each column."""
    rows: dict[str, list[str]]
    depths: tuple[float, float] | None
    """Depths at the two ends of the colours; None where none was measured."""


def strips(reconstruction: Reconstruction, columns: int = 8) -> Strips | None:
    """Pictures of frames spread evenly over the clip; None for a result without maps."""
    count = len(reconstruction.maps)
    if not count:
        return None
    chosen = np.unique(np.linspace(0, count - 1, min(columns, count)).round().astype(int)).tolist()
    maps = [reconstruction.maps[index] for index in chosen]
    measured = _inverse_depth_range(maps)
    low, high = measured or (0.5, 1.0)
    rows: dict[str, list[str]] = {"Image": [], "Depth": [], "Motion": [], "Confidence": []}
    for frame in maps:
        photo = np.full((*frame.depth.shape, 3), 40, np.uint8) if frame.rgb is None else frame.rgb.numpy()
        rows["Image"].append(_jpeg(photo))
        rows["Depth"].append(_jpeg(depth_picture(frame, low, high)))
        rows["Motion"].append(_jpeg(_motion_picture(photo, frame.motion.numpy())))
        rows["Confidence"].append(_jpeg(_coloured(frame.confidence.numpy(), cv2.COLORMAP_VIRIDIS)))
    return Strips(columns=chosen, rows=rows, depths=measured and (1 / high, 1 / low))


def _inverse_depth_range(maps: list[FrameMaps]) -> tuple[float, float] | None:
    """The same colours in every frame: inverse depth between its 1st and 99th percentile over all of them."""
    depths = [frame.depth[frame.valid & (frame.depth > 0)].numpy()[::7] for frame in maps]
    inverse = 1 / np.concatenate(depths)
    if not len(inverse):
        return None
    low, high = np.percentile(inverse, (1, 99))
    return float(low), float(max(high, low * 1.001))


def depth_picture(frame: FrameMaps, low: float, high: float) -> np.ndarray:
    """Near is warm, far is cold, by inverse depth; filled-in depth is subdued, nothing known is dark."""
    inverse = 1 / frame.depth.clamp(min=1e-12).numpy()
    picture = _coloured((inverse - low) / (high - low), cv2.COLORMAP_TURBO).astype(np.float32)
    valid = frame.valid.numpy()[..., None]
    filled = (frame.confidence.numpy()[..., None] > 0) & (frame.depth.numpy()[..., None] > 0)
    subdued = 0.35 * picture + 0.65 * _UNKNOWN
    return np.where(valid, picture, np.where(filled, subdued, _UNKNOWN)).astype(np.uint8)


def _motion_picture(photo: np.ndarray, motion: np.ndarray) -> np.ndarray:
    grey = photo.mean(-1, keepdims=True) * 0.5
    share = 0.7 * motion[..., None]
    return (grey * (1 - share) + _MOVING * share).astype(np.uint8)


def _coloured(value: np.ndarray, colours: int) -> np.ndarray:
    levels = (np.clip(value, 0, 1) * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, colours), cv2.COLOR_BGR2RGB)


def _jpeg(picture: np.ndarray) -> str:
    height, width = picture.shape[:2]
    shrink = min(1.0, WIDTH / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
