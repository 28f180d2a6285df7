"""Rendered clips for the benchmark: what a phone would film in a room, written to image files, with the whole truth."""

from pathlib import Path

import cv2
import torch

from benchmarks.clips import Clip
from unproject.data.synthetic import Sensor, handheld_clip

ROOMS = {"synthetic_static": (1, False), "synthetic_dynamic": (4, True)}
"""Seed of the room, and whether things move in it."""


def film(name: str, folder: Path) -> Clip:
    """Two seconds at 400x300 with motion blur, noise and JPEG; PNG files are written to `folder`."""
    seed, moving = ROOMS[name]
    data = handheld_clip(seed, frames=60, height=300, width=400, moving=moving, sensor=Sensor(samples=3))
    files = tuple(folder / f"{name}_{index:04d}.png" for index in range(len(data.images)))
    for file, image in zip(files, data.images, strict=True):
        cv2.imwrite(str(file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    depth = torch.where(data.valid, data.depth, 0)
    return Clip(
        name=name,
        files=files,
        ordered=True,
        unit="m",
        world_from_cam=data.world_from_cam.double(),
        intrinsics=data.intrinsics.double(),
        depth=depth.__getitem__,
        moving=data.motion.__getitem__ if moving else None,
    )
