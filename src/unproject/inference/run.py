"""What every way to a result shares: the record of a run, and what masks forbid to claim."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from unproject.io.images import resize
from unproject.io.source import Source
from unproject.io.writer import ResultWriter
from unproject.types import FlowMaps, FrameMaps


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time what happens inside."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Where the result goes, and what may become of what lies there; nowhere without a path."""

    path: str | Path | None
    overwrite: bool = False
    resume: bool = False

    def writer(self, opened: Source, identity: dict[str, Any]) -> ResultWriter | None:
        """Its writer; an interrupted run with the same identity may be gone on with."""
        if self.path is None:
            return None
        return ResultWriter(self.path, opened.infos, settings=identity, overwrite=self.overwrite, resume=self.resume)


def record(opened: Source, settings: dict[str, Any], clock: Clock, resumed: bool) -> dict[str, Any]:
    """The part of `run.json` that does not depend on how the result was made."""
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "version": version("unproject"),
        "argv": sys.argv[1:],
        "config": settings,
        "input": {
            "kind": opened.kind,
            "files": len({info.file for info in opened.infos}),
            "sha256": opened.content_hash,
        },
        "resumed": resumed,
        "timings_s": clock.seconds,
        "peak_memory_gib": round(rss / 2**20 / (1024 if sys.platform == "darwin" else 1), 3),
    }


def unclaimed(maps: FrameMaps, mask: np.ndarray | None) -> FrameMaps:
    """Nothing is claimed of pixels that touch a black one of the mask (bool, original pixels)."""
    if mask is None:
        return maps
    usable = _untouched(mask, maps.valid)
    return replace(maps, valid=maps.valid & usable, confidence=maps.confidence * usable, motion=maps.motion * usable)


def unclaimed_flow(maps: FlowMaps, mask: np.ndarray | None) -> FlowMaps:
    """The same of a pair, with the mask of its source."""
    if mask is None:
        return maps
    usable = _untouched(mask, maps.covisible)
    return replace(maps, covisible=maps.covisible & usable, motion=maps.motion * usable)


def _untouched(mask: np.ndarray, like: Bool[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
    """Pixels of such a map that touch no black one of the mask."""
    return torch.from_numpy(resize(mask.astype(np.uint8) * 255, *reversed(like.shape))) == 255
