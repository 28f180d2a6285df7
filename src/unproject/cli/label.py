"""`unproject label`: raw videos to labelled clips that `train` reads."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import tyro

from unproject.cli import show
from unproject.cli.flags import Count, Number, Output, Quiet, Switch, flag
from unproject.errors import PARTIAL, UsageError

if TYPE_CHECKING:
    from unproject.labelling.plan import Rates

Videos = Annotated[tuple[str, ...], tyro.conf.Positional, flag("VIDEOS ...")]
Teachers = Annotated[str, flag("A,B,...")]
Address = Annotated[str | None, flag("auto|ADDRESS")]


def label(
    videos: Videos = (),
    /,
    *,
    output: Output = None,
    teacher: Teachers = "flow,tracks",
    device: str = "auto",
    long_side: int = 512,
    views: int = 8,
    fps: float = 30.0,
    most_clips: int = 16,
    seed: int = 0,
    workers: Count = None,
    ray: Address = None,
    overwrite: Switch = False,
    resume: Switch = False,
    dry_run: Switch = False,
    plan: Switch = False,
    nodes: int = 1,
    cores: Count = None,
    lost: Number = None,
    price: Number = None,
    json: Switch = False,
    quiet: Quiet = False,
) -> int:
    """Cut videos into clips and label them, for training without 3D annotation.

    Args:
        videos: A folder (searched with all that is below), a glob, videos, or lists of paths (.txt, .jsonl, .csv).
        output: Folder for the labels; needed unless --dry-run or --plan.
        teacher: Who labels, separated by commas: flow, tracks, matches, refine, flow:ufm, flow:raft, tracks:cotracker,
            depth:depth-pro, depth:moge2, depth:da3, matches:roma, matches:lightglue. Those with a colon ask networks of
            others, which are not in this package; NAME=PATH gives the weights of one.
        device: Where networks of teachers run: auto, cpu, cuda or cuda:N.
        long_side: Pixels of the longer side of a clip's pictures; larger ones are shrunk.
        views: Views of a clip.
        fps: Look at no more frames per second.
        most_clips: Of one video.
        seed: Start of the random numbers; the same seed gives the same clips.
        workers: Processes; one per core by default, 0 works in this one.
        ray: A Ray cluster that works instead: its address, or auto; the machines must see the same files.
        overwrite: Replace the labels in the output folder; files of others stay.
        resume: Go on with an interrupted run; units that are done are not done again.
        dry_run: Say what would be done, and who teaches under which licence; write nothing.
        plan: What 800 thousand, 10 and 100 million videos take, from the log of the labels in the output folder, or
            from a few of the videos.
        nodes: --plan: machines.
        cores: --plan: cores of each; those of this machine by default.
        lost: --plan: share of units whose worker dies on them; as measured by default.
        price: --plan: of an hour of a core.
        json: Print the result as JSON.
        quiet: No progress bar.
    """
    from unproject.labelling import plan as plans
    from unproject.labelling import run
    from unproject.labelling.clips import Wishes
    from unproject.recipes.teachers import teachers_named

    teachers = teachers_named(teacher, device=device)
    wishes = Wishes(long_side=long_side, views=views, fps=fps, most_clips=most_clips, seed=seed)
    bar = show.counted(quiet, "videos", "clips")
    if dry_run:
        show.facts(run.planned(videos, teachers), json)
        return 0
    if plan and videos:
        _show_forecasts(partial(plans.measured, videos, teachers, wishes, bar), nodes, cores, lost, price, json)
        return 0
    if output is None:
        raise UsageError("give the folder of the labels with -o, or --dry-run to see the plan only")
    if plan:
        _show_forecasts(partial(plans.rates_of, output), nodes, cores, lost, price, json)
        return 0
    choices = {"workers": workers, "ray": ray, "overwrite": overwrite, "resume": resume}
    with redirect_stdout(sys.stderr):  # facts go to stdout, and Ray tells of dead workers there
        outcome = run.label(videos, output, teachers, wishes, progress=bar, **choices)
    rejected = [f"{count} {reason}" for reason, count in outcome.rejected.items()]
    show.facts(asdict(outcome) if json else {**asdict(outcome), "rejected": rejected}, json)
    return 0 if outcome.clips else PARTIAL


def _show_forecasts(
    measure: Callable[[], "Rates"], nodes: int, cores: int | None, lost: float | None, price: float | None, json: bool
) -> None:
    from unproject.labelling import local, plan

    each = {"nodes": nodes, "cores": local.cores() if cores is None else cores, "lost_share": lost, "price": price}
    with redirect_stdout(sys.stderr):
        rates = measure()
    made = [plan.forecast(rates, videos, **each) for videos in plan.SCALES]
    found = {**asdict(rates), "video_s": fmean(rates.video_s)}
    if json:
        show.facts({**each, **found, "forecasts": [asdict(one) for one in made]}, json)
        return
    shown = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in found.items()}
    show.facts({**each, **shown}, json)
    print(f"\n{plan.table(made)}", end="")


def is_labels(folder: Path) -> bool:
    """Whether `label` began this folder."""
    return (folder / "library.json").is_file()


def verify(folder: Path, json: bool) -> int:
    """What is wrong with a folder of labels; 1 where anything is."""
    from unproject.io.shard_index import verify as check

    wrong = check(folder)
    show.facts({"passed": not wrong, "wrong": wrong}, json)
    return 1 if wrong else 0
