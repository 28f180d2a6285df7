"""A two-view network on WorldTrack (3D tracks and points in the first camera): `python -m benchmarks.worldtrack`.

Every frame is paired with the first one, as in Flow4R and St4RTrack; no camera is given. Numbers are those of
`evaluation.protocols.worldtrack`: one scale per sequence is forgiven, APD is the mean share within 0.1, 0.3, 0.5, 1 m.

    python -m benchmarks.worldtrack worldtrack_release/adt_mini --model weights.safetensors
    python -m benchmarks.worldtrack worldtrack_release/tum --tasks reconstruction
    python -m benchmarks.worldtrack --synthetic 3 --tasks tracking reconstruction
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.run import machine
from benchmarks.table import head, line
from unproject.errors import UnprojectError
from unproject.evaluation.protocols.worldtrack import (
    NEEDS,
    Answer,
    Score,
    SequenceScore,
    Task,
    mean_score,
    score_folder,
)
from unproject.evaluation.protocols.worldtrack_synthetic import write_synthetic
from unproject.geometry.camera import intrinsics_from_focal, pixel_grid, rays
from unproject.inference.anchored import Sequencing, anchored
from unproject.inference.network_input import BATCH
from unproject.models.base import Reconstructor
from unproject.models.loading import load

COLUMNS: dict[Task, tuple[str, ...]] = {"tracking": ("tracks", "moving tracks"), "reconstruction": ("reconstruction",)}


def answer(model: Reconstructor, tasks: Collection[Task], images: Float[Tensor, "T 3 h w"]) -> Answer:
    """What the network says of a sequence, on the processor; the frames' own points only where they are wanted."""
    device = next(model.parameters()).device
    both_sides = "reconstruction" in tasks
    wishes = Sequencing(batch=BATCH[device.type], both_sides=both_sides, least_overlap=0.0)
    places, points = [], []
    for frame in anchored(model, (image.to(device) for image in images), wishes):
        places.append(frame.places.cpu())
        if both_sides:
            points.append(frame.points.cpu())
    return Answer(places=torch.stack(places), points=torch.stack(points) if both_sides else None)


def flat(images: Float[Tensor, "T 3 h w"]) -> Answer:
    """What any network must beat: a wall before a camera that sees 60 degrees across, and nothing ever moves."""
    height, width = images.shape[2:]
    intrinsics = intrinsics_from_focal(torch.tensor(max(height, width) / 2 * 3**0.5), width, height)
    wall = rays(pixel_grid(height, width).flatten(0, 1), intrinsics).unflatten(0, (height, width))
    everywhere = wall.expand(len(images), -1, -1, -1)
    return Answer(places=everywhere, points=everywhere)


def scores_of(one: SequenceScore) -> list[Score]:
    """In the order of the columns."""
    tracking = [] if one.tracking is None else [one.tracking.everything, one.tracking.dynamic]
    return [*tracking, *([] if one.reconstruction is None else [one.reconstruction])]


def row(name: str, scores: Sequence[Score]) -> str:
    """One line of the table; dashes where there is no score, as where nothing moves."""
    cells = ["- | -" if math.isnan(one.apd) else f"{100 * one.apd:.1f} | {one.epe:.3f}" for one in scores]
    return line(name, *cells)


def mean_row(name: str, rows: Iterable[Sequence[Score]]) -> str:
    """The mean over sequences, column by column."""
    return row(name, [mean_score(column) for column in zip(*rows, strict=True)])


def table(folder: Path, model: Reconstructor, tasks: Collection[Task]) -> Iterator[str]:
    """The table line by line: sequences as they come, their mean, and that of the wall."""
    columns = [name for task in COLUMNS if task in tasks for name in COLUMNS[task]]
    names = ["sequence", *(f"{name}: {what}" for name in columns for what in ("APD [%]", "EPE [m]"))]
    yield head(*names)
    rows = []
    for one in score_folder(folder, partial(answer, model, tasks), tasks):
        rows.append(scores_of(one))
        yield row(one.name, rows[-1])
    yield mean_row("mean", rows)
    yield mean_row("mean of a flat wall", map(scores_of, score_folder(folder, flat, tasks)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0, or the exit code of what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of one set: npz files")
    parser.add_argument("--synthetic", type=int, metavar="N", help="instead of a folder: so many rendered sequences")
    parser.add_argument("--model", default="compact", help="name or file of weights")
    parser.add_argument("--tasks", nargs="+", choices=NEEDS, default=["tracking"])
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args(arguments)
    if (asked.folder is None) == (asked.synthetic is None):
        parser.error("give either a folder or --synthetic N")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        try:
            model = load(asked.model, asked.device)
            if asked.synthetic is not None:
                write_synthetic(Path(scratch), range(asked.synthetic))
            print(machine(), flush=True)
            for printed in table(asked.folder or Path(scratch), model, asked.tasks):
                print(printed, flush=True)
        except UnprojectError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
