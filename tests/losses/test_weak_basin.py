"""Why Reliev3R compares directions: where five losses of tracks pull, and from how far away each finds the poses.

Beside ours stand the figures of an earlier study of these losses, of which only the tables are left. Scenes here are
the ones tried that come nearest to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unproject.evaluation.metrics import pair_errors
from unproject.geometry.rigid import (
    from_rt,
    inverse,
    rotation_from_6d,
    rotation_from_quaternion,
    so3_exp,
    transform,
)
from unproject.losses.weak import Normalisation, ambiguous_depth, registration_angles
from unproject.types import Known

# Of points [B, N, K, 3] in their cameras and poses: a loss for views i, j and tracks, and where it counts [B, N, N, K].
PairLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def angle(local: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    return registration_angles(local, poses, torch.ones_like(local[..., 0]))


def cosine(local: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    apart, known = angle(local, poses)
    return 1 - apart.cos(), known


def by_another(local: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """In camera i: its own point, and the one that view j says."""
    there = inverse(poses)[:, :, None] @ poses[:, None]
    return local[:, :, None], transform(there, local[:, None].expand(-1, local.shape[1], -1, -1, -1))


def distance(local: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    own, other = by_another(local, poses)
    length = ((own - other).square().sum(-1) + 1e-12).sqrt()
    return length, torch.ones_like(length)


def distance_squared(local: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    length, known = distance(local, poses)
    return length.square(), known


def pixel(local: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    own, other = by_another(local, poses)
    miss = (own[..., :2] / own[..., 2:] - other[..., :2] / other[..., 2:]).abs().sum(-1)
    return miss, torch.ones_like(miss)


def pixel_in_front(local: Tensor, poses: Tensor, nearest: float = 0.1) -> tuple[Tensor, Tensor]:
    own, other = by_another(local, poses)
    front = other[..., 2:] > nearest
    seen = other[..., :2] / torch.where(front, other[..., 2:], 1)
    return (own[..., :2] / own[..., 2:] - seen).abs().sum(-1), front[..., 0].to(own)


# The first table: one camera is turned away about its y axis. Derivative by that angle.

OFF_DEG = (10, 60, 85, 120, 150, 175)
PLANE = 0.05
"""Nearest depth of this table's mask: with 0, the nearest point of all outweighs the others."""
PULLS: list[tuple[PairLoss, tuple[float, ...]]] = [
    (angle, (0.97, 0.96, 0.95, 0.92, 0.81, 0.38)),
    (cosine, (0.16, 0.82, 0.94, 0.82, 0.47, 0.08)),
    (pixel, (1.17, 578, -2130, -31, -2.0, -1.1)),
    (partial(pixel_in_front, nearest=PLANE), (1.17, 38.6, 147, 18.7, 0.0, 0.0)),
    (distance_squared, (6.1, 30, 35, 30, 17.6, 3.1)),
]


def cloud() -> Tensor:
    """400 points around one 4 ahead. Who lies near the camera's plane makes the pixels' figures, hence the seed."""
    generator = torch.Generator().manual_seed(1003)
    return torch.randn(400, 3, generator=generator).double() + torch.tensor([0.0, 0.0, 4.0])


def pull(loss: PairLoss, off: Tensor) -> float:
    """Of the sum over what counts in the turned camera, over all 400 points."""
    off = off.clone().requires_grad_()
    turned = from_rt(so3_exp(torch.stack([0 * off, -off, 0 * off])), torch.zeros(3).double())
    aside = torch.eye(4).double()
    aside[0, 3] = 0.5
    place = cloud()
    local = torch.stack([place, transform(inverse(aside), place)])[None]
    value, known = loss(local, torch.stack([turned, aside])[None])
    total = torch.where(known > 0, value, 0)[0, 0, 1].sum() / len(place)
    return torch.autograd.grad(total, off)[0].item()


def pull_by_hand(loss: PairLoss, off: Tensor) -> float:
    """The same from the turned points, which are (z sin + x cos, y, z cos - x sin)."""
    x, y, z = cloud().T
    level = (x**2 + z**2) / (x**2 + y**2 + z**2)  # squared cosine of the elevation above the plane of the turn
    if loss is distance_squared:
        return (2 * (x**2 + z**2) * off.sin()).mean().item()
    if loss is cosine:
        return (level * off.sin()).mean().item()
    if loss is angle:
        return (level * off.sin() / (1 - (1 - level * (1 - off.cos())) ** 2).sqrt()).mean().item()
    depth = z * off.cos() - x * off.sin()
    u, v = (z * off.sin() + x * off.cos()) / depth, y / depth
    each = (u - x / z).sign() * (1 + u**2) + (v - y / z).sign() * u * v
    return torch.where((depth > PLANE) | torch.tensor(loss is pixel), each, 0).mean().item()


@pytest.mark.parametrize(
    ("loss", "off_deg", "said"),
    [(loss, off_deg, said) for loss, row in PULLS for off_deg, said in zip(OFF_DEG, row, strict=True)],
)
def test_the_angle_pulls_the_right_way_from_everywhere_and_the_others_do_not(loss, off_deg: int, said: float):
    """Every cell: what geometry says, and the study's to 6 %, or by half where it is pixels."""
    off = torch.tensor(math.radians(off_deg)).double()
    found = pull(loss, off)
    assert found == pytest.approx(pull_by_hand(loss, off), rel=1e-6)
    in_pixels = loss not in (angle, cosine, distance_squared)
    assert found == pytest.approx(said, rel=0.5 if in_pixels else 0.06, abs=0 if in_pixels else 0.035)


# Section 4.5: descent on free poses and depths, every rotation off by an angle about an axis of its own.

VIEWS, TRACKS = 8, 64


@dataclass(frozen=True)
class Trial:
    """Cameras on a circle of radius 1, from where they are thought to be to where a loss takes them."""

    loss: PairLoss = field(repr=False)
    off_deg: float | None
    """None: any rotation, each as likely."""
    orbit: bool = False
    """All around what they see, and only views at most two apart share tracks; else an arc of one radian before it."""
    normalisation: Normalisation = "scale"
    outliers: float = 0.0
    """Share of tracked pixels that are anywhere."""
    sky: float = 0.0
    """Share of tracks on it: in each view the teacher says another depth for it. Trust is then free, too."""

    def auc(self, scenes: int = 8, steps: int = 600) -> tuple[float, float]:
        """Mean AUC@30, and the share of scenes above 80, in percent. Scenes do not know of one another."""
        generator = torch.Generator().manual_seed(5)
        truth, local = self.scenes(scenes, generator)
        found = self.descend(truth, local, generator, steps)
        each = torch.tensor([100 * pair_errors(*pair).auc(30) for pair in zip(found, truth, strict=True)])
        return each.mean().item(), 100 * (each > 80).float().mean().item()

    def scenes(self, scenes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """True poses, and points in their cameras: a ball, in the orbit's middle or beyond the arc's, and what is far.

        Nearer to the arc, losses of pixels fail from 15 degrees already.
        """
        around = 2 * math.pi * torch.arange(VIEWS) / VIEWS
        bearing = around if self.orbit else torch.linspace(-0.5, 0.5, VIEWS)
        centre = torch.stack([bearing.sin(), torch.full_like(bearing, 0.1), -bearing.cos()], -1)
        forward = -normalize(centre, dim=-1)
        right = normalize(torch.linalg.cross(torch.tensor([[0.0, 1, 0]]), forward), dim=-1)
        truth = from_rt(torch.stack([right, torch.linalg.cross(forward, right), forward], -1), centre)
        place = 0.3 * torch.randn(scenes, TRACKS, 3, generator=generator)
        place[..., 2] += 0.0 if self.orbit else 1.0
        place[:, : round((self.sky or 0.15) * TRACKS), 2] += 20.0 if self.sky else 5.0
        truth = truth.expand(scenes, -1, -1, -1)
        return truth, transform(inverse(truth), place[:, None].expand(-1, VIEWS, -1, -1))

    def descend(self, truth: Tensor, local: Tensor, generator: torch.Generator, steps: int) -> Tensor:
        """Poses after so many steps of Adam from rotations that are off, moved centres and even depth."""
        scenes = len(truth)

        def normal(*shape: int) -> Tensor:
            return torch.randn(scenes, VIEWS, *shape, generator=generator)

        seen = (local[..., 2] > 0.1).float()
        rays = local / torch.where(seen > 0, local[..., 2], 1)[..., None]
        rotation = rotation_from_quaternion(normal(4))
        if self.off_deg is not None:
            rotation = truth[..., :3, :3] @ so3_exp(math.radians(self.off_deg) * normalize(normal(3), dim=-1))
        columns = rotation[..., :2].mT.flatten(-2).requires_grad_()
        centre = (0.8 * truth[..., :3, 3] + 0.2 * normal(3)).requires_grad_()
        log_depth, trust = (torch.full((scenes, VIEWS, 1, TRACKS), at).requires_grad_() for at in (math.log(2), 0.0))
        said = local[..., 2] * (1 + 0.03 * normal(TRACKS)) * (0.5 * normal(1)).exp()
        if self.sky:
            said[..., : round(self.sky * TRACKS)] *= normal(round(self.sky * TRACKS)).exp()
        stray = torch.cat([1.2 * torch.rand(*rays.shape[:-1], 2, generator=generator) - 0.6, rays[..., 2:]], -1)
        rays = torch.where(torch.rand(*rays.shape[:-1], 1, generator=generator) < self.outliers, stray, rays)
        known = Known(said[:, :, None], seen[:, :, None])
        apart = (torch.arange(VIEWS)[:, None] - torch.arange(VIEWS)).abs()[..., None]
        both = seen[:, :, None] * seen[:, None] * (apart > 0) * (apart <= (2 if self.orbit else VIEWS))
        free = [columns, centre, log_depth, *([trust] if self.sky else [])]
        descent = torch.optim.Adam(free, lr=2e-2)
        for _ in range(steps):
            descent.zero_grad()
            poses = from_rt(rotation_from_6d(columns), centre)
            relative = ambiguous_depth(
                log_depth.exp(), 2 * trust.sigmoid(), known, 1.0 if self.sky else None, self.normalisation
            )
            value, counts = self.loss(log_depth.exp()[:, :, 0, :, None] * rays, poses)
            counts = counts * both
            each = (value * counts).sum((1, 2, 3)) / counts.sum((1, 2, 3)).clamp(min=1)
            (scenes * relative + 0.5 * each.sum()).backward()
            descent.step()
        return from_rt(rotation_from_6d(columns), centre).detach()


def test_poses_are_found_from_far_away_by_the_angle_with_depth_of_no_free_shift():
    """A glimpse of the table."""
    found, pixels, shifted = (
        trial.auc(scenes=2, steps=300)[0]
        for trial in (Trial(angle, 45), Trial(pixel, 45), Trial(angle, 45, normalisation="mad"))
    )
    assert found > 95
    assert pixels < 40
    assert found > shifted + 3


COLUMNS = (angle, cosine, distance, pixel, pixel_in_front)
BASINS: dict[tuple[str, int], tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    # Columns as above: AUC@30 in the study; ours; and our share of scenes above 80, in percent.
    ("arc", 15): ((99.6, 85, 90.5, 99.8, 99.9), (99.5, 87.4, 92.3, 98.6, 98.6), (100, 100, 100, 100, 100)),
    ("arc", 45): ((99.8, 85, 90.5, 38.5, 99.3), (99.4, 87.7, 91.0, 4.7, 99.1), (100, 100, 100, 0, 100)),
    ("arc", 90): ((98.3, 75, 90.5, 0.1, 44), (99.0, 85.1, 88.8, 0.1, 86.4), (100, 100, 100, 0, 88)),
    ("arc", 135): ((66.8, 28, 73.3, 0, 11), (92.1, 68.6, 74.8, 0.0, 36.0), (75, 50, 50, 0, 12)),
    ("orbit", 45): ((97.6, 66, 97.0, 19, 84), (99.9, 94.2, 100.0, 1.7, 99.8), (100, 100, 100, 0, 100)),
    ("orbit", 90): ((74.5, 21, 93.5, 1, 6), (91.9, 71.9, 99.9, 0.0, 33.2), (88, 62, 100, 0, 12)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "off_deg"), BASINS)
def test_poses_are_found_from_far_away_by_the_angle_and_not_by_pixels(shape: str, off_deg: int):
    """The whole table. Two scenes in eight, or 12 in AUC, are left to the rounding of another machine.

    What the study says is found again: the angle is far ahead of pixels, 1 - cos stays behind it, and lengths
    reach as far but on the arc not as near. From 90 degrees on, and in the orbit, all but plain pixels reach farther
    here than there (the angle 92 for 67 from 135 degrees, 92 for 75 in the orbit); these find less at 45 (5 for 39).
    """
    said, ours, above = BASINS[shape, off_deg]
    found, share = zip(*(Trial(loss, off_deg, orbit=shape == "orbit").auc() for loss in COLUMNS), strict=True)
    print(shape, off_deg, *(f"{loss.__name__} {auc:.1f}" for loss, auc in zip(COLUMNS, found, strict=True)))
    assert found == pytest.approx(ours, abs=12)
    assert share == pytest.approx(above, abs=26)
    assert all(mine > its - 12 for loss, mine, its in zip(COLUMNS, found, said, strict=True) if loss is not pixel)
    assert found[0] > found[1]
    assert off_deg == 15 or found[0] > found[3] + 50
    assert off_deg < 90 or found[0] > found[4] + 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trial", "said", "ours"),
    [
        (Trial(angle, None), 31, 85.2),
        (Trial(angle, None, orbit=True), 14, 63.2),
        (Trial(angle, 15, outliers=0.1), 99.7, 98.6),
        (Trial(angle, 15, sky=0.2), 98.9, 97.3),
        (Trial(angle, 15, sky=0.2, normalisation="mad"), 85.8, 79.3),
        (Trial(angle, 15, normalisation="mad"), 89.3, 86.8),
        (Trial(angle, 15, normalisation="mean"), 73.1, 91.5),
        (Trial(angle, 15, orbit=True), 94.1, 99.9),
        (Trial(angle, 15, orbit=True, normalisation="mad"), 41.9, 79.5),
    ],
)
def test_what_the_angle_bears(trial: Trial, said: float, ours: float):
    """Random rotations, of which some fail even here; wrong tracks; wild teachers; and a shift that is left free.

    The study's fails far more often from random rotations (31 and 14), and a free shift costs it more in the
    orbit. Its sky is said to be inconsistent between views; here it is far in truth, too, where depth turns no ray.
    """
    found, share = trial.auc()
    print(trial, f"{found:.1f}, above 80: {share:.0f}")
    assert found == pytest.approx(ours, abs=12)
    if trial.off_deg is None:
        assert found > said and share < 100
    elif trial.normalisation == "scale":
        assert found > 95
    else:
        assert found < 94
