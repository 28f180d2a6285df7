"""What two views say about each other: relative rotation, focal length, and whether there is any parallax."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from unproject.inference.reprojection import unit_rays

FOCAL_SWEEP = np.geomspace(0.5, 2.5, 33)
"""Candidate focal lengths as multiples of the long image side."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two views with their common points, in pixels from the principal points."""

    a: int
    b: int
    xy_a: np.ndarray
    xy_b: np.ndarray
    fundamental: np.ndarray
    """3x3 between centred pixels: ``b^T F a = 0``."""
    inliers: int


@dataclass(frozen=True, kw_only=True)
class RelativeRotation:
    """``a_from_b`` with how many points stand behind it."""

    a: int
    b: int
    a_from_b: np.ndarray
    inliers: int


def fit_pair(a: int, b: int, xy_a: np.ndarray, xy_b: np.ndarray, *, scale_px: float, seed: int) -> Pair | None:
    """MAGSAC fundamental matrix; None where fewer than 15 points or 25 % agree on one."""
    if len(xy_a) < 15:
        return None
    matrix, mask = _estimate(cv2.findFundamentalMat, xy_a, xy_b, _magsac(scale_px, 0.999, seed))
    if matrix is None or matrix.shape != (3, 3):
        return None
    keep = mask.ravel().astype(bool)
    if keep.sum() < max(15, 0.25 * len(keep)):
        return None
    return Pair(a=a, b=b, xy_a=xy_a[keep], xy_b=xy_b[keep], fundamental=matrix, inliers=int(keep.sum()))


def _estimate(estimator: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """A model and its mask, or None twice: OpenCV's estimators fail an assertion where no sample gives a model."""
    try:
        return estimator(*arguments)
    except cv2.error:
        return None, None


def _magsac(threshold: float, confidence: float, seed: int) -> cv2.UsacParams:
    params = cv2.UsacParams()
    params.score, params.sampler, params.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.SAMPLING_UNIFORM, cv2.LOCAL_OPTIM_SIGMA
    params.loIterations, params.loSampleSize, params.maxIterations = 10, 50, 5000
    params.final_polisher, params.final_polisher_iterations = cv2.MAGSAC, 3
    params.threshold, params.confidence, params.randomGeneratorState = threshold, confidence, seed
    params.isParallel = False
    return params


def all_flat(pairs: list[Pair], *, seed: int, looked_at: int = 30) -> bool:
    """Whether homographies (2 px) explain 80 % of the points of most of the widest pairs: one plane, or no parallax."""
    widest = sorted(pairs, key=lambda pair: -float(np.median(np.linalg.norm(pair.xy_a - pair.xy_b, axis=1))))
    flat = [_flat_share(pair, seed) > 0.8 for pair in widest[:looked_at]]
    return not flat or float(np.mean(flat)) > 0.6


def _flat_share(pair: Pair, seed: int) -> float:
    _, mask = _estimate(cv2.findHomography, pair.xy_a, pair.xy_b, _magsac(2.0, 0.999, seed))
    return 0.0 if mask is None else float(mask.mean())


def focal_start(pairs: list[Pair], long_side_px: float) -> float:
    """One focal length that makes all fundamental matrices most nearly essential (equal singular values).

    Falls back to the long side where the best lies outside (0.6, 2) long sides: such optima are noise.
    """
    if not pairs:
        return long_side_px
    matrices = np.stack([pair.fundamental for pair in pairs])
    weight = np.sqrt([pair.inliers for pair in pairs])
    costs = [weight @ np.minimum(_asymmetry(matrices, factor * long_side_px), 0.3) for factor in FOCAL_SWEEP]
    best = FOCAL_SWEEP[int(np.argmin(costs))]
    return float(best * long_side_px) if 0.6 < best < 2.0 else float(long_side_px)


def _asymmetry(fundamental: np.ndarray, focal: float) -> np.ndarray:
    """(s1 - s2) / (s1 + s2) of E = K^T F K; 0 for a true essential matrix."""
    camera = np.diag([focal, focal, 1.0])
    singular = np.linalg.svd(camera @ fundamental @ camera, compute_uv=False)
    return (singular[:, 0] - singular[:, 1]) / (singular[:, 0] + singular[:, 1])


def robust_rotation(rays_a: np.ndarray, rays_b: np.ndarray, scale_rad: float) -> np.ndarray:
    """``a_from_b`` that best turns one bundle of unit rays into the other (Wahba), Cauchy-weighted, 10 rounds."""
    weight = np.ones(len(rays_a))
    rotation = np.eye(3)
    for _ in range(10):
        u, _, vt = np.linalg.svd((weight[:, None] * rays_a).T @ rays_b)
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        error2 = ((rays_a - rays_b @ rotation.T) ** 2).sum(1)
        weight = 1 / (1 + error2 / max(scale_rad, np.sqrt(np.median(error2))) ** 2)
    return rotation


def relative_rotation(pair: Pair, focal_a: float, focal_b: float, *, seed: int) -> RelativeRotation | None:
    """Rotation from the essential matrix; of its two rotations, the one near the rotation-only fit.

    The two differ by half a turn, so this needs no cheirality test, which has nothing to hold on to where parallax is
    small.
    Where rays agree within a pixel after rotation alone, that rotation is the answer.
    """
    rays_a = unit_rays(pair.xy_a, np.full(len(pair.xy_a), focal_a))
    rays_b = unit_rays(pair.xy_b, np.full(len(pair.xy_b), focal_b))
    focal = np.sqrt(focal_a * focal_b)
    turned = robust_rotation(rays_a, rays_b, 1 / focal)
    parallax_px = focal * np.median(np.linalg.norm(rays_a - rays_b @ turned.T, axis=1))
    if parallax_px < 1.0:
        return RelativeRotation(a=pair.a, b=pair.b, a_from_b=turned, inliers=pair.inliers)
    plane_a, plane_b = pair.xy_a / focal_a, pair.xy_b / focal_b
    identity, nothing = np.eye(3), np.zeros(5)
    params = _magsac(1.5 / focal, 0.9999, seed)
    essential, mask = _estimate(cv2.findEssentialMat, plane_b, plane_a, identity, identity, nothing, nothing, params)
    if essential is None or essential.shape != (3, 3) or mask.sum() < 12:
        return None
    candidates = cv2.decomposeEssentialMat(essential)[:2]
    best = max(candidates, key=lambda rotation: np.trace(rotation.T @ turned))
    return RelativeRotation(a=pair.a, b=pair.b, a_from_b=best, inliers=int(mask.sum()))
