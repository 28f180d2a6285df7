"""3D tracks through time: points at rest from many views, moving ones lifted frame by frame by the dense depth."""

import numpy as np
import torch

from unproject.geometry import camera, rigid
from unproject.inference.refine import Solved
from unproject.types import Cameras, FrameMaps, MovingTracks, Tracks

MOST = 1024
"""Tracks kept."""
SECTIONS = 16
"""Stretches of time that are served alike: else one long rest would take all tracks of a clip."""
LEAST_VIEWS = 3
MOVING_CONFIDENCE = 0.3
"""A mover's depth is an assumption (`unproject.inference.motion`), never more than this sure."""


class TrackLifter:
    """Collects what each frame's maps say of the tracks while the maps stream by.

    ``tracks`` are in original pixels. A track counts as moving where the cameras explain less than half of its
    observations, or most of them fall on pixels that move.
    """

    def __init__(self, tracks: Tracks, parts: list[Solved], cameras: Cameras):
        self.cameras = cameras
        frames = len(cameras.found)
        self.names = longest(tracks, frames)
        row = np.isin(tracks.track.numpy(), self.names)
        self.view = tracks.view.numpy()[row]
        self.column = np.searchsorted(self.names, tracks.track.numpy()[row])
        self.uv = np.full((frames, len(self.names), 2), np.nan, np.float32)
        self.uv[self.view, self.column] = tracks.uv.numpy()[row]
        self.xyz = np.full((frames, len(self.names), 3), np.nan, np.float32)
        self.confidence = np.zeros((frames, len(self.names)), np.float32)
        self.on_mover = np.zeros((frames, len(self.names)), bool)
        self.fixed, self.explained = _fixed_points(parts, self.names)

    def add(self, index: int, maps: FrameMaps) -> None:
        """Lift the tracks that frame ``index`` sees."""
        seen = np.flatnonzero(np.isfinite(self.uv[index, :, 0]))
        if not len(seen) or not self.cameras.found[index]:
            return
        uv = torch.as_tensor(self.uv[index, seen], dtype=torch.float64)
        rays = camera.rays(uv, self.cameras.intrinsics[index].double(), self.cameras.distortion[index].double())
        homogeneous = torch.cat([uv, torch.ones(len(uv), 1)], 1) @ torch.linalg.inv(maps.to_original.double()).T
        height, width = maps.depth.shape
        column = homogeneous[:, 0].long().clamp(0, width - 1)
        line = homogeneous[:, 1].long().clamp(0, height - 1)
        points = rays * maps.depth[line, column, None].double()
        self.xyz[index, seen] = rigid.transform(self.cameras.world_from_cam[index].double(), points).float().numpy()
        self.confidence[index, seen] = maps.confidence[line, column].numpy()
        self.on_mover[index, seen] = (maps.motion[line, column] > 0.5).numpy()

    def finish(self) -> MovingTracks:
        """All tracks at all times; unseen ones are held in place (moving ones interpolated) with no trust."""
        visible = np.isfinite(self.uv[..., 0])
        count = np.maximum(visible.sum(0), 1)
        moving = (self.explained < 0.5) | (self.on_mover.sum(0) > 0.5 * count)
        still = ~moving & np.isfinite(self.fixed[:, 0])
        self.xyz[:, still] = self.fixed[still]
        self.confidence[:, still] = np.where(visible[:, still], self.explained[still], 0.0)
        self.confidence[:, moving] = self.confidence[:, moving].clip(max=MOVING_CONFIDENCE)
        fill_gaps(self.xyz)
        fill_gaps(self.uv)
        return MovingTracks(
            xyz=torch.as_tensor(self.xyz),
            uv=torch.as_tensor(self.uv),
            visible=torch.as_tensor(visible),
            confidence=torch.as_tensor(self.confidence * visible),
            moving=torch.as_tensor(moving),
        )


def longest(tracks: Tracks, frames: int) -> np.ndarray:
    """The longest tracks of each of `SECTIONS` stretches of time, in turns, until there are `MOST`."""
    length = tracks.lengths().numpy()
    middle = np.bincount(tracks.track.numpy(), weights=tracks.view.numpy(), minlength=len(length)) / np.maximum(
        length, 1
    )
    section = (SECTIONS * middle / frames).astype(int)
    return in_turns(length, rank_of(length, section))


def rank_of(length: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Place of each track among those of its section, the longest first; of equals the first."""
    order = np.lexsort((-length, section))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order)) - np.searchsorted(section[order], section[order])
    return rank


def in_turns(length: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Which tracks are kept, given their ranks."""
    often = np.flatnonzero(length >= LEAST_VIEWS)
    return np.sort(often[np.lexsort((-length[often], rank[often]))[:MOST]])


def _fixed_points(parts: list[Solved], names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World place of each named track that was solved for (NaN otherwise), and the share of its rows that fit."""
    place, share = np.full((len(names), 3), np.nan), np.zeros(len(names))
    for part in parts:
        if part.motion != "full":
            continue
        total = np.bincount(part.seen.point, minlength=len(part.track))
        good = np.bincount(part.seen.point[part.good], minlength=len(part.track))
        mine = np.flatnonzero(np.isin(part.track, names) & (good >= 2))
        column = np.searchsorted(names, part.track[mine])
        place[column], share[column] = part.state.points[mine], good[mine] / total[mine]
    return place, share


def fill_gaps(values: np.ndarray) -> None:
    """Replace NaN along time (axis 0) by linear interpolation, held at the ends; zero where a column knows nothing."""
    time = np.arange(len(values))
    for column in np.flatnonzero(np.isnan(values[..., 0]).any(0)):
        known = np.isfinite(values[:, column, 0])
        for axis in range(values.shape[2]):
            row = values[:, column, axis]
            row[~known] = np.interp(time[~known], time[known], row[known]) if known.any() else 0.0
