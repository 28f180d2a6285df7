"""`python -m benchmarks.run` prints the benchmark's tables: ours beside COLMAP on the same images."""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import clips, rendered, score, table
from benchmarks.clips import Clip, MissingClip
from benchmarks.measure import RunFailed
from benchmarks.score import Row
from benchmarks.solvers import Solved, colmap, ours

NAMES = [*clips.READERS, *rendered.ROOMS]


def measure(clip: Clip, solver: Callable[[Clip, Path], Solved]) -> Row:
    """The row of one solver on one clip; a run that ends with an error has one too."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        try:
            return score.rate(clip, solver.__name__, solver(clip, Path(work)))
        except RunFailed as reason:
            return Row.failed(clip, solver.__name__, reason)


def load(name: str, scratch: Path) -> Clip | None:
    """The clip of this name; None, and a line on stdout that says why, where its data is not on this machine."""
    try:
        return clips.READERS[name]() if name in clips.READERS else rendered.film(name, scratch)
    except MissingClip as reason:
        print(f"skipped {name}: {reason}")
        return None


def measure_all(name: str, with_colmap: bool) -> list[Row]:
    """Ours, then COLMAP, never both at once. Nothing where the clip is missing; COLMAP where there are image files."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        clip = load(name, Path(scratch))
        if clip is None:
            return []
        for solver in (ours, colmap) if with_colmap and not clip.is_video else (ours,):
            rows.append(measure(clip, solver))
            print(rows[-1].line(), flush=True)
    return rows


def machine() -> str:
    """What the times were measured on."""
    load = os.getloadavg()[0]
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start"


def main() -> None:
    """Read the command line, measure or read rows, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--no-colmap", action="store_true", help="only ours")
    parser.add_argument("--json", type=Path, help="also save the rows here, after every clip")
    parser.add_argument("--from", dest="saved", type=Path, help="measure nothing, print the rows saved by --json")
    arguments = parser.parse_args()
    if arguments.saved:
        print(table.markdown([Row.from_json(row) for row in json.loads(arguments.saved.read_text())]))
        return
    print(machine())
    rows: list[Row] = []
    for name in arguments.clips:
        rows += measure_all(name, with_colmap=not arguments.no_colmap)
        if arguments.json:
            arguments.json.write_text(json.dumps([row.to_json() for row in rows], indent=1))
    print("\n" + table.markdown(rows))


if __name__ == "__main__":
    main()
