"""From keyframes to every frame: poses between solved keyframes, from the points that the keyframes gave."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from unproject.inference import reprojection, structure
from unproject.inference.problem import CameraPrior, rows_of
from unproject.inference.refine import Solved
from unproject.inference.reprojection import Observations, State
from unproject.types import Tracks

CHUNK = 100
"""Frames resected at once: bounds the memory of a long video."""


def extended(solved: Solved, tracks: Tracks, keyframes: np.ndarray, prior: CameraPrior) -> Solved:
    """``solved`` with all frames that lie between two neighbouring keyframes of it.

    ``solved.views`` are frame numbers among ``keyframes``; ``tracks`` and ``prior`` speak of all frames.
    """
    frames = _between(solved.views, keyframes)
    if len(frames) == len(solved.views):
        return solved
    state = _interpolated(solved, frames, prior)
    seen = _observations(tracks, frames, solved, prior)
    free = ~np.isin(frames, solved.views) & ~prior.posed[frames]
    trusted = np.bincount(solved.seen.point[solved.good], minlength=len(solved.track)) >= 2
    starts = range(0, len(frames), CHUNK)
    of_chunk = np.where(free[seen.view] & trusted[seen.point], seen.view // CHUNK, len(starts))
    for start, rows in zip(starts, rows_of(of_chunk, len(starts) + 1), strict=False):  # the last are of no chunk
        chunk = slice(start, start + CHUNK)
        part = _resected_chunk(seen.select(rows), state, chunk, free, solved)
        state.rotation[chunk], state.centre[chunk] = part.rotation, part.centre
    if solved.motion == "full":
        good = structure.inliers(seen, state, 4.0) & trusted[seen.point]
    else:
        good = np.linalg.norm(reprojection.residuals("angle", seen, state), axis=1) < 4.0
    return replace(solved, views=frames, state=state, seen=seen, good=good)


def _between(views: np.ndarray, keyframes: np.ndarray) -> np.ndarray:
    """Frames of the keyframes in ``views``, and of the stretches whose both ends are among them."""
    number = np.searchsorted(keyframes, views)
    ends = [(a, b) for a, b in pairwise(number) if b == a + 1]
    inside = [np.arange(keyframes[a], keyframes[b]) for a, b in ends]
    return np.unique(np.concatenate([views, *inside]))


def _interpolated(solved: Solved, frames: np.ndarray, prior: CameraPrior) -> State:
    """Poses of all frames between their keyframes'; known poses as they are known."""
    views, state = solved.views, solved.state
    rotation = Slerp(views, Rotation.from_matrix(state.rotation))(frames).as_matrix()
    centre = np.column_stack([np.interp(frames, views, state.centre[:, axis]) for axis in range(3)])
    posed = prior.posed[frames]
    rotation[posed] = prior.world_from_cam[frames[posed], :3, :3]
    centre[posed] = prior.world_from_cam[frames[posed], :3, 3]
    return replace(state, rotation=rotation, centre=centre, group=prior.group[frames])


def _observations(tracks: Tracks, frames: np.ndarray, solved: Solved, prior: CameraPrior) -> Observations:
    view = np.searchsorted(frames, tracks.view.numpy()).clip(0, len(frames) - 1)
    point = np.searchsorted(solved.track, tracks.track.numpy()).clip(0, len(solved.track) - 1)
    keep = (frames[view] == tracks.view.numpy()) & (solved.track[point] == tracks.track.numpy())
    keep &= np.isin(point, solved.seen.point)  # what sticks to the image was left out, and stays out
    view, point = view[keep], point[keep]
    xy = tracks.uv.numpy()[keep] - prior.principal_px[frames[view]]
    return Observations(view=view, point=point, xy=xy, weight=tracks.weight.numpy()[keep].astype(np.float64))


def _resected_chunk(seen: Observations, state: State, chunk: slice, free: np.ndarray, solved: Solved) -> State:
    """The frames of ``chunk``, the free ones fitted to the points of ``seen``; no more points than those."""
    names, point = np.unique(seen.point, return_inverse=True)
    part = replace(
        state,
        rotation=state.rotation[chunk],
        centre=state.centre[chunk],
        group=state.group[chunk],
        points=state.points[names],
    )
    near = replace(seen, view=seen.view - chunk.start, point=point)
    if not len(near):
        return part
    return structure.resected(near, part, free[chunk], moves=solved.motion == "full", scale_px=solved.scale_px)
