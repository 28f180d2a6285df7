"""Depth of one frame from flow to several others: each flow triangulated along the pixel's ray, then all made one."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int

from unproject.geometry.rays import inverse_depth_along_ray
from unproject.inference.view import View, flow_between, inside, landing, length, lookup, relative_pose

RETURN_PX, FARTHEST_RETURN_PX = 0.7, 3.0
"""Flow that misses its start by the first on its way back counts half, by the second not at all."""
OUTLIER_PX = 0.7
MODEL_ERROR = 0.005
"""Relative error of inverse depth that more parallax does not mend: poses, lens, sampling."""
PLAIN = 400.0
"""Squared grey slope, summed over a patch, below which noise decides where flow goes."""
PATCH = 9


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What the flow to one other view says of each pixel."""

    inverse_depth: Float32[np.ndarray, "*K H W"]
    trust: Float32[np.ndarray, "*K H W"]
    """In [0, 1]."""
    epipolar_px: Float32[np.ndarray, "*K H W"]
    """What no depth explains."""
    sensitivity: Float32[np.ndarray, "*K H W"]
    """Pixels that the match moves per unit of inverse depth."""
    noise: Float32[np.ndarray, "*K H W"]
    """Variance of flow along the epipolar line, 1 where there is texture."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The depth that most sightings agree on."""

    inverse_depth: Float32[np.ndarray, "H W"]
    error: Float32[np.ndarray, "H W"]
    """Expected relative error."""
    agreeing: Int[np.ndarray, "H W"]
    """Number of trusted sightings that agree."""


def sight(view: View, other: View, prior: Float32[np.ndarray, "H W"], *, thorough: bool = False) -> Sighting:
    """Match with a view from another place. ``prior`` is a guess of inverse depth.

    The other image is first moved to where the guess sees it, so that flow has to find only what the guess lacks: far
    views, turned or nearer ones, match as easily as the next frame of a video.
    """
    guess = landing(view, other, prior)
    moved = lookup(other.grey, guess)
    there = flow_between(view.grey, moved, thorough=thorough)
    back = flow_between(moved, view.grey, thorough=thorough)
    matched = view.pixels + there
    missed = length(there + lookup(back, matched, outside=1e3))
    return sighting(view, other, lookup(guess, matched), missed)


def sighting(
    view: View, other: View, target: Float32[np.ndarray, "H W 2"], missed: Float32[np.ndarray, "H W"]
) -> Sighting:
    """Depth from where each pixel is found in the other view. ``missed`` is by how much its way back fails, pixels."""
    missed[~inside(target, other.grey)] = 1e3
    ray_depth = inverse_depth_along_ray(
        torch.from_numpy(view.rays[..., :2]).flatten(0, 1),
        torch.from_numpy(lookup(np.ascontiguousarray(other.rays[..., :2]), target)).flatten(0, 1),
        torch.as_tensor(relative_pose(view, other), dtype=torch.float32),
    )
    focal = float(other.intrinsics[0, 0])
    inverse_depth, in_front, epipolar, sensitivity = (
        value.reshape(missed.shape).numpy()
        for value in (ray_depth.inverse_depth, ray_depth.relative_depth, ray_depth.epipolar, ray_depth.sensitivity)
    )
    epipolar *= focal
    known = (in_front > 0.05) & (inverse_depth > 0) & (missed < FARTHEST_RETURN_PX)
    trust = known / ((1 + (missed / RETURN_PX) ** 2) * (1 + epipolar**2))
    return Sighting(
        inverse_depth=inverse_depth,
        trust=trust.astype(np.float32),
        epipolar_px=epipolar,
        sensitivity=np.maximum(sensitivity * focal, 1e-6),
        noise=1 + PLAIN / (_texture_along_epipolar(view, other) + 1e-3),
    )


def _texture_along_epipolar(view: View, other: View) -> Float32[np.ndarray, "H W"]:
    """Squared grey slope in the direction in which depth moves the match, summed over a patch."""
    epipole = np.linalg.inv(relative_pose(view, other))[:3, 3].astype(np.float32)
    focal = view.intrinsics.diagonal()[:2].numpy()
    direction = (epipole[:2] - view.rays[..., :2] * epipole[2]) * focal
    along = np.einsum("hwc,hwc->hw", view.slopes[..., 1:], direction) ** 2
    square = np.einsum("hwc,hwc->hw", direction, direction)
    return cv2.boxFilter(along / (square + 1e-12), -1, (PATCH, PATCH), normalize=False)


def fuse(sightings: Sequence[Sighting], steps: int = 6) -> Fused:
    """Robust mean of inverse depth, weighted by how much parallax each sighting has, from their weighted median."""
    w, trust, epipolar, sensitivity, noise = (
        np.stack([getattr(one, name) for one in sightings])
        for name in ("inverse_depth", "trust", "epipolar_px", "sensitivity", "noise")
    )
    information = trust / (noise / sensitivity**2 + (MODEL_ERROR * w) ** 2)
    tolerance = 1 / sensitivity + MODEL_ERROR * np.abs(w)
    middle = _weighted_median(w, information)
    total = np.zeros_like(middle)
    for _ in range(steps):
        weight = information / (1 + ((w - middle) / (OUTLIER_PX * tolerance)) ** 2)
        total = weight.sum(0)
        middle = (weight * w).sum(0) / np.maximum(total, 1e-12)
    off = np.abs(w - middle) / tolerance
    scatter = (trust * (np.minimum(off**2, 9) + 0.5 * epipolar**2)).sum(0) / np.maximum(trust.sum(0), 1e-6)
    deviation = np.sqrt((0.25 + scatter) / np.maximum(total, 1e-12))
    return Fused(
        inverse_depth=middle,
        error=np.clip(deviation / np.maximum(middle, 1e-9), 1e-3, 10),
        agreeing=((off < 1.5) & (trust > 0.1)).sum(0),
    )


def _weighted_median(values: Float32[np.ndarray, "K H W"], weight: Float32[np.ndarray, "K H W"]) -> np.ndarray:
    order = np.argsort(values, 0)
    reached = np.cumsum(np.take_along_axis(weight, order, 0), 0)
    place = (reached < reached[-1:] / 2).sum(0, keepdims=True).clip(max=len(values) - 1)
    return np.take_along_axis(values, np.take_along_axis(order, place, 0), 0)[0]
