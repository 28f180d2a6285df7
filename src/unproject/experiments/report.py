"""An experiment's table in markdown, and its plot."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev

import torch

from unproject.io.disk import written_whole

Results = Mapping[str, Sequence[Mapping[str, float | None]]]
"""What each seed of each row measured; None where it had nothing to measure."""
MORE_IS_BETTER = re.compile(r"(rra|rta|auc|pose_auc).*|.*_inliers")
"""The names of measures that are no errors."""


def table(results: Results, columns: Mapping[str, str]) -> str:
    """Mean and, of several seeds, standard deviation of each row; a dash where nothing is measured."""
    heads = ["", *columns.values(), "minutes"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row, runs in results.items():
        cells = [_cell(_values(runs, name)) for name in columns]
        minutes = mean(_values(runs, "seconds")) / 60
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {minutes:.0f} |")
    return "\n".join(lines) + "\n"


def _values(runs: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    """What the seeds measured; one that had nothing to measure is left out."""
    return [value for run in runs if (value := run.get(name)) is not None]


def _cell(values: list[float]) -> str:
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}" if values else "-"


def plot(results: Results, columns: Mapping[str, str], title: str, path: Path) -> bool:
    """A panel per column with a line per row: every seed as a dot, mean and standard deviation beside them.

    False, and no file, where matplotlib is not installed (the extra `plot`).
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure  # not pyplot: nothing global is touched, and no screen is asked for

    figure = Figure(figsize=(2.3 * len(columns) + 1.7, 0.34 * len(results) + 1.3), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    heights = range(len(results))
    for panel, (name, head) in zip(panels, columns.items(), strict=True):
        for height, runs in zip(heights, results.values(), strict=True):
            values = _values(runs, name)
            if values:
                spread = stdev(values) if len(values) > 1 else 0.0
                panel.plot(values, [height] * len(values), ".", color="0.65")
                panel.errorbar(mean(values), height, xerr=spread, fmt="o", color="C0", capsize=3)
        panel.set_xlabel(f"{head}, {'more' if MORE_IS_BETTER.fullmatch(name) else 'less'} is better", fontsize="small")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(list(heights), list(results))
    panels[0].invert_yaxis()
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=110)
    return True


def machine(device: torch.device) -> str:
    """What it was trained on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
