"""Depth, confidence and motion of every pixel of every frame, cameras known; frames stream out in order.

Depth is measured at some frames (all photos, keyframes of a video) by flow to several others, filled in along the
picture's edges, and then merged: each frame's result is what the maps around it agree on. Movers are what the camera
does not explain; there depth is an assumption and confidence next to nothing.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from unproject.inference import motion, neighbours
from unproject.inference.measure import Guess, Measured, measure, without_movers
from unproject.inference.merge import merge
from unproject.inference.neighbours import Layout, SparseDepth
from unproject.inference.view import View, make_view
from unproject.inference.workers import one_frame_each
from unproject.types import Cameras, FrameMaps

CameraMotion = Literal["full", "rotation_only", "static"]

NEAREST_KEYFRAMES, NEAREST_PHOTOS = 4, 6
HALF_CONFIDENT = 1.5
"""Precision (inverse relative error, as the maps see it) at which confidence is one half."""
MOVER_CONFIDENCE = 0.1
"""Of depth that rests on an assumption."""
VIEWS_HELD = 96


@dataclass(frozen=True, kw_only=True)
class DenseClip:
    """What depth is made from; everything at network resolution."""

    images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    """Read at random; sizes may differ between photos."""
    cameras: Cameras
    """For the pixels of ``images``."""
    sparse: Sequence[SparseDepth]
    """One per frame."""
    to_original: Sequence[Float[Tensor, "3 3"]]
    ordered: bool
    """A video, whose frames follow each other in time."""
    camera_motion: Sequence[CameraMotion]
    """One per component of ``cameras``."""
    guess: Guess | None = None
    """Something else that sees depth, where flow does not."""


def dense_maps(clip: DenseClip, frames: Sequence[int] | None = None, workers: int = 2) -> Iterator[FrameMaps]:
    """One result per frame, in order. Memory does not grow with a video; the maps of photos are held, 0.7 MiB each.

    ``frames`` asks for some frames only (ascending): nothing is measured that only others need, and their results are
    the same as if all had been asked for.

    Without parallax (a camera that only turns or rests, or no camera) no depth is claimed; motion is, where frames
    follow each other.
    """
    wanted = range(len(clip.images)) if frames is None else frames
    with one_frame_each(workers) as pool:
        yield from _Densifier(clip, wanted, pool).run(ahead=2 * workers)


def views_for(clip: DenseClip, frames: Sequence[int]) -> Iterator[tuple[View, list[View]]]:
    """Each of these frames, and the others that its depth is measured with."""
    with one_frame_each(1) as pool:
        densifier = _Densifier(clip, frames, pool)
        for frame in frames:
            yield densifier.view(frame), densifier.others(frame)


class _Densifier:
    """Frames of one clip; remembers only what later ones need."""

    def __init__(self, clip: DenseClip, frames: Sequence[int], pool: ThreadPoolExecutor):
        self.clip, self.frames, self.pool = clip, frames, pool
        cameras = clip.cameras
        self.layout = Layout(
            world_from_cam=cameras.world_from_cam.double().numpy(),
            intrinsics=cameras.intrinsics.double().numpy(),
            size=np.array([image.shape[1::-1] for image in clip.images]),
            component=np.where(cameras.found.numpy(), cameras.component.numpy(), -1),
            sparse=clip.sparse,
        )
        self.view = lru_cache(VIEWS_HELD)(self._view)
        self.turn = lru_cache(VIEWS_HELD)(self._turn)
        self.sources = self._sources()
        self.last_use = {source: frame for frame in frames for source in self.sources[frame]}
        self.measured: dict[int, Future[Measured]] = {}

    def run(self, ahead: int) -> Iterator[FrameMaps]:
        """Results in order; measuring runs ahead of what is handed out."""
        waiting: deque[Future[FrameMaps]] = deque()
        for place, frame in enumerate(self.frames):
            for soon in self.frames[place : place + ahead * neighbours.KEYFRAME_GAP]:
                for source in self.sources[soon]:
                    if source not in self.measured:
                        self.measured[source] = self.pool.submit(self._measure, source)
            sources = self.sources[frame]
            measured = {source: self.measured[source].result() for source in sources}
            waiting.append(self.pool.submit(self._frame, frame, measured))
            for source in sources:
                if self.last_use[source] == frame:
                    del self.measured[source]
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()

    def _camera_motion(self, frame: int) -> CameraMotion | None:
        component = self.layout.component[frame]
        return None if component < 0 else self.clip.camera_motion[component]

    def _sources(self) -> list[list[int]]:
        """For each frame the frames whose measured depth it is merged from, nearest first."""
        sources: list[list[int]] = [[] for _ in self.clip.images]
        for component, camera_motion in enumerate(self.clip.camera_motion):
            frames = np.flatnonzero(self.layout.component == component)
            if camera_motion != "full" or not len(frames):
                continue
            keys = np.array(neighbours.keyframes(self.layout, frames)) if self.clip.ordered else frames
            for frame in frames.tolist():
                if self.clip.ordered:
                    sources[frame] = keys[np.argsort(np.abs(keys - frame), kind="stable")[:NEAREST_KEYFRAMES]].tolist()
                else:
                    sources[frame] = [frame, *neighbours.among_photos(self.layout, frame)[:NEAREST_PHOTOS]]
        return sources

    def _view(self, frame: int) -> View:
        cameras = self.clip.cameras
        pose = cameras.world_from_cam[frame] if self._camera_motion(frame) == "full" else torch.eye(4)
        return make_view(self.clip.images[frame], cameras.intrinsics[frame], cameras.distortion[frame], pose)

    def _turn(self, frame: int) -> np.ndarray:
        """Homography from a frame to the next, from what the cameras say."""
        here, there = self.view(frame), self.view(frame + 1)
        poses = self.layout.world_from_cam[[frame, frame + 1], :3, :3]
        turned = there.intrinsics.double().numpy() @ poses[1].T @ poses[0]
        return motion.turn(here.grey, there.grey, turned @ np.linalg.inv(here.intrinsics.double().numpy()))

    def others(self, frame: int) -> list[View]:
        """The views that a frame's depth is measured with."""
        choose = neighbours.in_time if self.clip.ordered else neighbours.among_photos
        return [self.view(other) for other in choose(self.layout, frame)]

    def _measure(self, frame: int) -> Measured:
        view, others = self.view(frame), self.others(frame)
        found = measure(view, others, self.clip.sparse[frame], thorough=not self.clip.ordered, guess=self.clip.guess)
        moving = self._motion(frame, found.inverse_depth, found.precision) > 0.5
        return without_movers(view, found, moving) if moving.any() else found

    def _motion(
        self, frame: int, inverse_depth: np.ndarray | None = None, precision: np.ndarray | None = None
    ) -> Float32[np.ndarray, "H W"]:
        """Probability of motion against the frames nearby that share this one's camera motion."""
        view, nearby = self.view(frame), []
        for step in (*motion.FLOW_STEPS, *motion.LOOK_STEPS) if self.clip.ordered else ():
            other = frame + step
            if not 0 <= other < len(self.clip.images) or self.layout.component[other] != self.layout.component[frame]:
                continue
            if inverse_depth is not None and precision is not None:
                error = np.clip(1 / np.maximum(precision, 1e-6), 0.01, 0.5)
                nearby.append(motion.rest_by_depth(view, self.view(other), step, inverse_depth, error))
            elif self._camera_motion(frame) is not None:
                turned = self._turned(frame, other)
                nearby.append(motion.rest_by_homography(turned, view.grey.shape, self.view(other).grey, step))
        return motion.motion(view.grey, nearby)

    def _turned(self, source: int, target: int) -> np.ndarray:
        """Homography between frames of a camera that only turns, chained over the frames in between."""
        total = np.eye(3)
        if self._camera_motion(source) == "rotation_only":
            for frame in range(min(source, target), max(source, target)):
                total = self.turn(frame) @ total
        return total if source < target else np.linalg.inv(total)

    def _frame(self, frame: int, measured: dict[int, Measured]) -> FrameMaps:
        view = self.view(frame)
        if not measured:
            return self._without_depth(frame)
        # `merge` knows the frame itself by identity, and a cache that two threads fill at once gives out two objects.
        views = [view if source == frame else self.view(source) for source in measured]
        inverse_depth, precision = merge(view, list(zip(views, measured.values(), strict=True)))
        moves = self._motion(frame, inverse_depth, precision)
        moving = moves > 0.5
        stuck = next(iter(measured.values())).stuck  # of the nearest: what sticks to the image stays where it is
        stuck = stuck if stuck.shape == moves.shape else np.zeros_like(moving)
        moves[stuck] = 1.0
        depth = motion.standing_depth(moving, 1 / inverse_depth)
        confidence = precision**2 / (precision**2 + HALF_CONFIDENT**2)
        confidence[moving | stuck] *= MOVER_CONFIDENCE
        return FrameMaps(
            depth=torch.from_numpy(depth),
            valid=torch.from_numpy(confidence > 0.5),
            confidence=torch.from_numpy(confidence),
            motion=torch.from_numpy(moves),
            to_original=self.clip.to_original[frame],
            rgb=torch.from_numpy(view.rgb.copy()),
            scene_flow=self._scene_flow(frame, depth, moving & ~stuck),
        )

    def _scene_flow(self, frame: int, depth: np.ndarray, moving: np.ndarray) -> Tensor | None:
        following = frame + 1
        if not self.clip.ordered or following == len(self.clip.images):
            return None
        if self.layout.component[following] != self.layout.component[frame]:
            return None
        return torch.from_numpy(motion.displacement(self.view(frame), self.view(following), depth, moving))

    def _without_depth(self, frame: int) -> FrameMaps:
        view = self.view(frame)
        nothing = torch.zeros(view.grey.shape)
        return FrameMaps(
            depth=torch.ones_like(nothing),
            valid=nothing > 0,
            confidence=nothing,
            motion=torch.from_numpy(self._motion(frame)),
            to_original=self.clip.to_original[frame],
            rgb=torch.from_numpy(view.rgb.copy()),
        )
