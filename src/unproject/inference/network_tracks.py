"""3D tracks out of an anchored sequence: a grid of each anchor's pixels, where no older track covers it.

What is seen of them goes to disk frame by frame. Held are the tracks that are alive, and of the others one line each of
those that could still be among the kept ones: `SECTIONS` times `MOST` at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import DTypeLike
from torch import Tensor

from unproject.geometry.flow import sample
from unproject.inference.anchored import AnchoredFrame
from unproject.inference.follow import Follower
from unproject.inference.tracks3d import LEAST_VIEWS, MOST, SECTIONS, in_turns, rank_of
from unproject.io import schema
from unproject.io.spool import Spool
from unproject.io.writer import ResultWriter
from unproject.types import MovingTracks, Points3D, Tracks

GRID = 1024
"""Points of an anchor, about."""
LEAST_CONFIDENCE = 0.1
"""Below, a pixel starts no track."""
PIECE = 1 << 19
"""Rows that are sorted at a time: 64 bytes each."""
_ROW = np.dtype(
    [
        ("track", np.int64),
        ("xyz", np.float32, 3),
        ("uv", np.float32, 2),
        ("visible", np.bool_),
        ("confidence", np.float32),
        ("motion", np.float32),
    ]
)
"""What a frame says of a track that is alive in it; uv in original pixels."""
_LINE = np.dtype([("track", np.int64), ("length", np.int64), ("views", np.int64), ("colour", np.uint8, 3)])
"""A track: in how many frames it is seen, and the sum of their numbers."""


class TrackGrid:
    """Follows while the frames stream by.

    Args:
        device: of the maps.
        frames: how many will come.
        writer: of the folder that the tracks are written to, where there is one.
    """

    def __init__(self, device: torch.device, frames: int, writer: ResultWriter | None) -> None:
        self.follower = Follower(torch.zeros(0, 2, device=device))
        self.frames, self.writer = frames, writer
        self._rows = self._spool(_ROW)
        self._counts: list[int] = []
        self._alive = self._ended = np.zeros(0, _LINE)
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
            self._end(self.follower.let_go())
            self._start(frame, shown if self._before is None else self._before)
        self._before = shown
        found = self.follower.add(frame)
        moving, _ = sample(anchor_motion[..., None], self.follower.uv)
        scale = torch.diag(to_original)[:2].to(found.uv)
        keep = found.xyz.isfinite().all(-1)
        rows = np.zeros(int(keep.sum()), _ROW)
        rows["track"] = self.follower.number[keep].cpu().numpy()
        rows["xyz"] = found.xyz[keep].float().cpu().numpy()
        rows["uv"] = (found.uv * scale)[keep].float().cpu().numpy()
        rows["visible"] = found.visible[keep].cpu().numpy()
        rows["confidence"] = found.confidence[keep].float().cpu().numpy()
        rows["motion"] = moving[keep, 0].float().cpu().numpy()
        seen = (found.visible & keep).cpu().numpy()
        self._alive["length"] += seen
        self._alive["views"] += seen * len(self._counts)
        self._rows.extend(rows)
        self._counts.append(len(rows))

    def _start(self, frame: AnchoredFrame, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """New tracks at the cells of a grid over the anchor that no live track lies in."""
        height, width = frame.anchor_maps.points.shape[1:3]
        step = max(1.0, (height * width / GRID) ** 0.5)
        rows, columns = max(1, round(height / step)), max(1, round(width / step))
        cell = self.follower.uv.new_tensor([width / columns, height / rows])
        taken = torch.zeros(rows, columns, dtype=torch.bool, device=cell.device)
        column, row = (self.follower.uv / cell).long().unbind(-1)
        taken[row.clamp(0, rows - 1), column.clamp(0, columns - 1)] = True
        row, column = (~taken).nonzero().unbind(-1)
        uv = (torch.stack([column, row], dim=-1) + 0.5) * cell
        sure, _ = sample(frame.anchor_maps.confidence[0, ..., None].to(uv), uv)
        uv = uv[sure[:, 0] > LEAST_CONFIDENCE]
        self.follower.start(uv)
        place = uv.long().cpu().numpy()
        new = np.zeros(len(uv), _LINE)
        new["track"] = self.follower.number[len(self._alive) :].cpu().numpy()
        new["colour"] = picture[place[:, 1].clip(0, height - 1), place[:, 0].clip(0, width - 1)]
        self._alive = np.concatenate([self._alive, new])

    def _end(self, kept: Bool[Tensor, " K"]) -> None:
        """Some tracks are lost; those of all lost ones are let go that others of their time will always precede."""
        stays = kept.cpu().numpy()
        lines, rank = self._ranked(self._alive[~stays])
        self._ended, self._alive = lines[rank < MOST], self._alive[stays]

    def _ranked(self, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tracks that ended and these, long ones only, by number; and the rank of each in its stretch of time."""
        lines = np.concatenate([self._ended, more])
        lines = np.sort(lines[lines["length"] >= LEAST_VIEWS], order="track")
        section = (SECTIONS * (lines["views"] / lines["length"]) / self.frames).astype(int)
        return lines, rank_of(lines["length"], section)

    def finish(self) -> tuple[MovingTracks, Points3D | None]:
        """The longest tracks at all times, and those of them that rest as points with their observations.

        Both are maps of files: of them, too, only what is looked at is in memory. Unseen tracks are held in place with
        no trust.
        """
        lines, rank = self._ranked(self._alive)
        lines = lines[in_turns(lines["length"], rank)]
        told = self._told(lines["track"])
        tables = {
            name: self._spool(kind, (len(lines), *axes))
            for name, kind, axes in (
                ("xyz", np.float32, (3,)),
                ("uv", np.float32, (2,)),
                ("visible", np.bool_, ()),
                ("confidence", np.float32, ()),
            )
        }
        for rows, column in self._kept(lines["track"]):
            known = np.isfinite(rows["uv"]).all(-1)
            told.uv[column[known]] = rows["uv"][known]
            told.xyz[column[told.moving[column]]] = rows["xyz"][told.moving[column]]
            visible, confidence = np.zeros(len(lines), bool), np.zeros(len(lines), np.float32)
            visible[column], confidence[column] = rows["visible"], rows["confidence"] * rows["visible"]
            for name, row in (("xyz", told.xyz), ("uv", told.uv), ("visible", visible), ("confidence", confidence)):
                tables[name].extend(row[None])
        tables["moving"] = self._spool(np.bool_)
        tables["moving"].extend(told.moving)
        if self.writer is not None:
            self.writer.put("tracks", schema.track_arrays(tables))
        tracks = MovingTracks(**{name: torch.from_numpy(table.mapped()) for name, table in tables.items()})
        return tracks, self._points(told, tables, lines["colour"])

    def _points(self, told: "_Told", tables: dict[str, Spool], colours: np.ndarray) -> Points3D | None:
        """The tracks at rest that two frames see and trust."""
        kept = np.flatnonzero(~told.moving & (told.trusted >= 2))
        if not len(kept):
            return None
        rows = {"view": self._spool(np.int64), "track": self._spool(np.int64)}
        rows |= {"uv": self._spool(np.float32, (2,)), "weight": self._spool(np.float32)}
        for columns in np.array_split(kept, -(-len(kept) * len(self._counts) // PIECE)):
            confidence = np.concatenate([piece[:, columns] for piece in tables["confidence"].pieces()])
            uv = np.concatenate([piece[:, columns] for piece in tables["uv"].pieces()])
            track, view = (confidence > 0).T.nonzero()  # what is not visible has no confidence
            rows["view"].extend(view)
            rows["track"].extend(np.searchsorted(kept, columns[track]))
            rows["uv"].extend(uv[view, track])
            rows["weight"].extend(confidence[view, track].clip(1e-6, 1))
        places = {"xyz": told.xyz[kept], "rgb": colours[kept]}
        if self.writer is not None:
            self.writer.put("points", {**places, **rows})
        observed = Tracks(**{name: torch.from_numpy(table.mapped()) for name, table in rows.items()})
        return Points3D(**{name: torch.from_numpy(place) for name, place in places.items()}, tracks=observed)

    def _told(self, names: np.ndarray) -> "_Told":
        """What all frames together say of each of these tracks."""
        seen, trusted, moved, weights = np.zeros((4, len(names)))
        total = np.zeros((len(names), 3))
        xyz, uv = np.full((len(names), 3), np.nan, np.float32), np.full((len(names), 2), np.nan, np.float32)
        for rows, column in self._kept(names):
            confidence = rows["confidence"] * rows["visible"]
            weight = np.maximum(confidence, 1e-6)
            seen[column] += rows["visible"]
            trusted[column] += confidence > 0
            moved[column] += rows["motion"] * rows["visible"]
            weights[column] += weight
            total[column] += weight[:, None] * rows["xyz"]
            for first, name in ((xyz, "xyz"), (uv, "uv")):
                unknown = np.isnan(first[column, 0])
                first[column[unknown]] = rows[name][unknown]
        moving = moved > 0.5 * seen
        xyz[~moving] = (total / weights[:, None])[~moving]
        return _Told(xyz=xyz, uv=np.nan_to_num(uv, posinf=0, neginf=0), moving=moving, trusted=trusted)

    def _kept(self, names: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each frame the rows of these tracks, and which of them each is of."""
        start = 0
        for count in self._counts:
            rows = self._rows.read(start, start + count)
            start += count
            rows = rows[np.isin(rows["track"], names)]
            yield rows, np.searchsorted(names, rows["track"])

    def _spool(self, kind: DTypeLike, row: tuple[int, ...] = ()) -> Spool:
        return Spool(kind, row, None if self.writer is None else self.writer.partial)


@dataclass(frozen=True)
class _Told:
    """Of each track: where it is first known, or, at rest, the mean of what was said of it, by confidence."""

    xyz: np.ndarray
    uv: np.ndarray
    moving: np.ndarray
    trusted: np.ndarray
    """How many frames see and trust it."""
