"""Tracks of what stands still, out of depth and cameras: what a `TrackGrid` needs, by geometry alone."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unproject.geometry import camera, motion
from unproject.geometry.rigid import inverse
from unproject.inference.anchored import AnchoredFrame
from unproject.inference.network_tracks import TrackGrid
from unproject.io.writer import ResultWriter
from unproject.models.pairing import PairMaps
from unproject.types import FrameMaps, MovingTracks, Points3D

LEAST_OVERLAP = 0.4
"""The next anchor is the frame in which less of the last one's confidence is left."""


@dataclass(frozen=True, kw_only=True)
class _Still:
    index: int
    world_from_cam: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "1 3 3"]
    points: Float[Tensor, "1 H W 3"]
    confidence: Float[Tensor, "1 H W"]
    motion: Float[Tensor, "H W"]


class StaticTracks:
    """Takes frames in order, each with its maps in the world's unit; frames without a camera break no track."""

    def __init__(self, frames: int, writer: ResultWriter | None) -> None:
        self.grid = TrackGrid(torch.device("cpu"), frames, writer)
        self._anchor: _Still | None = None

    def add(
        self,
        index: int,
        maps: FrameMaps,
        world_from_cam: Float[Tensor, "4 4"],
        intrinsics: Float[Tensor, "3 3"],
        shown: UInt8[np.ndarray, "h w 3"],
    ) -> None:
        """The next frame; ``intrinsics`` are for the maps' pixels, the pose is NaN where there is none."""
        matrix = intrinsics[None].float()
        frame = _Still(
            index=index,
            world_from_cam=world_from_cam,
            intrinsics=matrix,
            points=camera.unproject(maps.depth[None], matrix),
            confidence=(maps.confidence * maps.valid * (maps.motion <= 0.5))[None],
            motion=maps.motion,
        )
        anchor = frame if self._anchor is None else self._anchor
        seen = _seen_from(anchor, frame)
        self.grid.add(seen, anchor.motion, shown, maps.to_original)
        lost = seen.overlap < LEAST_OVERLAP and bool(world_from_cam.isfinite().all())
        self._anchor = frame if lost else anchor

    def finish(self) -> tuple[MovingTracks, Points3D | None]:
        """As `TrackGrid.finish`."""
        return self.grid.finish()


def _seen_from(anchor: _Still, frame: _Still) -> AnchoredFrame:
    """What a two-view network would say of the pair, were the scene still."""
    turn = (inverse(frame.world_from_cam) @ anchor.world_from_cam).float()[None]
    ahead = _maps(anchor, motion.transform_map(turn, anchor.points))
    back = _maps(frame, motion.transform_map(inverse(turn), frame.points))
    matrix = frame.intrinsics
    seen = motion.visibility(ahead.points, ahead.target_points, back.points, back.target_points, matrix)
    total = anchor.confidence.sum()
    return AnchoredFrame(
        index=frame.index,
        anchor=anchor.index,
        world_from_cam=frame.world_from_cam,
        cam_from_anchor=turn,
        anchor_maps=ahead,
        own_maps=back,
        anchor_intrinsics=anchor.intrinsics,
        intrinsics=matrix,
        scale=1.0,
        overlap=float((anchor.confidence * seen).sum() / total) if float(total) > 0 else 0.0,
    )


def _maps(still: _Still, there: Float[Tensor, "1 H W 3"]) -> PairMaps:
    return PairMaps(
        points=still.points,
        target_points=there,
        log_weight=torch.zeros_like(still.confidence),
        confidence=still.confidence,
    )
