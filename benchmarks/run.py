"""`python -m benchmarks.run` prints the benchmark's tables: ours beside COLMAP on the same images."""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import clips, score, table
from benchmarks.clips import Clip
from benchmarks.measure import RunFailed
from benchmarks.score import Row
from benchmarks.solvers import Solved, colmap, ours


def measure(clip: Clip, solver: Callable[[Clip, Path], Solved]) -> Row:
    """The row of one solver on one clip; a run that ends with an error has one too."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        try:
            return score.rate(clip, solver.__name__, solver(clip, Path(work)))
        except RunFailed as reason:
            return Row.failed(clip, solver.__name__, reason)


def machine() -> str:
    """What the times were measured on."""
    load = os.getloadavg()[0]
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start"


def main() -> None:
    """Read the command line, measure or read rows, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", nargs="+", choices=list(clips.READERS), default=list(clips.READERS), metavar="NAME")
    parser.add_argument("--no-colmap", action="store_true", help="only ours")
    parser.add_argument("--json", type=Path, help="also save the rows here, after every clip")
    parser.add_argument("--from", dest="saved", type=Path, help="measure nothing, print the rows saved by --json")
    arguments = parser.parse_args()
    if arguments.saved:
        print(table.markdown([Row.from_json(row) for row in json.loads(arguments.saved.read_text())]))
        return
    print(machine())
    rows: list[Row] = []
    for clip in clips.load(arguments.clips):
        with_colmap = not (arguments.no_colmap or clip.is_video)
        for solver in (ours, colmap) if with_colmap else (ours,):
            rows.append(measure(clip, solver))
            print(rows[-1].line(), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps([row.to_json() for row in rows], indent=1))
    print("\n" + table.markdown(rows))


if __name__ == "__main__":
    main()
