"""Between the solver's arrays and the nouns: priors in, cameras and sparse points out, in original pixels."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from unproject.geometry import camera, rigid
from unproject.inference import structure
from unproject.inference.neighbours import SparseDepth
from unproject.inference.problem import CameraPrior, rows_of
from unproject.inference.refine import Solved
from unproject.io.cameras import MatchedCameras
from unproject.types import Cameras, FrameInfo, Points3D, Tracks

LEAST_SEEN = 12
"""Explained observations below which a view's camera is not claimed."""
LEAST_SHARE = 0.2
"""Share of a view's observations below which its camera is not claimed."""


def make_prior(infos: Sequence[FrameInfo], known: MatchedCameras | None, work_scale: np.ndarray) -> CameraPrior:
    """What is known before solving, in pixels of the tracks (original pixels times ``work_scale``, N).

    ``known`` holds cameras that the user gave, NaN where they said nothing; a known focal length is kept, one from
    EXIF is where the search starts.
    """
    count = len(infos)
    groups, group = np.unique([info.camera for info in infos], return_inverse=True)
    size = np.array([[info.width, info.height] for info in infos]) * work_scale[:, None]
    principal = size / 2
    per_view = np.array([info.focal_prior_px or np.nan for info in infos]) * work_scale
    pose = np.full((count, 4, 4), np.nan)
    fixed = np.zeros(len(groups), bool)
    if known is not None:
        pose = known.world_from_cam.double().numpy()
        matrix = known.intrinsics.double().numpy() * work_scale[:, None, None]
        given = np.asarray(np.isfinite(matrix).all((1, 2)))
        principal = np.where(given[:, None], matrix[:, :2, 2], principal)
        per_view = np.where(given, matrix[:, 0, 0], per_view)
        fixed = np.array([given[group == number].all() for number in range(len(groups))])
    focal = np.array([_median(per_view[group == number]) for number in range(len(groups))])
    return CameraPrior(
        principal_px=principal,
        long_side_px=size.max(1),
        group=group,
        focal_px=focal,
        focal_fixed=fixed,
        radial=np.zeros(len(groups)),
        world_from_cam=pose,
    )


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def ideal_tracks(tracks: Tracks, known: MatchedCameras | None, work_scale: np.ndarray) -> Tracks:
    """Tracks as a pinhole with square pixels would see them, where the user gave the camera; else as they are."""
    if known is None:
        return tracks
    scale = torch.as_tensor(work_scale)
    matrix = known.intrinsics.double() * scale[:, None, None]
    matrix[:, 2, 2] = 1.0
    given = torch.isfinite(known.intrinsics).all(-1).all(-1)[tracks.view]
    of_row = matrix[tracks.view[given]]
    rays = camera.rays(tracks.uv[given].double()[:, None], of_row, known.distortion.double()[tracks.view[given]])[:, 0]
    uv = tracks.uv.clone()
    uv[given] = (rays[:, :2] * of_row[:, 0, 0, None] + of_row[:, :2, 2]).float()
    return replace(tracks, uv=uv)


def cameras_of(
    solved: Sequence[Solved],
    infos: Sequence[FrameInfo],
    prior: CameraPrior,
    known: MatchedCameras | None,
    work_scale: np.ndarray,
) -> Cameras:
    """Cameras of all frames for original pixels; a part's frames keep its number, frames without a camera are NaN."""
    count = len(infos)
    pose = np.full((count, 4, 4), np.nan)
    component, quality = np.full(count, -1), np.zeros(count)
    focal, radial = _fallback_focal(prior), np.zeros(count)
    for number, part in enumerate(solved):
        state = part.state
        share = structure.inlier_share(part.seen, part.good, len(part.views))
        seen = np.bincount(part.seen.view[part.good], minlength=len(part.views))
        sure = ((seen >= LEAST_SEEN) & (share >= LEAST_SHARE)) | prior.posed[part.views]
        views = part.views[sure]
        pose[views] = np.eye(4)
        pose[views, :3, :3], pose[views, :3, 3] = state.rotation[sure], state.centre[sure]
        component[views], quality[part.views] = number, share
        focal[part.views], radial[part.views] = state.focal, state.radial[state.group]
    intrinsics = np.tile(np.eye(3), (count, 1, 1))
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal / work_scale
    intrinsics[:, :2, 2] = prior.principal_px / work_scale[:, None]
    distortion = np.zeros((count, 5))
    distortion[:, 0] = radial
    if known is not None:
        given = np.isfinite(known.intrinsics.numpy()).all((1, 2))
        intrinsics[given], distortion[given] = known.intrinsics.numpy()[given], known.distortion.numpy()[given]
    return Cameras(
        world_from_cam=torch.as_tensor(pose),
        intrinsics=torch.as_tensor(intrinsics),
        distortion=torch.as_tensor(distortion),
        found=torch.as_tensor(component >= 0),
        component=torch.as_tensor(component),
        quality=torch.as_tensor(quality, dtype=torch.float32),
    )


def _fallback_focal(prior: CameraPrior) -> np.ndarray:
    """For views that were never solved: the prior's focal, or one long side (a 53 degree view)."""
    focal = prior.focal_px[prior.group]
    return np.where(np.isfinite(focal), focal, prior.long_side_px)


def sparse_points(solved: Solved, tracks: Tracks, colours: np.ndarray, work_scale: np.ndarray) -> Points3D:
    """The points of one part with every observation that its cameras explain, in original pixels.

    ``tracks`` are the tracks as measured (not straightened), ``colours`` one RGB per track.
    """
    names = solved.track[solved.seen.point[solved.good]]
    frames = solved.views[solved.seen.view[solved.good]]
    row = _row_of(tracks, frames, names)
    kept = np.bincount(solved.seen.point[solved.good], minlength=len(solved.track)) >= 2
    keep = kept[solved.seen.point[solved.good]]
    number = np.cumsum(kept) - 1
    uv = tracks.uv.numpy()[row[keep]] / work_scale[frames[keep], None]
    point = number[solved.seen.point[solved.good][keep]]
    order = np.lexsort((frames[keep], point))
    return Points3D(
        xyz=torch.as_tensor(solved.state.points[kept], dtype=torch.float32),
        rgb=torch.as_tensor(colours[solved.track[kept]]),
        tracks=Tracks(
            view=torch.as_tensor(frames[keep][order]),
            track=torch.as_tensor(point[order]),
            uv=torch.as_tensor(uv[order], dtype=torch.float32),
            weight=tracks.weight[torch.as_tensor(row[keep][order])],
        ),
    )


def _row_of(tracks: Tracks, frames: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Rows of ``tracks`` that hold the given (frame, track) observations; rows are sorted by (track, view)."""
    stride = int(tracks.view.max()) + 1
    key = tracks.track.numpy().astype(np.int64) * stride + tracks.view.numpy()
    return np.searchsorted(key, names.astype(np.int64) * stride + frames)


def track_colours(tracks: Tracks, images: Sequence[np.ndarray], network_scale: np.ndarray) -> np.ndarray:
    """RGB (uint8 T 3) of each track in its first view's small image; ``network_scale`` N 2: small per track pixel."""
    first = np.flatnonzero(np.diff(tracks.track.numpy(), prepend=-1))
    colours = np.zeros((len(first), 3), np.uint8)
    for frame, mine in enumerate(rows_of(tracks.view.numpy()[first], len(images))):
        if not len(mine):
            continue
        image = images[frame]
        uv = (tracks.uv.numpy()[first[mine]] * network_scale[frame]).astype(int)
        colours[mine] = image[uv[:, 1].clip(0, image.shape[0] - 1), uv[:, 0].clip(0, image.shape[1] - 1)]
    return colours


def rescaled(tracks: Tracks, factor: np.ndarray) -> Tracks:
    """Tracks in other pixels, of which each view has so many (N, or N 2) per pixel of before."""
    per_axis = np.broadcast_to(factor.reshape(len(factor), -1), (len(factor), 2))
    return replace(tracks, uv=tracks.uv * torch.as_tensor(per_axis[tracks.view.numpy()], dtype=torch.float32))


def for_maps(cameras: Cameras, to_original: Sequence[Tensor]) -> Cameras:
    """The same cameras for the pixels of the dense maps; ``to_original`` takes those to original pixels."""
    from_original = torch.linalg.inv(torch.stack(list(to_original)).double())
    return replace(cameras, intrinsics=from_original @ cameras.intrinsics.double())


def sparse_depths(
    parts: Sequence[Solved], tracks: Tracks, cameras: Cameras, to_original: Sequence[Tensor]
) -> list[SparseDepth]:
    """For each frame, its explained points: where in the dense map, and how deep. ``tracks`` in original pixels."""
    found = [SparseDepth(uv=np.zeros((0, 2), np.float32), depth=np.zeros(0, np.float32)) for _ in to_original]
    for part in parts:
        if part.motion != "full":
            continue
        frames, names = part.views[part.seen.view[part.good]], part.track[part.seen.point[part.good]]
        uv = tracks.uv.numpy()[_row_of(tracks, frames, names)]
        points = part.state.points[part.seen.point[part.good]]
        for frame, mine in enumerate(rows_of(frames, len(to_original))):
            if not len(mine):
                continue
            world = torch.as_tensor(points[mine])
            depth = rigid.transform(rigid.inverse(cameras.world_from_cam[frame].double()), world)[:, 2].numpy()
            inverse = np.linalg.inv(to_original[frame].double().numpy())
            place = uv[mine] @ inverse[:2, :2].T + inverse[:2, 2]
            front = depth > 0
            found[frame] = SparseDepth(uv=place[front].astype(np.float32), depth=depth[front].astype(np.float32))
    return found
