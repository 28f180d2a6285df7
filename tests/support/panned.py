"""Pictures of a textured plane that slides by, as a decoder gives them: how much stays in sight is known."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from planar_world import texture

from unproject.labelling.cutting import Frame

WIDTH, HEIGHT = 256, 192


def panned(shifts_px: Sequence[float], *, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """A frame (uint8 RGB) for each way to the right from the start, in pixels; each seed is another picture."""
    canvas = texture(height, width + 1 + int(max(shifts_px)), seed)
    frames = []
    for shift in shifts_px:
        matrix = np.array([[1.0, 0.0, -shift], [0.0, 1.0, 0.0]])
        grey = cv2.warpAffine(canvas, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        frames.append(np.repeat(grey[..., None], 3, axis=2))
    return frames


def steady(frames: int, px: float) -> list[float]:
    """Ways of a pan at an even pace."""
    return [px * number for number in range(frames)]


def as_frames(images: Sequence[np.ndarray], fps: float = 30.0) -> Iterator[Frame]:
    """With numbers and times."""
    return (Frame(number, number / fps, image) for number, image in enumerate(images))
