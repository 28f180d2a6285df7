"""What the compact network gives to a reconstruction, and what it costs: `python -m benchmarks.learned_depth`.

Every clip with true depth runs twice, without the network and with it whatever its trial says; the others once, for the
trial. The trial is that of `inference.held_out`: mean relative error at points that were held out of it.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.clips import Clip
from benchmarks.run import NAMES, load, machine
from benchmarks.score import DepthRow, rate_depth
from benchmarks.solvers import Solved, ours
from benchmarks.table import head, line
from unproject.inference.held_out import Trial

COLUMNS = (
    "clip",
    "trial: without, with",
    "points",
    "used",
    "trial [s]",
    "all [s]",
    "claimed: rel without, with",
    "all pixels: rel without, with",
    "within 10 % without, with",
)


def measured(clip: Clip, network: str) -> tuple[Solved, DepthRow | None]:
    """One run and its depth against the truth, where there is one."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        solved = ours(clip, Path(work), network)
        return solved, rate_depth(solved.result, clip.depth) if clip.depth and solved.found else None


def cells(clip: Clip) -> list[str]:
    """One row."""
    solved, with_network = measured(clip, "always" if clip.depth else "tried")
    trial = solved.result.provenance["learned_depth"]
    if trial is None:
        return [clip.name, *["-"] * 4, f"{solved.seconds:.1f}", *["-"] * 3]
    without = measured(clip, "never")[1] if with_network else None
    both = [
        f"{getattr(without, name):.{digits}f}, {getattr(with_network, name):.{digits}f}" if without else "-"
        for name, digits in (("rel", 4), ("rel_all", 4), ("inlier_all", 3))
    ]
    judged = Trial(trial["error_without"], trial["error_with"], trial["held_out_points"])
    return [
        clip.name,
        f"{trial['error_without']:.3f}, {trial['error_with']:.3f}",
        str(trial["held_out_points"]),
        "yes" if judged.helps else "no",
        f"{solved.trial_s:.1f}",
        f"{solved.seconds:.1f}",
        *both,
    ]


def main() -> None:
    """Print the table line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    arguments = parser.parse_args()
    print(machine())
    print(head(*COLUMNS))
    for name in arguments.clips:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            clip = load(name, Path(scratch))
            if clip is not None:
                print(line(*cells(clip)), flush=True)


if __name__ == "__main__":
    main()
