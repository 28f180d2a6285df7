"""What is exactly true of rendered views: depth, motion of surfaces, flow, covisibility, tracks.

Flow and visibility are computed for the exact points, by carrying them with their bodies and casting rays at them anew;
nothing is looked up in another view's pixels.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unproject.data.raycast import EVERYTHING, NEAREST, FreeRays, cast, place
from unproject.data.render import pixels_at_a_time
from unproject.data.scene import SKY, World, map_batch
from unproject.geometry.camera import pixel_grid, project, unproject
from unproject.geometry.rigid import inverse, transform
from unproject.types import Known, Labels, MovingTracks, Tracks, Views

SAME = 2e-3
"""Two depths are of one surface if they differ by less than this share."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Views of a world and everything that is true of them."""

    world: World
    times: Float[Tensor, "B N"]
    world_from_cam: Float[Tensor, "B N 4 4"]
    intrinsics: Float[Tensor, "B N 3 3"]
    images: Float[Tensor, "B N 3 H W"]
    depth: Float[Tensor, "B N H W"]
    """z; SKY_DEPTH where not `valid`."""
    surface: Int[Tensor, "B N H W"]
    """Surface number: 0..5 faces of the room, 6 sky, then one for each solid."""

    @property
    def valid(self) -> Bool[Tensor, "B N H W"]:
        """Where there is a surface, and not sky at infinity."""
        return self.surface != SKY

    @property
    def instance(self) -> Int[Tensor, "B N H W"]:
        """Object numbers from 1, 0 for the room, -1 for sky."""
        return _look_up(self.world.surface_instance(), self.surface)

    @property
    def motion(self) -> Bool[Tensor, "B N H W"]:
        """Where the surface belongs to something that moves in the world."""
        body = _look_up(self.world.surface_body(), self.surface)
        moving = self.world.bodies.moving()
        return moving.gather(1, body.flatten(1)).view_as(body)

    @property
    def points(self) -> Float[Tensor, "B N H W 3"]:
        """Every pixel's point in its own camera."""
        return unproject(self.depth, self.intrinsics)

    def select(self, world: int) -> "Rendering":
        """The views of one world, with a batch axis of one."""
        part = slice(world, world + 1)
        return map_batch(lambda tensor: tensor[part], self)

    def views(self, pairs: Int[Tensor, "P 2"]) -> Views:
        """What a model is given."""
        return Views(
            images=self.images,
            times=self.times,
            pairs=pairs.to(self.times.device).expand(self.world.batch, -1, -1),
            intrinsics=self.intrinsics,
        )

    def labels(self, pairs: Int[Tensor, "P 2"]) -> Labels:
        """The truth, for (source, target) pairs of views. Points weigh nothing on sky; flow weighs covisibility."""
        valid, ones = self.valid.to(self.depth), torch.ones_like(self.times)
        labels = Labels(
            points=Known(self.points, valid),
            world_from_cam=Known(self.world_from_cam, ones),
            intrinsics=Known(self.intrinsics, ones),
        )
        if not len(pairs):
            return labels
        target, flow, seen = [], [], []
        for source, other in pairs.tolist():
            points = target_points(self, source, other)
            target.append(points)
            flow.append(_landing(self, other, points) - _grid(self))
            seen.append(_seen(self, other, points, self.surface[:, source]))
        return replace(
            labels,
            flow=Known(torch.stack(flow, dim=1), torch.stack(seen, dim=1).to(valid)),
            target_points=Known(torch.stack(target, dim=1), valid[:, pairs[:, 0].to(valid.device)]),
        )


def _look_up(numbers: Tensor, surface: Tensor) -> Tensor:
    return numbers.index_select(0, surface.flatten()).view_as(surface)


def _grid(rendering: Rendering) -> Float[Tensor, "H W 2"]:
    depth = rendering.depth
    return pixel_grid(depth.shape[-2], depth.shape[-1], depth.dtype, depth.device)


def _own_points(rendering: Rendering, view: int) -> Float[Tensor, "B H W 3"]:
    return unproject(rendering.depth[:, view], rendering.intrinsics[:, view])


def world_points(rendering: Rendering, source: int, times: Float[Tensor, " B"]) -> Float[Tensor, "B H W 3"]:
    """Where the surface at each pixel of view `source` is at other times, in the world. Sky stays."""
    then_from_now = _motion(rendering.world, rendering.times[:, source], times)
    then_from_cam = then_from_now @ rendering.world_from_cam[:, source, None]
    body = _look_up(rendering.world.surface_body(), rendering.surface[:, source])
    return _apply(then_from_cam, body, _own_points(rendering, source))


def _motion(world: World, times: Float[Tensor, " B"], others: Float[Tensor, " B"]) -> Float[Tensor, "B K 4 4"]:
    """World motion of each body from `times` to `others`."""
    poses = world.bodies.world_from_body(torch.stack([times, others], dim=1))
    return poses[:, 1] @ inverse(poses[:, 0])


def _apply(
    matrix: Float[Tensor, "B K 4 4"], number: Int[Tensor, "B H W"], points: Float[Tensor, "B H W 3"]
) -> Float[Tensor, "B H W 3"]:
    """Each point through the matrix of its number."""
    first = torch.arange(len(matrix), device=number.device, dtype=number.dtype) * matrix.shape[1]
    rows = rearrange(matrix[:, :, :3], "b k r c -> (r c) (b k)")
    found = rows.index_select(1, (number + first[:, None, None]).flatten())
    found = found.view(3, 4, *number.shape)
    x, y, z = points.unbind(-1)
    moved = torch.addcmul(found[:, 3], found[:, 0], x).addcmul_(found[:, 1], y).addcmul_(found[:, 2], z)
    return moved.movedim(0, -1)


def target_points(rendering: Rendering, source: int, target: int) -> Float[Tensor, "B H W 3"]:
    """P_vt: each pixel's surface point in the target's camera at the target's time, also where it is hidden there.

    Sky is a point SKY_DEPTH away that follows the camera's place but not its rotation, as a point at infinity does.
    """
    world, poses = rendering.world, rendering.world_from_cam
    moved = _motion(world, rendering.times[:, source], rendering.times[:, target]) @ poses[:, source, None]
    turned = poses[:, source, None].clone()
    turned[..., :3, 3] = poses[:, target, None, :3, 3]
    target_from_source = inverse(poses[:, target])[:, None] @ torch.cat([moved, turned], dim=1)
    number = world.surface_body().clone()
    number[SKY] = moved.shape[1]
    return _apply(target_from_source, _look_up(number, rendering.surface[:, source]), _own_points(rendering, source))


def scene_flow(rendering: Rendering, source: int, target: int) -> Float[Tensor, "B H W 3"]:
    """World-frame motion of each pixel's surface between the two times, metres; 0 for what stands still."""
    place_now = world_points(rendering, source, rendering.times[:, source])
    return world_points(rendering, source, rendering.times[:, target]) - place_now


def optical_flow(rendering: Rendering, source: int, target: int) -> Float[Tensor, "B H W 2"]:
    """Pixels, target minus source; what falls behind the target camera points far outside its image."""
    return _landing(rendering, target, target_points(rendering, source, target)) - _grid(rendering)


def covisibility(rendering: Rendering, source: int, target: int) -> Bool[Tensor, "B H W"]:
    """Pixels of the source whose surface, or sky, the target sees: inside its image and hidden by nothing."""
    points = target_points(rendering, source, target)
    return _seen(rendering, target, points, rendering.surface[:, source])


def _landing(rendering: Rendering, view: int, points: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W 2"]:
    """Pixels of points in a view's camera."""
    return project(points.flatten(1, 2), rendering.intrinsics[:, view]).unflatten(1, points.shape[1:3])


def _seen(rendering: Rendering, view: int, points: Float[Tensor, "B H W 3"], surface: Int[Tensor, "B H W"]) -> Tensor:
    """Whether points in a view's camera are the first that its rays meet there."""
    depth = points[..., 2]
    front = depth > NEAREST
    rays = points.movedim(-1, 1) / torch.where(front, depth, 1)[:, None]
    rays[:, 2] = 1
    met_depth, met = _cast_at(rendering, view, rays)
    same = (met == surface) & ((surface == SKY) | ((met_depth - depth).abs() < SAME * depth))
    height, width = rendering.depth.shape[-2:]
    u, v = _landing(rendering, view, points).unbind(-1)
    return same & front & (u >= 0) & (u < width) & (v >= 0) & (v < height)


def _cast_at(rendering: Rendering, view: int, rays: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor]:
    """Depth and surface that a view's rays meet, a few worlds at a time."""
    world = rendering.world
    placed = place(world, rendering.times[:, [view]], rendering.world_from_cam[:, [view]])
    many = max(1, pixels_at_a_time(rays.device) // rays[0, 0].numel())
    met = []
    for first in range(0, world.batch, many):
        part = slice(first, first + many)
        some = map_batch(lambda tensor, part=part: tensor[part], placed)
        directions = FreeRays(place_from_cam=some.place_from_cam, rays=rays[part])
        met.append(cast(world, some, directions, [EVERYTHING] * len(world.solids.kind)))
    depth, surface = zip(*met, strict=True)
    return torch.cat(depth), torch.cat(surface)


def follow(rendering: Rendering, uv: Int[Tensor, "K 2"], *, source: int, world: int = 0) -> MovingTracks:
    """Tracks through all views of one world of the batch, of the surface points at pixels (column, row) of a view."""
    one = rendering.select(world)
    column, row = uv.unbind(-1)
    surface = one.surface[0, source, row, column][None, None]
    if bool((surface == SKY).any()):
        raise ValueError("sky cannot be tracked: choose pixels where the rendering is valid")
    body = _look_up(one.world.surface_body(), surface)
    now = world_points(one, source, one.times[:, source])[:, row, column][:, None]
    xyz, places, visible = [], [], []
    for view in range(one.times.shape[1]):
        there = _apply(_motion(one.world, one.times[:, source], one.times[:, view]), body, now)
        seen = transform(inverse(one.world_from_cam[:, view]), there[:, 0])[:, None]
        xyz.append(there[0, 0])
        places.append(_landing(one, view, seen)[0, 0])
        visible.append(_seen(one, view, seen, surface)[0, 0])
    return MovingTracks(
        xyz=torch.stack(xyz),
        uv=torch.stack(places),
        visible=torch.stack(visible),
        confidence=torch.ones(len(xyz), len(uv), dtype=now.dtype, device=now.device),
        moving=one.world.bodies.moving()[0, body[0, 0]],
    )


def observations(tracks: MovingTracks) -> Tracks:
    """The visible part of 3D tracks as 2D observations."""
    track, view = tracks.visible.T.nonzero(as_tuple=True)
    seen = Tracks(view=view, track=track, uv=tracks.uv[view, track], weight=torch.ones_like(tracks.uv[view, track, 0]))
    return seen.select(torch.ones_like(view, dtype=torch.bool))
