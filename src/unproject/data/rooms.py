"""Random worlds: rooms, courtyards and open ground with furniture, pictures, and things that move by themselves.

Layout: the camera's stage is a disc (or a ring) around the origin of the floor plan; objects are dealt over a wedge of
bearings around the heading and pushed out of the stage, so that no camera ever stands inside something.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unproject.data.scene import (
    Bodies,
    Kind,
    Lights,
    Paint,
    Part,
    Room,
    Stage,
    World,
    assemble,
    map_batch,
    pose,
    texture_number,
)
from unproject.data.texture import TextureBank, default_bank

EYE = 1.45
"""Mean height of a camera above the floor."""
BALL, CARRIED, LINK, TIP = 1, 2, 3, 4
"""Moving bodies: a rolling ball, a floating box, and an arm of two links."""
RADIUS = 0.22
"""Of the rolling ball."""

Number = Tensor | float


@dataclass(frozen=True, kw_only=True)
class Dice:
    """Random numbers for a batch of worlds. Drawn on the CPU in float32, so that every device gets the same world."""

    generator: torch.Generator
    batch: int
    bank: TextureBank

    def uniform(self, low: float, high: float) -> Float[Tensor, " B"]:
        """Evenly between two bounds."""
        return low + (high - low) * torch.rand(self.batch, generator=self.generator)

    def triple(self, low: float, high: float) -> Float[Tensor, "B 3"]:
        """Three at once."""
        return low + (high - low) * torch.rand(self.batch, 3, generator=self.generator)

    def chance(self, share: float) -> Bool[Tensor, " B"]:
        """True for a share of the worlds."""
        return torch.rand(self.batch, generator=self.generator) < share

    def row(self, *values: Number) -> Float[Tensor, "B C"]:
        """Columns of a table, some of them the same for all worlds."""
        return torch.stack([torch.as_tensor(value, dtype=torch.float32).expand(self.batch) for value in values], dim=-1)

    def upright(self, x: Number, y: Number, z: Number, yaw: Number = 0.0) -> Float[Tensor, "B 4 4"]:
        """Pose of something that stands upright."""
        return pose(*self.row(x, y, z, yaw).unbind(-1))

    def paint(self, *kinds: str, period: tuple[float, float] | None = (0.8, 1.6)) -> Paint:
        """One of the kinds, in a random variant and tint; without a period, a picture that fills the face."""
        variants = torch.randint(0, self.bank.variants, (self.batch,), generator=self.generator)
        numbers = torch.stack([texture_number(kind, variants, self.bank) for kind in kinds])
        choice = torch.randint(0, len(kinds), (self.batch,), generator=self.generator)
        return Paint(
            texture=numbers[choice, torch.arange(self.batch)],
            period=None if period is None else self.uniform(*period),
            tint=self.uniform(0.75, 1.15)[:, None] * self.triple(0.85, 1.0),
            shift=self.triple(0.0, 1.0),
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The floor plan: walls and the stage."""

    room: Room
    stage: Stage

    def spot(self, bearing: Tensor, share: Tensor, radius: Number) -> tuple[Tensor, Tensor]:
        """Floor place (x, y) of something of that radius, `share` of the way from the stage to the wall."""
        angle = self.stage.heading + bearing
        nearest = self.stage.outer + radius + 0.15
        step = torch.stack([angle.cos(), angle.sin()], dim=-1)
        wall = self.room.centre[:, :2] + self.room.half[:, :2] * step.sign()
        furthest = (wall / torch.where(step.abs() < 1e-3, 1e-3, step)).abs().amin(-1).clamp(max=7.0) - radius
        x, y = (step * (nearest + share * (furthest - nearest).clamp(min=0))[:, None]).unbind(-1)
        return x, y


def sample_world(
    seed: int,
    *,
    batch: int = 1,
    moving: bool = True,
    ring: bool = False,
    textures: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> World:
    """Draw `batch` worlds of 14 solids each. With `moving` false the movers stand still where they are.

    With `ring` the camera's stage is a ring around furniture, else a disc that looks at it. The same seed gives the
    same worlds on every device. `textures` is the seed of what their surfaces show.
    """
    dice = _dice(seed, batch, textures)
    plan = _draw_plan(dice, ring)
    bodies = _draw_bodies(dice, plan)
    if not moving:
        bodies = replace(bodies, rate=torch.zeros_like(bodies.rate), spin=torch.zeros_like(bodies.spin))
    world = assemble(
        room=plan.room,
        bodies=bodies,
        parts=[
            *_draw_fittings(dice, plan),
            *_draw_table(dice, plan, ring),
            *_draw_loose(dice, plan),
            *_draw_movers(dice),
        ],
        faces=_draw_walls(dice),
        sky=dice.paint("clouds"),
        lights=_draw_lights(dice, plan),
        stage=plan.stage,
        bank=dice.bank,
    )
    target = torch.device(device)
    return world.to(target, dtype, default_bank(target, dtype, textures))


def sample_planar_world(
    seed: int, *, batch: int = 1, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> World:
    """Draw worlds in which a camera on the stage sees one plane: a wide board, near and square to the heading."""
    dice = _dice(seed, batch, 0)
    plan = _draw_plan(dice, ring=False)
    board = dice.upright(0, 0, 0, plan.stage.heading) @ dice.upright(plan.stage.outer + dice.uniform(1.0, 2.0), 0, EYE)
    paint = dice.paint("landscape", "abstract", "books", "stone", "terrazzo", period=(1.5, 2.5))
    everywhere = Room(
        centre=torch.zeros(batch, 3),
        half=torch.full((batch, 3), 40.0),
        open=torch.ones(batch, 6, dtype=torch.bool),
    )
    world = assemble(
        room=everywhere,
        bodies=replace(map_batch(lambda tensor: tensor[:, :1], _draw_bodies(dice, plan)), parent=(0,)),
        parts=[_part("box", 1, dice.row(0.1, 60, 60), board, paint)],
        faces=_draw_walls(dice),
        sky=dice.paint("clouds"),
        lights=_draw_lights(dice, plan),
        stage=plan.stage,
        bank=dice.bank,
    )
    target = torch.device(device)
    return world.to(target, dtype, default_bank(target, dtype, 0))


def _dice(seed: int, batch: int, textures: int) -> Dice:
    bank = default_bank(torch.device("cpu"), torch.float32, textures)
    return Dice(generator=torch.Generator().manual_seed(seed), batch=batch, bank=bank)


def _draw_plan(dice: Dice, ring: bool) -> Plan:
    """Rooms (60 %), courtyards without a ceiling (15 %), open ground (25 %)."""
    inner = dice.uniform(1.2, 1.5) if ring else dice.uniform(0.0, 0.0)
    outer = inner + (0.7 if ring else dice.uniform(0.7, 1.1))
    kind = dice.uniform(0.0, 1.0)
    outdoors, roofless = kind > 0.75, kind > 0.6
    back, front = outer + dice.uniform(0.3, 1.0), outer + dice.uniform(2.2, 4.6)
    right, left = outer + dice.uniform(0.9, 2.6), outer + dice.uniform(0.9, 2.6)
    back, front, right, left = (torch.where(outdoors, 40.0, wall) for wall in (back, front, right, left))
    low, high = dice.row(-back, -right, 0), dice.row(front, left, torch.where(roofless, 25.0, dice.uniform(2.4, 3.1)))
    is_open = torch.stack([outdoors, outdoors, outdoors, outdoors, torch.zeros_like(outdoors), roofless], dim=-1)
    stage = Stage(
        centre=dice.row(0, 0, EYE),
        heading=dice.uniform(-0.4, 0.4),
        depth=0 * outer if ring else (outer + front.clamp(max=5.0)) / 2,
        inner=inner,
        outer=outer,
    )
    return Plan(room=Room(centre=(low + high) / 2, half=(high - low) / 2, open=is_open), stage=stage)


def _draw_walls(dice: Dice) -> list[Paint]:
    """Three walls alike, the one opposite of another kind, floor and ceiling."""
    wall = dice.paint("plaster", "wallpaper", "brick", "concrete", "painted", "stone", period=(1.8, 3.0))
    accent = dice.paint("brick", "wallpaper", "stone", "planks", "books", "plaster", period=(1.8, 3.0))
    floor = dice.paint("planks", "tiles", "terrazzo", "grass", "concrete", "marble", period=(1.6, 2.6))
    return [wall, accent, wall, wall, floor, dice.paint("plaster", "concrete", period=(2.0, 3.0))]


def _draw_lights(dice: Dice, plan: Plan) -> Lights:
    """A lamp under the ceiling, or the sun."""
    outdoors = plan.room.half[:, 2] > 5
    lamp = dice.row(dice.uniform(0.5, 2.5), dice.uniform(-1.2, 1.2), 2 * plan.room.half[:, 2] - 0.25)
    sun = dice.row(dice.uniform(-60.0, 60.0), dice.uniform(-60.0, 60.0), dice.uniform(60.0, 100.0))
    warmth = dice.row(dice.uniform(0.95, 1.1), 1, dice.uniform(0.75, 1.05))
    strength = dice.uniform(1.3, 2.0) * torch.where(outdoors, 0.8, 1.0)
    ambient = dice.uniform(0.7, 1.1)[:, None] * warmth.flip(-1)
    return Lights(
        position=torch.where(outdoors[:, None], sun, lamp)[:, None],
        colour=(strength[:, None] * warmth)[:, None],
        reach=torch.where(outdoors, 1000.0, dice.uniform(2.0, 5.0))[:, None],
        above=ambient,
        below=0.6 * ambient,
    )


def _part(kind: Kind, instance: int, size: Tensor, place: Tensor, paint: Paint, body: int = 0) -> Part:
    return Part(kind=kind, body=body, instance=instance, half=size / 2, body_from_part=place, paint=paint)


def _draw_fittings(dice: Dice, plan: Plan) -> list[Part]:
    """Pictures on the far wall and on a side wall (or boards standing there), and a rug."""
    high, low = plan.room.centre + plan.room.half, plan.room.centre - plan.room.half
    far = high[:, 0].clamp(max=6.0)
    across = (far * plan.stage.heading.tan() + dice.uniform(-0.8, 0.8)).clamp(-3.0, 3.0)
    ahead = dice.upright(far - 0.02, across, dice.uniform(1.2, 1.7))
    side = torch.where(plan.stage.heading > 0, high[:, 1].clamp(max=4.0) - 0.02, low[:, 1].clamp(min=-4.0) + 0.02)
    beside = dice.upright(far * dice.uniform(0.35, 0.8), side, dice.uniform(1.2, 1.7))
    spot = plan.spot(dice.uniform(-0.3, 0.3), dice.uniform(0.0, 0.4), 0.5)
    rug = dice.upright(*spot, 0, dice.uniform(-0.3, 0.3))
    sizes = [
        dice.row(0.03, dice.uniform(0.7, 1.4), dice.uniform(0.5, 1.0)),
        dice.row(dice.uniform(0.6, 1.2), 0.03, dice.uniform(0.5, 0.9)),
        dice.row(dice.uniform(1.2, 2.4), dice.uniform(0.9, 1.6), 0.015),
    ]
    paints = [
        dice.paint("landscape", "abstract", "books", period=None),
        dice.paint("landscape", "abstract", period=None),
        dice.paint("carpet", "cloth", period=None),
    ]
    rows = zip(sizes, (ahead, beside, rug), paints, strict=True)
    return [_part("box", number, *row) for number, row in enumerate(rows, start=1)]


def _draw_table(dice: Dice, plan: Plan, ring: bool) -> list[Part]:
    """A table with something on it; on a ring, it stands in the middle."""
    long, wide, tall = dice.uniform(0.8, 1.3), dice.uniform(0.5, 0.8), dice.uniform(0.45, 0.8)
    x, y = plan.spot(dice.uniform(-0.15, 0.15), dice.uniform(0.1, 0.6), torch.hypot(long, wide) / 2)
    if ring:
        x, y = dice.uniform(-0.15, 0.15), dice.uniform(-0.15, 0.15)
    table = dice.upright(x, y, 0, dice.uniform(-math.pi, math.pi))
    wood = dice.paint("wood", "planks", "marble", "painted")
    goods = dice.triple(0.15, 0.4)
    on_top = dice.upright(dice.uniform(-0.15, 0.15), 0, tall + goods[:, 2] / 2, dice.uniform(-1.5, 1.5))
    leg = dice.row(0.05, wide * 0.9, tall - 0.06)
    return [
        _part("box", 4, dice.row(long, wide, 0.05), table @ dice.upright(0, 0, tall - 0.025), wood),
        _part("box", 4, leg, table @ dice.upright(long / 2 - 0.08, 0, tall / 2 - 0.03), wood),
        _part("box", 4, leg, table @ dice.upright(0.08 - long / 2, 0, tall / 2 - 0.03), wood),
        _part("box", 5, goods, table @ on_top, dice.paint("crate", "books", "abstract", "landscape", period=None)),
    ]


def _draw_loose(dice: Dice, plan: Plan) -> list[Part]:
    """A cabinet and a box at two bearings, an ellipsoid between them."""
    side = torch.where(dice.chance(0.5), -1.0, 1.0)
    cabinet = dice.row(dice.uniform(0.4, 0.9), dice.uniform(0.4, 0.9), dice.uniform(0.6, 1.9))
    box, lump = dice.triple(0.25, 0.7), dice.triple(0.25, 0.7)
    cabinet_spot = plan.spot(side * dice.uniform(0.35, 0.6), dice.uniform(0.5, 1.0), cabinet[:, :2].norm(dim=-1) / 2)
    box_spot = plan.spot(-side * dice.uniform(0.3, 0.55), dice.uniform(0.0, 0.9), box[:, :2].norm(dim=-1) / 2)
    lump_spot = plan.spot(side * dice.uniform(0.1, 0.3), dice.uniform(0.0, 0.8), lump.amax(-1) / 2)
    yaws = dice.uniform(-0.3, 0.3), dice.uniform(-math.pi, math.pi), dice.uniform(-math.pi, math.pi)
    patterns = ("stone", "cloth", "terrazzo", "marble", "ball", "wood", "carpet")
    paints = [
        dice.paint("books", "wood", "crate", "painted", "planks"),
        dice.paint("crate", "crate", "abstract", period=None),
        dice.paint(*patterns, period=(0.4, 0.9)),
    ]
    return [
        _part("box", 6, cabinet, dice.upright(*cabinet_spot, cabinet[:, 2] / 2, yaws[0]), paints[0]),
        _part("box", 7, box, dice.upright(*box_spot, box[:, 2] / 2, yaws[1]), paints[1]),
        _part("ellipsoid", 8, lump, dice.upright(*lump_spot, lump[:, 2] / 2, yaws[2]), paints[2]),
    ]


def _draw_bodies(dice: Dice, plan: Plan) -> Bodies:
    """Rest places out of the stage by more than the bodies' reach, and smooth motion that never leaves it."""
    side = torch.where(dice.chance(0.5), -1.0, 1.0)
    travel = dice.uniform(0.2, 0.6)
    ball = plan.spot(side * dice.uniform(0.0, 0.3), dice.uniform(0.0, 0.5), travel + RADIUS)
    carried = plan.spot(-side * dice.uniform(0.05, 0.4), dice.uniform(0.0, 0.7), 0.6)
    arm = plan.spot(side * dice.uniform(0.3, 0.6), dice.uniform(0.1, 0.8), 1.0)
    yaws = [dice.uniform(-math.pi, math.pi) for _ in range(3)]
    rest = [
        dice.upright(0, 0, 0),
        dice.upright(*ball, RADIUS, yaws[0]),
        dice.upright(*carried, dice.uniform(0.6, 1.6), yaws[1]),
        dice.upright(*arm, 0, yaws[2]),
        dice.upright(0, 0, 0.7),
    ]
    drawn = torch.nn.functional.normalize(torch.randn(dice.batch, 3, generator=dice.generator), dim=-1)
    still, across, along = dice.row(0, 0, 0), dice.row(0, 1, 0), dice.row(1, 0, 0)
    rates, phases = ([dice.uniform(*bounds) for _ in range(4)] for bounds in ((1.0, 2.5), (-math.pi, math.pi)))
    return Bodies(
        parent=(0, 0, 0, 0, LINK),
        rest=torch.stack(rest, dim=1),
        slide=torch.stack([still, travel[:, None] * along, 0.25 * drawn, still, still], dim=1),
        drift=torch.stack([still, still, 0.15 * drawn.roll(1, -1), still, still], dim=1),
        axis=torch.stack([across, across, drawn, along, along], dim=1),
        spin=dice.row(0, 0, dice.uniform(-1.5, 1.5), 0, 0),
        turn=dice.row(0, travel / RADIUS, 0, dice.uniform(0.3, 0.6), dice.uniform(0.6, 1.2)),
        rate=dice.row(0, *rates),
        phase=dice.row(0, *phases),
    )


def _draw_movers(dice: Dice) -> list[Part]:
    """The solids of the moving bodies."""
    cloth = dice.paint("cloth", "wood", "stone", "terrazzo", period=(0.3, 0.7))
    goods = dice.paint("crate", "abstract", "landscape", "books", period=None)
    toy = dice.paint("ball", "stone", "terrazzo", period=(0.4, 0.7))
    centre = dice.upright(0, 0, 0)
    return [
        _part("ellipsoid", 9, dice.row(*[2 * RADIUS] * 3), centre, toy, BALL),
        _part("box", 10, dice.triple(0.2, 0.38), centre, goods, CARRIED),
        _part("box", 11, dice.row(0.12, 0.17, 0.7), dice.upright(0, 0, 0.35), cloth, LINK),
        _part("box", 11, dice.row(0.13, 0.14, 0.56), dice.upright(0, 0, 0.28), cloth, TIP),
    ]
