"""Which frames of a video are solved for jointly; the rest are placed between them."""

import numpy as np

from unproject.types import Tracks

SHORT_STEP, LONG_STEP = 0.02, 0.05
"""Image motion between keyframes, as a share of the long side: never finer, never coarser."""
AIMED_AT = 80
"""Keyframes wanted of one clip, within those bounds."""


def path_px(tracks: Tracks, frames: int) -> np.ndarray:
    """How far the image has moved until each frame, in pixels: the upper quartile of each frame's shifts, summed.

    The quartile, since a gripper or a watermark may hold most points still.
    """
    view, track, uv = tracks.view.numpy(), tracks.track.numpy(), tracks.uv.numpy()
    follows = np.flatnonzero((track[1:] == track[:-1]) & (view[1:] == view[:-1] + 1))
    shift = np.linalg.norm(uv[follows + 1] - uv[follows], axis=1)
    arrives = view[follows + 1]
    order = np.lexsort((shift, arrives))
    count = np.bincount(arrives, minlength=frames)
    upper = np.cumsum(count) - count + (0.75 * (count - 1).clip(0)).astype(int)
    step = np.zeros(frames)
    step[count > 0] = shift[order][upper[count > 0]]
    return np.cumsum(step)


def select_keyframes(tracks: Tracks, frames: int, long_side_px: float) -> np.ndarray:
    """Frame numbers, evenly spaced along the image's path; always the first and the last, and both sides of a cut."""
    path = path_px(tracks, frames)
    step = np.clip(path[-1] / AIMED_AT, SHORT_STEP * long_side_px, LONG_STEP * long_side_px)
    bins = np.floor(path / step).astype(int)
    first_of_bin = np.flatnonzero(np.diff(bins, prepend=-1) > 0)
    cuts = _cuts(tracks, frames)
    return np.unique(np.concatenate([first_of_bin, cuts, cuts - 1, [0, frames - 1]]))


def _cuts(tracks: Tracks, frames: int) -> np.ndarray:
    """Frames that share no track with the one before."""
    view, track = tracks.view.numpy(), tracks.track.numpy()
    arrives = view[1:][(track[1:] == track[:-1]) & (view[1:] == view[:-1] + 1)]
    alone = np.bincount(arrives, minlength=frames) == 0
    alone[0] = False
    return np.flatnonzero(alone)
