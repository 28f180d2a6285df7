"""One frame made ready for matching, and what matching needs everywhere: where pixels land, lookups there, flow."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Num, Shaped, UInt8
from torch import Tensor

from unproject.geometry import camera

FARTHEST_PX = 1e4
"""OpenCV looks pixels up with 16 bits; what lands farther away is outside any image all the same."""
LEAST_SIDE = 12
"""Pixels of the longer side below which dense inverse search refuses an image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One frame at network resolution and its camera."""

    rgb: UInt8[np.ndarray, "H W 3"]
    grey: UInt8[np.ndarray, "H W"]
    slopes: Float32[np.ndarray, "H W 3"]
    """Grey, slightly smoothed, and its slopes along u and v."""
    pixels: Float32[np.ndarray, "H W 2"]
    """Pixel centres."""
    rays: Float32[np.ndarray, "H W 3"]
    """Undistorted viewing rays with z = 1; in memory plane by plane."""
    intrinsics: Float[Tensor, "3 3"]
    distortion: Float[Tensor, "5"]
    world_from_cam: Float64[np.ndarray, "4 4"]


def make_view(
    rgb: UInt8[np.ndarray, "H W 3"],
    intrinsics: Float[Tensor, "3 3"],
    distortion: Float[Tensor, "5"],
    world_from_cam: Float[Tensor, "4 4"],
) -> View:
    """The camera is that of these very pixels."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.7)
    slopes = np.dstack([smooth, cv2.Scharr(smooth, -1, 1, 0) / 32, cv2.Scharr(smooth, -1, 0, 1) / 32])
    pixels, rays = _grid(*grey.shape, tuple(intrinsics.flatten().tolist()), tuple(distortion.tolist()))
    return View(
        rgb=rgb,
        grey=grey,
        slopes=slopes,
        pixels=pixels,
        rays=rays,
        intrinsics=intrinsics.float(),
        distortion=distortion.float(),
        world_from_cam=world_from_cam.double().numpy(),
    )


@lru_cache(maxsize=16)
def _grid(
    height: int, width: int, intrinsics: tuple[float, ...], distortion: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres and rays; frames of one video share them."""
    pixels = camera.pixel_grid(height, width)
    matrix, lens = torch.tensor(intrinsics).reshape(3, 3), torch.tensor(distortion)
    rays = camera.rays(pixels.flatten(0, 1), matrix, lens if lens.any() else None)
    return pixels.numpy(), np.moveaxis(rays.T.contiguous().reshape(3, height, width).numpy(), 0, -1)


def relative_pose(source: View, target: View) -> Float64[np.ndarray, "4 4"]:
    """target_from_source."""
    return np.linalg.inv(target.world_from_cam) @ source.world_from_cam


def landing(source: View, target: View, inverse_depth: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W 2"]:
    """Pixels of the target at which the source's surface is seen if it is at rest; far outside if behind the target."""
    pose = relative_pose(source, target)[:3]
    if target.distortion.any():
        points = _moved(pose, source, inverse_depth).reshape(3, -1).T
        uv = camera.project(torch.from_numpy(points), target.intrinsics, target.distortion)
        return uv.clamp_(-FARTHEST_PX, FARTHEST_PX).reshape(source.pixels.shape).numpy()
    u, v, w = _moved(target.intrinsics.double().numpy() @ pose, source, inverse_depth)
    np.maximum(w, 1e-6, out=w)  # what lies behind the target ends far outside of it
    return cv2.merge([np.clip(u / w, -FARTHEST_PX, FARTHEST_PX), np.clip(v / w, -FARTHEST_PX, FARTHEST_PX)])


def _moved(matrix: np.ndarray, source: View, inverse_depth: np.ndarray) -> np.ndarray:
    """A 3x4 matrix times the source's points over their depths: [3 H W]."""
    matrix = matrix.astype(np.float32)
    x, y, _ = np.moveaxis(source.rays, -1, 0)
    # By hand: BLAS would wake its own threads for it.
    return np.stack([a * x + b * y + (c + d * inverse_depth) for a, b, c, d in matrix])


def relative_depth(source: View, target: View, inverse_depth: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """Depth of the source's surface in the target over its depth in the source."""
    return _moved(relative_pose(source, target)[2:3], source, inverse_depth)[0]


def lookup(
    values: Num[np.ndarray, "H W *C"], uv: Float32[np.ndarray, "h w 2"], outside: float | None = None
) -> Num[np.ndarray, "h w *C"]:
    """Bilinear lookup at pixels; beyond the edge the nearest pixel, or ``outside`` where that is given."""
    border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    places = uv - np.float32(0.5)  # OpenCV counts pixel centres by integers
    return cv2.remap(values, places, None, cv2.INTER_LINEAR, borderMode=border, borderValue=[outside or 0.0] * 4)


def inside(uv: Float32[np.ndarray, "h w 2"], image: Shaped[np.ndarray, "H W *C"]) -> Bool[np.ndarray, "h w"]:
    """Which lookups need no pixel beyond the edge."""
    height, width = image.shape[:2]
    u, v = uv[..., 0], uv[..., 1]
    return (u >= 0.5) & (v >= 0.5) & (u <= width - 0.5) & (v <= height - 0.5)


def length(vectors: Float32[np.ndarray, "*HW C"]) -> Float32[np.ndarray, "*HW"]:
    """Euclidean length along the last axis."""
    return np.sqrt(np.einsum("...c,...c->...", vectors, vectors))


def flow_between(
    source: UInt8[np.ndarray, "H W"], target: UInt8[np.ndarray, "H W"], *, thorough: bool = False
) -> Float32[np.ndarray, "H W 2"]:
    """Dense inverse search (Kroeger et al. 2016) down to whole pixels: its preset stops at half of them.

    Thorough takes twice the time; it pays between far views and gains nothing between frames of a video (measured).
    """
    presets = (cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search = cv2.DISOpticalFlow.create(presets[thorough])
    search.setFinestScale(0)
    search.setVariationalRefinementIterations(2 if thorough else 0)
    height, missing = len(source), LEAST_SIDE - len(source)
    if max(source.shape) < LEAST_SIDE:
        source, target = (cv2.copyMakeBorder(grey, 0, missing, 0, 0, cv2.BORDER_REPLICATE) for grey in (source, target))
    return search.calc(source, target, None)[:height]
