"""Which other frames a frame's depth is measured with: enough parallax to know depth, little enough to still match."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

PARALLAX = (0.03, 0.06, 0.10, 0.16, 0.25)
"""Angles in radians, one frame for each on either side in time; small ones match surely, large ones measure well."""
BEST_PARALLAX = 0.14
"""Between photos, where any match is far."""
PHOTOS = 8
LEAST_SHARED = 0.1
WORST = 1.5
"""Logarithmic distance from what was wanted beyond which a frame is of no use."""
SPAN = 64
"""Frames before and after that are considered in a video."""
KEYFRAME_GAP = 8
KEYFRAME_SHIFT = 0.1
"""Share of the image's width that points may go from one keyframe to the next."""


@dataclass(frozen=True, kw_only=True)
class SparseDepth:
    """Solved points that one frame sees."""

    uv: Float32[np.ndarray, "M 2"]
    """Network pixels."""
    depth: Float32[np.ndarray, " M"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Cameras and what is known of the scene, for all frames, at network resolution."""

    world_from_cam: Float[np.ndarray, "N 4 4"]
    intrinsics: Float[np.ndarray, "N 3 3"]
    size: Int[np.ndarray, "N 2"]
    """Width and height."""
    component: Int[np.ndarray, " N"]
    """-1 where there is no camera."""
    sparse: Sequence[SparseDepth]

    def mates(self, index: int) -> Int[np.ndarray, " K"]:
        """The other frames that share this one's world."""
        mine = self.component == self.component[index]
        mine[index] = False
        return np.flatnonzero(mine)


def in_time(layout: Layout, index: int) -> list[int]:
    """For a frame of a video, on either side the frames nearest to each wanted parallax; else the farthest."""
    chosen: list[int] = []
    mates = layout.mates(index)
    mates = mates[np.abs(mates - index) <= SPAN]
    for others in (mates[mates < index], mates[mates > index]):
        shared, angle = parallax(layout, index, others)
        usable = (shared > LEAST_SHARED) & (angle > 0)
        if not usable.any():
            continue
        others, shared, angle = others[usable], shared[usable], angle[usable]
        for wanted in PARALLAX:
            cost = np.abs(np.log(angle / min(wanted, angle.max()))) - np.log(shared)
            best = int(cost.argmin())
            if cost[best] < WORST and others[best] not in chosen:
                chosen.append(int(others[best]))
    return chosen


def among_photos(layout: Layout, index: int) -> list[int]:
    """For a photo, those that share much of its scene at a parallax that still matches; best first."""
    others = layout.mates(index)
    shared, angle = parallax(layout, index, others)
    score = shared * np.exp(-(np.log(np.maximum(angle, 1e-6) / BEST_PARALLAX) ** 2))
    return [int(others[place]) for place in np.argsort(-score)[:PHOTOS] if score[place] > 0.02]


def keyframes(layout: Layout, frames: Int[np.ndarray, " K"]) -> list[int]:
    """Frames of a video at which depth is measured afresh; in between it is carried over."""
    chosen = [int(frames[0])]
    for frame in frames[1:].tolist():
        if frame - chosen[-1] >= KEYFRAME_GAP or _shift(layout, chosen[-1], frame) > KEYFRAME_SHIFT:
            chosen.append(frame)
    return chosen


def parallax(
    layout: Layout, index: int, others: Int[np.ndarray, " K"]
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Share of the frame's points that lie in the others' images, and the median angle under which those are seen."""
    if not len(others) or not len(layout.sparse[index].depth):
        return np.zeros(len(others)), np.zeros(len(others))
    world = _world_points(layout, index)
    own = world - layout.world_from_cam[index, :3, 3]
    sight = world - layout.world_from_cam[others, None, :3, 3]
    _, seen = _project(layout, world, others)
    cosine = (sight * own).sum(-1) / (np.linalg.norm(sight, axis=-1) * np.linalg.norm(own, axis=-1)).clip(1e-12)
    angle = np.ma.masked_array(np.arccos(cosine.clip(-1, 1)), ~seen)
    return seen.mean(1), np.ma.median(angle, axis=1).filled(0.0)


def _shift(layout: Layout, source: int, target: int) -> float:
    """Median way that the source's points go in the image until the target, as a share of its width."""
    sparse = layout.sparse[source]
    if not len(sparse.depth):
        return 0.0
    uv, _ = _project(layout, _world_points(layout, source), np.array([target]))
    return float(np.median(np.linalg.norm(uv[0] - sparse.uv, axis=1))) / layout.size[target, 0]


def _world_points(layout: Layout, index: int) -> Float[np.ndarray, "M 3"]:
    sparse, pose = layout.sparse[index], layout.world_from_cam[index]
    rays = np.concatenate([sparse.uv, np.ones((len(sparse.uv), 1))], 1) @ np.linalg.inv(layout.intrinsics[index]).T
    return (rays * sparse.depth[:, None]) @ pose[:3, :3].T + pose[:3, 3]


def _project(
    layout: Layout, world: Float[np.ndarray, "M 3"], views: Int[np.ndarray, " K"]
) -> tuple[Float[np.ndarray, "K M 2"], Bool[np.ndarray, "K M"]]:
    """Pixels of world points in several views without their lens, and which lie in the image."""
    pose = layout.world_from_cam[views]
    local = np.einsum("kpc,kcr->kpr", world - pose[:, None, :3, 3], pose[:, :3, :3])
    uvw = np.einsum("krc,kpc->kpr", layout.intrinsics[views], local)
    uv = uvw[..., :2] / np.maximum(uvw[..., 2:], 1e-6)
    return uv, (local[..., 2] > 0) & (uv >= 0).all(-1) & (uv < layout.size[views, None]).all(-1)
