"""`python -m benchmarks.motion_variants` trains the rows of Flow4R's Table 3 at small scale and prints the table.

Runs are kept in a folder, so that it can be stopped and goes on where it was.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.table import of_seeds
from unproject.recipes.motion_variants import VARIANTS, motion_variant
from unproject.training.loop import train

COLUMNS = ("flow_px", "target_relative", "depth_relative", "rotation_deg", "pose_auc30", "weight_on_movers")


def measured(name: str, seed: int, folder: Path, pairs: int, steps: int) -> dict[str, float]:
    """What one run reaches; nothing is trained twice."""
    recipe = motion_variant(name, seed=seed, pairs=pairs, steps=steps)
    place = folder / f"{name.replace(', ', '-')}-{seed}"
    result = train(recipe, place, resume=True, live=sys.stderr.isatty())
    if result.validation is None:
        raise SystemExit(f"{place} holds a run that was never measured; remove it and run again")
    return result.validation


def main() -> None:
    """Train what is not trained yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("out/motion_variants"))
    arguments = parser.parse_args()
    print(f"| predicted, compared | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name in VARIANTS:
        runs = [
            measured(name, seed, arguments.folder, arguments.pairs, arguments.steps) for seed in range(arguments.seeds)
        ]
        print(of_seeds(name, runs, COLUMNS), flush=True)


if __name__ == "__main__":
    main()
