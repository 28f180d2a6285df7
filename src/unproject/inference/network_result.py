"""What all ways from a network to a result share: maps on their way out, cameras, whose answer it is, full devices."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unproject.geometry.align import weighted_median
from unproject.inference.evidence import mask_of
from unproject.inference.network_input import memory_gib, there_gib, too_large
from unproject.inference.run import unclaimed, unclaimed_flow
from unproject.io import schema
from unproject.io.flows import Pair
from unproject.io.source import Source, hash_of_files
from unproject.io.writer import ResultWriter
from unproject.models.base import Reconstructor
from unproject.models.loading import fingerprint
from unproject.types import Cameras, FlowMaps, FrameInfo, FrameMaps, MovingTracks, Points3D

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """All that a network has to say of a source."""

    cameras: Cameras
    maps: Sequence[FrameMaps]
    tracks: MovingTracks
    sparse: Points3D | None
    notes: list[str]
    record: dict[str, Any]
    """For `run.json`."""


@dataclass
class MapsSink:
    """Takes maps of frames, and flow of pairs of them, in any order, and writes them or holds them."""

    infos: Sequence[FrameInfo]
    masks: Path | None
    writer: ResultWriter | None
    held: dict[int, FrameMaps] = field(default_factory=dict)
    held_flows: dict[Pair, FlowMaps] = field(default_factory=dict)
    has_depth: bool = False
    """Some pixel of some frame has a depth that was not filled in."""

    def put(self, index: int, maps: FrameMaps) -> None:
        """As the disk would give them back; nothing is claimed on black pixels of the frame's mask."""
        maps = schema.rounded(unclaimed(maps, self._mask(index)))
        self.has_depth = self.has_depth or bool(maps.valid.any())
        if self.writer is None:
            self.held[index] = maps
        elif index not in self.writer.done:
            self.writer.write(index, maps)

    def put_flow(self, source: int, target: int, maps: FlowMaps) -> None:
        """Likewise; the mask is that of the source."""
        maps = schema.rounded_flow(unclaimed_flow(maps, self._mask(source)))
        if self.writer is None:
            self.held_flows[source, target] = maps
        else:
            self.writer.write_flow(source, target, maps)

    def _mask(self, index: int) -> np.ndarray | None:
        return None if self.masks is None else mask_of(self.masks, self.infos[index], index)

    @property
    def flows(self) -> Mapping[Pair, FlowMaps]:
        """Of all pairs."""
        return dict(sorted(self.held_flows.items())) if self.writer is None else self.writer.flows

    @property
    def maps(self) -> Sequence[FrameMaps]:
        """Of all frames."""
        return [self.held[index] for index in sorted(self.held)] if self.writer is None else self.writer.maps


def network_cameras(
    infos: Sequence[FrameInfo],
    world_from_cam: Float[Tensor, "N 4 4"],
    focal_px: Float[Tensor, "N 2"],
    trust: Float[Tensor, " N"],
    camera: Int[Tensor, " N"],
    component: Int[Tensor, " N"],
    quality: Float[Tensor, " N"],
) -> Cameras:
    """Poses as they are; frames of one ``camera`` share the median, by trust, of what they said of its focal length.

    Focal lengths are those of either axis, in original pixels. A camera of which nothing is said has a view of 53
    degrees. Frames whose pose is NaN have none.
    """
    found = world_from_cam.isfinite().all(-1).all(-1)
    size = torch.tensor([[info.width, info.height] for info in infos]).double()
    focal = torch.empty_like(size)
    for number in camera.unique():
        mine = camera == number
        weight = torch.where((focal_px[mine] > 0).all(-1) & focal_px[mine].isfinite().all(-1), trust[mine], 0)
        said = torch.stack([weighted_median(axis, weight) for axis in focal_px[mine].unbind(-1)])
        focal[mine] = said if bool((weight > 0).any()) else size[mine].amax(-1, True)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(infos), 1, 1)
    intrinsics[:, [0, 1], [0, 1]] = focal
    intrinsics[:, :2, 2] = size / 2
    return Cameras(
        world_from_cam=world_from_cam,
        intrinsics=intrinsics,
        distortion=torch.zeros(len(infos), 5, dtype=torch.float64),
        found=found,
        component=torch.where(found, component, -1),
        quality=quality * found,
    )


def weights_of(network: Reconstructor) -> dict[str, Any]:
    """Whose answer it is, for `run.json`."""
    return {
        "model": type(network).__name__.lower(),
        "file": network.origin,
        "sha256": fingerprint(network),
        "licence": network.licence,
        "made_from": network.made_from,
    }


def digests(opened: Source, masks: Path | None, reference: Path | None) -> dict[str, Any]:
    """Of all that a run reads: an interrupted one goes on only with the same."""
    folders = {"masks": masks, "reference": reference}
    files = {
        name: [] if path is None else sorted(path.glob("*.png")) if path.is_dir() else [path]
        for name, path in folders.items()
    }
    return {"input": opened.content_hash, **{name: hash_of_files(paths) for name, paths in files.items()}}


def lost_frames(cameras: Cameras) -> list[str]:
    """The note on frames without a camera."""
    lost = int((~cameras.found).sum())
    total = len(cameras.found)
    return [f"{lost} of {total} frames have no camera: nothing in them may speak of it"] if lost else []


@contextmanager
def memory_explained(network: Reconstructor, opened: Source, side: int, flow: bool) -> Iterator[None]:
    """What a device says when it is full becomes the side that would fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
            raise
        # What was there is not known, only that it was less than was needed.
        there = min(there_gib(next(network.parameters()).device), 0.9 * memory_gib(network, opened, side, flow))
        raise too_large(network, opened, side, flow, there) from error
