"""Flow3r (arXiv 2602.20157), tables 1 and 4: what flow teaches of geometry without labels, by design and amount."""

from collections.abc import Callable
from functools import partial

from unproject.experiments.experiment import Experiment
from unproject.recipes import flow_designs
from unproject.recipes.flow_designs import DESIGNS
from unproject.teachers.flow import DisTeacher
from unproject.training.recipe import Recipe

LABELLED, UNLABELLED = 64, 256
"""Clips of each domain where the row does not say."""
COLUMNS = {
    "rta30": "RTA@30",
    "auc30": "AUC@30",
    "rotation_deg": "rotation [deg]",
    "translation_deg": "translation [deg]",
    "depth_relative": "depth [share]",
    "flow_px": "flow [px]",
}


def designs(*, steps: int = 1000) -> Experiment:
    """How flow is told, with labels from DIS and from the exact flow of the world."""
    row = partial(flow_designs.designs, labelled=LABELLED, unlabelled=UNLABELLED, steps=steps)
    told = {f"{design}, DIS": _seeded(partial(row, design, teacher=DisTeacher())) for design in DESIGNS[1:]}
    exact = {f"{design}, exact": _seeded(partial(row, design)) for design in DESIGNS[1:]}
    return Experiment(
        title="Flow3r, table 1: how flow is told",
        rows={"none": _seeded(partial(row, "none")), **told, **exact},
        columns=COLUMNS,
    )


def scaling(*, steps: int = 1000) -> Experiment:
    """How much unlabelled footage there is, beside four times the labels."""
    row = partial(flow_designs.designs, steps=steps)
    taught = partial(row, "factored", labelled=LABELLED, teacher=DisTeacher())
    amounts = (0, UNLABELLED // 4, UNLABELLED, 4 * UNLABELLED)
    return Experiment(
        title="Flow3r, table 4: how much unlabelled footage",
        rows={
            "none": _seeded(partial(row, "none", labelled=LABELLED)),
            **{f"factored, {clips} unlabelled": _seeded(partial(taught, unlabelled=clips)) for clips in amounts},
            f"none, {4 * LABELLED} labelled": _seeded(partial(row, "none", labelled=4 * LABELLED)),
        },
        columns=COLUMNS,
    )


def _seeded(stages: Callable[..., tuple[Recipe, ...]]) -> Callable[[int], tuple[Recipe, ...]]:
    """Of a seed, the stages of a row."""
    return lambda seed: stages(seed=seed)
