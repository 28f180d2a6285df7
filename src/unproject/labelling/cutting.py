"""Where a video is cut into clips: points followed from frame to frame say how much of a view is still in sight."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unproject.labelling.wishes import Wishes
from unproject.teachers.tracks import KltTracker, of_views
from unproject.types import Tracks

SCOUTS = 400
"""Points that are followed to see how much overlaps."""
FOLLOWED = 0.2
"""Share of points: where fewer outlive a frame it is a cut, or too fast to follow. Chance and a station's sign that
stays through cuts keep some alive."""
WINDOW = 128
"""Frames that are held at once. Where a clip has more, every second one goes: it is slow, and its neighbours show
nearly the same."""
STILL_SHARE, STILL_S = 0.01, 1.0
"""Half of the points move less than this share of the long side in this time, or over a whole clip: the camera stands,
and what has gone out of sight was hidden by things that move."""
DARK, FLAT, BLURRED = 12.0, 5.0, 4.0
"""Grey levels: the mean of a dark picture, the spread of an empty one, and that of the Laplacian of a blurred one."""


@dataclass(frozen=True)
class Frame:
    """One frame of a video, at the size of its labels."""

    number: int
    time_s: float
    image: np.ndarray
    """Uint8 RGB [H, W, 3]."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Frames of one shot from the first view of a clip to the last."""

    frames: tuple[Frame, ...]
    views: tuple[int, ...]
    """Counted in ``frames``, ascending; about as much is lost of sight from each to the next."""
    scouts: Tracks
    """Points of all views."""
    overlap: float
    """Share of the first view's points that the last one still sees."""
    motion_px: float
    """How far the middle one of these has moved."""


@dataclass(frozen=True, kw_only=True)
class Useless:
    """Frames that give no clip."""

    first: int
    last: int
    reason: str


def cuts(frames: Iterable[Frame], wishes: Wishes) -> Iterator[Cut | Useless]:
    """What becomes of the frames of a video, in their order; about `WINDOW` of them are held at once."""
    cutter = _Cutter(wishes)
    for fresh in frames:
        cutter.waiting.append(fresh)
        while cutter.waiting:
            yield from cutter.push(cutter.waiting.popleft())
    if cutter.take is not None:
        yield cutter.take.ended()


def flaw(grey: np.ndarray) -> str | None:
    """Why nothing can be learned from a uint8 image [H, W]; None where something can."""
    mean, spread = cv2.meanStdDev(grey)
    if spread.item() < FLAT:
        return "pictures of one colour"
    if mean.item() < DARK:
        return "too dark"
    return "too blurred" if sharpness(grey) < BLURRED else None


def sharpness(grey: np.ndarray) -> float:
    """Spread of the Laplacian of a uint8 image [H, W], grey levels (Pech-Pacheco et al. 2000)."""
    return cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1].item()


class _Cutter:
    """Hands frames to the take that they belong to, and those that a clip leaves over to the next."""

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.waiting = deque[Frame]()
        self.take: _Take | None = None
        self._begin = 0

    def push(self, frame: Frame) -> Iterator[Cut | Useless]:
        """What the frame brings to an end."""
        if frame.number < self._begin:
            return
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        reason = flaw(grey)
        follows = reason is None and self.take is not None and self.take.feed(frame, grey)
        if self.take is not None and not (follows and not self.take.full):
            ended, frames = self.take.ended(), self.take.frames
            yield ended
            self.take = None
            if isinstance(ended, Cut):
                first, last = ended.frames[0].number, ended.frames[-1].number
                self._begin = first + max(1, round(self.wishes.step * (last + 1 - first)))
                self.waiting.extendleft(reversed(frames if follows else [*frames, frame]))
                return
        elif follows:
            return
        if reason is None and not follows:
            reason = self._start(frame, grey)
        if reason is not None:
            yield Useless(first=frame.number, last=frame.number, reason=reason)

    def _start(self, frame: Frame, grey: np.ndarray) -> str | None:
        take = _Take(frame, grey, self.wishes)
        if take.points < self.wishes.least_matches:
            return "next to nothing to follow"
        self.take = take
        return None


@dataclass(frozen=True)
class _Held:
    """A frame of a take."""

    frame: Frame
    count: int
    """Frames before it, those that were let go too."""
    overlap: float
    motion_px: float
    """How far the middle one of the first frame's points has moved."""


class _Take:
    """Frames that follow one another, from what may be the first view of a clip on."""

    def __init__(self, frame: Frame, grey: np.ndarray, wishes: Wishes) -> None:
        self.wishes = wishes
        self._held = [_Held(frame, 0, 1.0, 0.0)]
        self._stride = 1
        self._farthest_px = 0.0
        self._goal = np.random.default_rng([wishes.seed, frame.number]).uniform(
            wishes.least_overlap, wishes.most_overlap
        )
        self._tracker = KltTracker(target=SCOUTS)
        self._tracker.feed(grey)
        self._numbers, self._start_uv = self._tracker.alive
        self._begun = self.points

    @property
    def points(self) -> int:
        """How many there are to follow."""
        return len(self._start_uv)

    @property
    def frames(self) -> list[Frame]:
        """Those that are held."""
        return [held.frame for held in self._held]

    @property
    def full(self) -> bool:
        """Nothing more belongs to it."""
        overlap, enough = self._held[-1].overlap, len(self._held) >= self.wishes.views
        return (overlap <= self._goal and enough) or overlap < self.wishes.least_overlap or self._rests or self._long

    @property
    def _long(self) -> bool:
        return self._lasts_s >= self.wishes.longest_s

    @property
    def _lasts_s(self) -> float:
        return self._held[-1].frame.time_s - self._held[0].frame.time_s

    @property
    def _still(self) -> bool:
        return self._farthest_px < STILL_SHARE * max(self._held[0].frame.image.shape)

    @property
    def _rests(self) -> bool:
        return self._still and self._lasts_s >= STILL_S

    def feed(self, frame: Frame, grey: np.ndarray) -> bool:
        """Take the next frame; False, and it is left, where its points are not those of the frame before."""
        self._tracker.feed(grey)
        before, (self._numbers, uv) = self._numbers, self._tracker.alive
        if np.isin(before, self._numbers).sum() < FOLLOWED * len(before):
            return False
        first = self._numbers[: np.searchsorted(self._numbers, self.points)]
        last = self._held[-1]
        motion_px = last.motion_px
        if len(first):
            motion_px = float(np.median(np.linalg.norm(uv[: len(first)] - self._start_uv[first], axis=1)))
        if last.count == 0:
            self._begun = max(1, len(first))  # a corner that is lost at once was none
        self._farthest_px = max(self._farthest_px, motion_px)
        self._hold(_Held(frame, last.count + 1, len(first) / self._begun, motion_px))
        return True

    def _hold(self, new: _Held) -> None:
        """The last frame is always held; of those before only such as the stride asks for."""
        if self._held[-1].count % self._stride:
            del self._held[-1]
        if len(self._held) == WINDOW:
            self._stride *= 2
            del self._held[1::2]
        self._held.append(new)

    def ended(self) -> Cut | Useless:
        """What it gives, now that no frame follows."""
        seen = [held for held in self._held if held.overlap >= self.wishes.least_overlap]
        reason = self._reason(seen)
        if reason is not None:
            return Useless(first=self._held[0].frame.number, last=self._held[-1].frame.number, reason=reason)
        views = evenly([held.overlap for held in seen], self.wishes.views)
        return Cut(
            frames=tuple(held.frame for held in seen),
            views=views,
            scouts=of_views(self._tracker.finish(), [seen[view].count for view in views]),
            overlap=seen[-1].overlap,
            motion_px=seen[-1].motion_px,
        )

    def _reason(self, seen: Sequence[_Held]) -> str | None:
        """Why its first frames, those that see enough of the very first, are no clip."""
        enough = len(seen) >= self.wishes.views
        if self._rests or (enough and self._still):
            return "the camera stands still"
        if enough and seen[-1].overlap <= self.wishes.most_overlap:
            return None
        if self._held[-1].overlap < self.wishes.least_overlap:
            return "changes too fast to be followed"
        if self._long:
            return f"moves too little in {self.wishes.longest_s:g} s"
        return "too little between cuts" if enough else f"fewer than {self.wishes.views} frames in one piece"


def evenly(overlap: Sequence[float], views: int) -> tuple[int, ...]:
    """Frames, the first and the last among them, between which overlap (falling) drops by about the same."""
    count, falling = len(overlap), -np.asarray(overlap)
    levels = np.linspace(falling[0], falling[-1], views)
    chosen = [0]
    for number in range(1, views - 1):
        nearest = int(np.abs(falling - levels[number]).argmin())
        chosen.append(min(max(nearest, chosen[-1] + 1), count - views + number))
    return (*chosen, count - 1)
