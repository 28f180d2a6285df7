"""Tracks placed anew against the picture, once cameras are known: what detectors and chains left of noise goes.

A SIFT point is a third of a pixel off, a chain of KLT steps drifts. With cameras, each observation's patch is known up
to a small shift: the patch of the track's reference view, warped as a plane that faces the cameras would be. The shift
is found by Gauss-Newton on patches without mean and contrast, in inverse compositional form (Baker & Matthews 2004):
slopes are the template's, so that a step costs one lookup. Measured: residuals halve, errors of cameras too.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8

from unproject.geometry import camera, rigid
from unproject.inference.problem import rows_of
from unproject.inference.refine import Solved
from unproject.inference.workers import one_frame_each
from unproject.progress import Progress, silent
from unproject.types import Cameras, Tracks

HALF = 5
"""Half side of a patch; 4 is a tenth less precise, 7 takes twice the time and bends over edges (measured)."""
STEPS = 6
FITS_PX = 4.0
"""Reprojection error up to which an observation is refined; beyond, it is no view of its point."""
FARTHEST_PX = 3.0
LEAST_LIKENESS = 0.8
DOUBT = 0.1
"""Weight left to an observation whose patch is not found: it may still hold a view that has little else."""
PROBE_PX = 2.0
"""Over which the warp is taken as straight."""

_PLACES = np.arange(-HALF, HALF + 1, dtype=np.float32)
_OFFSETS = np.stack(np.meshgrid(_PLACES, _PLACES), -1).reshape(-1, 2)
_MARGIN = np.arange(-HALF - 1, HALF + 2, dtype=np.float32)
_WITH_MARGIN = np.stack(np.meshgrid(_MARGIN, _MARGIN), -1).reshape(-1, 2)
_ROOT_WEIGHT = np.exp(-0.25 * (_OFFSETS**2).sum(1) * (1.5 / HALF) ** 2)
"""Root of a Gaussian window."""


@dataclass(frozen=True, kw_only=True)
class _Sightings:
    """Rows of tracks that show a solved point, grouped by point."""

    row: Int[np.ndarray, " O"]
    view: Int[np.ndarray, " O"]
    point: Int[np.ndarray, " O"]
    xyz: Float[np.ndarray, "P 3"]
    normal: Float[np.ndarray, "P 3"]
    """Towards the cameras that see the point, on average."""
    reference: Int[np.ndarray, " P"]
    """The sighting whose patch all others are compared with."""


def sharpened(
    tracks: Tracks,
    parts: Sequence[Solved],
    cameras: Cameras,
    greys: Iterable[np.ndarray],
    *,
    ordered: bool,
    progress: Progress = silent,
) -> Tracks:
    """``tracks`` with every sighting of a solved point where the picture has it; doubtful ones lose their weight.

    Tracks and cameras are in pixels of ``greys`` (uint8, of any sizes), one per view: iterated once if ``ordered``
    (a video, whose tracks are compared with where they began), twice if not (photos: with the view that faces the
    point most).
    """
    sightings = _sightings(tracks, parts, cameras, ordered=ordered)
    if sightings is None:
        return tracks
    moved = _Sharpener(tracks, sightings, cameras)
    with one_frame_each() as pool:
        waiting: deque[Future[None]] = deque()
        for again in (False,) if ordered else (False, True):
            for view, grey in enumerate(progress(greys, "sharpen", len(cameras.found))):
                if not again:
                    moved.take(view, grey)
                if ordered or again:
                    waiting.append(pool.submit(moved.align, view, grey))
                if len(waiting) > 4:
                    waiting.popleft().result()
        for future in waiting:
            future.result()
    return replace(tracks, uv=torch.as_tensor(moved.uv), weight=torch.as_tensor(moved.weight))


class _Sharpener:
    """Patches of all points; places and weights of all rows, as they are moved view by view."""

    def __init__(self, tracks: Tracks, sightings: _Sightings, cameras: Cameras):
        self.sightings, self.cameras = sightings, cameras
        self.uv, self.weight = tracks.uv.numpy().copy(), tracks.weight.numpy().copy()
        self.measured = tracks.uv.numpy()
        self.patches = np.zeros((len(sightings.xyz), len(_WITH_MARGIN)), np.float16)
        views = len(cameras.found)
        self.of_view = rows_of(sightings.view, views)
        self.taken_in = rows_of(sightings.view[sightings.reference], views)

    def take(self, view: int, grey: UInt8[np.ndarray, "H W"]) -> None:
        """Keep the patches of the points whose reference is this view."""
        points = self.taken_in[view]
        row = self.sightings.row[self.sightings.reference[points]]
        if len(points):
            self.patches[points] = _lookup(grey.astype(np.float32), self.measured[row, None] + _WITH_MARGIN)

    def align(self, view: int, grey: UInt8[np.ndarray, "H W"]) -> None:
        """Move the sightings of one view."""
        s = self.sightings
        mine = self.of_view[view]
        mine = mine[s.reference[s.point[mine]] != mine]
        if not len(mine):
            return
        row, point = s.row[mine], s.point[mine]
        uv, likeness = align(
            grey.astype(np.float32), self.patches[point].astype(np.float32), self._warp(mine), self.measured[row]
        )
        found = (likeness > LEAST_LIKENESS) & (np.linalg.norm(uv - self.measured[row], axis=1) < FARTHEST_PX)
        self.uv[row[found]] = uv[found]
        self.weight[row[~found]] *= DOUBT

    def _warp(self, mine: np.ndarray) -> Float32[np.ndarray, "K 2 2"]:
        """Pixels in each sighting's view per pixel in the reference view."""
        s = self.sightings
        there = s.view[s.reference[s.point[mine]]]
        xyz, normal = (torch.as_tensor(values[s.point[mine]]) for values in (s.xyz, s.normal))
        start = _project(xyz, self.cameras, there)
        columns = []
        for step in torch.eye(2, dtype=torch.float64) * PROBE_PX:
            beside = _on_plane(start + step, xyz, normal, self.cameras, there)
            columns.append(_project(beside, self.cameras, s.view[mine]) - _project(xyz, self.cameras, s.view[mine]))
        return (torch.stack(columns, -1) / PROBE_PX).float().numpy()


def align(
    image: Float32[np.ndarray, "H W"],
    patches: Float32[np.ndarray, "K M"],
    warp: Float32[np.ndarray, "K 2 2"],
    uv: Float32[np.ndarray, "K 2"],
) -> tuple[Float32[np.ndarray, "K 2"], Float32[np.ndarray, " K"]]:
    """Where near ``uv`` an image looks most like each patch (which has a margin of one pixel), and how much it does."""
    side = 2 * HALF + 3
    square = patches.reshape(-1, side, side)
    slopes = np.stack([square[:, 1:-1, 2:] - square[:, 1:-1, :-2], square[:, 2:, 1:-1] - square[:, :-2, 1:-1]], 1) / 2
    template, contrast = _standard(square[:, 1:-1, 1:-1].reshape(len(uv), -1))
    slopes = slopes.reshape(len(uv), 2, -1)
    slopes = (slopes - _mean(slopes)) * _ROOT_WEIGHT / contrast[:, None]
    slopes -= np.einsum("kam,km->ka", slopes, template)[..., None] * template[:, None]  # contrast does not count
    slopes = np.einsum("kab,kam->kbm", np.linalg.inv(warp), slopes).astype(np.float32)
    curvature = np.einsum("kam,kbm->kab", slopes, slopes)
    curvature += 1e-3 * np.einsum("kaa->k", curvature)[:, None, None] * np.eye(2, dtype=np.float32) + 1e-9 * np.eye(2)
    inverse = np.linalg.inv(curvature).astype(np.float32)
    around = np.einsum("kab,mb->kma", warp, _OFFSETS)
    for _ in range(STEPS):
        seen, _ = _standard(_lookup(image, uv[:, None] + around))
        pull = np.einsum("kam,km->ka", slopes, template - seen)
        uv = uv + np.einsum("kab,kb->ka", inverse, pull).clip(-1, 1)
    seen, _ = _standard(_lookup(image, uv[:, None] + around))
    return uv.astype(np.float32), np.einsum("km,km->k", template, seen)


def _sightings(tracks: Tracks, parts: Sequence[Solved], cameras: Cameras, *, ordered: bool) -> _Sightings | None:
    """What can be refined: rows within `FITS_PX` of their point, of points that two and more such rows see."""
    view, track = tracks.view.numpy(), tracks.track.numpy()
    rows, points, places, count = [], [], [], 0
    for part in (part for part in parts if part.motion == "full"):
        number = np.full(tracks.count, -1)
        number[part.track] = np.arange(len(part.track))
        row = np.flatnonzero(np.isin(view, part.views) & (number[track] >= 0) & cameras.found.numpy()[view])
        rows.append(row)
        points.append(number[track[row]] + count)
        places.append(part.state.points)
        count += len(part.track)
    if not rows:
        return None
    row, point, xyz = np.concatenate(rows), np.concatenate(points), np.concatenate(places)
    seen_at = _project(torch.as_tensor(xyz[point]), cameras, view[row]).numpy()
    fits = np.linalg.norm(seen_at - tracks.uv.numpy()[row], axis=1) < FITS_PX
    fits &= np.bincount(point[fits], minlength=count)[point] >= 2
    if not fits.any():
        return None
    names, point = np.unique(point[fits], return_inverse=True)
    row, xyz = row[fits], xyz[names]
    sight = cameras.world_from_cam.double().numpy()[view[row], :3, 3] - xyz[point]
    sight /= np.linalg.norm(sight, axis=1, keepdims=True)
    normal = np.zeros_like(xyz)
    np.add.at(normal, point, sight)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    worth = -view[row] if ordered else np.einsum("oi,oi->o", sight, normal[point])
    best_first = np.lexsort((-worth, point))
    first = np.searchsorted(point[best_first], np.arange(len(xyz)))
    return _Sightings(row=row, view=view[row], point=point, xyz=xyz, normal=normal, reference=best_first[first])


def _project(xyz: torch.Tensor, cameras: Cameras, view: np.ndarray) -> torch.Tensor:
    """Pixels (K 2) of one world point per given view."""
    cam_from_world = rigid.inverse(cameras.world_from_cam[view].double())
    local = rigid.transform(cam_from_world, xyz[:, None])
    return camera.project(local, cameras.intrinsics[view].double(), cameras.distortion[view].double())[:, 0]


def _on_plane(
    uv: torch.Tensor, xyz: torch.Tensor, normal: torch.Tensor, cameras: Cameras, view: np.ndarray
) -> torch.Tensor:
    """World points (K 3) in which pixels see the planes through ``xyz``."""
    pose = cameras.world_from_cam[view].double()
    rays = camera.rays(uv[:, None], cameras.intrinsics[view].double(), cameras.distortion[view].double())
    ray = torch.einsum("kij,kj->ki", pose[:, :3, :3], rays[:, 0])
    offset = xyz - pose[:, :3, 3]
    reach = (offset * normal).sum(-1) / (ray * normal).sum(-1)
    return pose[:, :3, 3] + reach[:, None] * ray


def _lookup(image: Float32[np.ndarray, "H W"], uv: np.ndarray) -> Float32[np.ndarray, "K M"]:
    place = (uv - 0.5).astype(np.float32)
    return cv2.remap(image, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _mean(patches: np.ndarray) -> np.ndarray:
    """Under the window."""
    weight = (_ROOT_WEIGHT**2 / (_ROOT_WEIGHT**2).sum()).astype(np.float32)
    return (patches @ weight)[..., None]


def _standard(patches: Float32[np.ndarray, "K M"]) -> tuple[Float32[np.ndarray, "K M"], Float32[np.ndarray, "K 1"]]:
    """Patches without mean, under the root of the window, of length one; and the lengths that they had."""
    bare = (patches - _mean(patches)) * _ROOT_WEIGHT.astype(np.float32)
    size = np.maximum(np.sqrt(np.einsum("km,km->k", bare, bare)), 1e-3)[:, None]
    return bare / size, size
