"""From solved cameras to the dense part of a result: maps of every frame, 3D tracks, and who helped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unproject.inference import assemble, tracks3d
from unproject.inference.dense import DenseClip, dense_maps
from unproject.inference.evidence import Pictures, mask_of, network_size
from unproject.inference.held_out import Trial, try_guess
from unproject.inference.learned import LearnedGuess
from unproject.inference.refine import Solved
from unproject.inference.run import unclaimed
from unproject.io import schema
from unproject.io.images import to_original
from unproject.io.writer import ResultWriter
from unproject.models.compact import Compact
from unproject.models.loading import load
from unproject.progress import Progress
from unproject.types import Cameras, FrameInfo, FrameMaps, MovingTracks, Tracks


@dataclass(frozen=True, kw_only=True)
class Dense:
    """The dense part of a result."""

    maps: Sequence[FrameMaps]
    tracks: MovingTracks
    trial: Trial | None
    """Of the network on this clip; None where there is no depth to be had."""

    @property
    def record(self) -> dict[str, Any] | None:
        """The network's part in it, for `run.json`."""
        return None if self.trial is None else {"model": "compact", **self.trial.facts()}


def densify(
    pictures: Pictures,
    parts: list[Solved],
    cameras: Cameras,
    tracks: Tracks,
    *,
    ordered: bool,
    masks: Path | None,
    writer: ResultWriter | None,
    progress: Progress,
) -> Dense:
    """Depth, motion and 3D tracks frame by frame; to disk where there is a writer. Tracks are in working pixels.

    The compact network carries depth on over what flow cannot see, if that is clearly better on points held out.
    """
    original = assemble.rescaled(tracks, 1 / pictures.work_scale)
    lifter = tracks3d.TrackLifter(original, parts, cameras)
    infos = pictures.source.infos
    places = [to_original(network_size(info), (info.width, info.height)) for info in infos]
    clip = DenseClip(
        images=pictures.small,
        cameras=assemble.for_maps(cameras, places),
        sparse=assemble.sparse_depths(parts, original, cameras, places),
        to_original=places,
        ordered=ordered,
        camera_motion=[part.motion for part in parts],
    )
    clip, trial = _with_help(clip)
    held: list[FrameMaps] = []
    for index, maps in enumerate(progress(_all_maps(clip, infos, masks, writer), "depth", len(infos))):
        lifter.add(index, maps)
        if writer is None:
            held.append(maps)
    return Dense(maps=held if writer is None else writer.maps, tracks=lifter.finish(), trial=trial)


def _with_help(clip: DenseClip) -> tuple[DenseClip, Trial | None]:
    """The clip with the network that comes with the package, where it helps, and how it was tried."""
    measured = {number for number, camera_motion in enumerate(clip.camera_motion) if camera_motion == "full"}
    of_frame = np.where(clip.cameras.found.numpy(), clip.cameras.component.numpy(), -1)
    frames = np.flatnonzero(np.isin(of_frame, list(measured))).tolist()
    if not frames:
        return clip, None
    network = load("compact", device="cpu", dtype="float32")
    if not isinstance(network, Compact):
        raise TypeError(f"the weights called compact are of a {type(network).__name__}")
    guess = LearnedGuess(network)
    trial = try_guess(clip, guess, frames)
    return (replace(clip, guess=guess) if trial.helps else clip), trial


def _all_maps(
    clip: DenseClip, infos: Sequence[FrameInfo], masks: Path | None, writer: ResultWriter | None
) -> Iterator[FrameMaps]:
    """The maps of every frame as a disk gives them back: read where they lie there already, else made and written."""
    frames = range(len(clip.images))
    done = frozenset() if writer is None else frozenset(writer.done)
    made = dense_maps(clip, [frame for frame in frames if frame not in done])
    for frame in frames:
        if writer is not None and frame in done:
            yield writer.maps[frame]
            continue
        mask = None if masks is None else mask_of(masks, infos[frame], frame)
        maps = schema.rounded(unclaimed(next(made), mask))
        if writer is not None:
            writer.write(frame, maps)
        yield maps
