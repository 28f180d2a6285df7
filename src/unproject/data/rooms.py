"""Random worlds: rooms, courtyards and open ground with furniture, pictures, and things that move by themselves.

Layout: the camera's stage is a disc (or a ring) around the origin of the floor plan; objects are dealt over a wedge of
bearings around the heading and pushed out of the stage, so that no camera ever stands inside something.
"""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.data.scene import (
    Bodies,
    Lights,
    Paint,
    Part,
    Room,
    Stage,
    World,
    assemble,
    map_tensors,
    pose,
    texture_number,
)
from unproject.data.texture import TextureBank, default_bank

EYE = 1.45
"""Mean height of a camera above the floor."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dice:
    """Random numbers for a batch of worlds. Drawn on the CPU in float32, so that every device gets the same world."""

    generator: torch.Generator
    batch: int
    bank: TextureBank

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "B *shape"]:
        """Evenly between two bounds."""
        return low + (high - low) * torch.rand(self.batch, *shape, generator=self.generator)

    def chance(self, share: float) -> Tensor:
        """True for a share of the worlds, [B]."""
        return torch.rand(self.batch, generator=self.generator) < share

    def sign(self) -> Float[Tensor, " B"]:
        """-1 or 1."""
        return self.chance(0.5) * 2.0 - 1.0

    def paint(self, *kinds: str, period: tuple[float, float] | None = (0.8, 1.6)) -> Paint:
        """One of the kinds, in a random variant and tint; without a period, a picture that fills the face."""
        variants = torch.randint(0, self.bank.variants, (self.batch,), generator=self.generator)
        numbers = torch.stack([texture_number(kind, variants, self.bank) for kind in kinds])
        choice = torch.randint(0, len(kinds), (self.batch,), generator=self.generator)
        brightness = self.uniform(0.75, 1.15, 1)
        return Paint(
            texture=numbers[choice, torch.arange(self.batch)],
            period=None if period is None else self.uniform(*period),
            tint=brightness * self.uniform(0.85, 1.0, 3),
            shift=self.uniform(0.0, 1.0, 3),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """The floor plan, metres from the origin: walls and the stage."""

    room: Room
    stage: Stage

    def spot(self, bearing: Tensor, share: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Floor place (x, y) of something of that radius, `share` of the way from the stage to the wall."""
        angle = self.stage.heading + bearing
        nearest = self.stage.outer + radius + 0.15
        step = torch.stack([angle.cos(), angle.sin()], dim=-1)
        wall = self.room.centre[:, :2] + self.room.half[:, :2] * step.sign()
        furthest = (wall / torch.where(step.abs() < 1e-3, 1e-3, step)).abs().amin(-1).clamp(max=7.0) - radius
        place = step * (nearest + share * (furthest - nearest).clamp(min=0))[:, None]
        return place[:, 0], place[:, 1]


def sample_world(
    seed: int,
    *,
    batch: int = 1,
    moving: bool = True,
    ring: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> World:
    """Draw `batch` worlds of 14 solids each. With `moving` false the movers stand still where they are.

    With `ring` the camera's stage is a ring around furniture, else a disc that looks at it. The same seed gives the
    same worlds on every device.
    """
    bank = default_bank(torch.device("cpu"), torch.float32)
    dice = Dice(generator=torch.Generator().manual_seed(seed), batch=batch, bank=bank)
    plan = _draw_plan(dice, ring)
    bodies = _draw_bodies(dice, plan)
    still = torch.zeros_like(bodies.rate)
    if not moving:
        bodies = dataclasses.replace(bodies, rate=still, spin=still)
    world = assemble(
        room=plan.room,
        bodies=bodies,
        parts=[*_draw_fittings(dice, plan), *_draw_furniture(dice, plan, ring), *_draw_movers(dice)],
        faces=_draw_walls(dice),
        sky=dice.paint("clouds"),
        lights=_draw_lights(dice, plan),
        stage=plan.stage,
        bank=bank,
    )
    target = torch.device(device)
    return world.to(target, dtype, default_bank(target, dtype))


def sample_planar_world(
    seed: int, *, batch: int = 1, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> World:
    """Draw worlds in which a camera on the stage sees one plane: a wide board, near and square to the heading."""
    bank = default_bank(torch.device("cpu"), torch.float32)
    dice = Dice(generator=torch.Generator().manual_seed(seed), batch=batch, bank=bank)
    plan = _draw_plan(dice, ring=False)
    huge = torch.full((batch,), 60.0)
    zero = _zeros(dice)
    nearby = plan.stage.outer + dice.uniform(1.0, 2.0)
    board = pose(zero, zero, zero, plan.stage.heading) @ pose(nearby + 0.05, zero, zero + EYE, zero)
    paint = dice.paint("landscape", "abstract", "books", "stone", "terrazzo", period=(1.5, 2.5))
    room = Room(
        centre=torch.zeros(batch, 3), half=torch.full((batch, 3), 40.0), open=torch.ones(batch, 6, dtype=torch.bool)
    )
    world = assemble(
        room=room,
        bodies=map_tensors(_draw_bodies(dice, plan), lambda tensor: tensor[:, :1]),
        parts=[_part("box", 1, (zero + 0.1, huge, huge), board, paint)],
        faces=_draw_walls(dice),
        sky=dice.paint("clouds"),
        lights=_draw_lights(dice, plan),
        stage=plan.stage,
        bank=bank,
    )
    world = dataclasses.replace(world, bodies=dataclasses.replace(world.bodies, parent=(0,)))
    target = torch.device(device)
    return world.to(target, dtype, default_bank(target, dtype))


def _draw_plan(dice: Dice, ring: bool) -> _Plan:
    """Rooms (60 %), courtyards without a ceiling (15 %), open ground (25 %)."""
    inner = dice.uniform(1.2, 1.5) if ring else dice.uniform(0.0, 0.0)
    outer = inner + (0.7 if ring else dice.uniform(0.7, 1.1))
    kind = dice.uniform(0.0, 1.0)
    outdoors, roofless = kind > 0.75, kind > 0.6
    walls = torch.stack(
        [outer + dice.uniform(0.3, 1.0), outer + dice.uniform(2.2, 4.6), *(outer + dice.uniform(0.9, 2.6, 2).T)], -1
    )
    walls = torch.where(outdoors[:, None], 40.0, walls)
    height = torch.where(roofless, 25.0, dice.uniform(2.4, 3.1))
    low = torch.stack([-walls[:, 0], -walls[:, 2], torch.zeros_like(height)], dim=-1)
    high = torch.stack([walls[:, 1], walls[:, 3], height], dim=-1)
    is_open = torch.stack([*[outdoors] * 4, torch.zeros_like(outdoors), roofless], dim=-1)
    stage = Stage(
        centre=torch.tensor([0.0, 0.0, EYE]).repeat(dice.batch, 1),
        heading=dice.uniform(-0.4, 0.4),
        depth=(outer + walls[:, 1].clamp(max=5.0)) * 0.5 * (not ring),
        inner=inner,
        outer=outer,
    )
    return _Plan(room=Room(centre=(low + high) / 2, half=(high - low) / 2, open=is_open), stage=stage)


def _draw_walls(dice: Dice) -> list[Paint]:
    wall = dice.paint("plaster", "wallpaper", "brick", "concrete", "painted", "stone", period=(1.8, 3.0))
    accent = dice.paint("brick", "wallpaper", "stone", "planks", "books", "plaster", period=(1.8, 3.0))
    floor = dice.paint("planks", "tiles", "terrazzo", "grass", "concrete", "marble", period=(1.6, 2.6))
    return [wall, accent, wall, wall, floor, dice.paint("plaster", "concrete", period=(2.0, 3.0))]


def _draw_lights(dice: Dice, plan: _Plan) -> Lights:
    """A lamp under the ceiling, or the sun."""
    outdoors = plan.room.half[:, 2:] > 5
    lamp = torch.stack([dice.uniform(0.5, 2.5), dice.uniform(-1.2, 1.2), 2 * plan.room.half[:, 2] - 0.25], dim=-1)
    sun = torch.stack([*dice.uniform(-60.0, 60.0, 2).T, dice.uniform(60.0, 100.0)], dim=-1)
    warmth = torch.cat([dice.uniform(0.95, 1.1, 1), torch.ones(dice.batch, 1), dice.uniform(0.75, 1.05, 1)], dim=-1)
    ambient = dice.uniform(0.7, 1.1, 1) * torch.flip(warmth, [-1])
    return Lights(
        position=torch.where(outdoors, sun, lamp)[:, None],
        colour=(dice.uniform(1.3, 2.0, 1) * warmth * torch.where(outdoors, 0.8, 1.0))[:, None],
        reach=torch.where(outdoors, 1000.0, dice.uniform(2.0, 5.0, 1)),
        above=ambient,
        below=0.6 * ambient,
    )


def _zeros(dice: Dice) -> Tensor:
    return torch.zeros(dice.batch)


def _part(
    kind: str, instance: int, size: tuple[Tensor, Tensor, Tensor], place: Tensor, paint: Paint, body: int = 0
) -> Part:
    return Part(
        kind=kind, body=body, instance=instance, half=torch.stack(size, -1) / 2, body_from_part=place, paint=paint
    )  # type: ignore[arg-type]


def _draw_fittings(dice: Dice, plan: _Plan) -> list[Part]:
    """Pictures on the far wall and on a side wall (or boards standing there), and a rug."""
    thin = torch.full((dice.batch,), 0.03)
    high = plan.room.centre + plan.room.half
    low = plan.room.centre - plan.room.half
    far = high[:, 0].clamp(max=6.0)
    aim = far * plan.stage.heading.tan()
    front = pose(far - 0.02, (aim + dice.uniform(-0.8, 0.8)).clamp(-3.0, 3.0), dice.uniform(1.2, 1.7), _zeros(dice))
    left = plan.stage.heading > 0
    side = torch.where(left, high[:, 1].clamp(max=4.0) - 0.02, low[:, 1].clamp(min=-4.0) + 0.02)
    beside = pose(far * dice.uniform(0.35, 0.8), side, dice.uniform(1.2, 1.7), _zeros(dice))
    rug = pose(
        *plan.spot(dice.uniform(-0.3, 0.3), dice.uniform(0.0, 0.4), dice.uniform(0.5, 0.5)),
        0 * thin,
        dice.uniform(-0.3, 0.3),
    )
    art = dice.paint("landscape", "abstract", "books", period=None)
    return [
        _part("box", 1, (thin, dice.uniform(0.7, 1.4), dice.uniform(0.5, 1.0)), front, art),
        _part(
            "box",
            2,
            (dice.uniform(0.6, 1.2), thin, dice.uniform(0.5, 0.9)),
            beside,
            dice.paint("landscape", "abstract", period=None),
        ),
        _part(
            "box",
            3,
            (dice.uniform(1.2, 2.4), dice.uniform(0.9, 1.6), thin / 2),
            rug,
            dice.paint("carpet", "cloth", period=None),
        ),
    ]


def _draw_furniture(dice: Dice, plan: _Plan, ring: bool) -> list[Part]:
    """A table with something on it, a cabinet, a box and an ellipsoid. On a ring, the table stands in its middle."""
    long, wide, tall = dice.uniform(0.8, 1.3), dice.uniform(0.5, 0.8), dice.uniform(0.45, 0.8)
    yaw = dice.uniform(-math.pi, math.pi)
    x, y = plan.spot(dice.uniform(-0.15, 0.15), dice.uniform(0.1, 0.6), torch.hypot(long, wide) / 2)
    if ring:
        x, y = dice.uniform(-0.15, 0.15), dice.uniform(-0.15, 0.15)
    wood = dice.paint("wood", "planks", "marble", "painted")
    table = pose(x, y, _zeros(dice), yaw)
    thin = torch.full((dice.batch,), 0.05)
    zero = _zeros(dice)
    legs = [table @ pose(end * (long / 2 - 0.08), zero, tall / 2 - 0.03, zero) for end in (-1, 1)]
    top = table @ pose(zero, zero, tall - 0.025, zero)
    size = dice.uniform(0.15, 0.4, 3)
    on_top = table @ pose(dice.uniform(-0.15, 0.15), zero, tall + size[:, 2] / 2, dice.uniform(-1.5, 1.5))
    goods = dice.paint("crate", "books", "abstract", "landscape", period=None)
    parts = [_part("box", 4, (long, wide, thin), top, wood)]
    parts += [_part("box", 4, (thin, wide * 0.9, tall - 0.06), leg, wood) for leg in legs]
    parts.append(_part("box", 5, tuple(size.T), on_top, goods))  # type: ignore[arg-type]
    return [*parts, *_draw_loose(dice, plan)]


def _draw_loose(dice: Dice, plan: _Plan) -> list[Part]:
    """A cabinet and a box at two bearings, an ellipsoid between them."""
    side = dice.sign()
    size = torch.cat([dice.uniform(0.4, 0.9, 2), dice.uniform(0.6, 1.9, 1)], dim=-1)
    spot = plan.spot(side * dice.uniform(0.35, 0.6), dice.uniform(0.5, 1.0), size[:, :2].norm(dim=-1) / 2)
    cabinet = pose(*spot, size[:, 2] / 2, dice.uniform(-0.3, 0.3))
    chest = dice.uniform(0.25, 0.7, 3)
    spot = plan.spot(-side * dice.uniform(0.3, 0.55), dice.uniform(0.0, 0.9), chest[:, :2].norm(dim=-1) / 2)
    box = pose(*spot, chest[:, 2] / 2, dice.uniform(-math.pi, math.pi))
    ball = dice.uniform(0.25, 0.7, 3)
    spot = plan.spot(side * dice.uniform(0.1, 0.3), dice.uniform(0.0, 0.8), ball.amax(-1) / 2)
    lump = pose(*spot, ball[:, 2] / 2, dice.uniform(-math.pi, math.pi))
    any_pattern = ("stone", "cloth", "terrazzo", "marble", "ball", "wood", "carpet")
    return [
        _part("box", 6, tuple(size.T), cabinet, dice.paint("books", "wood", "crate", "painted", "planks")),  # type: ignore[arg-type]
        _part("box", 7, tuple(chest.T), box, dice.paint("crate", "crate", "abstract", period=None)),  # type: ignore[arg-type]
        _part("ellipsoid", 8, tuple(ball.T), lump, dice.paint(*any_pattern, period=(0.4, 0.9))),  # type: ignore[arg-type]
    ]


BALL, CARRIED, LINK, TIP = 1, 2, 3, 4
"""Moving bodies of a random world: a rolling ball, a floating box, and an arm of two links."""
RADIUS = 0.22


def _draw_bodies(dice: Dice, plan: _Plan) -> Bodies:
    """Rest places out of the stage by more than the bodies' reach, and smooth motion that never leaves it."""
    travel = dice.uniform(0.2, 0.6)
    zero, one = _zeros(dice), torch.ones(dice.batch)
    side = dice.sign()
    x, y = plan.spot(side * dice.uniform(0.0, 0.3), dice.uniform(0.0, 0.5), travel + RADIUS)
    ball = pose(x, y, one * RADIUS, dice.uniform(-math.pi, math.pi))
    reach = dice.uniform(0.5, 0.5)
    x, y = plan.spot(-side * dice.uniform(0.05, 0.4), dice.uniform(0.0, 0.7), reach)
    carried = pose(x, y, dice.uniform(0.6, 1.6), dice.uniform(-math.pi, math.pi))
    x, y = plan.spot(side * dice.uniform(0.3, 0.6), dice.uniform(0.1, 0.8), one)
    arm = pose(x, y, zero, dice.uniform(-math.pi, math.pi))
    hinge = pose(zero, zero, 0.7 * one, zero)
    still = torch.eye(4).repeat(dice.batch, 1, 1)
    nothing = torch.zeros(dice.batch, 3)
    drawn = torch.nn.functional.normalize(torch.randn(dice.batch, 3, generator=dice.generator), dim=-1)
    rolling, swaying = torch.tensor([0.0, 1.0, 0.0]).expand_as(drawn), torch.tensor([1.0, 0.0, 0.0]).expand_as(drawn)
    along = torch.stack([travel, zero, zero], dim=-1)
    turns = [zero, travel / RADIUS, zero, dice.uniform(0.3, 0.6), dice.uniform(0.6, 1.2)]
    spins = [zero, zero, dice.uniform(-1.5, 1.5), zero, zero]
    rates = [zero, *(dice.uniform(1.0, 2.5) for _ in range(4))]
    phases = [zero, *(dice.uniform(-math.pi, math.pi) for _ in range(4))]
    return Bodies(
        parent=(0, 0, 0, 0, LINK),
        rest=torch.stack([still, ball, carried, arm, hinge], dim=1),
        slide=torch.stack([nothing, along, 0.25 * drawn, nothing, nothing], dim=1),
        drift=torch.stack([nothing, nothing, 0.15 * drawn.roll(1, -1), nothing, nothing], dim=1),
        axis=torch.stack([rolling, rolling, drawn, swaying, swaying], dim=1),
        spin=torch.stack(spins, dim=1),
        turn=torch.stack(turns, dim=1),
        rate=torch.stack(rates, dim=1),
        phase=torch.stack(phases, dim=1),
    )


def _draw_movers(dice: Dice) -> list[Part]:
    """The solids of the moving bodies."""
    still = torch.eye(4).repeat(dice.batch, 1, 1)
    size = dice.uniform(0.2, 0.38, 3)
    round_size = torch.full((dice.batch,), 2 * RADIUS)
    thick = torch.full((dice.batch,), 0.12)
    zero = _zeros(dice)
    stick, tip = pose(zero, zero, zero + 0.35, zero), pose(zero, zero, zero + 0.28, zero)
    cloth = dice.paint("cloth", "wood", "stone", "terrazzo", period=(0.3, 0.7))
    return [
        _part(
            "ellipsoid", 9, (round_size,) * 3, still, dice.paint("ball", "stone", "terrazzo", period=(0.4, 0.7)), BALL
        ),
        _part(
            "box", 10, tuple(size.T), still, dice.paint("crate", "abstract", "landscape", "books", period=None), CARRIED
        ),  # type: ignore[arg-type]
        _part("box", 11, (thick, thick * 1.4, zero + 0.7), stick, cloth, LINK),
        _part("box", 11, (thick * 1.1, thick * 1.2, zero + 0.56), tip, cloth, TIP),
    ]
