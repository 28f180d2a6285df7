"""Runs a solver on a clip in a process of its own and reads its answer."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.clips import Clip
from benchmarks.measure import measured
from unproject.io.result import Reconstruction


@dataclass(frozen=True, kw_only=True)
class Solved:
    """One solver's answer; frames in the clip's order."""

    world_from_cam: Tensor
    """[N, 4, 4] float64; NaN where the view is not in the largest model, the only one that counts."""
    seconds: float
    """Wall time of the call, without interpreter start and imports."""
    stages_s: dict[str, float]
    """Wall time per stage, as the solver tells it."""
    peak_mib: float
    notes: tuple[str, ...]
    """What the solver said of itself."""
    trial_s: float = 0.0
    """Of the wall time, what the network's trial took."""
    result: Reconstruction | None = None
    """Dense maps, where the solver makes them; they are read from the folder that it worked in."""

    @property
    def found(self) -> int:
        """Number of views with a camera."""
        return int(self.world_from_cam.isfinite().all(-1).all(-1).sum())


def ours(clip: Clip, work: Path, network: str = "tried") -> Solved:
    """`reconstruct` with its defaults, or with the compact network `never` or `always`. Raises RunFailed."""
    (work / "files.json").write_text(json.dumps([str(file) for file in clip.files]))
    answer, peak_mib = _run("child_ours", work, network)
    result = Reconstruction.load(work / "out")
    largest = result.only(result.components[0]) if result.components else result
    return Solved(
        world_from_cam=largest.cameras.world_from_cam.double(),
        seconds=answer["seconds"],
        trial_s=answer["trial_s"],
        stages_s=result.provenance["timings_s"],
        peak_mib=peak_mib,
        notes=tuple(result.provenance["notes"]),
        result=largest,
    )


def colmap(clip: Clip, work: Path) -> Solved:
    """COLMAP's incremental mapping of the same image files, without dense depth. Raises RunFailed."""
    (work / "images").mkdir()
    for index, file in enumerate(clip.files):
        (work / "images" / f"{index:06d}{file.suffix.lower()}").symlink_to(file)
    matching = "sequential" if clip.ordered else "exhaustive"
    answer, peak_mib = _run("child_colmap", work, matching)
    poses = torch.full((len(clip.files), 4, 4), torch.nan, dtype=torch.float64)
    for name, world_from_cam in answer["world_from_cam"].items():
        poses[int(Path(name).stem)] = torch.tensor([*world_from_cam, [0, 0, 0, 1]], dtype=torch.float64)
    return Solved(
        world_from_cam=poses,
        seconds=sum(answer["stages_s"].values()),
        stages_s=answer["stages_s"],
        peak_mib=peak_mib,
        notes=(f"{matching} matching", f"models of {answer['model_sizes']} views"),
    )


def _run(child: str, work: Path, *arguments: str) -> tuple[dict, float]:
    """The child's answer.json and its peak memory in MiB."""
    peak_mib = measured([sys.executable, str(Path(__file__).parent / f"{child}.py"), str(work), *arguments])
    return json.loads((work / "answer.json").read_text()), peak_mib
