"""A two-view network's answer: pairs of frames chained over anchors, taken into maps as they come."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from unproject.geometry import motion
from unproject.geometry.rigid import inverse
from unproject.inference.anchored import AnchoredFrame, Sequencing, anchored
from unproject.inference.network_input import NetworkInput
from unproject.inference.network_result import Answer, MapsSink, lost_frames, network_cameras
from unproject.inference.network_tracks import TrackGrid
from unproject.io.images import to_original
from unproject.models.base import Reconstructor
from unproject.progress import Progress
from unproject.types import Cameras, FrameInfo, FrameMaps


def seen_in_pairs(
    network: Reconstructor, given: NetworkInput, sequencing: Sequencing, sink: MapsSink, progress: Progress
) -> Answer:
    """Every frame against an anchor (see `anchored`)."""
    collected = _Collector(sink, TrackGrid(given.device, len(given.sizes), sink.writer))
    pictures: deque[np.ndarray] = deque()
    images = given.images(pictures.append)
    for frame in progress(anchored(network, images, sequencing), "network", len(given.sizes)):
        collected.add(frame, pictures.popleft())
    collected.finish()
    tracks, sparse = collected.tracks.finish()
    cameras = collected.cameras()
    found, quality = cameras.found, cameras.quality
    return Answer(
        cameras=cameras,
        maps=sink.maps,
        tracks=tracks,
        sparse=sparse,
        notes=[*_assumed(network), *lost_frames(cameras), *_notes(cameras, collected.anchors, sequencing)],
        record={
            "anchors": sorted(set(collected.anchors)),
            "parts": [{"frames": int(found.sum()), "motion": "full", "explained": float(quality.mean())}],
        },
    )


@dataclass
class _Collector:
    """Turns frames into what a result holds, while they stream by."""

    sink: MapsSink
    tracks: TrackGrid
    anchors: list[int] = field(default_factory=list)
    _poses: list[Tensor] = field(default_factory=list)
    _focal: list[Tensor] = field(default_factory=list)
    _overlap: list[float] = field(default_factory=list)
    _first: FrameMaps | None = None

    @property
    def infos(self) -> Sequence[FrameInfo]:
        """Of all frames."""
        return self.sink.infos

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
            return
        if frame.anchor == 0:  # the first frame is compared with nothing else than what follows it
            self._first = replace(self._first, motion=torch.maximum(self._first.motion, of_anchor.float().cpu()))
        self.sink.put(index, maps)

    def finish(self) -> None:
        """Write the frame that waited for what came after it."""
        if self._first is not None:
            self.sink.put(0, self._first)

    def cameras(self) -> Cameras:
        """Poses as they came, and what frames of one camera said of its focal length."""
        count = len(self._poses)
        return network_cameras(
            self.infos,
            torch.stack(self._poses),
            torch.stack(self._focal),
            torch.ones(count),
            torch.tensor([info.camera for info in self.infos]),
            torch.zeros(count, dtype=torch.long),
            torch.tensor(self._overlap),
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


def _assumed(network: Reconstructor) -> list[str]:
    view = network.assumed_view_deg
    return (
        [] if view is None else [f"the network cannot tell the focal length: a view of {view:.0f} degrees is assumed"]
    )


def _notes(cameras: Cameras, anchor_of: list[int], sequencing: Sequencing) -> list[str]:
    notes = []
    thin = int((cameras.found & (cameras.quality < sequencing.least_overlap)).sum())
    if thin:
        notes.append(f"{thin} of {len(cameras.found)} frames share little with the frame they were compared with")
    anchors = len(set(anchor_of))
    if anchors > 1:
        notes.append(f"{anchors} anchors: the view changes too much for one")
    return notes
