"""The main job: images or video in, cameras, depth and motion out, with nothing but this machine."""

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from unproject.errors import MemoryLimitError, UsageError
from unproject.inference import assemble, checkpoint, problem
from unproject.inference.densify import Dense, densify
from unproject.inference.evidence import (
    Evidence,
    Pictures,
    check_masks,
    gather,
    network_scale,
    network_size,
)
from unproject.inference.extend import extended
from unproject.inference.feedforward import feed_forward
from unproject.inference.network_input import check_flow, fitted, memory_gib
from unproject.inference.refine import Solved, polished, solve_component
from unproject.inference.run import Clock, Folder, record
from unproject.inference.sharpen import sharpened
from unproject.io.cameras import MatchedCameras, read_cameras
from unproject.io.memory import machine_gib
from unproject.io.result import Reconstruction
from unproject.io.source import Source, open_source
from unproject.models.base import Reconstructor
from unproject.models.loading import device_of, load, precision_of
from unproject.progress import Progress, silent
from unproject.teachers.tracks import LEAST_TRUST
from unproject.types import Cameras, FrameInfo, Points3D, Scale, Tracks

NO_DEPTH = {
    "static": "the camera stands still: no parallax, so no depth, and nothing tells the focal length (it is as given, "
    "from EXIF, or a guess); motion in the image is given",
    "rotation_only": "the camera only turns: its rotation and focal length are given, depth is not to be had",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do, without doing it."""

    kind: str
    frames: int
    first_file: str
    original_size: str
    network_size: str
    memory_gib: float
    output_gib: float
    notes: list[str]


def plan(
    source: str | Path | Sequence[str | Path],
    *,
    every: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    model: Reconstructor | str | Path | None = None,
    long_side: int | None = None,
    flow: bool = False,
    device: str = "auto",
    dtype: str = "auto",
) -> Plan:
    """What `reconstruct` would read and what it would take (on the device, with a network on one); errors as there."""
    _check_wishes(model is not None, long_side=long_side, flow=flow)
    device_of(device), precision_of(dtype, device)
    opened = open_source(source, every=every, fps=fps, start=start, end=end, max_frames=max_frames)
    first = opened.infos[0]
    if model is None:
        memory, (width, height) = _memory_gib(opened), network_size(first)
    else:
        network = model if isinstance(model, Reconstructor) else load(model, device, dtype)
        if flow:
            check_flow(network)
        side = network.long_side if long_side is None else long_side
        memory, (width, height) = (
            memory_gib(network, opened, side, flow),
            fitted(first.width, first.height, side, network.patch),
        )
    return Plan(
        kind=opened.kind,
        frames=len(opened),
        first_file=first.file,
        original_size=f"{first.width}x{first.height}",
        network_size=f"{width}x{height}",
        memory_gib=round(memory, 2),
        output_gib=round(len(opened) * width * height * (BYTES_PER_PIXEL + 2 * flow * BYTES_PER_FLOW_PIXEL) / 2**30, 2),
        notes=list(opened.notes),
    )


BYTES_PER_PIXEL = 12
"""Of a map on disk, after compression (measured on video: 8 to 14)."""
BYTES_PER_FLOW_PIXEL = 6
"""Of a pair, two of which begin at most frames (measured on DIS flow of real clips: 5.8 to 6.0)."""


def _memory_gib(source: Source) -> float:
    """Peak of a run: the libraries, one decoded frame with its pyramids, tracks, and of photos features and maps.

    Within a quarter of what was measured on clips of 11 to 120 frames; images themselves lie on disk.
    """
    largest = max(info.width * info.height for info in source.infos)
    per_frame = 2.5e6 if source.kind == "images" else 0.35e6
    return (0.65e9 + 12 * largest + len(source) * per_frame) / 2**30


def reconstruct(
    source: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    model: Reconstructor | str | Path | None = None,
    refine: bool = False,
    long_side: int | None = None,
    flow: bool = False,
    cameras: str | Path | None = None,
    masks: str | Path | None = None,
    reference_mask: str | Path | None = None,
    every: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> Reconstruction:
    """Cameras, depth, motion and tracks of a video, a folder, a glob or image files (see `open_source`).

    With ``output`` the result is written there frame by frame and memory does not grow with the maps; without, they are
    held in memory. ``resume`` goes on from the stages and frames that an interrupted run has done, to the maps, points
    and cameras it would have ended in. ``cameras`` names a file of known cameras, which are kept and reported;
    ``masks`` a folder of images: nothing is tracked or claimed on their black pixels. ``provenance["state"]`` is
    "partial" where less was found than asked for, and ``provenance["notes"]`` says what.

    Without a ``model`` tracks are followed and refined. A two-view network (or what `load` takes) gives all from pairs
    of frames, which it sees with ``long_side`` pixels; ``reference_mask`` (an image for the first frame, or a folder)
    then marks the object that cameras and motion are relative to. A network of many views that tells flow (Flow3r) is
    asked with ``flow`` for that of neighbours (`Reconstruction.flow`): of a video in time, of photos in its windows.

    Raises:
        InputError: something cannot be read, or contradicts itself.
        UsageError: arguments that do not fit, or an output folder that holds something.
        WeightsError: no such weights.
        MemoryLimitError: more memory is needed than there is; the text says what fits.
    """
    if output is None and (overwrite or resume):
        raise UsageError("overwrite and resume need an output folder")
    if not 0 <= seed < 2**32:
        raise UsageError(f"a seed of {seed} starts no random numbers; give one from 0 to {2**32 - 1}")
    wishes = {"refine": refine, "long_side": long_side, "flow": flow, "cameras": cameras, "reference": reference_mask}
    _check_wishes(model is not None, **wishes)
    place, precision = device_of(device), precision_of(dtype, device)
    selection = {"every": every, "fps": fps, "start": start, "end": end, "max_frames": max_frames}
    opened = open_source(source, **selection)
    masked = None if masks is None else Path(masks)
    if masked is not None:
        check_masks(masked, opened.infos)
    folder = Folder(path=output, overwrite=overwrite, resume=resume)
    settings = {"masks": masks and str(masks), "seed": seed, **selection}
    if model is None:
        return _weights_free(opened, folder, settings, cameras, masked, seed, progress)
    return feed_forward(
        model if isinstance(model, Reconstructor) else load(model, device, dtype),
        opened,
        folder=folder,
        settings=settings,
        long_side=long_side,
        flow=flow,
        masks=masked,
        reference=None if reference_mask is None else Path(reference_mask),
        device=None if device == "auto" else place,
        precision=None if dtype == "auto" else precision,
        progress=progress,
    )


def from_frames(opened: Source, *, seed: int = 0, views: Sequence[int]) -> Reconstruction:
    """The same without a network, of frames that are open already (`io.source.in_memory`); all is held in memory.

    All frames get cameras, and ``views`` (ascending) maps; 3D tracks are left out.
    """
    settings = {"masks": None, "seed": seed}
    return _weights_free(opened, Folder(path=None), settings, None, None, seed, silent, views)


def _check_wishes(
    network: bool,
    *,
    long_side: int | None,
    flow: bool,
    refine: bool = False,
    cameras: str | Path | None = None,
    reference: str | Path | None = None,
) -> None:
    """What one way can and the other cannot."""
    if not network and reference is not None:
        raise UsageError("--reference-mask needs a network that says how every pixel moves: give --model")
    if not network and long_side is not None:
        raise UsageError("--long-side is that of a network's images: give --model, or leave it out")
    if not network and flow:
        check_flow(None)
    if network and cameras is not None:
        raise UsageError("--cameras: a network cannot be told cameras yet; leave out --cameras or --model")
    if network and refine:
        raise UsageError("--refine: a network's answer is not refined yet; leave out --refine, or --model for tracks")


def _weights_free(
    opened: Source,
    folder: Folder,
    settings: dict[str, Any],
    cameras: str | Path | None,
    masked: Path | None,
    seed: int,
    progress: Progress,
    views: Sequence[int] | None = None,
) -> Reconstruction:
    """From tracks alone; with maps of some ``views``, or of all."""
    clock = Clock()
    _check_memory(opened)
    known = None if cameras is None else read_cameras(cameras).match(opened.infos)
    settings = {"cameras": known and str(cameras), **settings}
    with ExitStack() as stack:
        writer = folder.writer(opened, {**settings, "sha256": checkpoint.inputs_of(opened, known, masked)})
        if writer is not None:
            stack.enter_context(writer)
        stack.enter_context(threadpool_limits(1, "blas"))  # the solver's matrices are small: threads only wait
        pictures = stack.enter_context(Pictures(opened))
        with clock("read"):
            read = partial(gather, pictures, masked, seed, progress)
            evidence = checkpoint.stage(writer, "evidence", Evidence, read)
            if not len(pictures.small):  # the tracks are those of an interrupted run
                deque(pictures.decode(progress), maxlen=0)
        with clock("solve"):
            found = partial(solve, pictures, evidence, known, seed, progress)
            solution = checkpoint.stage(writer, "solution", Solution, found)
        with clock("depth"):
            dense = densify(
                pictures,
                solution.parts,
                solution.cameras,
                solution.tracks,
                ordered=evidence.ordered,
                masks=masked,
                writer=writer,
                progress=progress,
                frames=views,
            )
        scale: Scale = known.scale if known is not None and bool(known.has_pose.any()) else "up_to_scale"
        resumed = writer is not None and writer.resumed
        result = Reconstruction(
            frames=opened.infos,
            cameras=solution.cameras,
            maps=dense.maps,
            sparse=solution.sparse,
            tracks=dense.tracks,
            scale=scale,
            provenance=_provenance(opened, settings, known, solution, dense, clock, resumed),
        )
        return result if writer is None else writer.finish(result)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Cameras of a clip, and what they were solved from."""

    parts: list[Solved]
    cameras: Cameras
    tracks: Tracks
    """Those of the evidence, placed anew with the help of the cameras."""
    sparse: Points3D | None
    notes: list[str]


def solve(
    pictures: Pictures, evidence: Evidence, known: MatchedCameras | None, seed: int, progress: Progress
) -> Solution:
    """Cameras of every connected part, on keyframes first, then on all frames; then again with sharpened tracks."""
    infos, scale = pictures.source.infos, pictures.work_scale
    prior = assemble.make_prior(infos, known, scale)
    rigid = evidence.tracks.weight.numpy() >= LEAST_TRUST
    key = rigid & np.isin(evidence.tracks.view.numpy(), evidence.keyframes)
    straight = assemble.ideal_tracks(evidence.tracks, known, scale)
    every_frame, on_keyframes = _rows(straight, rigid), _rows(straight, key)
    components = progress(problem.connected_views(on_keyframes, len(infos)), "solve")
    solved = [solve_component(on_keyframes, views, prior, seed=seed) for views in components]
    parts = [part for part in solved if part is not None]
    whole = [extended(part, every_frame, evidence.keyframes, prior) for part in parts]
    cameras = assemble.cameras_of(whole, infos, prior, known, scale)
    tracks = _sharpened(pictures, evidence, whole, cameras, progress)
    straight = assemble.ideal_tracks(tracks, known, scale)
    every_frame, on_keyframes = _rows(straight, rigid), _rows(straight, key)
    parts = [polished(part, on_keyframes, prior, seed=seed) for part in parts]
    parts = [extended(part, every_frame, evidence.keyframes, prior) for part in parts]
    cameras = assemble.cameras_of(parts, infos, prior, known, scale)
    colours = assemble.track_colours(tracks, pictures.small, network_scale(infos, scale))
    full = [part for part in parts if part.motion == "full"]
    sparse = assemble.sparse_points(full[0], tracks, colours, scale) if full else None
    return Solution(parts=parts, cameras=cameras, tracks=tracks, sparse=sparse, notes=_notes(parts, cameras, infos))


def _sharpened(
    pictures: Pictures, evidence: Evidence, parts: list[Solved], cameras: Cameras, progress: Progress
) -> Tracks:
    """The tracks as the largest greys at hand show them, back in working pixels."""
    larger = pictures.grey_scale / pictures.work_scale[:, None]
    there = assemble.for_maps(cameras, [torch.tensor([1 / x, 1 / y, 1.0]).diag() for x, y in pictures.grey_scale])
    tracks = assemble.rescaled(evidence.tracks, larger)
    tracks = sharpened(tracks, parts, there, pictures.greys, ordered=evidence.ordered, progress=progress)
    return assemble.rescaled(tracks, 1 / larger)


def _rows(tracks: Tracks, keep: np.ndarray) -> Tracks:
    """Some rows; tracks keep their numbers."""
    row = torch.as_tensor(keep)
    return Tracks(view=tracks.view[row], track=tracks.track[row], uv=tracks.uv[row], weight=tracks.weight[row])


def _notes(parts: list[Solved], cameras: Cameras, infos: Sequence[FrameInfo]) -> list[str]:
    """What a user must know of the cameras, in plain words."""
    notes = []
    missing = len(infos) - int(cameras.found.sum())
    if not parts:
        notes.append("no two frames share enough points: no camera could be found")
    elif missing:
        notes.append(f"{missing} of {len(infos)} frames have no camera: too few points lead there")
    if len(parts) > 1:
        sizes = ", ".join(str(len(part.views)) for part in parts)
        notes.append(f"{len(parts)} parts without a common point were solved apart ({sizes} frames): no common scale")
    for number, part in enumerate(parts):
        if part.motion != "full":
            notes.append((f"part {number}: " if len(parts) > 1 else "") + NO_DEPTH[part.motion])
    return notes


def _check_memory(opened: Source) -> None:
    needed, there = _memory_gib(opened), machine_gib()
    if needed > there:
        fit = int(len(opened) * there / needed)
        raise MemoryLimitError(
            f"{len(opened)} frames take about {needed:.1f} GiB, this machine has {there:.1f}: --max-frames {fit} fits"
        )


def _provenance(
    opened: Source,
    settings: dict[str, Any],
    known: MatchedCameras | None,
    solution: Solution,
    dense: Dense,
    clock: Clock,
    resumed: bool,
) -> dict[str, Any]:
    cameras, parts = solution.cameras, solution.parts
    complete = bool(cameras.found.all()) and len(parts) == 1 and parts[0].motion == "full"
    return {
        **record(opened, settings, clock, resumed),
        "weights": None,
        "learned_depth": dense.record,
        "state": "full" if complete else "partial",
        "notes": [*opened.notes, *([] if known is None else known.notes), *solution.notes],
        "used_priors": _used_priors(opened, known),
        "parts": [
            {"frames": len(part.views), "motion": part.motion, "explained": float(part.good.mean())} for part in parts
        ],
    }


def _used_priors(opened: Source, known: MatchedCameras | None) -> list[str]:
    priors = []
    if known is not None:
        priors += [f"intrinsics of {int(known.has_intrinsics.sum())} frames"] if known.has_intrinsics.any() else []
        priors += [f"poses of {int(known.has_pose.sum())} frames"] if known.has_pose.any() else []
    exif = sum(info.focal_prior_px is not None for info in opened.infos)
    return [*priors, *([f"EXIF focal length of {exif} frames as a start"] if exif else [])]
