"""What a solver answered for one clip: cameras, time per stage, memory."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Solved:
    """One solver's answer; frames in the clip's order."""

    world_from_cam: Tensor
    """[N, 4, 4] float64; anything where not found."""
    found: Tensor
    """[N] bool: in the largest model."""
    stages_s: dict[str, float]
    """Wall seconds per stage, without interpreter start and imports."""
    peak_mib: float
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Total wall time."""
        return sum(self.stages_s.values())
