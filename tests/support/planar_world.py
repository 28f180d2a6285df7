"""A textured plane seen through known maps of the image: what becomes of every pixel is known exactly."""

import cv2
import numpy as np


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise of several sizes, uint8 [H, W]: detail everywhere, and no pixel-sized detail that warping loses."""
    rng = np.random.default_rng(seed)
    layers = []
    for sigma in (1.5, 3.0, 6.0, 12.0):
        noise = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), sigma)
        layers.append(noise / noise.std())
    mix = sum(layers)
    return np.clip(128 + 40 * mix / mix.std(), 0, 255).astype(np.uint8)


def about(centre: tuple[float, float], *, turn_deg: float = 0, zoom: float = 1, shift: tuple[float, float] = (0, 0)):
    """Turn and zoom about ``centre``, then shift: [3, 3] for pixels with centres at +0.5."""
    turn = np.deg2rad(turn_deg)
    linear = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.asarray(centre) - linear @ np.asarray(centre) + shift
    return matrix


def moved(matrix: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Pixels [P, 2] through a map [3, 3]."""
    there = uv @ matrix[:2, :2].T + matrix[:2, 2]
    return there / (uv @ matrix[2, :2] + matrix[2, 2])[:, None]


def seen_through(canvas: np.ndarray, image_from_canvas: np.ndarray, height: int, width: int) -> np.ndarray:
    """The canvas as an image of the given size shows it; black outside."""
    centre_from_corner = np.array([[1.0, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    matrix = centre_from_corner @ image_from_canvas @ np.linalg.inv(centre_from_corner)
    return cv2.warpPerspective(canvas, matrix, (width, height), flags=cv2.INTER_CUBIC)


def clip(steps: list[np.ndarray], height: int = 200, width: int = 260, seed: int = 0) -> list[np.ndarray]:
    """Grey frames whose first is a texture and whose n-th shows it through ``steps[n]`` (frame from first frame)."""
    border = 150
    canvas = texture(height + 2 * border, width + 2 * border, seed)
    first_from_canvas = np.array([[1.0, 0, -border], [0, 1, -border], [0, 0, 1]])
    return [seen_through(canvas, step @ first_from_canvas, height, width) for step in steps]
