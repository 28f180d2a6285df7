"""What one pair of point maps says of motion, in closed form (Flow4R, arXiv 2602.14021, sec. 3).

A pixel of the source has P, its point in the source's camera at the source's time, and P_vt, the same surface point in
the target's camera at the target's time. With a trust per pixel all else follows. Units are those of the points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unproject.geometry.align import procrustes, procrustes_unsquared
from unproject.geometry.camera import project
from unproject.geometry.flow import sample, visible
from unproject.geometry.rigid import inverse, transform

NEAREST = 1e-6
"""A point must be this far in front of a camera to have an image."""


def relative_pose(
    points: Float[Tensor, "*batch H W 3"],
    target_points: Float[Tensor, "*batch H W 3"],
    weight: Float[Tensor, "*batch H W"],
    unsquared: bool = False,
) -> Float[Tensor, "*batch 4 4"]:
    """``target_from_source`` (T of eq. 2): the rigid motion that carries P to P_vt for what has weight.

    The weight chooses the reference: W of the network gives the camera's motion against the world; the mask of an
    object gives it against that object, which then stands still. `unsquared` takes eq. 2 at its word, which bears with
    outliers; the default is the squared distance of the closed form.
    """
    fit = procrustes_unsquared if unsquared else procrustes
    return fit(points.flatten(-3, -2), target_points.flatten(-3, -2), weight.flatten(-2))


def fused_pose(
    points: Float[Tensor, "*batch H W 3"],
    target_points: Float[Tensor, "*batch H W 3"],
    weight: Float[Tensor, "*batch H W"],
    back_points: Float[Tensor, "*batch H2 W2 3"],
    back_target_points: Float[Tensor, "*batch H2 W2 3"],
    back_weight: Float[Tensor, "*batch H2 W2"],
) -> Float[Tensor, "*batch 4 4"]:
    """``target_from_source`` from both directions at once; the back set is that of the target's own pixels.

    One fit over P -> P_vt and P'_vt -> P': the two answers of `relative_pose` need not be inverse to each other.
    """
    x = torch.cat([points.flatten(-3, -2), back_target_points.flatten(-3, -2)], dim=-2)
    y = torch.cat([target_points.flatten(-3, -2), back_points.flatten(-3, -2)], dim=-2)
    return procrustes(x, y, torch.cat([weight.flatten(-2), back_weight.flatten(-2)], dim=-1))


@dataclass(frozen=True, kw_only=True)
class PointMaps:
    """The four dynamic point maps of one view of a pair, and the parts of its scene flow."""

    points: Float[Tensor, "*batch H W 3"]
    """P: own camera, own time."""
    seen_by_target: Float[Tensor, "*batch H W 3"]
    """P_v = T P: the target's camera, own time (eq. 3)."""
    at_target_time: Float[Tensor, "*batch H W 3"]
    """P_t = T^-1 P_vt: own camera, the target's time (eq. 6). The track of each pixel in its own frame."""
    target_points: Float[Tensor, "*batch H W 3"]
    """P_vt: the target's camera, the target's time (eq. 1)."""

    @property
    def scene_flow(self) -> Float[Tensor, "*batch H W 3"]:
        """F = P_vt - P: the sum of both parts, a difference of coordinates in two cameras (eq. 1)."""
        return self.target_points - self.points

    @property
    def camera_flow(self) -> Float[Tensor, "*batch H W 3"]:
        """F_v = P_v - P: what the camera's motion alone causes (eq. 4)."""
        return self.seen_by_target - self.points

    @property
    def object_flow(self) -> Float[Tensor, "*batch H W 3"]:
        """F_t = F - F_v: how the surface itself moves, along the axes of the target's camera (eq. 5)."""
        return self.target_points - self.seen_by_target


def point_maps(
    points: Float[Tensor, "*batch H W 3"],
    target_points: Float[Tensor, "*batch H W 3"],
    target_from_source: Float[Tensor, "*batch 4 4"],
) -> PointMaps:
    """All four maps from two of them and the pose between the cameras (eq. 3, 6)."""
    return PointMaps(
        points=points,
        seen_by_target=transform_map(target_from_source, points),
        at_target_time=transform_map(inverse(target_from_source), target_points),
        target_points=target_points,
    )


def transform_map(
    a_from_b: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch H W 3"]
) -> Float[Tensor, "*batch H W 3"]:
    """A map of points of frame b in frame a."""
    return transform(a_from_b, points.flatten(-3, -2)).unflatten(-2, points.shape[-3:-1])


def landing(
    points: Float[Tensor, "*batch H W 3"], intrinsics: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch H W 2"]:
    """Pixels of a map of points in a camera (eq. 8); `camera.NOWHERE` for those behind it."""
    return project(points.flatten(-3, -2), intrinsics).unflatten(-2, points.shape[-3:-1])


def surface_at(
    values: Float[Tensor, "H W 3"], points: Float[Tensor, "H W 3"], uv: Float[Tensor, "K 2"]
) -> Float[Tensor, "K 3"]:
    """A map of the surface `points`, as P or P_vt, between its pixels: exact on planes, finite wherever points are.

    Over the image of a plane 1/z and P_vt/z are linear, as in a texture that is drawn in perspective; P_vt is not.
    """
    near = 1 / points[..., 2:].clamp(min=NEAREST)
    found, _ = sample(torch.cat([values * near, near], dim=-1), uv)
    return found[..., :3] / found[..., 3:]


def flow_of_points(
    points: Float[Tensor, "*batch H W 3"],
    target_points: Float[Tensor, "*batch H W 3"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    target_intrinsics: Float[Tensor, "*batch 3 3"],
) -> tuple[Float[Tensor, "*batch H W 2"], Bool[Tensor, "*batch H W"]]:
    """Optical flow p_vt - p in pixels (eq. 9), and where both points lie before their camera.

    It starts at the projection of P and not at the pixel, so an error of P that both ends share cancels.
    """
    flow = landing(target_points, target_intrinsics) - landing(points, intrinsics)
    valid = (points[..., 2] > NEAREST) & (target_points[..., 2] > NEAREST)
    return torch.where(valid[..., None], flow, 0), valid


def cycle_error(
    points: Float[Tensor, "*batch H W 3"],
    target_points: Float[Tensor, "*batch H W 3"],
    back_target_points: Float[Tensor, "*batch H2 W2 3"],
    target_intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch H W"]:
    """How far P is from what the pixel it lands on says of it; infinite where it leaves the target's image.

    The back map is the target's own P'_vt: its points in the source's camera at the source's time.
    """
    returned, inside = sample(back_target_points, landing(target_points, target_intrinsics))
    return torch.where(inside, (returned - points).norm(dim=-1), torch.inf)


def visibility(
    points: Float[Tensor, "*batch H W 3"],
    target_points: Float[Tensor, "*batch H W 3"],
    back_points: Float[Tensor, "*batch H2 W2 3"],
    back_target_points: Float[Tensor, "*batch H2 W2 3"],
    target_intrinsics: Float[Tensor, "*batch 3 3"],
    tolerance: float = 0.05,
) -> Bool[Tensor, "*batch H W"]:
    """Source pixels whose surface the target sees: its own point there has that depth and comes back (measured rule).

    The tolerance is a share of depth. Surfaces that cross between the two times can share a depth; they do not return
    to one place.
    """
    seen = visible(target_points, back_points[..., 2], target_intrinsics, tolerance)
    returns = cycle_error(points, target_points, back_target_points, target_intrinsics)
    return seen & (returns < tolerance * points.norm(dim=-1))


def motion_mask(
    maps: PointMaps,
    back_maps: PointMaps,
    target_intrinsics: Float[Tensor, "*batch 3 3"],
    tolerance: float = 0.015,
) -> Bool[Tensor, "*batch H W"]:
    """Source pixels whose surface moves in the world, and does so too from where it lands in the target.

    Moves means: by more than a share of the median distance of the scene. Pixels hidden in the target have no second
    witness and are left out.
    """
    return motion_share(maps, back_maps, target_intrinsics, tolerance) > 0.5


def motion_share(
    maps: PointMaps,
    back_maps: PointMaps,
    target_intrinsics: Float[Tensor, "*batch 3 3"],
    tolerance: float = 0.015,
) -> Float[Tensor, "*batch H W"]:
    """`motion_mask` as a number in [0, 1] that passes one half at the tolerance; 0 without a second witness."""
    landed = landing(maps.target_points, target_intrinsics)
    witness, inside = sample(_moves(back_maps, tolerance)[..., None], landed)
    return torch.where(inside, torch.minimum(_moves(maps, tolerance), witness[..., 0]), 0)


def _moves(maps: PointMaps, tolerance: float) -> Tensor:
    distance = maps.points.norm(dim=-1).flatten(-2).median(-1).values
    square = (maps.object_flow.norm(dim=-1) / (tolerance * distance[..., None, None]).clamp(min=NEAREST)).square()
    return square / (1 + square)
