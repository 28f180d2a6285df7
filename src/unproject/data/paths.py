"""Cameras that move: smooth paths with the jitter of a hand, always on the world's stage."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.data.scene import Stage, map_batch
from unproject.geometry.rigid import from_rt, so3_exp

MARGIN = 0.2
"""Metres that a camera keeps from the edge of its stage."""


@dataclass(frozen=True, kw_only=True)
class CameraPath:
    """A camera at any time: sums of sines for the place, for the point looked at and for the roll."""

    centre: Float[Tensor, "B 3"]
    focus: Float[Tensor, "B 3"]
    sway: Float[Tensor, "B F 3"]
    """Amplitude of each sine of the place, metres."""
    sway_phase: Float[Tensor, "B F 3"]
    wander: Float[Tensor, "B F 3"]
    """Amplitude of each sine of the point looked at, metres."""
    wander_phase: Float[Tensor, "B F 3"]
    roll: Float[Tensor, "B F"]
    """Amplitude, radians."""
    rate: Float[Tensor, "B F"]
    """Radians per second."""

    def world_from_cam(self, times: Float[Tensor, "B N"]) -> Float[Tensor, "B N 4 4"]:
        """Poses with OpenCV axes."""
        angle = (self.rate[:, None] * times[..., None])[..., None]
        place = self.centre[:, None] + (self.sway[:, None] * (angle + self.sway_phase[:, None]).sin()).sum(2)
        target = self.focus[:, None] + (self.wander[:, None] * (angle + self.wander_phase[:, None]).sin()).sum(2)
        turn = (self.roll[:, None] * (angle[..., 0] + self.wander_phase[:, None, :, 0]).sin()).sum(2)
        axis = turn.new_tensor([0.0, 0.0, 1.0])
        return look_at(place, target) @ from_rt(so3_exp(turn[..., None] * axis), torch.zeros_like(place))


def look_at(eye: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """Pose of an upright camera; the target must not be straight above or below the eye."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = torch.zeros_like(forward)
    up[..., 2] = 1
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    return from_rt(rotation, eye)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


SLOW = (0.7, 0.2, 0.1, 0.0, 0.0, 0.0)
"""How the sines of a path share its way, and below, its trembling."""
FAST = (0.0, 0.0, 0.0, 0.5, 0.3, 0.2)


def handheld(stage: Stage, seed: int, *, duration_s: float) -> CameraPath:
    """A hand carries the camera once across its disc in the given time, looks about, and trembles by millimetres."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(stage.outer)
    slow, fast = torch.tensor(SLOW)[:, None], torch.tensor(FAST)[:, None]
    angle = _uniform(generator, 0.0, math.tau, batch, 6)
    way = torch.stack([angle.cos(), angle.sin(), _uniform(generator, -0.3, 0.3, batch, 6)], dim=-1)
    tremble = fast * _uniform(generator, -0.006, 0.006, batch, 6, 3)
    phase = _uniform(generator, 0.0, math.tau, batch, 6, 3)
    # The first sine runs almost straight, from one side of the disc to the other.
    phase[:, 0] = _uniform(generator, -1.4, -1.0, batch, 1)
    look = slow * _uniform(generator, -0.6, 0.6, batch, 6, 3)
    heading, depth = stage.heading.cpu(), stage.depth.cpu()
    path = CameraPath(
        centre=stage.centre.cpu(),
        focus=torch.stack([depth * heading.cos(), depth * heading.sin(), _uniform(generator, 0.6, 1.0, batch)], dim=-1),
        sway=slow * way * (stage.outer.cpu() - MARGIN)[:, None, None] + tremble,
        sway_phase=phase,
        wander=look + 2 * tremble,
        wander_phase=_uniform(generator, 0.0, math.tau, batch, 6, 3),
        roll=(0.04 * slow + 0.004 * fast)[:, 0].repeat(batch, 1),
        rate=_rates(generator, batch, duration_s),
    )
    return map_batch(lambda tensor: tensor.to(stage.outer), path)


def _rates(generator: torch.Generator, batch: int, duration_s: float) -> Tensor:
    """Half a turn, about one and about two turns in the duration; then 1 to 4 Hz for the trembling."""
    slow = torch.tensor([0.42, 0.9, 1.7]) * _uniform(generator, 0.85, 1.15, batch, 3) * math.tau / duration_s
    return torch.cat([slow, math.tau * _uniform(generator, 1.0, 4.0, batch, 3)], dim=-1)


def orbit(stage: Stage, seed: int, *, duration_s: float, sweep: float = math.tau) -> CameraPath:
    """A walk around the middle of a ring, by `sweep` radians in the given time, looking at the middle."""
    path = handheld(stage, seed, duration_s=duration_s)
    radius = ((stage.inner + stage.outer) / 2)[:, None]
    circle, start = torch.zeros_like(path.sway), torch.zeros_like(path.sway_phase)
    circle[:, 0, :2] = radius
    start[:, 0] = start.new_tensor([math.pi / 2, 0.0, 0.0]) + stage.heading[:, None]
    circle[:, 1, :2] = (stage.outer[:, None] - radius - MARGIN) * 0.5
    circle[:, 1, 2] = 0.3
    circle[:, 3:] = path.sway[:, 3:]
    start[:, 1:] = path.sway_phase[:, 1:]
    rate = path.rate.clone()
    rate[:, 0] = sweep / duration_s
    # Looking about by as much as in a room would lose the furniture from sight.
    return replace(path, sway=circle, sway_phase=start, wander=0.3 * path.wander, rate=rate)


def turning(path: CameraPath) -> CameraPath:
    """The same camera on a perfect tripod: it turns about its centre and never moves."""
    return replace(path, sway=torch.zeros_like(path.sway), wander=2 * path.wander)


def standing(path: CameraPath) -> CameraPath:
    """The same camera, screwed down."""
    return replace(
        path,
        sway=torch.zeros_like(path.sway),
        wander=torch.zeros_like(path.wander),
        roll=torch.zeros_like(path.roll),
    )
