"""Reliev3R (arXiv 2604.00548), tables 1 and 4 and the supplement's: what is learned without any 3D label, by loss."""

from dataclasses import replace
from functools import partial

from unproject.experiments.experiment import Experiment
from unproject.recipes.weak_designs import ANGLE, CROPPED, FOOTAGE, HELD, ROUGHLY, SUPERVISED, WEAK, weak_designs

COLUMNS = {
    "point_relative": "points [share]",
    "point_inliers": "points within 10 %",
    "ate": "ATE [scene]",
    "auc30": "AUC@30",
    "depth_relative": "depth [share]",
    "depth_inliers": "depth within 10 %",
}


def losses(*, steps: int = 800) -> Experiment:
    """Each loss, both, with and without trust, against full supervision of the same network on the same clips."""
    row = partial(weak_designs, steps=steps)
    alphas = {f"weak, alpha {alpha}": partial(row, (replace(WEAK, ambiguity=alpha),)) for alpha in (0.2, 0.5, 2.0)}
    return Experiment(
        name="reliev3r-losses",
        title="Reliev3R, tables 1 and 4: what weak losses teach",
        rows={
            "after one step": partial(row, steps=1),
            "supervised": partial(row, (SUPERVISED,)),
            "weak": row,
            **alphas,
            "weak, no trust": partial(row, (replace(WEAK, ambiguity=None),)),
            "depth alone": partial(row, (replace(WEAK, registration=0.0),)),
            "tracks alone": partial(row, (replace(WEAK, depth=0.0),)),
        },
        columns=COLUMNS,
    )


def rays(*, steps: int = 800) -> Experiment:
    """Intrinsics that are known, hinted at or found, and the supplement's two stages."""
    row = partial(weak_designs, steps=steps)
    pulled = (replace(WEAK, view_angle=ANGLE.view_angle),)
    return Experiment(
        name="reliev3r-rays",
        title="Reliev3R, table 3: where rays come from, and a synthetic start",
        rows={
            "weak, rays given": row,
            "weak, rays hinted": partial(row, rays="hinted"),
            "weak, rays found by tracks": partial(row, rays="found"),
            "weak, rays labelled": partial(row, (HELD,), rays="found"),
            "weak, rays labelled and pulled by tracks": partial(row, pulled, rays="found"),
            "synthetic alone": partial(row, (), rays="found", warm=True),
            "synthetic, then weak": partial(row, (HELD,), rays="found", warm=True),
        },
        columns=COLUMNS,
    )


def guesses(*, steps: int = 800) -> Experiment:
    """What wrong tracks and a guessed lens cost, whether crops help then, and as many steps as two stages take."""
    row = partial(weak_designs, steps=steps)
    rough = replace(FOOTAGE, lens_error=ROUGHLY)
    second = partial(row, (HELD,), rays="found", warm=True)
    return Experiment(
        name="reliev3r-guesses",
        title="Reliev3R, supplement: what guesses of teachers cost",
        rows={
            "weak": row,
            "weak, a tenth of the tracks wrong": partial(row, footage=replace(FOOTAGE, outliers=0.1)),
            "weak, rays labelled": partial(row, (HELD,), rays="found"),
            "weak, rays labelled roughly": partial(row, (HELD,), rays="found", footage=rough),
            "weak, rays labelled, twice the steps": partial(row, (HELD,), rays="found", steps=2 * steps),
            "synthetic, then weak": second,
            "synthetic, then weak, labelled roughly": partial(second, footage=rough),
            "synthetic, then weak, roughly and cropped": partial(second, footage=CROPPED),
        },
        columns=COLUMNS,
    )
