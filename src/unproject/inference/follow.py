"""Points through an anchored sequence, from one anchor to the next."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unproject.geometry import motion
from unproject.geometry.flow import sample
from unproject.geometry.rigid import transform
from unproject.inference.anchored import AnchoredFrame


@dataclass(frozen=True, kw_only=True)
class Followed:
    """K points at one frame's time."""

    xyz: Float[Tensor, "K 3"]
    """In the world; where the point is lost, its last known place."""
    uv: Float[Tensor, "K 2"]
    """Where that is in the frame, in the network's pixels; `camera.NOWHERE` behind it."""
    visible: Bool[Tensor, " K"]
    confidence: Float[Tensor, " K"]
    """That of the anchor's pixel; 0 for lost points."""


class Follower:
    """Follows points of the first frame, and such as are added, with memory for the points alone.

    Where a frame becomes the next anchor, points that it sees go on from where they are in it; the others are lost for
    good. They are held where they were last until `let_go`.
    """

    def __init__(self, uv: Float[Tensor, "K 2"]) -> None:
        self.uv = uv
        """In the anchor's pixels."""
        self.alive = torch.ones(len(uv), dtype=torch.bool, device=uv.device)
        self.xyz = uv.new_full((len(uv), 3), torch.nan)
        self.number = torch.arange(len(uv), device=uv.device)
        """Of each point, in the order in which they were added; it stays when others leave."""
        self._begun = len(uv)
        self._anchor = 0
        self._landed, self._seen = uv, self.alive

    def add(self, frame: AnchoredFrame) -> Followed:
        """Where the points are at the time of the next frame; frames come in order."""
        self.go_to(frame.anchor)
        maps = frame.anchor_maps
        points = motion.surface_at(maps.points[0], maps.points[0], self.uv)
        moved = motion.surface_at(maps.target_points[0], maps.points[0], self.uv)
        place = transform(frame.world_from_cam.to(moved), moved)
        known = self.alive & place.isfinite().all(-1)
        self.xyz = torch.where(known[:, None], place, self.xyz)
        landed = motion.landing(moved[None], frame.intrinsics[0])[0]
        seen = known & self._sees(frame, points, moved, landed)
        confidence, _ = sample(maps.confidence[0, ..., None], self.uv)
        self._landed, self._seen = landed, seen
        return Followed(
            xyz=self.xyz, uv=landed, visible=seen, confidence=torch.where(known, confidence[..., 0].clamp(0, 1), 0)
        )

    def go_to(self, anchor: int) -> bool:
        """From the pixels of one anchor to those of the frame that came last and is the next; whether there is one."""
        if anchor == self._anchor:
            return False
        self.uv, self.alive, self._anchor = self._landed, self.alive & self._seen, anchor
        return True

    def start(self, uv: Float[Tensor, "K 2"]) -> None:
        """Follow more points, at these pixels of the current anchor."""
        new = torch.ones(len(uv), dtype=torch.bool, device=uv.device)
        self.uv, self.alive = torch.cat([self.uv, uv]), torch.cat([self.alive, new])
        self.xyz = torch.cat([self.xyz, uv.new_full((len(uv), 3), torch.nan)])
        self.number = torch.cat([self.number, self._begun + torch.arange(len(uv), device=uv.device)])
        self._begun += len(uv)
        self._landed, self._seen = torch.cat([self._landed, uv]), torch.cat([self._seen, new])

    def let_go(self) -> Bool[Tensor, " K"]:
        """Drop the points that are lost for good; which of those that were held are still there."""
        kept = self.alive
        self.uv, self.xyz, self.number = self.uv[kept], self.xyz[kept], self.number[kept]
        self._landed, self._seen, self.alive = self._landed[kept], self._seen[kept], kept[kept]
        return kept

    def _sees(self, frame: AnchoredFrame, points: Tensor, moved: Tensor, landed: Tensor) -> Bool[Tensor, " K"]:
        """By the frame's own points where they were asked for; else all that lies in its image."""
        own = frame.own_maps
        if own is None:
            size = landed.new_tensor(frame.anchor_maps.points.shape[2:0:-1])
            return ((landed >= 0) & (landed <= size)).all(-1)
        if frame.index == frame.anchor:
            return torch.ones_like(self.alive)
        matrix = frame.intrinsics[0]
        return motion.visibility(points[None], moved[None], own.points[0], own.target_points[0], matrix)[0]
