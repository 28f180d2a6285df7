"""From solved cameras to the dense part of a result: maps of every frame, 3D tracks, and who helped."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from unproject.inference import assemble, tracks3d
from unproject.inference.dense import DenseClip, dense_maps
from unproject.inference.evidence import Pictures, mask_of, network_size
from unproject.inference.held_out import Trial, try_guess
from unproject.inference.learned import LearnedGuess
from unproject.inference.measure import Guess
from unproject.inference.refine import Solved
from unproject.inference.run import unclaimed
from unproject.io import schema
from unproject.io.images import to_original
from unproject.io.result import LazyMaps
from unproject.io.writer import ResultWriter
from unproject.models.compact import Compact
from unproject.models.loading import fingerprint, shipped
from unproject.progress import Progress
from unproject.types import Cameras, FrameInfo, FrameMaps, MovingTracks, Tracks

NETWORK = "compact"


@dataclass(frozen=True, kw_only=True)
class Dense:
    """The dense part of a result."""

    maps: LazyMaps | Sequence[FrameMaps]
    tracks: MovingTracks | None
    """None where not all frames were asked for: they are lifted frame by frame."""
    trial: Trial | None
    """Of the network on this clip; None where there is no depth to be had."""
    sha256: str | None
    """Of the network's weights."""

    @property
    def record(self) -> dict[str, Any] | None:
        """The network's part in it, for `run.json`."""
        return None if self.trial is None else {"model": NETWORK, "sha256": self.sha256, **self.trial.facts()}


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
    frames: Sequence[int] | None = None,
) -> Dense:
    """Depth, motion and 3D tracks frame by frame; to disk where there is a writer. Tracks are in working pixels.

    With ``frames`` (ascending) maps are made of those alone, the same as of all, and the maps of others are a
    ValueError when they are asked for.

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
    network = _network() if _measured(clip) else None
    clip, trial = (clip, None) if network is None else _with_help(clip, LearnedGuess(network))
    wanted = range(len(infos)) if frames is None else frames
    held: dict[int, FrameMaps] = {}
    made = progress(_all_maps(clip, infos, wanted, masks, writer), "depth", len(wanted))
    for index, maps in zip(wanted, made, strict=True):
        lifter.add(index, maps)
        if writer is None:
            held[index] = maps
    return Dense(
        maps=writer.maps if writer is not None else LazyMaps(len(infos), partial(_held, held)),
        tracks=lifter.finish() if frames is None else None,
        trial=trial,
        sha256=None if network is None else fingerprint(network),
    )


def _held(maps: Mapping[int, FrameMaps], frame: int) -> FrameMaps:
    if frame not in maps:
        raise ValueError(f"maps of frame {frame} were not asked for, only those of {', '.join(map(str, maps))}")
    return maps[frame]


def _network() -> Compact:
    network = shipped(NETWORK)
    if not isinstance(network, Compact):
        raise TypeError(f"the weights called {NETWORK} are of a {type(network).__name__}")
    return network


def _measured(clip: DenseClip) -> list[int]:
    """Frames whose depth can be measured."""
    full = [number for number, camera_motion in enumerate(clip.camera_motion) if camera_motion == "full"]
    component = np.where(clip.cameras.found.numpy(), clip.cameras.component.numpy(), -1)
    return np.flatnonzero(np.isin(component, full)).tolist()


def _with_help(clip: DenseClip, guess: Guess) -> tuple[DenseClip, Trial]:
    """The clip with the guess if that helps, and how it was tried."""
    trial = try_guess(clip, guess, _measured(clip))
    return replace(clip, guess=guess if trial.helps else None), trial


def _all_maps(
    clip: DenseClip, infos: Sequence[FrameInfo], frames: Sequence[int], masks: Path | None, writer: ResultWriter | None
) -> Iterator[FrameMaps]:
    """The maps of these frames as a disk gives them back: read where they lie there already, else made and written."""
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
