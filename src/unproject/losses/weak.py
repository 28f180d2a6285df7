"""Losses that need no 3D annotation (Reliev3R, arXiv 2604.00548): relative depth, tracks, and a rough field of view.

What the paper leaves open is said where it is decided.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.errors import UsageError
from unproject.geometry.align import weighted_median
from unproject.geometry.flow import sample
from unproject.geometry.motion import NEAREST
from unproject.geometry.rays import angle_between
from unproject.losses.base import Loss, Term, mean_per_clip, mean_per_image, read, weighed
from unproject.types import Known, Labels, Prediction, Tracks, Views, require

Normalisation = Literal["scale", "mad", "mean"]
"""How relative depth is made comparable. ``scale``: over its median. ``mad``: less its median, over the median of what
is left, so that a shift is free as well. ``mean``: the same over the mean of what is left (MiDaS).

The paper names ``mad``, and calls its loss invariant to scale alone. For teachers that are right up to scale, allowing
a shift throws knowledge away: on free points and poses, poses came out worse (`tests/losses/test_weak_basin.py`).
"""
FARTHEST = 100.0
"""Relative depth beyond so many medians is sky: teachers put it anywhere."""
NEAREST_SHARE = 0.05
"""Where a point comes nearer to another camera than this share of the clip's median depth, its direction there says
little and pulls without bounds."""


@dataclass(frozen=True, kw_only=True)
class WeakLoss(Loss):
    """Relative depth of each view, and tracks that tie the views together. Reads ``Labels.mono_depth``, ``.tracks``.

    Where nobody says relative depth, it is that of ``Labels.points``, which some teachers give.
    The first four fields are the weights of the terms; one of weight 0 is not computed, and needs no label.
    """

    depth: float = 1.0
    """Eq. 4: how far depth is from the teacher's, where the network trusts that it can know."""
    registration: float = 0.5
    """Angle in radians between the ray of a tracked pixel and where another view puts its point."""
    gauge: float = 1e-3
    """Square of the mean logarithm of depth: nothing else holds the scale of a clip."""
    view_angle: float = 0.0
    """Logarithm of the predicted over the labelled focal length, for a network that tells its intrinsics."""
    ambiguity: float | None = 1.0
    """The paper's alpha: what distrust costs. Trust saturates where depth is off by less than half of it. None: every
    pixel counts alike, and trust learns nothing."""
    normalisation: Normalisation = "scale"
    least_shared: int = 32
    """Tracks that both of two views must see, or the pair says nothing."""
    registers_rays: bool = True
    """Whether tracks teach the network its intrinsics, too, if it tells them. Rays that all look one way fulfil any
    track, so something else must hold the field of view: ``view_angle``, or a loss of points."""

    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        """Those of weight other than zero, under the names of their weights."""
        makers: tuple[tuple[str, float, Callable[[], Tensor]], ...] = (
            ("depth", self.depth, lambda: self._depth_term(prediction, labels)),
            ("registration", self.registration, lambda: self._registration_term(prediction, labels)),
            ("gauge", self.gauge, lambda: gauge_term(prediction)),
            ("view_angle", self.view_angle, lambda: view_angle_term(prediction, labels)),
        )
        return weighed(makers)

    def _depth_term(self, prediction: Prediction, labels: Labels) -> Float[Tensor, ""]:
        said = labels.mono_depth
        if said is None and labels.points is not None:
            said = Known(labels.points.value[..., 2], labels.points.weight)
        if said is None:
            raise UsageError("relative depth is learned from Labels.mono_depth or .points: give one, or depth=0")
        return ambiguous_depth(
            prediction.points[..., 2], 2 * prediction.confidence, said, self.ambiguity, self.normalisation
        )

    def _registration_term(self, prediction: Prediction, labels: Labels) -> Float[Tensor, ""]:
        batch, views = prediction.confidence.shape[:2]
        seen = Sightings.of(require(labels, "tracks"), batch, views)
        points = surface_points(prediction.points, seen.uv, hold_rays=not self.registers_rays)
        angle, known = registration_angles(points, require(prediction, "world_from_cam"), seen.weight)
        shared = (known > 0).sum(-1, keepdim=True) >= self.least_shared
        return mean_per_clip(angle, torch.where(shared, known, 0))


def ambiguous_depth(
    depth: Float[Tensor, "B N H W"],
    trust: Float[Tensor, "B N H W"],
    said: Known,
    ambiguity: float | None,
    normalisation: Normalisation,
) -> Float[Tensor, ""]:
    """Mean of trust |difference| - ambiguity log trust, over known pixels (eq. 4); without ambiguity trust is 1.

    Both depths are normalised with the same trust, held fixed: what is not trusted cannot move the normalisation, and
    trust cannot be chosen to please it. Trust lies in (0, 2); the best is ambiguity over the difference, so the loss
    may be negative.
    """
    trust = torch.ones_like(depth) if ambiguity is None else trust
    value = read(said)
    weight = torch.where((value > 0) & value.isfinite(), said.weight, 0)
    held = (trust.detach() * weight).flatten(2)
    middle = weighted_median(value.flatten(2), weight.flatten(2))[..., None]
    teacher = torch.minimum(value.flatten(2), FARTHEST * middle)
    pupil = depth.flatten(2)
    off = (normalised(pupil, held, normalisation) - normalised(teacher, held, normalisation)).abs()
    off = torch.where(held > 0, off, 0).view_as(depth)
    return mean_per_image(trust * off - (ambiguity or 0) * trust.clamp(min=1e-6).log(), weight)


def normalised(
    depth: Float[Tensor, "*batch P"], weight: Float[Tensor, "*batch P"], how: Normalisation
) -> Float[Tensor, "*batch P"]:
    """Depth that no longer depends on its scale, nor, but for ``scale``, on a shift (`Normalisation`)."""
    middle = weighted_median(depth, weight)[..., None]
    small = 1e-6 * middle.detach().abs() + 1e-12
    if how == "scale":
        return depth / (middle + small)
    away = (depth - middle).abs()
    if how == "mad":
        spread = weighted_median(away, weight)[..., None]
    else:
        total = weight.sum(-1, keepdim=True)
        spread = (torch.where(weight > 0, away, 0) * weight).sum(-1, keepdim=True) / torch.where(total > 0, total, 1)
    return (depth - middle) / (spread + small)


@dataclass(frozen=True)
class Sightings:
    """Tracks of each clip as a table of views by tracks; rows of clips with fewer tracks end in weight 0."""

    uv: Float[Tensor, "B N K 2"]
    weight: Float[Tensor, "B N K"]

    @staticmethod
    def of(tracks: Tracks, batch: int, views: int) -> "Sightings":
        """Views of the rows are counted through the batch."""
        first = tracks.view.new_full((tracks.count,), batch * views)
        first = first.scatter_reduce(0, tracks.track, tracks.view, "amin") // views  # each track's clip
        order = first.argsort(stable=True)
        counts = torch.bincount(first, minlength=batch)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[first[order]]
        most = max(1, int(counts.max()))
        uv = tracks.uv.new_zeros(batch * views, most, 2)
        weight = tracks.weight.new_zeros(batch * views, most)
        at = tracks.view, place[tracks.track]
        uv[at], weight[at] = tracks.uv, tracks.weight
        return Sightings(uv.unflatten(0, (batch, views)), weight.unflatten(0, (batch, views)))


def surface_points(
    points: Float[Tensor, "B N H W 3"], uv: Float[Tensor, "B N K 2"], *, hold_rays: bool = False
) -> Float[Tensor, "B N K 3"]:
    """A map of points between its pixels: slopes and inverse depth are linear in the image of a plane.

    So the ray of a pinhole camera is exact at any pixel, but in the outer half of those at the border: there it is
    that of their middle. With ``hold_rays`` no gradient reaches the slopes.
    """
    near = 1 / points[..., 2:].clamp(min=NEAREST)
    slopes = points[..., :2] * near
    found, _ = sample(torch.cat([slopes.detach() if hold_rays else slopes, near], dim=-1), uv)
    return torch.cat([found[..., :2], torch.ones_like(found[..., :1])], dim=-1) / found[..., 2:]


def registration_angles(
    points: Float[Tensor, "B N K 3"], world_from_cam: Float[Tensor, "B N 4 4"], weight: Float[Tensor, "B N K"]
) -> tuple[Float[Tensor, "B N N K"], Float[Tensor, "B N N K"]]:
    """For views i, j and tracks that both see: the angle in camera i between its own ray and the point that j says.

    In radians, with the smaller of both weights; 0 on the diagonal and where the point nearly touches camera i. Neither
    points behind a camera nor any pose is left out: the angle pulls the right way from everywhere (section 3.2).
    """
    turned = torch.einsum("bnrc,bnkc->bnkr", world_from_cam[..., :3, :3], points)
    centre = world_from_cam[..., :3, 3]
    seen_from = (turned + centre[:, :, None])[:, None] - centre[:, :, None, None]
    known = torch.minimum(weight[:, :, None], weight[:, None])
    depth = torch.where(weight > 0, points.detach()[..., 2], 0).flatten(1)
    middle = weighted_median(depth, weight.flatten(1))[:, None, None, None]
    far_enough = seen_from.detach().norm(dim=-1) > NEAREST_SHARE * middle
    apart = ~torch.eye(points.shape[1], dtype=torch.bool, device=points.device)[:, :, None]
    own = turned[:, :, None].expand_as(seen_from)
    return angle_between(own, seen_from), torch.where(far_enough & apart, known, 0)


def gauge_term(prediction: Prediction) -> Float[Tensor, ""]:
    """Square of the logarithm of depth, as a mean over views of their medians; over clips."""
    middle = prediction.points[..., 2].flatten(2).median(-1).values
    return middle.clamp(min=NEAREST).log().mean(1).square().mean()


def view_angle_term(prediction: Prediction, labels: Labels) -> Float[Tensor, ""]:
    """Absolute difference of the logarithms of focal lengths, both axes of every view that has a label."""
    told: Tensor = require(prediction, "intrinsics")
    said: Known = require(labels, "intrinsics")
    eye = torch.eye(3, dtype=told.dtype, device=told.device)
    true = torch.where((said.weight > 0)[..., None, None], said.value, eye)
    off = (torch.diagonal(told, dim1=-2, dim2=-1).log() - torch.diagonal(true, dim1=-2, dim2=-1).log())[..., :2].abs()
    return mean_per_clip(off.mean(-1), said.weight)


def registration_residual_px(
    points_world: Float[Tensor, "O 3"],
    world_from_cam: Float[Tensor, "O 4 4"],
    rays: Float[Tensor, "O 3"],
    focal_px: Float[Tensor, " O"],
) -> Float[Tensor, "O 3"]:
    """Difference of two unit vectors in the camera, times focal: where the point is against where it was seen.

    Its length is ``2 f sin(angle / 2)``, the chord of the angle that Reliev3R's registration loss (its section 3.2)
    takes between the two directions, so it points the right way at any pose, also for points behind the camera.
    ``rays`` are unit directions in the camera.
    """
    offset = points_world - world_from_cam[:, :3, 3]
    direction_world = offset / offset.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    direction_cam = torch.einsum("oji,oj->oi", world_from_cam[:, :3, :3], direction_world)
    return focal_px[:, None] * (direction_cam - rays)


def cauchy(residual_px: Float[Tensor, "O D"], scale_px: float) -> Float[Tensor, " O"]:
    """Cauchy penalty ``s^2/2 log(1 + |r|^2 / s^2)``: quadratic within ``scale_px``, nearly blind far beyond it."""
    return 0.5 * scale_px**2 * torch.log1p(residual_px.square().sum(-1) / scale_px**2)
