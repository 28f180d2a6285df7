"""A recipe by its name: trained, planned, or one of its steps done again; what the command line asks for."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unproject.errors import UsageError
from unproject.recipes import named
from unproject.training.loop import train
from unproject.training.plan import plan
from unproject.training.replay import replay


def run(
    name: str,
    output: Path | None,
    *,
    labels: Path | None = None,
    size: str | None = None,
    seed: int | None = None,
    dry_run: bool = False,
    bad_step: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    **choices: Any,
) -> dict[str, Any]:
    """What came of it, as plain facts; ``choices`` are those of `train`.

    UsageError where no folder is given and nothing else is asked for.
    """
    if output is None and not (dry_run or bad_step):
        raise UsageError("give a folder for the run with -o, or --dry-run to see the plan only")
    recipe = named(name, labels, size)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    if bad_step is not None:
        return asdict(replay(recipe, bad_step, device=device, dtype=dtype))
    if output is None or dry_run:
        return asdict(plan(recipe, device=device, dtype=dtype))
    return asdict(train(recipe, output, device=device, dtype=dtype, **choices))
