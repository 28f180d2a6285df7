"""Dense flow without weights: DIS both ways, trusted where it comes back to where it started.

DIS alone finds neighbouring frames. Between views with frames in between it starts from flow that was carried along
these; `python -m benchmarks.label_quality` compares that with either alone.
"""

import math
import threading
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from itertools import pairwise
from typing import Literal, final

import cv2
import numpy as np
import torch

from unproject.teachers.base import Shot, Teacher
from unproject.types import Known, Labels

HOP = 4
"""Frames that carried flow passes at once, at most."""
_LOCAL = threading.local()
BothWays = tuple[np.ndarray, np.ndarray]
"""Flow (float32 [H, W, 2], pixels) there and back."""


@final
@dataclass(frozen=True)
class DisTeacher(Teacher):
    """Flow of each pair; its weight is covisibility in [0, 1]."""

    def label(self, shot: Shot) -> Labels:
        """`Labels.flow` with value [1, P, H, W, 2] and weight [1, P, H, W]."""
        between = cache(_Carried(shot).between)
        height, width = shot.images[0].shape[:2]
        flow = torch.zeros(1, len(shot.pairs), height, width, 2)
        weight = torch.zeros(1, len(shot.pairs), height, width)
        for number, (source, target) in enumerate(shot.pairs):
            ways = between(min(source, target), max(source, target))
            forward, backward = ways if source <= target else ways[::-1]
            flow[0, number] = torch.from_numpy(forward)
            weight[0, number] = torch.from_numpy(covisibility(forward, backward))
        return Labels(flow=Known(flow, weight))


class _Carried:
    """Flow between views of a shot, each found from the flow between those that lie between them."""

    def __init__(self, shot: Shot) -> None:
        self.shot = shot
        self._steps: dict[int, BothWays] = {}

    def between(self, first: int, last: int) -> BothWays:
        """From one view to a later one, or to itself."""
        if last - first == 1:
            return self.step(first)
        if last == first:
            return flow_both_ways(self._grey(self.shot.views[first]), self._grey(self.shot.views[last]))
        ways = reduce(carried_on, map(self.step, range(first, last)))
        return self._polished(self.shot.views[first], self.shot.views[last], ways)

    def step(self, view: int) -> BothWays:
        """From a view to the next."""
        if view not in self._steps:
            self._steps[view] = self._stepped(view)
        return self._steps[view]

    def _stepped(self, view: int) -> BothWays:
        """Over the frames between a view and the next, or straight where these are few."""
        first, last = self.shot.views[view : view + 2]
        hops = math.ceil((last - first) / HOP)
        if hops == 1:
            return flow_both_ways(self._grey(first), self._grey(last))
        greys = [self._grey(stop) for stop in np.linspace(first, last, hops + 1).round().astype(int).tolist()]
        engine = _engine("hasty")
        quick = ((engine.calc(one, two, None), engine.calc(two, one, None)) for one, two in pairwise(greys))
        return self._polished(first, last, reduce(carried_on, quick))

    def _polished(self, first: int, last: int, ways: BothWays) -> BothWays:
        """DIS between two frames that begins with, and overwrites, what was carried along others."""
        one, two, engine = self._grey(first), self._grey(last), _engine("led")
        return engine.calc(one, two, ways[0]), engine.calc(two, one, ways[1])

    def _grey(self, number: int) -> np.ndarray:
        return cv2.cvtColor(self.shot.images[number], cv2.COLOR_RGB2GRAY)


def carried_on(ways: BothWays, further: BothWays) -> BothWays:
    """From a first frame to a third, of flow between the first and the second and the second and the third."""
    return ways[0] + looked_up(further[0], ways[0]), further[1] + looked_up(ways[1], further[1])


def looked_up(field: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """What a field [H, W, 2] holds where flow [H, W, 2] leads; at the nearest edge where it leads out of the image."""
    return _at(field, *_ends(flow))


def _at(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _ends(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row, pixel centres at integers, where flow leads: two maps, since numpy is slow on pairs."""
    x, y = cv2.split(_starts(*flow.shape[:2]) + flow)
    return x, y


@lru_cache(maxsize=4)
def _starts(height: int, width: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), -1)


def flow_both_ways(one: np.ndarray, two: np.ndarray) -> BothWays:
    """Flow between two uint8 images [H, W] of one size, there and back.

    Finest scale 0: the preset stops at half resolution, and depth from it was a third less accurate on a static scene.
    """
    if one.shape != two.shape:
        raise ValueError(f"flow needs images of one size, got {one.shape} and {two.shape}")
    engine = _engine("straight")
    return engine.calc(one, two, None), engine.calc(two, one, None)


def _engine(purpose: Literal["straight", "led", "hasty"]) -> cv2.DISOpticalFlow:
    """One per thread: it keeps buffers and is not safe to share.

    One that was ever led by given flow (OpenCV 5.0) goes by it where it is later given none, past its end in a larger
    image. "hasty" is for flow that is set right afterwards: half the resolution, and the end is the same (measured).
    """
    if not hasattr(_LOCAL, purpose):
        hasty = purpose == "hasty"
        preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if hasty else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        engine = cv2.DISOpticalFlow_create(preset)
        engine.setFinestScale(1 if hasty else 0)
        setattr(_LOCAL, purpose, engine)
    return getattr(_LOCAL, purpose)


def round_trip_px(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """How far from its start a pixel lands after going there and back, [H, W]; infinite where it leaves the image."""
    height, width = forward.shape[:2]
    x, y = _ends(forward)
    dx, dy = cv2.split(forward + _at(backward, x, y))
    error = np.sqrt(dx * dx + dy * dy)  # OpenCV's magnitude rounds by where in memory a pixel happens to lie
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    return np.where(inside, error, np.float32(np.inf))


def covisibility(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Weight in [0, 1], float32 [H, W]: 1 where the round trip closes, half at 0.7 px, 0 out of the image."""
    off = round_trip_px(forward, backward) / np.float32(0.7)
    return 1 / (1 + off * off)
