"""Flow3r (arXiv 2602.20157), tables 1 and 4: what flow teaches of geometry without labels, by design and amount."""

from functools import partial

from unproject.experiments.experiment import Experiment
from unproject.recipes import flow_designs
from unproject.recipes.flow_designs import DESIGNS
from unproject.teachers.flow import DisTeacher

LABELLED, UNLABELLED = 512, 1024
"""Clips of each domain where the row does not say."""
COLUMNS = {
    "rra30": "RRA@30",
    "rta30": "RTA@30",
    "auc30": "AUC@30",
    "rotation_deg": "rotation [deg]",
    "depth_relative": "depth [share]",
    "flow_px": "flow [px]",
}


def designs(*, steps: int = 600) -> Experiment:
    """How flow is told, with labels from DIS and from the exact flow of the world."""
    row = partial(flow_designs.designs, labelled=LABELLED, unlabelled=UNLABELLED, steps=steps)
    told = {f"{design}, DIS": partial(row, design, teacher=DisTeacher()) for design in DESIGNS[1:]}
    exact = {f"{design}, exact": partial(row, design) for design in DESIGNS[1:]}
    return Experiment(
        name="flow3r-designs",
        title="Flow3r, table 1: how flow is told",
        rows={"beginning": partial(row, None), "none": partial(row, "none"), **told, **exact},
        columns=COLUMNS,
    )


def scaling(*, steps: int = 600) -> Experiment:
    """How much unlabelled footage there is, beside four times the labels."""
    row = partial(flow_designs.designs, labelled=LABELLED, steps=steps)
    amounts = (UNLABELLED // 4, UNLABELLED, 4 * UNLABELLED)
    told = {f"{n} unlabelled, exact": partial(row, "factored", unlabelled=n) for n in amounts}
    taught = {f"{n} unlabelled, DIS": partial(row, "factored", unlabelled=n, teacher=DisTeacher()) for n in amounts}
    return Experiment(
        name="flow3r-scaling",
        title="Flow3r, table 4: how much unlabelled footage",
        rows={
            "no flow": partial(row, "none"),
            f"no flow, {4 * LABELLED} labelled": partial(row, "none", labelled=4 * LABELLED),
            "0 unlabelled": partial(row, "factored", unlabelled=0),
            **told,
            **taught,
        },
        columns=COLUMNS,
    )
