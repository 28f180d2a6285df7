"""3D tracks out of an anchored sequence: a grid of each anchor's pixels, where no older track covers it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unproject.geometry.flow import sample
from unproject.inference.anchored import AnchoredFrame
from unproject.inference.follow import Follower
from unproject.inference.tracks3d import fill_gaps, longest
from unproject.types import MovingTracks, Points3D, Tracks

GRID = 1024
"""Points of an anchor, about."""
LEAST_CONFIDENCE = 0.1
"""Below, a pixel starts no track."""


@dataclass(frozen=True)
class _Rows:
    """The tracks that are alive in one frame."""

    track: np.ndarray
    xyz: np.ndarray
    uv: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray
    motion: np.ndarray


class TrackGrid:
    """Follows while the frames stream by; keeps one row of numbers per track and frame, never a map."""

    def __init__(self, device: torch.device) -> None:
        self.follower = Follower(torch.zeros(0, 2, device=device))
        self.rows: list[_Rows] = []
        self.colours: list[np.ndarray] = []
        self._before: np.ndarray | None = None

    def add(
        self,
        frame: AnchoredFrame,
        anchor_motion: Float[Tensor, "H W"],
        shown: UInt8[np.ndarray, "h w 3"],
        to_original: Float[Tensor, "3 3"],
    ) -> None:
        """The next frame, what moves among its anchor's pixels, and how it looks."""
        if self.follower.go_to(frame.anchor) or self._before is None:
            picture = shown if self._before is None else self._before
            self._start(frame, picture)
        self._before = shown
        found, alive = self.follower.add(frame), self.follower.alive
        moving, _ = sample(anchor_motion[..., None], self.follower.uv)
        scale = torch.diag(to_original)[:2].to(found.uv)
        keep = alive & found.xyz.isfinite().all(-1)
        self.rows.append(
            _Rows(
                track=keep.nonzero()[:, 0].cpu().numpy(),
                xyz=found.xyz[keep].float().cpu().numpy(),
                uv=(found.uv * scale)[keep].float().cpu().numpy(),
                visible=found.visible[keep].cpu().numpy(),
                confidence=found.confidence[keep].float().cpu().numpy(),
                motion=moving[keep, 0].float().cpu().numpy(),
            )
        )

    def _start(self, frame: AnchoredFrame, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """New tracks at the cells of a grid over the anchor that no live track lies in."""
        height, width = frame.anchor_maps.points.shape[1:3]
        step = max(1.0, (height * width / GRID) ** 0.5)
        rows, columns = max(1, round(height / step)), max(1, round(width / step))
        cell = self.follower.uv.new_tensor([width / columns, height / rows])
        taken = torch.zeros(rows, columns, dtype=torch.bool, device=cell.device)
        column, row = (self.follower.uv[self.follower.alive] / cell).long().unbind(-1)
        taken[row.clamp(0, rows - 1), column.clamp(0, columns - 1)] = True
        row, column = (~taken).nonzero().unbind(-1)
        uv = (torch.stack([column, row], dim=-1) + 0.5) * cell
        sure, _ = sample(frame.anchor_maps.confidence[0, ..., None].to(uv), uv)
        uv = uv[sure[:, 0] > LEAST_CONFIDENCE]
        self.follower.start(uv)
        place = uv.long().cpu().numpy()
        self.colours.append(picture[place[:, 1].clip(0, height - 1), place[:, 0].clip(0, width - 1)])

    def finish(self) -> tuple[MovingTracks, Points3D | None]:
        """The longest tracks at all times, and those of them that rest as points with their observations."""
        chosen = _observations(self.rows)
        frames, names = len(self.rows), longest(chosen, len(self.rows))
        shape = (frames, len(names))
        xyz, uv = np.full((*shape, 3), np.nan, np.float32), np.full((*shape, 2), np.nan, np.float32)
        visible, confidence, motion = np.zeros(shape, bool), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for index, rows in enumerate(self.rows):
            mine = np.isin(rows.track, names)
            column = np.searchsorted(names, rows.track[mine])
            xyz[index, column], uv[index, column] = rows.xyz[mine], rows.uv[mine]
            visible[index, column], motion[index, column] = rows.visible[mine], rows.motion[mine]
            confidence[index, column] = rows.confidence[mine] * rows.visible[mine]
        moving = (motion * visible).sum(0) > 0.5 * visible.sum(0)
        _rest(xyz, confidence, ~moving)
        fill_gaps(xyz)
        fill_gaps(uv)
        tracks = MovingTracks(
            xyz=torch.as_tensor(xyz),
            uv=torch.as_tensor(uv),
            visible=torch.as_tensor(visible),
            confidence=torch.as_tensor(confidence),
            moving=torch.as_tensor(moving),
        )
        colours = np.concatenate(self.colours)[names] if self.colours else np.zeros((0, 3), np.uint8)
        return tracks, _points(tracks, colours)


def _observations(rows: list[_Rows]) -> Tracks:
    """All that was seen, sorted by track and frame."""
    frame = np.concatenate([np.full(int(r.visible.sum()), n) for n, r in enumerate(rows)])
    track = np.concatenate([r.track[r.visible] for r in rows])
    order = np.lexsort((frame, track))
    return Tracks(
        view=torch.as_tensor(frame[order]),
        track=torch.as_tensor(track[order]),
        uv=torch.as_tensor(np.concatenate([r.uv[r.visible] for r in rows])[order]),
        weight=torch.ones(len(order)),
    )


def _rest(xyz: np.ndarray, confidence: np.ndarray, still: np.ndarray) -> None:
    """Tracks at rest have one place: the mean of what was said of it, by confidence."""
    weight = np.where(np.isfinite(xyz[..., 0]), np.maximum(confidence, 1e-6), 0)[:, still, None]
    mean = (np.nan_to_num(xyz[:, still]) * weight).sum(0) / np.maximum(weight.sum(0), 1e-12)
    xyz[:, still] = mean


def _points(tracks: MovingTracks, colours: np.ndarray) -> Points3D | None:
    """The tracks at rest that two frames see and trust."""
    seen = tracks.visible & (tracks.confidence > 0)
    kept = (~tracks.moving & (seen.sum(0) >= 2)).nonzero()[:, 0]
    if not len(kept):
        return None
    track, view = seen[:, kept].T.nonzero().unbind(-1)
    observed = Tracks(
        view=view,
        track=track,
        uv=tracks.uv[view, kept[track]],
        weight=tracks.confidence[view, kept[track]].clamp(1e-6, 1),
    )
    return Points3D(xyz=tracks.xyz[0, kept], rgb=torch.as_tensor(colours)[kept], tracks=observed)
