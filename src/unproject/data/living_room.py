"""A furnished living room in which a ball rolls and a toy digger works: the set of the bundled sample clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unproject.data.scene import Bodies, Kind, Lights, Paint, Part, Room, Stage, World, assemble, pose, texture_number
from unproject.data.texture import TextureBank, make_bank
from unproject.geometry.rigid import from_rt, so3_exp

Triple = tuple[float, float, float]

BALL, DIGGER, BOOM, STICK = 1, 2, 3, 4
BALL_RADIUS = 0.19


@dataclass(kw_only=True)
class Builder:
    """Collects the parts of a room. Places are centres in metres; a thing's yaw is in degrees."""

    bank: TextureBank
    parts: list[Part] = field(default_factory=list)
    instance: int = 0

    def paint(
        self,
        kind: str,
        variant: int = 0,
        *,
        period: float | None = 1.0,
        colour: Triple | None = None,
        shift: float = 0.0,
    ) -> Paint:
        """A texture of the bank, tinted so that its mean is `colour`; without a period it fills the face once."""
        number = texture_number(kind, torch.tensor([variant]), self.bank)
        tint = torch.ones(1, 3)
        if colour is not None:
            top = int(number) * self.bank.rows
            mean = self.bank.atlas[:, top : top + self.bank.size, : self.bank.size].square().mean((1, 2))
            tint = (torch.tensor(colour).square() / mean)[None]
        return Paint(
            texture=number,
            period=None if period is None else torch.tensor([period]),
            tint=tint,
            shift=torch.full((1, 3), shift),
        )

    def thing(self) -> None:
        """What is added from here on is one more object."""
        self.instance += 1

    def add(
        self,
        kind: Kind,
        place: Triple,
        size: Triple,
        paint: Paint,
        *,
        yaw: float = 0.0,
        pitch: float = 0.0,
        body: int = 0,
    ) -> None:
        """One box or ellipsoid of the current object; pitch leans it forward about its own x axis."""
        upright = pose(*(torch.tensor([value]) for value in (*place, math.radians(yaw))))
        lean = from_rt(so3_exp(torch.tensor([[math.radians(pitch), 0.0, 0.0]])), torch.zeros(1, 3))
        half = torch.tensor([size]) / 2
        part = Part(kind=kind, body=body, instance=self.instance, half=half, body_from_part=upright @ lean, paint=paint)
        self.parts.append(part)

    def box(
        self, place: Triple, size: Triple, paint: Paint, *, yaw: float = 0.0, pitch: float = 0.0, body: int = 0
    ) -> None:
        """A box."""
        self.add("box", place, size, paint, yaw=yaw, pitch=pitch, body=body)

    def ball(
        self, place: Triple, size: Triple, paint: Paint, *, yaw: float = 0.0, pitch: float = 0.0, body: int = 0
    ) -> None:
        """An ellipsoid."""
        self.add("ellipsoid", place, size, paint, yaw=yaw, pitch=pitch, body=body)


def _around(centre: tuple[float, float], yaw: float, x: float, y: float) -> tuple[float, float]:
    """Floor place of a part of a piece of furniture that stands at `centre`, turned by `yaw` degrees."""
    cosine, sine = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return centre[0] + cosine * x - sine * y, centre[1] + sine * x + cosine * y


def _shell(b: Builder) -> None:
    """Skirting boards, window, curtains, pictures."""
    white = b.paint("painted", 0, colour=(0.86, 0.85, 0.82))
    b.thing()
    b.box((0.0, 5.19, 0.05), (4.8, 0.03, 0.10), white)
    for x in (-2.39, 2.39):
        b.box((x, 2.3, 0.05), (0.03, 5.8, 0.10), white)
    b.thing()
    b.box((-2.39, 3.75, 1.5), (0.03, 1.5, 1.3), b.paint("clouds", 0, period=None, colour=(1.05, 1.1, 1.15)))
    for y in (2.98, 3.75, 4.52):
        b.box((-2.37, y, 1.5), (0.06, 0.06, 1.36), white)
    for z in (0.84, 1.7, 2.16):
        b.box((-2.37, 3.75, z), (0.06, 1.6, 0.06), white)
    b.box((-2.3, 3.75, 0.80), (0.22, 1.7, 0.035), white)
    b.thing()
    for number, y in enumerate((2.70, 2.80, 2.92, 4.58, 4.70, 4.80)):
        fold = b.paint("cloth", 1, period=0.6, shift=0.13 * number, colour=(0.72, 0.66, 0.55))
        b.box((-2.29 + 0.04 * (number % 2), y, 1.25), (0.06, 0.12, 2.2), fold)
    for x, z, width, height, kind, variant in (
        (-0.85, 1.58, 0.62, 0.46, "landscape", 0),
        (0.00, 1.66, 0.44, 0.58, "abstract", 1),
        (0.66, 1.55, 0.46, 0.36, "landscape", 2),
    ):
        b.thing()
        b.box((x, 5.185, z), (width, 0.03, height), b.paint(kind, variant, period=None))
    b.thing()
    b.box((2.385, 3.4, 1.55), (0.03, 0.8, 0.6), b.paint("abstract", 2, period=None))


def _seats(b: Builder) -> None:
    """A sofa against the wall and an armchair turned to it."""
    colour = (0.40, 0.46, 0.52)
    cloth = b.paint("cloth", 0, period=0.5, colour=colour)
    b.thing()
    b.box((-0.25, 4.62, 0.27), (1.9, 0.85, 0.30), cloth)
    b.box((-0.25, 4.97, 0.56), (1.9, 0.22, 0.62), cloth, pitch=-8.0)
    for x in (-1.28, 0.78):
        b.box((x, 4.62, 0.33), (0.20, 0.88, 0.52), cloth)
    for x in (-0.72, 0.22):
        b.box(
            (x, 4.55, 0.46), (0.90, 0.70, 0.13), b.paint("cloth", 0, period=0.5, shift=0.3, colour=(0.45, 0.51, 0.57))
        )
    b.thing()
    b.box((-0.95, 4.72, 0.68), (0.42, 0.14, 0.40), b.paint("carpet", 0, period=None), yaw=12.0, pitch=-20.0)
    b.thing()
    b.box(
        (0.42, 4.74, 0.66),
        (0.40, 0.13, 0.38),
        b.paint("cloth", 2, period=0.4, colour=(0.75, 0.55, 0.30)),
        yaw=-15.0,
        pitch=-20.0,
    )
    chair, yaw = (1.70, 3.15), 62.0
    leather = b.paint("cloth", 2, period=0.16, colour=(0.52, 0.36, 0.24))
    b.thing()
    b.box((*_around(chair, yaw, 0.0, 0.0), 0.30), (0.66, 0.66, 0.22), leather, yaw=yaw)
    b.box((*_around(chair, yaw, 0.0, -0.32), 0.60), (0.70, 0.14, 0.66), leather, yaw=yaw, pitch=10.0)
    for side in (-0.38, 0.38):
        b.box((*_around(chair, yaw, side, 0.0), 0.40), (0.11, 0.64, 0.42), leather, yaw=yaw)
    wood = b.paint("wood", 0, period=0.7, colour=(0.32, 0.22, 0.15))
    for x in (-0.30, 0.30):
        for y in (-0.28, 0.28):
            b.box((*_around(chair, yaw, x, y), 0.10), (0.05, 0.05, 0.20), wood, yaw=yaw)


def _table(b: Builder) -> None:
    """A low table on a rug, with books, a bowl of fruit and a cup."""
    b.thing()
    b.box((-0.05, 3.0, 0.006), (2.7, 2.0, 0.012), b.paint("carpet", 1, period=None, colour=(0.58, 0.40, 0.33)))
    wood = b.paint("wood", 1, period=1.1, colour=(0.60, 0.42, 0.27))
    centre, yaw = (-0.1, 3.45), 6.0
    b.thing()
    b.box((*centre, 0.42), (1.15, 0.60, 0.045), wood, yaw=yaw)
    b.box((*centre, 0.18), (1.0, 0.48, 0.025), wood, yaw=yaw)
    for x in (-0.51, 0.51):
        for y in (-0.24, 0.24):
            b.box((*_around(centre, yaw, x, y), 0.20), (0.06, 0.06, 0.40), wood, yaw=yaw)
    for number, (turn, kind) in enumerate(((14.0, "landscape"), (-8.0, "abstract"), (22.0, "crate"))):
        b.thing()
        size = (0.27 - 0.02 * number, 0.19 - 0.01 * number, 0.035)
        b.box((-0.42, 3.40, 0.462 + 0.036 * number), size, b.paint(kind, number, period=None), yaw=turn)
    b.thing()
    b.ball((0.08, 3.5, 0.475), (0.30, 0.30, 0.11), b.paint("marble", 0, period=0.3, colour=(0.8, 0.82, 0.85)))
    for x, y, colour in (
        (0.02, 3.48, (0.75, 0.22, 0.15)),
        (0.13, 3.54, (0.80, 0.60, 0.15)),
        (0.08, 3.44, (0.50, 0.65, 0.22)),
    ):
        b.thing()
        b.ball((x, y, 0.545), (0.085, 0.085, 0.08), b.paint("stone", 0, period=0.25, colour=colour))
    b.thing()
    b.box((0.34, 3.37, 0.485), (0.075, 0.075, 0.09), b.paint("ball", 1, period=0.2), yaw=30.0)


def _shelf(b: Builder) -> None:
    """A bookcase in the corner, books and boxes on its boards."""
    wood = b.paint("wood", 2, period=0.9, colour=(0.62, 0.47, 0.33))
    x, y, width, depth, tall = 1.74, 5.0, 1.05, 0.32, 2.05
    b.thing()
    for side in (-1, 1):
        b.box((x + side * width / 2, y, tall / 2), (0.03, depth, tall), wood)
    for z in (0.06, 0.46, 0.86, 1.26, 1.66, tall - 0.015):
        b.box((x, y, z), (width, depth, 0.028), wood)
    back = b.paint("wood", 0, period=0.9, colour=(0.38, 0.28, 0.20))
    b.box((x, y + depth / 2 - 0.01, tall / 2), (width, 0.015, tall), back)
    rows = (
        (0.46, -0.12, 0.76, 0.30, 0),
        (0.86, 0.08, 0.82, 0.29, 1),
        (1.26, -0.14, 0.70, 0.31, 2),
        (1.66, 0.18, 0.58, 0.27, 1),
    )
    for z, offset, wide, high, variant in rows:
        b.thing()
        b.box(
            (x + offset, y - 0.02, z + 0.014 + high / 2),
            (wide, 0.22, high),
            _shelf_row(b.paint("books", variant), high),
        )
    for place, size, paint in (
        ((x - 0.20, y, 0.20), (0.42, 0.26, 0.24), b.paint("crate", 0, period=None)),
        ((x + 0.26, y, 0.19), (0.34, 0.26, 0.22), b.paint("crate", 2, period=None)),
    ):
        b.thing()
        b.box(place, size, paint)
    b.thing()
    b.ball((x + 0.38, y - 0.02, 1.36), (0.16, 0.16, 0.17), b.paint("terrazzo", 0, period=0.3))
    b.thing()
    b.ball((x - 0.34, y - 0.02, 1.78), (0.17, 0.17, 0.21), b.paint("marble", 2, period=0.4))


def _shelf_row(paint: Paint, high: float) -> Paint:
    """Books as tall as the texture's shelf, half a period, with their feet on the board."""
    return Paint(
        texture=paint.texture, period=torch.tensor([2 * high]), tint=paint.tint, shift=torch.tensor([[0.2, 0.0, 0.19]])
    )


def _corner(b: Builder) -> None:
    """A floor lamp, a plant, and boxes left by somebody who moved in."""
    brass = b.paint("painted", 2, colour=(0.45, 0.36, 0.20))
    b.thing()
    b.box((1.02, 4.82, 0.015), (0.26, 0.26, 0.03), brass)
    b.box((1.02, 4.82, 0.75), (0.025, 0.025, 1.5), brass)
    b.ball((1.02, 4.82, 1.52), (0.36, 0.36, 0.28), b.paint("cloth", 2, period=0.3, colour=(1.1, 1.0, 0.85)))
    b.thing()
    b.box((-1.90, 4.65, 0.17), (0.34, 0.34, 0.34), b.paint("terrazzo", 1, period=0.5), yaw=20.0)
    b.box((-1.90, 4.65, 0.75), (0.03, 0.03, 0.9), b.paint("wood", 0, colour=(0.3, 0.25, 0.15)))
    for number in range(16):
        angle = number * 2.4
        reach, rise = 0.22 - 0.009 * number, 0.50 + 0.05 * number
        place = (-1.90 + reach * math.cos(angle), 4.65 + reach * math.sin(angle), rise)
        paint = b.paint("grass", 1, period=0.35, shift=0.1 * number, colour=(0.26, 0.38 + 0.01 * number, 0.18))
        size = (0.13, 0.40 - 0.015 * number, 0.05)
        b.ball(place, size, paint, yaw=math.degrees(angle) - 90.0, pitch=35.0 - 50.0 * (number % 2))
    b.thing()
    b.box((-1.75, 2.75, 0.17), (0.46, 0.36, 0.34), b.paint("crate", 1, period=None), yaw=-24.0)
    b.thing()
    b.box((-1.78, 2.77, 0.43), (0.30, 0.24, 0.18), b.paint("crate", 2, period=None), yaw=10.0)


def _toys(b: Builder) -> None:
    """What moves: a ball, and the arm of a digger whose body stands still."""
    b.thing()
    b.ball((0.0, 0.0, 0.0), (2 * BALL_RADIUS,) * 3, b.paint("ball", 0, period=0.42), body=BALL)
    yellow = b.paint("concrete", 1, period=0.6, colour=(0.85, 0.62, 0.12))
    dark = b.paint("concrete", 0, period=0.4, colour=(0.20, 0.20, 0.22))
    glass = b.paint("abstract", 0, period=None)
    b.thing()
    for place, size, paint, body in (
        ((0.0, -0.14, 0.07), (0.54, 0.09, 0.14), dark, DIGGER),
        ((0.0, 0.14, 0.07), (0.54, 0.09, 0.14), dark, DIGGER),
        ((-0.04, 0.0, 0.21), (0.40, 0.27, 0.14), yellow, DIGGER),
        ((-0.08, 0.04, 0.36), (0.20, 0.18, 0.18), glass, DIGGER),
        ((0.23, 0.0, 0.0), (0.49, 0.07, 0.09), yellow, BOOM),
        ((0.18, 0.0, 0.0), (0.38, 0.06, 0.07), yellow, STICK),
        ((0.39, 0.0, -0.04), (0.12, 0.18, 0.14), dark, STICK),
    ):
        b.box(place, size, paint, body=body)


def _bodies() -> Bodies:
    """The ball rolls along the rug; boom and stick of the digger swing, the stick carried by the boom."""

    def rows(*values: Sequence[float]) -> Tensor:
        return torch.tensor([values])

    def column(*values: float) -> Tensor:
        return torch.tensor([values])

    def place(x: float, y: float, z: float, yaw: float) -> Tensor:
        return pose(*(torch.tensor([value]) for value in (x, y, z, math.radians(yaw))))

    travel = 0.72
    eye, still = torch.eye(4)[None], (0.0, 0.0, 0.0)
    lift = from_rt(so3_exp(torch.tensor([[0.0, -0.85, 0.0]])), torch.tensor([[0.11, 0.0, 0.27]]))
    bend = from_rt(so3_exp(torch.tensor([[0.0, 1.25, 0.0]])), torch.tensor([[0.46, 0.0, 0.0]]))
    rest = [eye, place(-0.33, 2.86, BALL_RADIUS + 0.012, 3.0), place(0.92, 2.70, 0.012, 208.0), lift, bend]
    return Bodies(
        parent=(0, 0, 0, DIGGER, BOOM),
        rest=torch.stack(rest, dim=1),
        slide=rows(still, (travel, 0.0, 0.0), still, still, still),
        drift=rows(still, still, still, still, still),
        axis=rows((0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0)),
        spin=column(0.0, 0.0, 0.0, 0.0, 0.0),
        turn=column(0.0, travel / BALL_RADIUS, 0.0, 0.35, 0.65),
        rate=column(0.0, 1.15, 0.0, 2.6, 2.6),
        phase=column(0.0, -1.45, 0.0, 0.3, -1.2),
    )


def living_room() -> World:
    """The living room."""
    b = Builder(bank=make_bank(seed=5, size=512, variants=3))
    for furnish in (_shell, _seats, _table, _shelf, _corner, _toys):
        furnish(b)
    wall = b.paint("plaster", 0, period=3.1, colour=(0.80, 0.77, 0.70))
    floor = b.paint("planks", 1, period=2.3, colour=(0.52, 0.38, 0.26))
    ceiling = b.paint("plaster", 2, period=3.0, colour=(0.85, 0.85, 0.84))
    back = b.paint("wallpaper", 1, period=1.1, colour=(0.66, 0.66, 0.58))
    return assemble(
        room=Room(
            centre=torch.tensor([[0.0, 2.3, 1.3]]),
            half=torch.tensor([[2.4, 2.9, 1.3]]),
            open=torch.zeros(1, 6, dtype=torch.bool),
        ),
        bodies=_bodies(),
        parts=b.parts,
        faces=[wall, wall, wall, back, floor, ceiling],
        sky=wall,
        lights=Lights(
            position=torch.tensor([[[-2.15, 3.7, 1.75], [0.4, 2.3, 2.45]]]),
            colour=torch.tensor([[[1.5, 1.6, 1.8], [1.25, 1.1, 0.9]]]),
            reach=torch.tensor([[2.2, 3.0]]),
            above=torch.tensor([[0.62, 0.62, 0.64]]),
            below=torch.tensor([[0.44, 0.40, 0.36]]),
        ),
        stage=Stage(
            centre=torch.tensor([[0.0, 0.3, 1.45]]),
            heading=torch.tensor([math.pi / 2]),
            depth=torch.tensor([2.6]),
            inner=torch.zeros(1),
            outer=torch.full((1,), 0.8),
        ),
        bank=b.bank,
    )
