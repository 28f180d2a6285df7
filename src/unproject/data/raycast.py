"""Ray casting of a procedural world: which surface a ray meets, how far away, and its colour.

Everything is analytic (planes, slab test, ellipsoid), so depth is exact to rounding. Views are a flat axis V; a solid
is tried only in the window of pixels that its corners span.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unproject.data.scene import FIRST_SOLID, SKY, World
from unproject.geometry.rigid import inverse, transform

SKY_DEPTH = 1000.0
"""Depth written where a ray leaves the world; such pixels are marked as not valid."""
NEAREST = 0.02
"""Metres; nothing nearer to the camera is seen."""
TINY = 1e-20

ROOM, AIR, FIRST_PLACE = 0, 1, 2
"""Places are the frames in which things are at rest: the room, the sky, and one for each solid."""
Window = tuple[slice, slice]
"""Rows and columns of the image."""
EVERYTHING: Window = (slice(None), slice(None))
Directions = Callable[[int, Window], Tensor]
"""Ray directions with camera z = 1 in the frame of a place, for a window of the rays."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The world as each view meets it: everything in the frames of the places (room, sky, solids), metres."""

    half: Float[Tensor, "V places 3"]
    open: Bool[Tensor, "V 6"]
    place_from_cam: Float[Tensor, "V places 4 4"]
    lights: Float[Tensor, "V places L 3"]
    colour: Float[Tensor, "V L 3"]
    reach: Float[Tensor, "V L"]
    above: Float[Tensor, "V 3"]
    below: Float[Tensor, "V 3"]
    up: Float[Tensor, "V places 3"]
    paint: Float[Tensor, "V rows M"]
    """Per surface: texture, periods per metre (3), shift (3), tint (3), periods per metre of the face."""


def place(world: World, times: Float[Tensor, "B N"], world_from_cam: Float[Tensor, "B N 4 4"]) -> Placed:
    """Put camera and lights into the frame of every place at every view's time; views are flattened to V = B N."""
    views = times.shape[1]

    def each(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(views, dim=0)

    place_from_world = _place_from_world(world, times).flatten(0, 1)
    place_from_cam = place_from_world @ world_from_cam.flatten(0, 1)[:, None]
    # The sky follows the camera: only its rotation counts.
    place_from_cam[:, AIR, :3, 3] = 0
    room = world.room.half[:, None]
    paints = world.paints
    # Of a thin solid's faces, the wide ones are seen.
    density = paints.per_metre.abs().sort(dim=-1).values[..., :2].mean(-1, keepdim=True)
    paint = torch.cat([paints.texture[..., None], paints.per_metre, paints.shift, paints.tint, density], dim=-1)
    return Placed(
        half=each(torch.cat([room, torch.ones_like(room), world.solids.half], dim=1)),
        open=each(world.room.open),
        place_from_cam=place_from_cam,
        lights=transform(place_from_world, each(world.lights.position)[:, None]),
        colour=each(world.lights.colour),
        reach=each(world.lights.reach),
        above=each(world.lights.above),
        below=each(world.lights.below),
        up=place_from_world[..., :3, 2],
        paint=each(paint.mT),
    )


def _place_from_world(world: World, times: Float[Tensor, "B N"]) -> Float[Tensor, "B N places 4 4"]:
    """Room, sky, and solids on their bodies."""
    world_from_body = world.bodies.world_from_body(times)
    world_from_solid = world_from_body[:, :, list(world.solids.body)] @ world.solids.body_from_solid[:, None]
    still = torch.eye(4, dtype=times.dtype, device=times.device).repeat(*times.shape, 2, 1, 1)
    still[:, :, ROOM, :3, 3] = world.room.centre[:, None]
    return inverse(torch.cat([still, world_from_solid], dim=2))


@dataclass(frozen=True, kw_only=True)
class PixelRays:
    """Rays through the pixels of a band of rows. Directions are linear in u and v: the sum of a row and a column."""

    place_from_pixel: Float[Tensor, "V places 3 3"]
    u: Float[Tensor, " W"]
    v: Float[Tensor, " H"]
    along: Float[Tensor, "V places 3 1 W"]
    down: Float[Tensor, "V places 3 H 1"]

    def __call__(self, number: int, window: Window) -> Float[Tensor, "V 3 h w"]:
        """Directions in the frame of a place."""
        return self.along[:, number, :, :, window[1]] + self.down[:, number, :, window[0]]


def pixel_rays(placed: Placed, intrinsics: Float[Tensor, "V 3 3"], rows: slice, width: int) -> PixelRays:
    """The rays of a pinhole camera."""
    cam_from_pixel = torch.linalg.inv_ex(intrinsics).inverse
    u = torch.arange(width, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5
    v = torch.arange(rows.start, rows.stop, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5
    matrix = placed.place_from_cam[..., :3, :3] @ cam_from_pixel[:, None]
    along = matrix[..., 0, None] * u
    down = matrix[..., 1, None] * v + matrix[..., 2, None]
    return PixelRays(place_from_pixel=matrix, u=u, v=v, along=along[..., None, :], down=down[..., None])


@dataclass(frozen=True, kw_only=True)
class FreeRays:
    """Any rays, given in camera coordinates with z = 1."""

    place_from_cam: Float[Tensor, "V places 4 4"]
    rays: Float[Tensor, "V 3 h w"]

    def __call__(self, number: int, window: Window) -> Float[Tensor, "V 3 h w"]:
        """Directions in the frame of a place."""
        some = self.rays[:, :, window[0], window[1]]
        return (self.place_from_cam[:, number, :3, :3] @ some.flatten(2)).view_as(some)


def cast(
    world: World, placed: Placed, directions: Directions, windows: list[Window | None]
) -> tuple[Float[Tensor, "V H W"], Int[Tensor, "V H W"]]:
    """Depth along the rays and the surface that they meet. `windows[s]` is None where nobody sees solid s."""
    depth, surface = _leave_room(placed, directions(ROOM, EVERYTHING))
    for solid, (kind, window) in enumerate(zip(world.solids.kind, windows, strict=True)):
        if window is None:
            continue
        number = FIRST_PLACE + solid
        scale = placed.half[:, number, :, None, None].reciprocal()
        origin = placed.place_from_cam[:, number, :3, 3, None, None] * scale
        enter, leave = MEET[kind](origin, directions(number, window).mul_(scale))
        seen = depth[:, window[0], window[1]]
        nearer = (leave > enter) & (enter > NEAREST) & (enter < seen)
        torch.where(nearer, enter, seen, out=seen)
        surface[:, window[0], window[1]].masked_fill_(nearer, FIRST_SOLID + solid)
    return depth, surface


def _leave_room(placed: Placed, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays from inside the room reach its faces; sky where the face is open."""
    inverse_direction = (direction + TINY).reciprocal_()
    scale = placed.half[:, ROOM, :, None, None]
    origin = placed.place_from_cam[:, ROOM, :3, 3, None, None]
    leave = inverse_direction.abs().mul_(scale).sub_(origin * inverse_direction)
    depth = leave.amin(1)
    faces = [2 * axis + (direction[:, axis] > 0).int() for axis in range(3)]
    surface = torch.where(leave[:, 1] <= depth, faces[1], faces[0])
    surface = torch.where(leave[:, 2] <= depth, faces[2], surface)
    views = torch.arange(len(depth), device=depth.device)[:, None, None]
    outside = placed.open[views, surface]
    return depth.masked_fill_(outside, SKY_DEPTH), surface.masked_fill_(outside, SKY)


def _meet_box(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameters where rays enter and leave the cube [-1, 1]^3 (slab test); leave <= enter if they miss it."""
    inverse_direction = (direction + TINY).reciprocal_()
    reach = inverse_direction.abs()
    middle = inverse_direction.mul_(origin)
    return (-middle).sub_(reach).amax(1), reach.sub_(middle).amin(1)


def _meet_ball(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The same for the unit ball, from the point of closest approach (the plain quadratic cancels far away)."""
    square = direction.square().sum(1)
    closest = (direction * origin).sum(1).div_(square).neg_()
    miss = torch.addcmul(origin, direction, closest[:, None]).square_().sum(1)
    half_chord = ((1 - miss).clamp_(min=0) / square).sqrt_()
    return closest - half_chord, closest + half_chord


MEET: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {"box": _meet_box, "ellipsoid": _meet_ball}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """For each view and solid, the pixels [low, high) that its bounding box can cover; kept on the CPU."""

    low: Int[Tensor, "V S 2"]
    high: Int[Tensor, "V S 2"]

    def windows(self, views: slice, rows: slice) -> list[Window | None]:
        """Per solid, the window of a band of rows that it can cover in any of the views; None if it covers nothing."""
        low, high = self.low[views].amin(0).tolist(), self.high[views].amax(0).tolist()
        return [_window(*corners, rows) for corners in zip(low, high, strict=True)]


def _window(low: list[int], high: list[int], rows: slice) -> Window | None:
    top, bottom = max(low[1], rows.start), min(high[1], rows.stop)
    if low[0] >= high[0] or top >= bottom:
        return None
    return slice(top - rows.start, bottom - rows.start), slice(low[0], high[0])


def seen_bounds(placed: Placed, intrinsics: Float[Tensor, "V 3 3"], height: int, width: int) -> Bounds:
    """Where each solid can be seen."""
    cam_from_place = inverse(placed.place_from_cam[:, FIRST_PLACE:])
    return _cover(transform(cam_from_place, _corners(placed)), intrinsics, height, width)


def shadow_bounds(placed: Placed, intrinsics: Float[Tensor, "V 3 3"], height: int, width: int, lamp: int) -> Bounds:
    """Where the shadow of each solid can be seen.

    Inside the room, shadow lies between the solid and its copy enlarged about the lamp. A face of the room ends the
    enlargement once all corners have passed it.
    """
    cam_from_place = inverse(placed.place_from_cam[:, FIRST_PLACE:])
    corners = transform(cam_from_place, _corners(placed))
    light = transform(inverse(placed.place_from_cam[:, ROOM]), placed.lights[:, ROOM, lamp, None])
    outward = torch.cat([torch.eye(3), -torch.eye(3)]).to(light)
    normals = outward @ placed.place_from_cam[:, ROOM, :3, :3]
    gap = placed.half[:, ROOM].repeat(1, 2) - (placed.lights[:, ROOM, lamp] @ outward.T)
    drop = torch.einsum("vfc,vspc->vsfp", normals, corners - light[:, None])
    # A lamp outside the room, or a corner that never comes nearer to the face, leaves this face without a say.
    limit = torch.where((drop > 1e-3).all(-1) & (gap > 0)[:, None], gap[:, None] / drop.amin(-1).clamp(min=1e-3), 1e3)
    enlarged = light[:, None] + (corners - light[:, None]) * limit.amin(-1).clamp(min=1.0)[..., None, None]
    return _cover(torch.cat([corners, enlarged], dim=-2), intrinsics, height, width)


def _corners(placed: Placed) -> Float[Tensor, "V S 8 3"]:
    """Corners of every solid's box in its own frame."""
    signs = torch.cartesian_prod(*[placed.half.new_tensor([-1.0, 1.0])] * 3)
    return placed.half[:, FIRST_PLACE:, None] * signs


def _cover(points: Float[Tensor, "V S P 3"], intrinsics: Float[Tensor, "V 3 3"], height: int, width: int) -> Bounds:
    """Pixels that the convex hull of some points of the camera's frame can cover."""
    depth = points[..., 2]
    uv = (points @ intrinsics[:, None].mT)[..., :2] / depth.clamp(min=NEAREST)[..., None]
    size = uv.new_tensor([width, height])
    behind, around = (depth < NEAREST).all(-1)[..., None], (depth < NEAREST).any(-1)[..., None]
    # A corner behind the camera says nothing about the image: try every pixel. Half a pixel guards rounding.
    low = torch.where(around, 0, uv.amin(-2) - 0.5).clamp(min=0).minimum(size)
    high = torch.where(around, size, uv.amax(-2) + 0.5).clamp(min=0).minimum(size)
    low, high = torch.where(behind, size, low), torch.where(behind, 0, high)
    return Bounds(low=low.floor().long().cpu(), high=high.ceil().long().cpu())
