"""Colour of a procedural world: procedural paint, ambient light with dark corners, lamps with soft shadows."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from unproject.data.raycast import (
    EVERYTHING,
    FIRST_PLACE,
    MEET,
    ROOM,
    PixelRays,
    Placed,
    Window,
    cast,
    pixel_rays,
    place,
    seen_bounds,
    shadow_bounds,
)
from unproject.data.scene import FIRST_SOLID, SKY, World, map_batch


def trace(
    world: World,
    times: Float[Tensor, "B N"],
    world_from_cam: Float[Tensor, "B N 4 4"],
    intrinsics: Float[Tensor, "B N 3 3"],
    height: int,
    width: int,
) -> tuple[Float[Tensor, "B N 3 H W"], Float[Tensor, "B N H W"], Int[Tensor, "B N H W"]]:
    """(radiance, depth, surface number) at every pixel centre; radiance is linear and may exceed 1."""
    placed = place(world, times, world_from_cam)
    flat = intrinsics.flatten(0, 1)
    seen = seen_bounds(placed, flat, height, width)
    shadows = [shadow_bounds(placed, flat, height, width, lamp) for lamp in range(placed.lights.shape[2])]
    radiance = times.new_empty(len(flat), 3, height, width)
    depth = times.new_empty(len(flat), height, width)
    surface = torch.empty(len(flat), height, width, dtype=torch.int32, device=times.device)
    for views, rows in _tiles(len(flat), height, width, times.device):
        some = map_batch(lambda tensor, views=views: tensor[views], placed)
        rays = pixel_rays(some, flat[views], rows, width)
        depth[views, rows], surface[views, rows] = met = cast(world, some, rays, seen.windows(views, rows))
        radiance[views, :, rows] = _shade(
            world, some, rays, flat[views, 0, 0], *met, [lamp.windows(views, rows) for lamp in shadows]
        )
    batch = times.shape
    return radiance.unflatten(0, batch), depth.unflatten(0, batch), surface.unflatten(0, batch)


def pixels_at_a_time(device: torch.device) -> int:
    """On a CPU, temporaries should stay in its cache; on a GPU, launches should be few."""
    return 2**17 if device.type == "cpu" else 2**23


def _tiles(views: int, height: int, width: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Views and rows to work on at a time."""
    budget = pixels_at_a_time(device)
    tall = min(height, max(1, budget // width))
    many = max(1, budget // (tall * width)) if tall == height else 1
    for view in range(0, views, many):
        for row in range(0, height, tall):
            yield slice(view, min(view + many, views)), slice(row, min(row + tall, height))


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Properties of the surface at each pixel, in the frame of the surface's place."""

    matrix: Float[Tensor, "V 9 H W"]
    """place_from_pixel, row by row."""
    origin: Float[Tensor, "V 3 H W"]
    inverse_half: Float[Tensor, "V 3 H W"]
    up: Float[Tensor, "V 3 H W"]
    lights: Float[Tensor, "V L3 H W"]
    ball: Float[Tensor, "V 1 H W"]
    outward: Float[Tensor, "V 1 H W"]
    texture: Float[Tensor, "V 1 H W"]
    per_metre: Float[Tensor, "V 3 H W"]
    shift: Float[Tensor, "V 3 H W"]
    tint: Float[Tensor, "V 3 H W"]
    density: Float[Tensor, "V 1 H W"]


def _rows(world: World, placed: Placed, rays: PixelRays, surface: Int[Tensor, "V H W"]) -> _Rows:
    """Look up every pixel's surface in one table of all properties."""
    places = [ROOM] * SKY + list(range(1, FIRST_PLACE + len(world.solids.kind)))
    texture, per_metre, shift, tint, density = placed.paint.split([1, 3, 3, 3, 1], dim=1)
    balls = [0.0] * FIRST_SOLID + [float(kind == "ellipsoid") for kind in world.solids.kind]
    signs = [-1.0] * FIRST_SOLID + [1.0] * len(world.solids.kind)
    table = {
        "matrix": rearrange(rays.place_from_pixel[:, places], "v m r c -> v (r c) m"),
        "origin": placed.place_from_cam[:, places, :3, 3].mT,
        "inverse_half": placed.half[:, places].reciprocal().mT,
        "up": placed.up[:, places].mT,
        "lights": rearrange(placed.lights[:, places], "v m l c -> v (l c) m"),
        "ball": texture.new_tensor(balls).expand_as(texture),
        "outward": texture.new_tensor(signs).expand_as(texture),
        "texture": texture,
        "per_metre": per_metre,
        "shift": shift,
        "tint": tint,
        "density": density,
    }
    packed = torch.cat(list(table.values()), dim=1)
    first = torch.arange(len(surface), device=surface.device, dtype=surface.dtype) * len(places)
    found = rearrange(packed, "v r m -> r (v m)").index_select(1, (surface + first[:, None, None]).flatten())
    found = rearrange(found, "r (v h w) -> v r h w", v=len(surface), h=surface.shape[1])
    split = found.split([rows.shape[1] for rows in table.values()], dim=1)
    return _Rows(**dict(zip(table, split, strict=True)))


def _shade(
    world: World,
    placed: Placed,
    rays: PixelRays,
    focal: Float[Tensor, " V"],
    depth: Float[Tensor, "V H W"],
    surface: Int[Tensor, "V H W"],
    shadows: list[list[Window | None]],
) -> Float[Tensor, "V 3 H W"]:
    """Radiance of the surfaces that the rays met; shadows are looked for in windows, per lamp and solid."""
    rows = _rows(world, placed, rays, surface)
    outdoors = bool(placed.open.any())
    sky = (surface == SKY)[:, None]
    view, point, axis, normal = _hit(rows, rays, depth)
    facing = (normal * view).sum(1).square_() / view.square().sum(1)
    texels = rows.density[:, 0] * depth * (world.bank.size / focal[:, None, None])
    # Between the blur of the long and that of the short side of the pixel's footprint on the surface.
    level = (texels * facing.clamp_(min=1e-4).rsqrt_().sqrt_()).log2_()
    uvw = torch.addcmul(rows.shift, point, rows.per_metre)
    uv = torch.stack(
        [uvw[:, 1] * axis[:, 0] + uvw[:, 0] * (1 - axis[:, 0]), uvw[:, 1] * axis[:, 2] + uvw[:, 2] * (1 - axis[:, 2])],
        1,
    )
    if outdoors:
        uv = torch.where(sky, _sky_uv(view), uv)
    reflectance = world.bank.look_up(rows.texture[:, 0], uv, level).square_().mul_(rows.tint)
    light = _ambient(placed, rays, rows, normal, depth)
    for lamp, windows in enumerate(shadows):
        light += _lamp(world, placed, rays, rows, point, normal, depth, lamp, windows)
    if outdoors:
        light = torch.where(sky, 1.0, light)
    return reflectance.mul_(light)


def _hit(rows: _Rows, rays: PixelRays, depth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In the surface's frame: ray direction, point met, face axis (one-hot) and unit normal."""
    u, v, one = rows.matrix.unflatten(1, (3, 3)).unbind(2)
    view = torch.addcmul(one, u, rays.u).addcmul_(v, rays.v[:, None])
    point = torch.addcmul(rows.origin, view, depth[:, None])
    unit = point * rows.inverse_half
    size = unit.abs()
    x = (size[:, 0] >= size[:, 1]) & (size[:, 0] >= size[:, 2])
    y = (size[:, 1] >= size[:, 2]) & ~x
    axis = torch.stack([x, y, ~(x | y)], dim=1).to(unit)
    round_normal = unit * rows.inverse_half
    round_normal *= round_normal.square().sum(1, keepdim=True).rsqrt_()
    flat_normal = (unit.sign() * axis).mul_(rows.outward)
    return view, point, axis, flat_normal.lerp_(round_normal, rows.ball)


def _sky_uv(view: Tensor) -> Tensor:
    """Clouds on a flat ceiling that never comes quite down to the horizon."""
    flat = view[:, :2] / (view[:, 2:].abs() + 0.25 * view.square().sum(1, keepdim=True).sqrt_())
    return 0.25 * flat


def _ambient(placed: Placed, rays: PixelRays, rows: _Rows, normal: Tensor, depth: Tensor) -> Tensor:
    """Sky or ceiling light above, bounced light below, darker near the room's faces."""
    upward = (normal * rows.up).sum(1, keepdim=True) * 0.5 + 0.5
    light = torch.lerp(placed.below[..., None, None], placed.above[..., None, None], upward)
    inside = rays(ROOM, EVERYTHING).mul_(depth[:, None]).add_(placed.place_from_cam[:, ROOM, :3, 3, None, None])
    away = (placed.half[:, ROOM, :, None, None] - inside.abs_()).mul_(3.0).square_().add_(1.0).reciprocal_()
    shade = (1 - 0.4 * away).prod(1, keepdim=True)
    return light * shade


def _lamp(
    world: World,
    placed: Placed,
    rays: PixelRays,
    rows: _Rows,
    point: Tensor,
    normal: Tensor,
    depth: Tensor,
    lamp: int,
    windows: list[Window | None],
) -> Tensor:
    """Diffuse light of one lamp."""
    toward = rows.lights[:, 3 * lamp : 3 * lamp + 3] - point
    square = toward.square().sum(1)
    distance = square.sqrt()
    cosine = (toward * normal).sum(1).div_(distance).clamp_(min=0)
    fall = 1 / (1 + square / placed.reach[:, lamp, None, None].square())
    share = _unshadowed(world, placed, rays, depth, distance, lamp, windows)
    return placed.colour[:, lamp, :, None, None] * share.mul_(cosine).mul_(fall)[:, None]


def _unshadowed(
    world: World,
    placed: Placed,
    rays: PixelRays,
    depth: Tensor,
    distance: Tensor,
    lamp: int,
    windows: list[Window | None],
) -> Tensor:
    """Share of a lamp's light that passes the solids.

    A solid takes light in proportion to the length of the chord that the ray cuts from it, all of it past a length set
    by its thickness: outlines of shadows are soft, and a surface never shadows itself by rounding.
    """
    light = torch.ones_like(depth)
    for solid, (kind, window) in enumerate(zip(world.solids.kind, windows, strict=True)):
        if window is None:
            continue
        number = FIRST_PLACE + solid
        half = placed.half[:, number]
        scale = half[..., None, None].reciprocal()
        rows, columns = window
        point = rays(number, window).mul_(depth[:, None, rows, columns])
        origin = point.add_(placed.place_from_cam[:, number, :3, 3, None, None]).mul_(scale)
        enter, leave = MEET[kind](origin, placed.lights[:, number, lamp, :, None, None] * scale - origin)
        chord = leave.clamp_(max=1).sub_(enter.clamp_(min=0)).mul_(distance[:, rows, columns])
        soft = 1.2 * half.amin(-1).clamp(max=0.12)[:, None, None]
        light[:, rows, columns] *= (1 - chord / soft).clamp_(0, 1)
    return light
