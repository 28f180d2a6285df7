"""Which views a network sees together: windows that overlap, in time or by likeness, and such as close loops.

Likeness is that of thumbnails: 16x16 colours without their mean, compared as directions. It finds pictures of one place
from nearly one direction, which is all that a window and a loop need.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8

from unproject.io.images import resize

Window = list[int]
THUMBNAIL = 16
LOOP = 0.9
"""Likeness from which two frames count as pictures of one place. Measured on rendered rooms: .92 to .99 an eighth of a
second apart, .3 to .9 a second apart, under .4 in different rooms."""
LEFT = 0.2
"""How much less likeness shows that the camera went away in between: else neighbours hold the windows together."""
LOOP_SIDE = 4
"""Views of either end in a window that closes a loop, at most."""


def thumbnail(image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, " T"]:
    """A direction; zero for an image of one colour."""
    small = resize(image, THUMBNAIL, THUMBNAIL).astype(np.float32)
    away = (small - small.mean((0, 1))).ravel()
    length = np.linalg.norm(away)
    return away / length if length > 1 else np.zeros_like(away)


def in_time(count: int, length: int, overlap: int) -> list[Window]:
    """As few windows of neighbours as can be, all of the same length, evenly spread; each shares ``overlap`` views."""
    if count <= length:
        return [list(range(count))]
    number = -(-(count - overlap) // (length - overlap))
    starts = np.linspace(0, count - length, number).round().astype(int).tolist()
    return [list(range(start, start + length)) for start in starts]


def by_likeness(alike: Float[np.ndarray, "N N"], length: int, overlap: int) -> list[Window]:
    """Windows of photos that look alike; each begins with those already seen that its new ones are most like.

    New ones are taken in the order in which a spanning tree of greatest likeness reaches them.
    """
    count = len(alike)
    if count <= length:
        return [list(range(count))]
    order = _reached(alike)
    windows, done = [order[:length]], order[:length]
    for start in range(length, count, length - overlap):
        new = order[start : start + length - overlap]
        old = np.array(done)[np.argsort(-alike[np.ix_(new, done)].max(0), kind="stable")[: length - len(new)]]
        windows.append([*old.tolist()[: max(overlap, length - len(new))], *new])
        done = done + new
    return windows


def _reached(alike: Float[np.ndarray, "N N"]) -> list[int]:
    """All photos from the one most like the others on, each next one the most like any before."""
    order = [int(alike.sum(1).argmax())]
    best = alike[order[0]].astype(float)
    for _ in range(len(alike) - 1):
        best[order] = -np.inf
        order.append(int(best.argmax()))
        best = np.maximum(best, alike[order[-1]])
    return order


def homes(windows: Sequence[Window], count: int) -> list[int]:
    """The window that each view's maps are taken from: the one in which it lies farthest from both ends."""
    depth, home = [-1] * count, [0] * count
    for number, window in enumerate(windows):
        for place, view in enumerate(window):
            inside = min(place, len(window) - 1 - place)
            if inside > depth[view]:
                depth[view], home[view] = inside, number
    return home


def neighbours(count: int, ring: bool) -> list[tuple[int, int]]:
    """Places in a window: each with the next, in a ring also the last with the first; all ahead, then all back."""
    ahead = [(place, place + 1) for place in range(count - 1)]
    if ring and count > 2:
        ahead.append((count - 1, 0))
    return ahead + [(target, source) for source, target in ahead]


def pair_homes(windows: Sequence[Window], home: Sequence[int], ring: bool) -> dict[tuple[int, int], int]:
    """Of all pairs of views that are neighbours in a window, the window that their flow is taken from.

    It is that in which the source is at home, if they are neighbours there.
    """
    found: dict[tuple[int, int], int] = {}
    for number, window in enumerate(windows):
        for source, target in neighbours(len(window), ring):
            pair = window[source], window[target]
            if pair not in found or home[pair[0]] == number:
                found[pair] = number
    return found


def loops(thumbnails: Float[np.ndarray, "N T"], windows: Sequence[Window], most: int) -> list[Window]:
    """Extra windows for places that a video comes back to after it has left them.

    For each two windows that share no frame, the frames that are most alike and their neighbours, if in between there
    is one that is not; no more than there are windows.
    """
    side = min(LOOP_SIDE, most // 2)
    found = []
    for second in range(2, len(windows)):
        for first in range(second - 1):
            if set(windows[first]) & set(windows[second]):
                continue
            part = thumbnails[windows[first]] @ thumbnails[windows[second]].T
            one, other = np.unravel_index(int(part.argmax()), part.shape)
            start, end = windows[first][one], windows[second][other]
            if part[one, other] >= LOOP and (thumbnails[start:end] @ thumbnails[start]).min() < LOOP - LEFT:
                ends = _around(windows[first], int(one), side) + _around(windows[second], int(other), side)
                found.append((float(part[one, other]), ends))
    found.sort(key=lambda loop: -loop[0])
    return [ends for _, ends in found[: len(windows)]]


def _around(window: Window, place: int, count: int) -> Window:
    start = max(0, min(place - count // 2, len(window) - count))
    return window[start : start + count]
