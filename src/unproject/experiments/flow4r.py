"""Flow4R (arXiv 2602.14021), table 3: what the network predicts of motion, and what of it is compared."""

from functools import partial

from unproject.experiments.experiment import Experiment
from unproject.recipes.motion_variants import VARIANTS, motion_variant
from unproject.training.recipe import Recipe


def motion(*, steps: int = 1000) -> Experiment:
    """Three variants, each learning the same pairs by heart."""
    return Experiment(
        name="flow4r-motion",
        title="Flow4R, table 3: what is predicted of motion, and what is compared",
        rows={name: partial(_row, name, steps) for name in VARIANTS},
        columns={
            "flow_px": "flow [px]",
            "target_relative": "P_vt [share]",
            "depth_relative": "depth [share]",
            "rotation_deg": "rotation [deg]",
            "pose_auc30": "pose AUC@30",
            "weight_on_movers": "pose weight on movers",
        },
    )


def _row(name: str, steps: int, seed: int) -> tuple[Recipe, ...]:
    return (motion_variant(name, seed=seed, steps=steps),)
