"""A network's answer as a result: pairs of frames chained over anchors, written as they come."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unproject.geometry import motion
from unproject.geometry.rigid import inverse
from unproject.inference.anchored import AnchoredFrame, Sequencing, anchored
from unproject.inference.evidence import mask_of
from unproject.inference.network_input import BATCH, NetworkInput, check_memory, memory_gib, there_gib, too_large
from unproject.inference.network_tracks import TrackGrid
from unproject.inference.run import Clock, Folder, record, unclaimed
from unproject.io import schema
from unproject.io.images import to_original
from unproject.io.result import Reconstruction
from unproject.io.source import Source, hash_of_files
from unproject.io.writer import ResultWriter
from unproject.models.base import Reconstructor
from unproject.models.loading import fingerprint
from unproject.progress import Progress
from unproject.types import Cameras, FrameInfo, FrameMaps

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def feed_forward(
    network: Reconstructor,
    opened: Source,
    *,
    folder: Folder,
    settings: dict[str, Any],
    long_side: int | None,
    masks: Path | None,
    reference: Path | None,
    device: torch.device | None,
    precision: torch.dtype | None,
    progress: Progress,
) -> Reconstruction:
    """The result of a two-view network; errors as `reconstruct` names them.

    The network stays where it is, in its own precision, unless a device or a precision is named.
    """
    clock = Clock()
    network = network if device is None else network.to(device)
    place = next(network.parameters()).device
    side = network.long_side if long_side is None else long_side
    check_memory(network, opened, side)
    given = NetworkInput(opened, side, place)
    sequencing = Sequencing(
        batch=BATCH[place.type],
        precision=precision,
        reference=given.reference(reference),
        usable=given.usable(masks),
    )
    weights = _weights(network)
    settings = {
        **settings,
        "model": network.origin,
        "long_side": side,
        "precision": str(precision or network.precision),
        "reference_mask": reference and str(reference),
    }
    with ExitStack() as stack:
        writer = folder.writer(opened, {**settings, "sha256": _inputs(opened, masks, reference), "weights": weights})
        if writer is not None:
            stack.enter_context(writer)
        collected = _Collector(opened.infos, masks, writer, TrackGrid(place, len(opened), writer))
        with clock("network"), _memory_explained(network, opened, side):
            pictures: deque[np.ndarray] = deque()
            images = given.images(pictures.append)
            frames = progress(anchored(network, images, sequencing), "network", len(opened))
            for frame in frames:
                collected.add(frame, pictures.popleft())
        collected.finish()
        tracks, sparse = collected.tracks.finish()
        cameras = collected.cameras()
        result = Reconstruction(
            frames=opened.infos,
            cameras=cameras,
            maps=collected.maps if writer is None else writer.maps,
            sparse=sparse,
            tracks=tracks,
            provenance={
                **record(opened, settings, clock, writer is not None and writer.resumed),
                **_answer(cameras, collected),
                "weights": weights,
                "device": str(place),
                "notes": [*opened.notes, *_assumed(network), *_notes(cameras, collected, sequencing)],
            },
        )
        return result if writer is None else writer.finish(result)


@dataclass
class _Collector:
    """Turns frames into what a result holds, while they stream by."""

    infos: Sequence[FrameInfo]
    masks: Path | None
    writer: ResultWriter | None
    tracks: TrackGrid
    maps: list[FrameMaps] = field(default_factory=list)
    anchors: list[int] = field(default_factory=list)
    _poses: list[Tensor] = field(default_factory=list)
    _focal: list[Tensor] = field(default_factory=list)
    _overlap: list[float] = field(default_factory=list)
    _first: FrameMaps | None = None

    def add(self, frame: AnchoredFrame, shown: np.ndarray) -> None:
        """The next frame and how the network saw it."""
        index, info = frame.index, self.infos[frame.index]
        place = to_original((shown.shape[1], shown.shape[0]), (info.width, info.height))
        own, of_anchor = _motion(frame)
        maps = _maps(frame, own, shown, place)
        self.tracks.add(frame, of_anchor, shown, place)
        self._poses.append(frame.world_from_cam.cpu())
        self._focal.append(torch.diagonal(place @ frame.intrinsics[0].double().cpu())[:2])
        self._overlap.append(min(1.0, frame.overlap))
        self.anchors.append(frame.anchor)
        if self._first is None:
            self._first = maps
            self.maps.append(maps)
            return
        if frame.anchor == 0:  # the first frame is compared with nothing else than what follows it
            self._first = replace(self._first, motion=torch.maximum(self._first.motion, of_anchor.float().cpu()))
        self._put(index, maps)

    def finish(self) -> None:
        """Write the frame that waited for what came after it."""
        if self._first is not None:
            self._put(0, self._first)

    def _put(self, index: int, maps: FrameMaps) -> None:
        mask = None if self.masks is None else mask_of(self.masks, self.infos[index], index)
        maps = schema.rounded(unclaimed(maps, mask))
        if self.writer is None:
            self.maps[index : index + 1] = [maps]
        elif index not in self.writer.done:
            self.writer.write(index, maps)

    def cameras(self) -> Cameras:
        """Poses as they came; frames of one camera share the median of what they said of its focal length."""
        poses = torch.stack(self._poses)
        found = poses.isfinite().all(-1).all(-1)
        size = torch.tensor([[info.width, info.height] for info in self.infos]).double()
        said, focal = torch.stack(self._focal), torch.empty_like(size)
        camera = torch.tensor([info.camera for info in self.infos])
        for number in camera.unique():
            sure = said[(camera == number) & (said > 0).all(-1) & said.isfinite().all(-1)]
            # Without a word from the points: a view of 53 degrees.
            focal[camera == number] = sure.median(0).values if len(sure) else size[camera == number].amax(-1, True)
        intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(poses), 1, 1)
        intrinsics[:, [0, 1], [0, 1]] = focal
        intrinsics[:, :2, 2] = size / 2
        return Cameras(
            world_from_cam=poses,
            intrinsics=intrinsics,
            distortion=torch.zeros(len(poses), 5, dtype=torch.float64),
            found=found,
            component=torch.where(found, 0, -1),
            quality=torch.tensor(self._overlap) * found,
        )


def _motion(frame: AnchoredFrame) -> tuple[Tensor, Tensor]:
    """How surely the frame's pixels and the anchor's move between the two times."""
    own = frame.own_maps
    if own is None:
        raise ValueError("AnchoredFrame.own_maps is needed here; run the sequence with both_sides=True")
    ahead = motion.point_maps(frame.anchor_maps.points, frame.anchor_maps.target_points, frame.cam_from_anchor)
    back = motion.point_maps(own.points, own.target_points, inverse(frame.cam_from_anchor))
    of_frame = motion.motion_share(back, ahead, frame.anchor_intrinsics)
    return of_frame[0], motion.motion_share(ahead, back, frame.intrinsics)[0]


def _maps(frame: AnchoredFrame, moving: Tensor, shown: np.ndarray, place: Tensor) -> FrameMaps:
    """Depth and the rest as a result holds them; what has no depth is filled with the median."""
    own = frame.own_maps
    if own is None:
        raise ValueError("AnchoredFrame.own_maps is needed here; run the sequence with both_sides=True")
    depth = own.points[0, ..., 2].float().cpu()
    valid = (depth > 0) & depth.isfinite()
    usual = depth[valid].median() if bool(valid.any()) else torch.ones(())
    return FrameMaps(
        depth=torch.where(valid, depth, usual),
        valid=valid,
        confidence=own.confidence[0].float().cpu().clamp(0, 1) * valid,
        motion=moving.float().cpu(),
        to_original=place,
        rgb=torch.from_numpy(shown),
    )


def _weights(network: Reconstructor) -> dict[str, Any]:
    """Whose answer it is, for `run.json`."""
    return {
        "model": type(network).__name__.lower(),
        "file": network.origin,
        "sha256": fingerprint(network),
        "licence": network.licence,
    }


def _answer(cameras: Cameras, collected: _Collector) -> dict[str, Any]:
    """What was found, for `run.json`."""
    found, quality = cameras.found, cameras.quality
    return {
        "anchors": sorted(set(collected.anchors)),
        "state": "full" if bool(found.all()) else "partial",
        "used_priors": [],
        "parts": [{"frames": int(found.sum()), "motion": "full", "explained": float(quality.mean())}],
    }


def _assumed(network: Reconstructor) -> list[str]:
    view = network.assumed_view_deg
    return (
        [] if view is None else [f"the network cannot tell the focal length: a view of {view:.0f} degrees is assumed"]
    )


def _notes(cameras: Cameras, collected: _Collector, sequencing: Sequencing) -> list[str]:
    notes = []
    lost = int((~cameras.found).sum())
    if lost:
        notes.append(f"{lost} of {len(cameras.found)} frames have no camera: nothing in them may speak of it")
    thin = int((cameras.found & (cameras.quality < sequencing.least_overlap)).sum())
    if thin:
        notes.append(f"{thin} of {len(cameras.found)} frames share little with the frame they were compared with")
    anchors = len(set(collected.anchors))
    if anchors > 1:
        notes.append(f"{anchors} anchors: the view changes too much for one")
    return notes


def _inputs(opened: Source, masks: Path | None, reference: Path | None) -> dict[str, Any]:
    """Digests of all that a run reads: an interrupted one goes on only with the same."""
    folders = {"masks": masks, "reference": reference}
    files = {
        name: [] if path is None else sorted(path.glob("*.png")) if path.is_dir() else [path]
        for name, path in folders.items()
    }
    return {"input": opened.content_hash, **{name: hash_of_files(paths) for name, paths in files.items()}}


@contextmanager
def _memory_explained(network: Reconstructor, opened: Source, side: int) -> Iterator[None]:
    """What a device says when it is full becomes the side that would fit."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
            raise
        # What was there is not known, only that it was less than was needed.
        there = min(there_gib(next(network.parameters()).device), 0.9 * memory_gib(network, opened, side))
        raise too_large(network, opened, side, there) from error
