"""Every kind of motion label, converted to what Flow4R's losses compare with (arXiv 2602.14021, sec. 3).

Two targets for each pair of views: `Known` points in the target's camera at the target's time (P_vt), dense from scene
flow or sparse from 3D tracks, and `Known` optical flow in pixels, dense or sparse from 2D tracks.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unproject.geometry.camera import pixel_grid, project
from unproject.geometry.motion import transform_map
from unproject.geometry.rigid import inverse, transform
from unproject.losses.base import read
from unproject.types import Known, Labels, MovingTracks, Tracks, Views, require

SAME_SURFACE = 0.03
"""A track belongs to its pixel if their depths differ by less than this share; visibility flags leak at edges."""
FAR_OUT = 0.25
"""Flow may leave the image by this share of its size on each side; beyond, labels are seldom right."""


def of_pairs(per_view: Float[Tensor, "B N *rest"], pairs: Int[Tensor, "B P 2"], end: int) -> Float[Tensor, "B P *rest"]:
    """What each pair's source (end 0) or target (end 1) has."""
    return per_view[torch.arange(len(pairs), device=pairs.device)[:, None], pairs[..., end]]


def source_points(labels: Labels, views: Views) -> Known:
    """P of each pair's source."""
    points: Known = require(labels, "points")
    return Known(of_pairs(read(points), views.pairs, 0), of_pairs(points.weight, views.pairs, 0))


def target_from_source(labels: Labels, views: Views) -> Known:
    """The pose between the cameras of each pair: the identity with weight 0 where one of them is unknown."""
    poses: Known = require(labels, "world_from_cam")
    eye = torch.eye(4, dtype=poses.value.dtype, device=poses.value.device)
    world_from_cam = torch.where((poses.weight > 0)[..., None, None], poses.value, eye)
    source, target = (of_pairs(world_from_cam, views.pairs, end) for end in (0, 1))
    weight = of_pairs(poses.weight, views.pairs, 0) * of_pairs(poses.weight, views.pairs, 1)
    return Known(torch.where((weight > 0)[..., None, None], inverse(target) @ source, eye), weight)


def still_targets(labels: Labels, views: Views) -> Known:
    """P_v of each pair, from depth and pose: the source's points in the target's camera as if nothing moved."""
    points, pose = source_points(labels, views), target_from_source(labels, views)
    return Known(transform_map(pose.value, points.value), points.weight * pose.weight[..., None, None])


def scene_flow_targets(labels: Labels, views: Views) -> Known:
    """P_vt of each pair from displacements in the world.

    A displacement between two cameras (Virtual KITTI's F = P_vt - P) needs none of this: P + F is the target.
    """
    flow: Known = require(labels, "scene_flow")
    still = still_targets(labels, views)
    poses: Known = require(labels, "world_from_cam")
    turn = of_pairs(read(poses), views.pairs, 1)[..., :3, :3].mT
    return Known(
        still.value + (turn[..., None, None, :, :] @ read(flow)[..., None])[..., 0], still.weight * flow.weight
    )


def track_point_targets(labels: Labels, views: Views) -> Known:
    """P_vt of each pair at the pixels where 3D tracks start, also of those that are hidden at the target's time.

    A track runs up to half a pixel beside its pixel's centre, so a pixel takes the track's displacement in the world
    and not its place.
    """
    still, source = still_targets(labels, views), source_points(labels, views)
    poses, intrinsics = require(labels, "world_from_cam"), require(labels, "intrinsics")
    value, weight = torch.zeros_like(still.value), torch.zeros_like(still.weight)
    for clip, tracks in enumerate(require(labels, "moving_tracks")):
        for number, (first, second) in enumerate(views.pairs[clip].tolist()):
            at = clip, number
            if not still.weight[at].any() or intrinsics.weight[clip, first] == 0:
                continue
            depth = torch.where(still.weight[at] > 0, source.value[at][..., 2], 0)
            camera = inverse(poses.value[clip, first]), intrinsics.value[clip, first]
            pixel, moved, trust = _starts(tracks, first, second, *camera, depth)
            turned = moved @ poses.value[clip, second, :3, :3]
            value[at].view(-1, 3)[pixel] = still.value[at].view(-1, 3)[pixel] + turned
            weight[at].view(-1)[pixel] = trust * still.weight[at].view(-1)[pixel]
    return Known(value, weight)


def _starts(
    tracks: MovingTracks,
    source: int,
    target: int,
    cam_from_world: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    depth: Float[Tensor, "H W"],
) -> tuple[Int[Tensor, " K"], Float[Tensor, "K 3"], Float[Tensor, " K"]]:
    """Pixel (row by row), world motion and trust of tracks that the source sees on its own surface, one per pixel."""
    trust = torch.minimum(tracks.confidence[source], tracks.confidence[target])
    known = (trust > 0) & tracks.visible[source]
    now, then = torch.where(known[:, None], tracks.xyz[[source, target]], 0).to(depth)
    seen = transform(cam_from_world, now)
    pixel, inside = _pixel_of(project(seen, intrinsics), *depth.shape)
    surface = depth.flatten()[pixel]
    same = (surface > 0) & ((seen[:, 2] - surface).abs() < SAME_SURFACE * surface)
    kept = (known & inside & same).nonzero()[:, 0]
    kept = kept[_one_per_pixel(pixel[kept], seen[kept, 2], depth.numel())]
    return pixel[kept], (then - now)[kept], trust[kept].to(depth)


def flow_targets(labels: Labels, views: Views) -> Known:
    """Optical flow of each pair, without what ends far outside the target."""
    flow: Known = require(labels, "flow")
    value = read(flow)
    height, width = value.shape[-3:-1]
    share = (pixel_grid(height, width, value.dtype, value.device) + value) / value.new_tensor([width, height])
    near = ((share >= -FAR_OUT) & (share <= 1 + FAR_OUT)).all(-1)
    return Known(value, torch.where(near, flow.weight, 0))


def track_flow_targets(labels: Labels, views: Views) -> Known:
    """Optical flow of each pair at the pixels where 2D tracks that both views see start."""
    tracks: Tracks = require(labels, "tracks")
    batch, many, _, height, width = views.images.shape
    value = tracks.uv.new_zeros(*views.pairs.shape[:2], height, width, 2)
    weight = torch.zeros_like(value[..., 0])
    for clip in range(batch):
        for number, (source, target) in enumerate(views.pairs[clip].tolist()):
            first, second = _seen_by_both(tracks, clip * many + source, clip * many + target, batch * many)
            pixel, inside = _pixel_of(tracks.uv[first], height, width)
            trust = torch.where(inside, torch.minimum(tracks.weight[first], tracks.weight[second]), 0)
            kept = _one_per_pixel(pixel, -trust, height * width)
            value[clip, number].view(-1, 2)[pixel[kept]] = (tracks.uv[second] - tracks.uv[first])[kept]
            weight[clip, number].view(-1)[pixel[kept]] = trust[kept]
    return Known(value, weight)


def _seen_by_both(tracks: Tracks, source: int, target: int, views: int) -> tuple[Tensor, Tensor]:
    """Rows of the tracks' observations in two views, side by side."""
    first = (tracks.view == source).nonzero()[:, 0]
    key = tracks.track * views + tracks.view  # ascending: rows are sorted by (track, view)
    wanted = tracks.track[first] * views + target
    second = torch.searchsorted(key, wanted).clamp(max=max(len(key) - 1, 0))
    found = key[second] == wanted
    return first[found], second[found]


def _pixel_of(uv: Float[Tensor, "K 2"], height: int, width: int) -> tuple[Int[Tensor, " K"], Bool[Tensor, " K"]]:
    """Number of the pixel that holds each place, row by row (0 where none does), and whether one does."""
    column, row = uv.floor().unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return torch.where(inside, row * width + column, 0).long(), inside


def _one_per_pixel(pixel: Int[Tensor, " K"], cost: Float[Tensor, " K"], pixels: int) -> Int[Tensor, " K2"]:
    """Of the entries that share a pixel the one with the least cost, the first of equals."""
    order = cost.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    best = torch.full((pixels,), len(order), device=order.device).scatter_reduce(0, pixel, rank, "amin")
    return (best[pixel] == rank).nonzero()[:, 0]


def motion_targets(labels: Labels, views: Views) -> Known:
    """P_vt of each pair from all labels that speak of it: target points, scene flow, 3D tracks, in this order."""
    given = []
    if labels.scene_flow is not None:
        given.append(scene_flow_targets(labels, views))
    if labels.moving_tracks is not None:
        given.append(track_point_targets(labels, views))
    if labels.target_points is not None or not given:
        points: Known = require(labels, "target_points")
        given.insert(0, Known(read(points), points.weight))
    return _first_known(given)


def image_motion_targets(labels: Labels, views: Views) -> Known:
    """Optical flow of each pair from all labels that speak of it: flow, then 2D tracks."""
    given = [track_flow_targets(labels, views)] if labels.tracks is not None else []
    if labels.flow is not None or not given:
        given.insert(0, flow_targets(labels, views))
    return _first_known(given)


def _first_known(given: list[Known]) -> Known:
    """Each pixel's label from the first that knows it."""
    value, weight = given[0].value, given[0].weight
    for other in given[1:]:
        known = weight > 0
        value = torch.where(known[..., None], value, other.value)
        weight = torch.where(known, weight, other.weight)
    return Known(value, weight)
