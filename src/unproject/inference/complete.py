"""Inverse depth where none was measured: the smoothest surface that bends only where the picture has edges."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

EDGE_GREY = 6.0
"""Step in brightness across which a surface is e times more likely to end."""
LINK = 1e-3
"""Hold across even the strongest edge; without it an outlined patch would float."""
DISBELIEF = 0.05
"""Relative misfit at which a measurement counts half in the second round."""


def edge_links(
    rgb: UInt8[np.ndarray, "H W 3"], least: float = LINK
) -> tuple[Float32[np.ndarray, "H W-1"], Float32[np.ndarray, "H-1 W"]]:
    """How firmly each pixel is tied to its right and its lower neighbour, in (0, 1 + least]."""
    colour = rgb.astype(np.int16)
    right, down = (np.abs(np.diff(colour, axis=axis)).max(-1) for axis in (1, 0))
    return tuple(np.exp(step / np.float32(-EDGE_GREY)) + np.float32(least) for step in (right, down))


def smooth(
    data: Float32[np.ndarray, "H W"],
    weight: Float32[np.ndarray, "H W"],
    links: tuple[Float32[np.ndarray, "H W-1"], Float32[np.ndarray, "H-1 W"]],
    start: Float32[np.ndarray, "H W"],
    iterations: int,
) -> Float32[np.ndarray, "H W"]:
    """Minimum of sum weight (x - data)^2 + sum link (x_p - x_q)^2, by conjugate gradients from ``start``."""
    right, down = links
    diagonal = weight.copy()
    for ends in (diagonal[:, 1:], diagonal[:, :-1]):
        ends += right
    for ends in (diagonal[1:], diagonal[:-1]):
        ends += down

    def normal(x: np.ndarray) -> np.ndarray:
        out = diagonal * x
        out[:, 1:] -= right * x[:, :-1]
        out[:, :-1] -= right * x[:, 1:]
        out[1:] -= down * x[:-1]
        out[:-1] -= down * x[1:]
        return out

    x = start.copy()
    residual = weight * data - normal(x)
    scaled = residual / diagonal
    direction, size = scaled.copy(), float(np.vdot(residual, scaled))
    for _ in range(iterations):
        image = normal(direction)
        along = float(np.vdot(direction, image))
        if along <= 0 or size <= 0:
            break
        step = np.float32(size / along)
        x += step * direction
        residual -= step * image
        scaled = residual / diagonal
        before, size = size, float(np.vdot(residual, scaled))
        direction *= np.float32(size / before)
        direction += scaled
    return x


def complete(
    inverse_depth: Float32[np.ndarray, "H W"],
    known: Bool[np.ndarray, "H W"],
    rgb: UInt8[np.ndarray, "H W 3"],
    least: float = LINK,
) -> Float32[np.ndarray, "H W"]:
    """Keep what is known, fill the rest; something must be known. All positive."""
    unit = np.median(inverse_depth[known])
    data = np.clip(inverse_depth / unit, 0.02, 50)
    weight, links = known.astype(np.float32), edge_links(rgb, least)
    filled = smooth(data, weight, links, _spread(data, weight), 120)
    weight /= 1 + ((data - filled) / DISBELIEF) ** 2
    filled = smooth(data, weight, links, filled, 120)
    return np.where(known, data, np.maximum(filled, 0.02)) * unit


def _spread(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A start for the solver: each pixel the mean of what is known in the smallest block that knows anything."""
    sums = [(data * weight, weight)]
    while max(sums[-1][0].shape) > 2:
        half = tuple((side + 1) // 2 for side in reversed(sums[-1][0].shape))
        sums.append(tuple(cv2.resize(one, half, interpolation=cv2.INTER_AREA) for one in sums[-1]))
    top, mass = sums[-1]
    out = np.full_like(top, top.sum() / mass.sum())
    trace = np.float32(1e-3) * mass.mean()
    for top, mass in reversed(sums):
        out = cv2.resize(out, top.shape[::-1], interpolation=cv2.INTER_LINEAR)
        out = (top + trace * out) / (mass + trace)
    return out
