"""The command line: flags in, one result on stdout, progress on stderr, an exit code that says what happened.

Verbs only translate; the work is done below. Whatever takes time to import is imported by the verb that needs it.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unproject.cli import machine, show
from unproject.cli.evaluate import evaluate
from unproject.cli.flags import Count, Number, Output, Place, Quiet, Switch, flag
from unproject.cli.label import is_labels, label, verify
from unproject.cli.weights import weights
from unproject.errors import INTERRUPTED, PARTIAL, InputError, MemoryLimitError, UnprojectError, UsageError

Source = Annotated[tuple[str, ...], tyro.conf.Positional, flag("SOURCE ...")]
Result = Annotated[Path, tyro.conf.Positional, flag("OUT")]
RecipeName = Annotated[str, tyro.conf.Positional, flag("RECIPE")]
Model = Annotated[str | None, flag("NAME|PATH")]
Formats = Annotated[str, flag("A,B,...")]

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "insufficient memory", "bad_alloc")


def reconstruct(
    source: Source = (),
    /,
    *,
    output: Output = None,
    sample: Switch = False,
    model: Model = None,
    long_side: Count = None,
    flow: Switch = False,
    refine: Switch = False,
    cameras: Place = None,
    masks: Place = None,
    reference_mask: Place = None,
    every: Count = None,
    fps: Number = None,
    start: Number = None,
    end: Number = None,
    max_frames: Count = None,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    overwrite: Switch = False,
    resume: Switch = False,
    dry_run: Switch = False,
    json: Switch = False,
    quiet: Quiet = False,
) -> int:
    """Cameras, depth and motion from image files, a folder, a glob or a video.

    Args:
        source: A video, a folder or glob of images, or several image files (taken in natural order: 2 before 10).
        output: Folder for the result; needed unless --dry-run.
        sample: Use the sample clip that comes with the package.
        model: A network: the file of its weights, or the name of some that are here (`unproject weights list`).
        long_side: Pixels of the longer side of a network's images; what it was trained on by default.
        flow: Also the flow between neighbouring frames; with a network that tells it (flow3r).
        refine: Refine from tracks; without a network that is done anyway.
        cameras: Known intrinsics or poses: cameras.json, a COLMAP model folder, transforms.json, or a TUM trajectory.
        masks: Folder with one mask per frame; nothing is tracked or claimed on black pixels.
        reference_mask: Image for the first frame, or a folder: with a network, cameras are relative to what is white.
        every: Take every n-th frame.
        fps: Take at most so many frames per second of a video.
        start: Begin at this second of a video, or at this number in a list of images.
        end: Stop before this second or number.
        max_frames: Take at most so many frames, spread evenly.
        device: auto, cpu, cuda or cuda:N.
        dtype: Precision of a network's trunk; auto is bfloat16 on CUDA. Without one all runs on the CPU in float32.
        seed: Start of the random numbers; the same seed gives the same result.
        overwrite: Replace the result in the output folder; files of others stay.
        resume: Go on with an interrupted run; what is done is not done again (but a network is asked again).
        dry_run: Say what would be read, and what memory and disk it takes; write nothing.
        json: Print the result as JSON.
        quiet: No progress bars, no notes.
    """
    _check_given(bool(source) != sample, output is not None or dry_run)
    selection = {"every": every, "fps": fps, "start": start, "end": end, "max_frames": max_frames}
    network = {"model": model, "long_side": long_side, "flow": flow, "device": device, "dtype": dtype}
    with ExitStack() as stack:
        given: str | list[str] = _sample(stack) if sample else _ordered(source)
        from unproject.inference import reconstruct as work

        if dry_run:
            show.facts(asdict(work.plan(given, **selection, **network)), json)
            return 0
        result = work.reconstruct(
            given,
            output=output,
            **network,
            refine=refine,
            cameras=cameras,
            masks=masks,
            reference_mask=reference_mask,
            **selection,
            seed=seed,
            overwrite=overwrite,
            resume=resume,
            progress=show.progress(quiet),
        )
    show.outcome(result, output, json, quiet)
    return PARTIAL if result.provenance["state"] == "partial" else 0


def _check_given(one_input: bool, a_place: bool) -> None:
    if not one_input:
        raise UsageError("give either an input or --sample: unproject reconstruct clip.mp4 -o out")
    if not a_place:
        raise UsageError("give a folder for the result with -o, or --dry-run to see the plan only")


def train(
    recipe: RecipeName,
    /,
    *,
    output: Output = None,
    labels: Place = None,
    size: Literal["tiny", "small", "base", "large"] | None = None,
    start: Place = None,
    steps: Count = None,
    time_limit: Number = None,
    workers: Count = None,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: Count = None,
    overwrite: Switch = False,
    resume: Switch = False,
    replay: Place = None,
    dry_run: Switch = False,
    json: Switch = False,
    quiet: Quiet = False,
) -> int:
    """Train a network by a recipe that comes with the package.

    Args:
        recipe: Name of a recipe: smoke, compact-matching, compact, compact-larger, videos, reliev3r.
        output: Folder of the run: log, state and weights; needed unless --dry-run or --replay.
        labels: Folder of `unproject label`, for the recipes `videos` and `reliev3r`.
        size: Of the network, for these two; small by default for `videos`, base for `reliev3r`.
        start: Weights to begin from; what only one side has is named in run.json.
        steps: Stop when so many steps are done in all; the schedule stays that of the recipe.
        time_limit: Stop after the step in which so many seconds have passed.
        workers: Processes that make batches ahead, 0 for none; as many as there are spare cores by default.
        device: auto, cpu, cuda or cuda:N.
        dtype: Precision of trunks; auto is bfloat16 where CUDA has it.
        seed: Start of the random numbers; the recipe's own by default.
        overwrite: Replace the run in the output folder; files of others stay.
        resume: Go on with the run in the output folder, to the weights of a run that was never interrupted.
        replay: Folder bad_step_N of a run: do that step again and say where it stops being finite.
        dry_run: Try every source once, say what the run comes to and what memory it takes; write nothing.
        json: Print the result as JSON.
        quiet: No progress line.
    """
    from unproject.recipes.run import run

    facts = run(
        recipe,
        output,
        labels=labels,
        size=size,
        seed=seed,
        dry_run=dry_run,
        bad_step=replay,
        device=device,
        dtype=dtype,
        start=start,
        steps=steps,
        time_limit_s=time_limit,
        workers=workers,
        overwrite=overwrite,
        resume=resume,
        live=show.watched(quiet),
    )
    show.facts(facts, json)
    return INTERRUPTED if str(facts.get("reason", "")).startswith("SIG") else 0


def export(
    result: Result,
    /,
    *,
    to: Formats,
    output: Output = None,
    no_images: Switch = False,
    json: Switch = False,
) -> int:
    """A result in the formats of other programs.

    Args:
        result: Output folder of `reconstruct`.
        to: Formats, separated by commas: ply, glb, colmap, colmap-text, nerfstudio, tum, tracks.
        output: Folder for the files (exports in the result by default).
        no_images: Leave out the pictures that COLMAP and nerfstudio look for beside their files.
        json: Print the paths as JSON.
    """
    from unproject.io.export import export as write
    from unproject.io.result import Reconstruction

    formats = [name.strip() for name in to.split(",") if name.strip()]
    if not formats:
        raise UsageError("--to names no format: try --to ply,colmap")
    written = write(Reconstruction.load(result), output or result / "exports", formats, images=not no_images)
    show.facts({name: str(path) for name, path in written.items()}, json)
    return 0


def validate(result: Result, /, *, json: Switch = False) -> int:
    """Check a result folder: structure, numbers, and whether its points land in its cameras. Exits with 1 if not.

    Of a folder of labels: every shard, clip and row of the index against its digest.

    Args:
        result: Output folder of `reconstruct` or `label`.
        json: Print the checks as JSON.
    """
    if is_labels(result):
        return verify(result, json)
    from unproject.io.validate import validate as check

    report = check(result)
    if json:
        show.facts(report.json(), json)
    else:
        print(report.text())
    return 0 if report.passed else 1


def doctor(*, json: Switch = False) -> int:
    """What this machine offers: versions, device, memory, cache, disk, optional extras.

    Args:
        json: Print it as JSON.
    """
    show.facts(machine.offers(), json)
    return 0


_VERBS = {
    "reconstruct": reconstruct,
    "label": label,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "validate": validate,
    "weights": weights,
    "doctor": doctor,
}

_RESUMED = ("reconstruct", "label", "train", "evaluate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; every failure becomes one line on stderr and its exit code (UNPROJECT_DEBUG=1 shows the traceback).

    0 ok, 1 failed, 2 usage, 3 input unreadable, 4 weights missing, 5 out of memory, 6 partial result, 130 interrupted.
    """
    # Threads of torch that wait by turning in circles take the processor from those they wait for: on a busy machine
    # `validate` took seven times as long. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(machine.version_of("unproject"))
        return 0
    try:
        return tyro.extras.subcommand_cli_from_dict(
            _VERBS,
            prog="unproject",
            description="Cameras, depth and motion from images and video.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except KeyboardInterrupt:
        hint = "; --resume goes on with what is done" if {*arguments[:1]} & {*_RESUMED} else ""
        print(f"unproject: interrupted{hint}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our stdout went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        known = _explained(error)
        if os.environ.get("UNPROJECT_DEBUG"):
            traceback.print_exception(error)
        print(f"unproject: error: {' '.join(str(known).split())}", file=sys.stderr)
        return known.exit_code


def _explained(error: Exception) -> UnprojectError:
    """Any failure as one of ours: the text is one line with the remedy."""
    if isinstance(error, UnprojectError):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _OUT_OF_MEMORY):
        return MemoryLimitError("out of memory: take fewer frames (--max-frames), --dry-run says what they need")
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return InputError(f"{error.filename}: {error.strerror}: check the path and its permissions")
    if isinstance(error, OSError):
        return UnprojectError(f"{error.filename or 'the system'}: {error.strerror or error}: mend that and run again")
    return UnprojectError(f"{text}: this is a fault of unproject, UNPROJECT_DEBUG=1 shows where; please report it")


def _ordered(source: tuple[str, ...]) -> str | list[str]:
    """A shell expands *.png as 1, 10, 2."""
    from unproject.io.images import natural_key

    return source[0] if len(source) == 1 else sorted(source, key=natural_key)


def _sample(stack: ExitStack) -> str:
    from importlib.resources import as_file, files

    clip = files("unproject") / "assets" / "sample.mp4"
    if not clip.is_file():
        raise UnprojectError("this installation lacks its sample clip: install unproject again")
    return str(stack.enter_context(as_file(clip)))
