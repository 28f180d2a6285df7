"""A procedural world: a room, solids on moving bodies, paint and lights, batched over worlds (axis B).

Metres and seconds; z points up, the floor of a room lies at z = 0. Body 0 is the world itself and stands still.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unproject.data.texture import KINDS, TextureBank
from unproject.geometry.rigid import from_rt, so3_exp
from unproject.tensors import map_tensors

Kind = Literal["box", "ellipsoid"]

SKY = 6
"""Surface number of the sky; 0..5 are the room's faces (-x, +x, -y, +y, floor, ceiling), solid s is FIRST_SOLID + s."""
FIRST_SOLID = 7

Batched = TypeVar("Batched")


def map_batch(change: Callable[[Tensor], Tensor], batch: Batched) -> Batched:
    """`map_tensors` but for textures: they have no batch axis and are shared."""
    return map_tensors(change, batch, keep=TextureBank)


@dataclass(frozen=True, kw_only=True)
class Bodies:
    """Rigid bodies that swing to and fro for ever, each relative to its parent (so chains are articulated).

    At time t a body is moved from its rest by slide sin(p) + drift cos(p) and turned about `axis` by
    spin t + turn sin(p), where p = rate t + phase.
    """

    parent: tuple[int, ...]
    """Earlier body that carries this one; body 0 carries itself."""
    rest: Float[Tensor, "B K 4 4"]
    """parent_from_body."""
    slide: Float[Tensor, "B K 3"]
    drift: Float[Tensor, "B K 3"]
    axis: Float[Tensor, "B K 3"]
    spin: Float[Tensor, "B K"]
    turn: Float[Tensor, "B K"]
    rate: Float[Tensor, "B K"]
    phase: Float[Tensor, "B K"]

    def world_from_body(self, times: Float[Tensor, "B N"]) -> Float[Tensor, "B N K 4 4"]:
        """Where the bodies are at the given times."""
        phase = self.rate[:, None] * times[..., None] + self.phase[:, None]
        swing = phase.sin()
        angle = self.spin[:, None] * times[..., None] + self.turn[:, None] * swing
        place = self.slide[:, None] * swing[..., None] + self.drift[:, None] * phase.cos()[..., None]
        local = self.rest[:, None] @ from_rt(so3_exp(self.axis[:, None] * angle[..., None]), place)
        poses = [local[:, :, 0]]
        for body in range(1, len(self.parent)):
            poses.append(poses[self.parent[body]] @ local[:, :, body])
        return torch.stack(poses, dim=2)

    def moving(self) -> Bool[Tensor, "B K"]:
        """Bodies that ever move, by themselves or because they are carried."""
        swings = (self.slide.abs() + self.drift.abs()).sum(-1) + self.turn.abs() > 0
        own = ((self.rate != 0) & swings) | (self.spin != 0)
        moving = [own[:, 0]]
        for body in range(1, len(self.parent)):
            moving.append(own[:, body] | moving[self.parent[body]])
        return torch.stack(moving, dim=1)


@dataclass(frozen=True, kw_only=True)
class Room:
    """A box seen from inside, axis-aligned in the world; sky shows through its open faces."""

    centre: Float[Tensor, "B 3"]
    half: Float[Tensor, "B 3"]
    open: Bool[Tensor, "B 6"]


@dataclass(frozen=True, kw_only=True)
class Solids:
    """Boxes and ellipsoids, each fixed to a body; the same kinds in the same order in every world of the batch."""

    kind: tuple[Kind, ...]
    body: tuple[int, ...]
    instance: tuple[int, ...]
    """Object number from 1; parts of one piece of furniture share it. The room is instance 0, the sky -1."""
    half: Float[Tensor, "B S 3"]
    """Half side lengths, or semi-axes."""
    body_from_solid: Float[Tensor, "B S 4 4"]


@dataclass(frozen=True, kw_only=True)
class Paint:
    """What a surface looks like. Faces are mapped flat; a pattern repeats, a picture fills the face once."""

    texture: Int[Tensor, " B"]
    period: Float[Tensor, " B"] | None
    """Metres per repeat; None for a picture."""
    tint: Float[Tensor, "B 3"]
    """Factor on the texture's reflectance."""
    shift: Float[Tensor, "B 3"]
    """Offset of a pattern, in periods."""


@dataclass(frozen=True, kw_only=True)
class Paints:
    """The paint of every surface in the order of surface numbers, as the renderer reads it."""

    texture: Float[Tensor, "B M"]
    per_metre: Float[Tensor, "B M 3"]
    """Periods per metre along the surface's own axes."""
    shift: Float[Tensor, "B M 3"]
    tint: Float[Tensor, "B M 3"]


@dataclass(frozen=True, kw_only=True)
class Lights:
    """Point lights; a far one with a long reach is a sun."""

    position: Float[Tensor, "B L 3"]
    colour: Float[Tensor, "B L 3"]
    reach: Float[Tensor, "B L"]
    """Metres at which the light has fallen to a half."""
    above: Float[Tensor, "B 3"]
    """Ambient light on what faces up."""
    below: Float[Tensor, "B 3"]
    """Ambient light on what faces down."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a camera may go: nothing ever enters inner < radius < outer about the centre (a disc if inner is 0)."""

    centre: Float[Tensor, "B 3"]
    """At eye height."""
    heading: Float[Tensor, " B"]
    """Angle in the floor plane, radians from +x, at which there is most to see."""
    depth: Float[Tensor, " B"]
    """Metres from the centre to the middle of what there is to see."""
    inner: Float[Tensor, " B"]
    outer: Float[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything there is, at every time. `select` gives some of the batch."""

    room: Room
    bodies: Bodies
    solids: Solids
    paints: Paints
    lights: Lights
    stage: Stage
    bank: TextureBank

    @property
    def batch(self) -> int:
        """Number of worlds."""
        return len(self.room.half)

    def select(self, worlds: slice) -> "World":
        """Some worlds of the batch."""
        return map_batch(lambda tensor: tensor[worlds], self)

    def to(self, device: torch.device, dtype: torch.dtype, bank: TextureBank) -> "World":
        """The same world on another device and in another precision, with a bank that is there already."""
        moved = map_batch(lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype), self)
        return dataclasses.replace(moved, bank=bank)

    def surface_body(self) -> Int[Tensor, " M"]:
        """Body that carries each surface."""
        return torch.tensor([0] * FIRST_SOLID + list(self.solids.body), device=self.room.half.device)

    def surface_instance(self) -> Int[Tensor, " M"]:
        """Instance of each surface: -1 sky, 0 room."""
        numbers = [0] * SKY + [-1] + list(self.solids.instance)
        return torch.tensor(numbers, device=self.room.half.device)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One solid while a world is being furnished."""

    kind: Kind
    body: int
    instance: int
    half: Float[Tensor, "B 3"]
    body_from_part: Float[Tensor, "B 4 4"]
    paint: Paint


def assemble(
    *,
    room: Room,
    bodies: Bodies,
    parts: Sequence[Part],
    faces: Sequence[Paint],
    sky: Paint,
    lights: Lights,
    stage: Stage,
    bank: TextureBank,
) -> World:
    """A world from its pieces; `faces` are the paints of the room's six faces in surface order."""
    solids = Solids(
        kind=tuple(part.kind for part in parts),
        body=tuple(part.body for part in parts),
        instance=tuple(part.instance for part in parts),
        half=torch.stack([part.half for part in parts], dim=1),
        body_from_solid=torch.stack([part.body_from_part for part in parts], dim=1),
    )
    halves = [room.half] * (SKY + 1) + [part.half for part in parts]
    paints = _mix([*faces, sky, *(part.paint for part in parts)], halves)
    return World(room=room, bodies=bodies, solids=solids, paints=paints, lights=lights, stage=stage, bank=bank)


def _mix(paints: Sequence[Paint], halves: Sequence[Tensor]) -> Paints:
    """Patterns are scaled by their period, pictures by the face they fill; v runs down walls, as rows of images do."""
    scale, shift = [], []
    for paint, half in zip(paints, halves, strict=True):
        down = half.new_tensor([1.0, 1.0, -1.0])
        if paint.period is None:
            scale.append(0.5 / half * down)
            shift.append(torch.full_like(half, 0.5))
        else:
            scale.append(down / paint.period[:, None])
            shift.append(paint.shift)
    return Paints(
        texture=torch.stack([paint.texture for paint in paints], dim=1).to(halves[0].dtype),
        per_metre=torch.stack(scale, dim=1),
        shift=torch.stack(shift, dim=1),
        tint=torch.stack([paint.tint for paint in paints], dim=1),
    )


def texture_number(kind: str, variant: Int[Tensor, " B"], bank: TextureBank) -> Int[Tensor, " B"]:
    """Number of a texture in the bank."""
    return list(KINDS).index(kind) * bank.variants + variant % bank.variants


def pose(
    x: Float[Tensor, " B"], y: Float[Tensor, " B"], z: Float[Tensor, " B"], yaw: Float[Tensor, " B"]
) -> Float[Tensor, "B 4 4"]:
    """Parent from something that stands upright at a place, turned by `yaw` radians about the vertical."""
    return from_rt(
        so3_exp(rearrange([torch.zeros_like(yaw), torch.zeros_like(yaw), yaw], "c b -> b c")),
        torch.stack([x, y, z], -1),
    )
