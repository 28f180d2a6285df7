"""How far cameras, depth, masks and tracks are from the truth. Everything is computed in float64."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unproject.geometry.align import similarity
from unproject.geometry.rays import angle_between
from unproject.geometry.rigid import from_rt, inverse, rotation_angle


def align_trajectory(
    world_from_cam: Float[Tensor, "N 4 4"], truth: Float[Tensor, "N 4 4"], with_scale: bool = True
) -> Float[Tensor, "N 4 4"]:
    """The estimate moved onto the truth by the similarity (or rigid motion) that fits camera centres best.

    Poses that are NaN on either side take no part in the fit.
    """
    estimate, truth = world_from_cam.double(), truth.double()
    known = _known(estimate) & _known(truth)
    x, y = estimate[known, :3, 3], truth[known, :3, 3]
    scale, rotation, translation = similarity(x, y, x.new_ones(len(x)))
    if not with_scale:
        scale = torch.ones_like(scale)
        translation = y.mean(0) - rotation @ x.mean(0)
    centers = scale * estimate[:, :3, 3] @ rotation.mT + translation
    return from_rt(rotation @ estimate[:, :3, :3], centers)


def ate(world_from_cam: Float[Tensor, "N 4 4"], truth: Float[Tensor, "N 4 4"], with_scale: bool = True) -> float:
    """Absolute trajectory error: RMSE of camera centres after alignment, in the truth's unit (Sturm et al. 2012).

    Over poses known on both sides; NaN where there is none. Count the others beside it.
    """
    known = _known(world_from_cam) & _known(truth)
    aligned = align_trajectory(world_from_cam[known], truth[known], with_scale)
    return (aligned[:, :3, 3] - truth[known, :3, 3]).square().sum(-1).mean().sqrt().item()


@dataclass(frozen=True)
class RelativeError:
    """RMSE of the motion between frames a fixed step apart."""

    translation: float
    """In the truth's unit."""
    rotation_deg: float


def rpe(
    world_from_cam: Float[Tensor, "N 4 4"], truth: Float[Tensor, "N 4 4"], step: int = 1, with_scale: bool = True
) -> RelativeError:
    """Relative pose error over all pairs (i, i + step) after alignment (Sturm et al. 2012), as evo's `all_pairs`.

    Pairs with a pose that is NaN on either side are left out; NaN where no pair is left.
    """
    aligned, truth = align_trajectory(world_from_cam, truth, with_scale), truth.double()
    error = inverse(_motion(truth, step)) @ _motion(aligned, step)
    error = error[_known(error)]
    translation = error[:, :3, 3].square().sum(-1).mean().sqrt()
    rotation = torch.rad2deg(rotation_angle(error[:, :3, :3])).square().mean().sqrt()
    return RelativeError(translation.item(), rotation.item())


def _motion(world_from_cam: Tensor, step: int) -> Tensor:
    return inverse(world_from_cam[:-step]) @ world_from_cam[step:]


@dataclass(frozen=True)
class PairErrors:
    """Angles by which the relative poses of all view pairs are off. A pose that was not found is off by 180 degrees."""

    rotation_deg: Float[Tensor, " P"]
    translation_deg: Float[Tensor, " P"]
    """Of the direction, folded to [0, 90]: the protocol of pi3, VGGT and Reliev3R forgives its sign."""

    @property
    def worst_deg(self) -> Float[Tensor, " P"]:
        """The larger of the two."""
        return torch.maximum(self.rotation_deg, self.translation_deg)

    def auc(self, limit_deg: int) -> float:
        """AUC@limit in [0, 1]: mean over thresholds of 1, 2 ... limit degrees of the share of pairs below (VGGT)."""
        thresholds = torch.arange(1, limit_deg + 1, dtype=torch.float64)
        return (self.worst_deg < thresholds[:, None]).double().mean().item()

    def auc_integral(self, limit_deg: float) -> float:
        """The same with infinitely many thresholds: the exact area under the recall curve, in [0, 1]."""
        return (1 - self.worst_deg / limit_deg).clamp(min=0).mean().item()

    def rotation_accuracy(self, limit_deg: float) -> float:
        """RRA@limit: share of pairs whose rotation error is below."""
        return (self.rotation_deg < limit_deg).double().mean().item()

    def translation_accuracy(self, limit_deg: float) -> float:
        """RTA@limit: share of pairs whose error of translation direction is below."""
        return (self.translation_deg < limit_deg).double().mean().item()


def pair_errors(world_from_cam: Float[Tensor, "N 4 4"], truth: Float[Tensor, "N 4 4"]) -> PairErrors:
    """Errors of the relative pose of all N (N - 1) / 2 pairs; needs no alignment.

    Pairs whose truth is NaN are left out. Where two true centres coincide there is no direction, and rotation alone
    counts.
    """
    known = _known(truth)
    estimate, truth = world_from_cam[known].double(), truth[known].double()
    first, second = torch.triu_indices(len(truth), len(truth), offset=1)
    true_motion = inverse(truth[first]) @ truth[second]
    return motion_errors(inverse(estimate[first]) @ estimate[second], true_motion)


def motion_errors(motion: Float[Tensor, "P 4 4"], true_motion: Float[Tensor, "P 4 4"]) -> PairErrors:
    """Errors of relative poses, as `pair_errors` counts them; scale does not matter."""
    rotation = rotation_angle(true_motion[:, :3, :3].mT @ motion[:, :3, :3])
    direction = angle_between(true_motion[:, :3, 3], motion[:, :3, 3])
    direction = torch.minimum(direction, torch.pi - direction)
    baseline = true_motion[:, :3, 3].norm(dim=-1)
    direction = torch.where(baseline > 1e-9 * baseline.amax() if len(baseline) else baseline > 0, direction, 0)
    found = _known(motion)
    return PairErrors(*(torch.where(found, torch.rad2deg(angle), 180) for angle in (rotation, direction)))


def _known(poses: Tensor) -> Tensor:
    return poses.isfinite().all(-1).all(-1)


@dataclass(frozen=True)
class DepthError:
    """Depth over all pixels that both sides know."""

    rel: float
    """Mean of |depth - truth| / truth."""
    inlier_ratio: float
    """Share of pixels with max(depth / truth, truth / depth) below 1.10."""
    coverage: float
    """Share of the truth's pixels that were claimed."""
    scale: float
    """What the depth was multiplied with."""


def depth_error(
    depth: Float[Tensor, "*batch"],
    truth: Float[Tensor, "*batch"],
    claimed: Bool[Tensor, "*batch"],
    scale: float | None = None,
) -> DepthError:
    """Depth error of a clip (any shape, all pixels pooled); the truth is known where it is positive and finite.

    One scale for all pixels: the given one, or the median of truth / depth over claimed pixels.
    """
    wanted = truth.isfinite() & (truth > 0)
    used = wanted & claimed & (depth > 0)
    depth, true_depth = depth[used].double(), truth[used].double()
    if scale is None:
        scale = (true_depth / depth).median().item()
    ratio = scale * depth / true_depth
    return DepthError(
        rel=(ratio - 1).abs().mean().item(),
        inlier_ratio=(torch.maximum(ratio, 1 / ratio) < 1.10).double().mean().item(),
        coverage=(used.sum() / wanted.sum()).item(),
        scale=scale,
    )


def iou(mask: Bool[Tensor, "*batch"], truth: Bool[Tensor, "*batch"]) -> float:
    """Intersection over union of all pixels given; 1 where both are empty."""
    union = (mask | truth).sum()
    return ((mask & truth).sum() / union).item() if union else 1.0


@dataclass(frozen=True)
class TrackError:
    """Distance of tracked points from the truth, in its unit."""

    median: float
    mean: float
    within: float
    """Mean over thresholds of the share of points at most that far off."""


def track_error(
    points: Float[Tensor, "*batch D"],
    truth: Float[Tensor, "*batch D"],
    visible: Bool[Tensor, "*batch"],
    thresholds: tuple[float, ...] = (1, 2, 4, 8, 16),
) -> TrackError:
    """Error of 2D or 3D tracks where the truth is visible; a point that is NaN is infinitely far off.

    The default thresholds are TAP-Vid's, in pixels of 256 x 256 images (Doersch et al. 2022).
    """
    distance = (points[visible].double() - truth[visible].double()).norm(dim=-1).nan_to_num(nan=torch.inf)
    within = torch.stack([(distance <= threshold).double().mean() for threshold in thresholds])
    return TrackError(distance.median().item(), distance.mean().item(), within.mean().item())
