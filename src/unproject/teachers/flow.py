"""Dense flow without weights: DIS both ways, trusted where it comes back to where it started."""

import threading
from dataclasses import dataclass
from typing import final

import cv2
import numpy as np
import torch

from unproject.teachers.base import Shot, Teacher
from unproject.types import Known, Labels

_LOCAL = threading.local()


@final
@dataclass(frozen=True)
class DisTeacher(Teacher):
    """Flow of each pair; its weight is covisibility in [0, 1]."""

    def label(self, shot: Shot) -> Labels:
        """`Labels.flow` with value [1, P, H, W, 2] and weight [1, P, H, W]."""
        greys = [cv2.cvtColor(shot.images[view], cv2.COLOR_RGB2GRAY) for view in shot.views]
        flows, weights = [], []
        for source, target in shot.pairs:
            forward, backward = flow_both_ways(greys[source], greys[target])
            flows.append(torch.from_numpy(forward))
            weights.append(torch.from_numpy(covisibility(forward, backward)))
        return Labels(flow=Known(torch.stack(flows)[None], torch.stack(weights)[None]))


def flow_both_ways(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flow (float32 [H, W, 2], pixels) between two uint8 images [H, W] of one size, there and back.

    Finest scale 0: the preset stops at half resolution, and depth from it was a third less accurate on a static scene.
    """
    if one.shape != two.shape:
        raise ValueError(f"flow needs images of one size, got {one.shape} and {two.shape}")
    engine = _engine()
    return engine.calc(one, two, None), engine.calc(two, one, None)


def _engine() -> cv2.DISOpticalFlow:
    """One per thread: it keeps buffers and is not safe to share."""
    if not hasattr(_LOCAL, "engine"):
        _LOCAL.engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        _LOCAL.engine.setFinestScale(0)
    return _LOCAL.engine


def round_trip_px(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """How far from its start a pixel lands after going there and back, [H, W]; infinite where it leaves the image."""
    height, width = forward.shape[:2]
    column, row = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = column + forward[..., 0], row + forward[..., 1]
    back = cv2.remap(backward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    error = np.linalg.norm(forward + back, axis=2)
    return np.where((x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1), error, np.inf)


def covisibility(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Weight in [0, 1], float32 [H, W]: 1 where the round trip closes, half at 0.7 px, 0 out of the image."""
    return (1 / (1 + (round_trip_px(forward, backward) / 0.7) ** 2)).astype(np.float32)
