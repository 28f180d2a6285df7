"""A step of which a loss or gradient is not finite, put aside: `replay` does it again where one can look."""

import math
from pathlib import Path
from typing import Any

import torch

from unproject.data.base import Sample
from unproject.errors import UnprojectError
from unproject.io import disk
from unproject.training import checkpoint
from unproject.training.loader import Fetched
from unproject.types import Known, Labels, MovingTracks, Tracks, Views

STATE, CLIPS, LOSSES = "state.pt", "clips.pt", "losses.json"


class BadStep:
    """The state before a step, the clips of its passes, and what came of them."""

    def __init__(
        self,
        state: dict[str, Any],
        taken: list[Fetched],
        numbers: list[dict[str, float]],
        norms: dict[str, float],
    ) -> None:
        self.state, self.taken, self.numbers, self.norms = state, taken, numbers, norms

    def keep(self, run: Path) -> UnprojectError:
        """Write all of it into the run's folder; the error to raise, which says where."""
        step = self.state["step"]
        folder = run / f"bad_step_{step}"
        checkpoint.write(folder / STATE, self.state)
        checkpoint.write(folder / CLIPS, {"passes": [self._plain(taken) for taken in self.taken]})
        disk.write_json(folder / LOSSES, {"step": step, "passes": self._said(), "gradient_norms": _words(self.norms)})
        bad = [name for said in (*self.numbers, self.norms) for name, value in said.items() if not math.isfinite(value)]
        return UnprojectError(
            f"step {step}: {', '.join(dict.fromkeys(bad))} is not finite; its clips and the state before it lie in "
            f"{folder}, --replay {folder} does the step again and says where it breaks"
        )

    def _plain(self, taken: Fetched) -> dict[str, Any]:
        return {"source": taken.draw.source, "sample": taken.clips}

    def _said(self) -> list[dict[str, Any]]:
        return [
            {"numbers": taken.draw.numbers, "names": taken.clips.names, "losses": _words(said)}
            for taken, said in zip(self.taken, self.numbers, strict=True)
        ]


def _words(numbers: dict[str, float]) -> dict[str, float | str]:
    """JSON has no word for what is not finite."""
    return {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}


def read_clips(folder: Path) -> list[tuple[int, Sample]]:
    """Number of the source, and the clips, of each pass of a bad step."""
    with torch.serialization.safe_globals([Sample, Views, Labels, Known, Tracks, MovingTracks]):
        return [(kept["source"], kept["sample"]) for kept in checkpoint.read(folder / CLIPS)["passes"]]
