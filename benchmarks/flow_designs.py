"""`python -m benchmarks.flow_designs TABLE` trains Flow3r's ablation at the size of a toy and prints the table.

`designs` is the paper's Table 1: how flow is told. `amount` is its Table 4: how many unlabelled clips there are, beside
four times the labels. What is measured is clips of the unlabelled domain that nothing was trained on. Runs are kept in
a folder: stages that rows share are trained once, and all goes on where it was stopped.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.table import of_seeds
from unproject.recipes.flow_designs import DESIGNS, designs
from unproject.teachers.flow import DisTeacher
from unproject.training.loop import train
from unproject.training.recipe import Recipe

COLUMNS = ("rra30", "rta30", "auc30", "rotation_deg", "translation_deg", "depth_relative", "flow_px")
TEACHERS = {"exact": None, "dis": DisTeacher()}
LABELLED, UNLABELLED = 64, 256


def rows(table: str) -> dict[str, dict[str, Any]]:
    """What each row of a table is made from."""
    if table == "designs":
        return {design: {"design": design, "unlabelled": UNLABELLED} for design in DESIGNS}
    amounts = (0, UNLABELLED // 4, UNLABELLED, 4 * UNLABELLED)
    return {
        "none": {"design": "none"},
        **{f"factored, {clips} unlabelled": {"design": "factored", "unlabelled": clips} for clips in amounts},
        f"none, {4 * LABELLED} labelled": {"design": "none", "labelled": 4 * LABELLED},
    }


def stages(row: dict[str, Any], seed: int, teacher: str, backbone: str, steps: int) -> dict[str, Recipe]:
    """The stages of one run by the names of their folders, in order."""
    made = {"labelled": LABELLED, "unlabelled": UNLABELLED, **row}
    recipes = designs(seed=seed, teacher=TEACHERS[teacher], backbone=backbone, steps=steps, **made)
    common = f"{backbone}-{made['labelled']}-{seed}"
    # Without flow, how much there is of it changes nothing.
    flow = "" if made["design"] == "none" else f"-{made['unlabelled']}-{teacher}"
    places = [f"geometry-{common}", f"head-{made['design']}-{common}", f"all-{made['design']}-{common}{flow}"]
    return dict(zip(places if len(recipes) == 3 else places[::2], recipes, strict=True))


def measured(run: dict[str, Recipe], folder: Path) -> dict[str, float]:
    """What the last stage reaches; nothing is trained twice."""
    weights, validation = None, None
    for place, recipe in run.items():
        result = train(recipe, folder / place, start=weights, resume=True, live=sys.stderr.isatty())
        weights, validation = result.weights, result.validation
    if validation is None:
        raise SystemExit(f"{folder} holds a run that was never measured; remove it and run again")
    return validation


def main() -> None:
    """Train what is not trained yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("designs", "amount"))
    parser.add_argument("--teacher", choices=tuple(TEACHERS), default="dis")
    parser.add_argument("--backbone", choices=("pi3", "vggt"), default="pi3")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("out/flow_designs"))
    given = parser.parse_args()
    print(f"| flow | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name, row in rows(given.table).items():
        runs = [
            measured(stages(row, seed, given.teacher, given.backbone, given.steps), given.folder)
            for seed in range(given.seeds)
        ]
        print(of_seeds(name, runs, COLUMNS), flush=True)


if __name__ == "__main__":
    main()
