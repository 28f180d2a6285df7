"""The compact network on pairs that no run was trained on: `python -m benchmarks.held_out_pairs [WEIGHTS ...]`.

What the model card says: 64 pairs of worlds of another seed, at the sizes of the first stages and at those of the last.
"""

import argparse
from pathlib import Path

from benchmarks.table import head, line
from unproject.models import checkpoints
from unproject.models.loading import shipped
from unproject.recipes import compact
from unproject.training.device import place
from unproject.training.passes import validate
from unproject.training.recipe import Clip

SIZES = {"small": compact.SIZES, "larger": compact.LARGER_SIZES}


def main() -> None:
    """Print one column per file and set of sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", type=Path, help="files; the weights that come with the package")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    models = {path.name: checkpoints.load(path) for path in arguments.weights} or {"shipped": shipped("compact")}
    where = place(arguments.device, "float32")
    held_out = compact.held_out(arguments.pairs)
    columns = {
        f"{name}, {size}": validate(model.to(where.device), held_out, Clip(sizes=sizes), 16, where, workers=0)
        for name, model in models.items()
        for size, sizes in SIZES.items()
    }
    print(head("", *columns))
    for metric in next(iter(columns.values())):
        print(line(metric, *(f"{column[metric]:.3f}" for column in columns.values())))


if __name__ == "__main__":
    main()
