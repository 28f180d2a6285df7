"""Points followed through every frame of a video: pyramidal KLT, chained, checked and re-seeded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import cv2
import numpy as np
import torch

from unproject.teachers.base import Shot, Teacher
from unproject.types import Labels, Tracks

PATCH = 5
"""Half side of the patch that is compared with the template."""
DISTRUST = 0.1
"""Weight of a point that moves by itself: below `LEAST_TRUST` of any that moves with the scene."""
LEAST_TRUST = 0.2
LEAST_MOTION_PX = 2.0
"""Less motion than this tells nothing of who moves by himself."""
LEAST_SURVIVING = 0.03
"""Share of points: where fewer outlive a frame it is a cut, and they are chance (measured: up to 2 %)."""
ALIKE_GREY = 10.0
"""Grey levels apart at which a neighbour's flow tells little of a point's (`follow`)."""
_OFFSETS = np.stack(np.meshgrid(*[np.arange(-PATCH, PATCH + 1, dtype=np.float32)] * 2), -1).reshape(-1, 2)
_AROUND = 3.0 * np.array([(x, y) for y in range(-4, 5) for x in range(-4, 5) if x * x + y * y <= 16], np.float32)


@final
@dataclass(frozen=True)
class KltTeacher(Teacher):
    """Tracks of one clip, all frames of one size."""

    target: int = 1200

    def label(self, shot: Shot) -> Labels:
        """Multi-view tracks (`Labels.tracks`), followed through all images and kept where a view has them."""
        tracker = KltTracker(target=self.target)
        for image in shot.images:
            tracker.feed(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        return Labels(tracks=of_views(tracker.finish(), shot.views))


def of_views(tracks: Tracks, views: Sequence[int]) -> Tracks:
    """What some of the views see, numbered by their place in ``views`` (ascending); tracks of a single view go."""
    chosen = torch.as_tensor(views, dtype=tracks.view.dtype)
    seen = tracks.select(torch.isin(tracks.view, chosen)).shared()
    return replace(seen, view=torch.searchsorted(chosen, seen.view))


class KltTracker:
    """Feed frame after frame, then `finish`. Holds two frames and the living points; memory grows with observations.

    A point lives while following it forth and back returns within ``forward_backward_px``, and while its patch
    correlates with the one it was seeded with by at least ``least_correlation``. Templates are renewed after
    ``renew_after`` frames, so that a slow change of view does not end a track. A window's width is a multiple of 8,
    since OpenCV takes eight columns at a time: 21 x 21 took 2.3 times as long, for no better cameras (measured).
    """

    def __init__(
        self,
        target: int = 1200,
        *,
        window_px: tuple[int, int] = (16, 12),
        forward_backward_px: float = 0.7,
        least_correlation: float = 0.8,
        seed_every: int = 5,
        renew_after: int = 15,
    ) -> None:
        self.target = target
        self.forward_backward_px, self.least_correlation = forward_backward_px, least_correlation
        self.seed_every, self.renew_after = seed_every, renew_after
        self._flow = {"winSize": window_px, "maxLevel": 3, "criteria": (3, 20, 0.03)}
        self._frame, self._next = 0, 0
        self._previous: np.ndarray | None = None
        self._alive = _Points.none()
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def feed(self, grey: np.ndarray) -> None:
        """The next frame, uint8 [H, W]."""
        if self._previous is not None and self._previous.shape != grey.shape:
            raise ValueError(f"frame {self._frame} is {grey.shape}, those before {self._previous.shape}")
        if self._previous is not None and len(self._alive.uv):
            self._advance(self._previous, grey)
        if self._frame % self.seed_every == 0:
            self._judge()
        if self._frame % self.seed_every == 0 or len(self._alive.uv) < 0.6 * self.target:
            self._seed(grey)
        alive = self._alive
        view = np.full(len(alive.uv), self._frame)
        trust = np.where(alive.rigid, alive.trust, DISTRUST * alive.trust)
        self._rows.append((view, alive.number, alive.uv + 0.5, trust))  # OpenCV has pixel centres at integers
        self._previous, self._frame = grey, self._frame + 1

    @property
    def alive(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the points that live after the last frame, ascending, and their pixels [K, 2]."""
        return self._alive.number, self._alive.uv + 0.5

    def finish(self) -> Tracks:
        """Everything that was followed into at least a second frame; views are frame numbers."""
        rows = self._rows or [(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)), np.zeros(0))]
        view, number, uv, trust = (np.concatenate(column) for column in zip(*rows, strict=True))
        keep = np.bincount(number, minlength=1)[number] >= 2 if len(number) else np.zeros(0, bool)
        view, number, uv, trust = view[keep], number[keep], uv[keep], trust[keep]
        order = np.lexsort((view, number))
        _, track = np.unique(number[order], return_inverse=True)
        return Tracks(
            view=torch.as_tensor(view[order]),
            track=torch.as_tensor(track),
            uv=torch.as_tensor(uv[order], dtype=torch.float32),
            weight=torch.as_tensor(trust[order], dtype=torch.float32),
        )

    def _advance(self, previous: np.ndarray, grey: np.ndarray) -> None:
        points = self._alive
        guess = points.uv + points.velocity
        uv, forth = self._follow(previous, grey, points.uv, guess)
        back, returned = self._follow(grey, previous, uv, uv - points.velocity)
        error = np.linalg.norm(back - points.uv, axis=1)
        height, width = grey.shape
        inside = ((uv >= PATCH) & (uv < [width - 1 - PATCH, height - 1 - PATCH])).all(1)
        keep = np.flatnonzero(forth & returned & inside & (error < self.forward_backward_px))
        correlation = (_patches(grey, uv[keep]) * points.template[keep]).sum(1)
        alike = correlation > self.least_correlation
        if alike.sum() < LEAST_SURVIVING * len(points.uv):
            alike[:] = False
        keep = keep[alike]
        trust = correlation[alike].clip(max=1.0) * np.exp(-((error[keep] / self.forward_backward_px) ** 2))
        self._alive = points.kept(keep, uv[keep], uv[keep] - points.uv[keep], trust)

    def _judge(self) -> None:
        """Points that leave the epipolar geometry of the others since the last time move by themselves, or slipped."""
        points = self._alive
        known = np.flatnonzero(np.isfinite(points.judged_at[:, 0]))
        before, now = points.judged_at[known], points.uv[known]
        if len(known) >= 30 and np.median(np.linalg.norm(now - before, axis=1)) > LEAST_MOTION_PX:
            points.rigid[known] = _epipolar_inliers(before, now)
        points.judged_at[:] = points.uv

    def _follow(
        self, source: np.ndarray, target: np.ndarray, uv: np.ndarray, guess: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        found, status, _ = cv2.calcOpticalFlowPyrLK(
            source, target, uv[:, None], guess[:, None].copy(), flags=cv2.OPTFLOW_USE_INITIAL_FLOW, **self._flow
        )
        return found[:, 0], status.ravel() > 0

    def _seed(self, grey: np.ndarray) -> None:
        """Renew old templates, then the best corner of every grid cell that has no point."""
        points = self._alive
        old = np.flatnonzero(self._frame - points.since >= self.renew_after)
        if len(old):
            points.template[old], points.since[old] = _patches(grey, points.uv[old]), self._frame
        fresh = _corners(grey, points.uv, self.target)
        room = max(0, round(1.25 * self.target) - len(points.uv))
        fresh = np.random.default_rng(self._frame).permutation(fresh)[:room].astype(np.float32)
        drift = np.median(points.velocity, axis=0) if len(points.uv) else np.zeros(2)
        numbers = self._next + np.arange(len(fresh))
        self._next += len(fresh)
        self._alive = points.joined(fresh, numbers, _patches(grey, fresh), drift, self._frame)


@dataclass(frozen=True)
class _Points:
    """The living points; ``uv`` with integer pixel centres."""

    uv: np.ndarray
    velocity: np.ndarray
    number: np.ndarray
    template: np.ndarray
    since: np.ndarray
    trust: np.ndarray
    judged_at: np.ndarray
    """Where it was when last judged, NaN for a new one."""
    rigid: np.ndarray
    """It moved as the scene did."""

    @staticmethod
    def none() -> "_Points":
        flat, pair = np.zeros(0), np.zeros((0, 2), np.float32)
        template = np.zeros((0, len(_OFFSETS)), np.float32)
        return _Points(pair, pair, flat.astype(int), template, flat.astype(int), flat, pair, flat.astype(bool))

    def kept(self, keep: np.ndarray, uv: np.ndarray, velocity: np.ndarray, trust: np.ndarray) -> "_Points":
        rest = (self.judged_at[keep], self.rigid[keep])
        return _Points(uv, velocity, self.number[keep], self.template[keep], self.since[keep], trust, *rest)

    def joined(
        self, uv: np.ndarray, number: np.ndarray, template: np.ndarray, drift: np.ndarray, frame: int
    ) -> "_Points":
        return _Points(
            np.concatenate([self.uv, uv]),
            np.concatenate([self.velocity, np.tile(drift, (len(uv), 1))]).astype(np.float32),
            np.concatenate([self.number, number]),
            np.concatenate([self.template, template]),
            np.concatenate([self.since, np.full(len(uv), frame)]),
            np.concatenate([self.trust, np.ones(len(uv))]),
            np.concatenate([self.judged_at, np.full((len(uv), 2), np.nan, np.float32)]),
            np.concatenate([self.rigid, np.ones(len(uv), bool)]),
        )


def _epipolar_inliers(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Which points one fundamental matrix explains within 1 px; all, where none does."""
    cv2.setRNGSeed(0)
    try:
        _, mask = cv2.findFundamentalMat(before, now, cv2.USAC_MAGSAC, 1.0, 0.999, 1000)
    except cv2.error:  # OpenCV asserts where no sample gives a model
        mask = None
    return np.ones(len(now), bool) if mask is None else mask.ravel() > 0


def _patches(grey: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Patches around points, made zero-mean and of length one, so that a product is the correlation."""
    if not len(uv):
        return np.zeros((0, len(_OFFSETS)), np.float32)
    place = (uv[:, None] + _OFFSETS).astype(np.float32)
    patch = cv2.remap(grey, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    patch = patch.astype(np.float32) - patch.mean(axis=1, keepdims=True, dtype=np.float32)
    return patch / np.maximum(np.linalg.norm(patch, axis=1, keepdims=True), 1e-3)


def _corners(grey: np.ndarray, taken: np.ndarray, target: int) -> np.ndarray:
    """The strongest corner of every cell of a grid of about ``target`` cells that holds none of ``taken``."""
    height, width = grey.shape
    cell = max(8, int(np.sqrt(height * width / target)))
    rows, columns = height // cell, width // cell
    if not rows or not columns:
        return np.zeros((0, 2))
    strength = cv2.cornerMinEigenVal(grey, 5)
    strength[strength < cv2.dilate(strength, np.ones((3, 3)))] = 0
    margin = PATCH + 2
    strength[:margin] = strength[-margin:] = strength[:, :margin] = strength[:, -margin:] = 0
    near = np.zeros(grey.shape, np.uint8)
    near[taken[:, 1].astype(int), taken[:, 0].astype(int)] = 1
    strength[cv2.dilate(near, np.ones((9, 9))) > 0] = 0
    blocks = strength[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).transpose(0, 2, 1, 3)
    blocks = blocks.reshape(rows * columns, cell * cell)
    best = blocks.argmax(1)
    value = blocks[np.arange(len(blocks)), best]
    occupied = np.zeros((rows, columns), bool)
    inside = ((taken // cell) < [columns, rows]).all(1)
    occupied[tuple((taken[inside] // cell).astype(int).T[::-1])] = True
    chosen = np.flatnonzero((value > max(0.005 * strength.max(), 1e-5)) & ~occupied.ravel())
    return np.column_stack(
        [chosen % columns * cell + best[chosen] % cell, chosen // columns * cell + best[chosen] // cell]
    )


def follow_each_other(greys: Sequence[np.ndarray]) -> bool:
    """Whether uint8 images [H, W] are frames of one video: of one size, and most points survive from each to the next.

    Eight neighbouring pairs are looked at; six of them must keep 60 % of their corners at under 6 % of the long side.
    """
    if len(greys) < 2 or len({image.shape for image in greys}) > 1:
        return False
    steady = 0
    for number in np.linspace(0, len(greys) - 2, 8).round().astype(int).tolist():
        tracker = KltTracker(target=300)
        tracker.feed(greys[number])
        numbers, before = tracker.alive
        tracker.feed(greys[number + 1])
        alive, uv = tracker.alive
        stayed = np.isin(alive, numbers)
        shift = np.linalg.norm(uv[stayed] - before[np.searchsorted(numbers, alive[stayed])], axis=1)
        near = stayed.any() and np.median(shift) < 0.06 * max(greys[number].shape)
        steady += bool(near and stayed.sum() >= 0.6 * len(numbers))
    return steady >= 6


def follow(greys: Iterable[np.ndarray], uv: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Points of the user's choice from the first frame on: (uv [K, 2], visible [K]) for every frame.

    DIS flow at its finest scale moves a point, since it follows soft things that have no corners: the median flow of
    what lies around it and is as bright, so that a thin limb is not moved by what is behind it. A point counts as lost
    once flow back and forth disagrees by over 3 px or it leaves the image, and does not come back.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow.setFinestScale(0)
    place, visible, previous = np.asarray(uv, np.float32).copy(), np.ones(len(uv), bool), None
    for grey in greys:
        if previous is not None and len(place):
            moved = place + _flow_of_its_kind(flow.calc(previous, grey, None), previous, place)
            back = moved + _looked_up(flow.calc(grey, previous, None), moved[:, None])[:, 0]
            visible &= np.linalg.norm(back - place, axis=1) < 3.0
            place = moved
        previous = grey
        visible &= ((place >= 0) & (place <= [grey.shape[1], grey.shape[0]])).all(1)
        yield place.copy(), visible.copy()


def _flow_of_its_kind(flow: np.ndarray, grey: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Weighted median of the flow within 12 px of each point, [K, 2]."""
    around = uv[:, None] + _AROUND
    shift = _looked_up(flow, around)
    bright = _looked_up(grey.astype(np.float32), around)[..., 0]
    own = _looked_up(cv2.GaussianBlur(grey, (0, 0), 1.5).astype(np.float32), uv[:, None])[..., 0]
    weight = np.exp(-0.5 * ((bright - own) / ALIKE_GREY) ** 2)[..., None]
    order = shift.argsort(axis=1)
    reached = np.take_along_axis(np.broadcast_to(weight, shift.shape), order, axis=1).cumsum(axis=1)
    middle = (reached < reached[:, -1:] / 2).sum(axis=1, keepdims=True).clip(max=len(_AROUND) - 1)
    return np.take_along_axis(np.take_along_axis(shift, order, axis=1), middle, axis=1)[:, 0]


def _looked_up(field: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Values [K, M, channels] of an image at pixels [K, M, 2], bilinear."""
    place = (uv - 0.5).astype(np.float32)
    found = cv2.remap(field, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(*uv.shape[:2], -1)
