"""A library of tiny videos that give clips, and teachers that misbehave at videos of a certain colour."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import cv2
import numpy as np
import torch

from unproject.errors import UsageError
from unproject.labelling.wishes import Wishes
from unproject.teachers.base import Shot, Teacher
from unproject.types import Known, Labels

WISHES = Wishes(long_side=96, views=2, most_clips=2, least_matches=16)
COLOURS = {"grey": (1.0, 1.0, 1.0), "red": (1.0, 0.3, 0.3), "green": (0.3, 1.0, 0.3), "blue": (0.3, 0.3, 1.0)}


def pan(seed: int, colour: str = "grey", frames: int = 16, step: int = 6) -> list[np.ndarray]:
    """A window of 96x72 pixels that moves over noise with something to follow at every scale."""
    rng = np.random.default_rng(seed)
    wide = 96 + frames * step
    wall = sum(cv2.resize(rng.uniform(0, 255, (72 // s, wide // s)), (wide, 72)) * s for s in (2, 4, 8)) / 14
    wall = np.clip((wall - 127) * 1.6 + 127, 0, 255)[..., None] * COLOURS[colour]
    return [wall[:, at : at + 96].astype(np.uint8) for at in range(0, frames * step, step)]


def write_library(folder: Path, write_video: Callable[..., Path], colours: Sequence[str]) -> Path:
    """A video of each colour, in this order."""
    folder.mkdir(parents=True)
    for number, colour in enumerate(colours):
        write_video(folder / f"{number}.mp4", pan(number, colour), options={"crf": "10"})
    return folder


def has_colour(shot: Shot, colour: str) -> bool:
    """Whether the shot is of a video of this colour."""
    means = shot.images[0].reshape(-1, 3).mean(0)
    return bool(means.argmax() == ("red", "green", "blue").index(colour) and means.min() < 0.5 * means.max())


@final
@dataclass(frozen=True)
class Flat(Teacher):
    """Depth of one, at next to no cost."""

    def label(self, shot: Shot) -> Labels:
        ones = torch.ones(1, len(shot.views), *shot.images[0].shape[:2])
        return Labels(mono_depth=Known(ones, ones))


@final
@dataclass(frozen=True)
class Faulty(Teacher):
    """Raises at red videos, gives labels that no shard takes at green ones, cannot work at all at blue ones."""

    def label(self, shot: Shot) -> Labels:
        if has_colour(shot, "red"):
            raise RuntimeError("no idea\nwhat this is")
        if has_colour(shot, "blue"):
            raise UsageError("a teacher without its package: pip install it")
        ones = torch.ones(1, len(shot.views), *shot.images[0].shape[:2])
        return Labels(mono_depth=Known(ones[..., 1:] if has_colour(shot, "green") else ones, ones))


@final
@dataclass(frozen=True)
class Deadly(Teacher):
    """Kills its process at red videos, as often as the file $DEATHS has lines; each death takes one."""

    def label(self, shot: Shot) -> Labels:
        left = Path(os.environ["DEATHS"])
        if has_colour(shot, "red") and (lines := left.read_text().splitlines()):
            left.write_text("".join(f"{line}\n" for line in lines[1:]))
            os.kill(os.getpid(), signal.SIGKILL)
        return Flat().label(shot)


@final
@dataclass(frozen=True)
class Stuck(Teacher):
    """Never comes back from red videos."""

    def label(self, shot: Shot) -> Labels:
        if has_colour(shot, "red"):
            time.sleep(3600)
        return Flat().label(shot)


@final
@dataclass(frozen=True)
class Chatty(Teacher):
    """Prints, as packages do."""

    def label(self, shot: Shot) -> Labels:
        print("a progress bar")
        return Flat().label(shot)


@final
@dataclass(frozen=True)
class Slow(Teacher):
    """Takes $SLOWLY seconds for each clip."""

    def label(self, shot: Shot) -> Labels:
        time.sleep(float(os.environ["SLOWLY"]))
        return Flat().label(shot)


def digests(folder: Path) -> dict[str, str]:
    """Of every file but the log."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "log.jsonl")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
