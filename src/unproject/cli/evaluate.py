"""`unproject evaluate`: the papers' ablations in small, from nothing to a table."""

from dataclasses import asdict
from typing import Annotated, Literal

from unproject.cli import show
from unproject.cli.flags import Count, Number, Output, Quiet, Switch, flag
from unproject.errors import INTERRUPTED, UsageError


def evaluate(
    *,
    experiment: Annotated[str, flag("NAME")],
    output: Output = None,
    seeds: int = 3,
    steps: Count = None,
    jobs: Count = None,
    time_limit: Number = None,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    overwrite: Switch = False,
    resume: Switch = False,
    dry_run: Switch = False,
    json: Switch = False,
    quiet: Quiet = False,
) -> int:
    """Train the rows of a paper's ablation at a size that two cores can do, and print its table.

    Args:
        experiment: Its name: flow3r-designs, flow3r-scaling, flow4r-motion, reliev3r-losses, reliev3r-rays,
            reliev3r-guesses.
        output: Folder for runs, results, table and plot; needed unless --dry-run.
        seeds: Runs of each row.
        steps: Of the last stage, to try it quickly; the others follow. The experiment's own by default.
        jobs: Stages that train at the same time; on a processor one per core by default.
        time_limit: Stop after so many seconds.
        device: auto, cpu, cuda or cuda:N.
        dtype: Precision of trunks; auto is bfloat16 where CUDA has it.
        overwrite: Train all of it again.
        resume: Go on with the experiment in the output folder.
        dry_run: List what would be trained; write nothing.
        json: Print results as JSON.
        quiet: No progress line.
    """
    from unproject.experiments import named
    from unproject.experiments.run import planned, run

    chosen = named(experiment, steps)
    if dry_run:
        show.facts(planned(chosen, seeds), json)
        return 0
    if output is None:
        raise UsageError("give a folder for the experiment with -o, or --dry-run to see the plan only")
    outcome = run(
        chosen,
        output,
        seeds=seeds,
        jobs=jobs,
        device=device,
        dtype=dtype,
        time_limit_s=time_limit,
        overwrite=overwrite,
        resume=resume,
        progress=show.progress(quiet),
    )
    if json:
        show.facts(asdict(outcome), json)
    else:
        print(outcome.table, end="")
        ended = "" if outcome.state == "done" else f"stopped ({outcome.reason}), --resume goes on; "
        print(f"{ended}{outcome.seconds / 60:.0f} minutes of training; written to {output}")
    return INTERRUPTED if outcome.reason.startswith("SIG") else 0
