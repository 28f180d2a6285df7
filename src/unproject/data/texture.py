"""Procedural textures: seamless pictures of wood, brick, cloth, stone ... in one atlas with mip levels.

A texture repeats after one period in u and v. Levels are blended by the footprint of a pixel on the surface, so that a
world seen from afar does not alias.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

GUTTER = 1
"""Texels that wrap around each tile of the atlas, so that bilinear lookups see a seamless texture."""


@dataclass(frozen=True, kw_only=True)
class TextureBank:
    """Textures one below the other, each with its mip levels below it: what is near in a texture is near in memory."""

    atlas: Float[Tensor, "3 height width"]
    """Reflectance in [0, 1]."""
    size: int
    """Texels per period at the finest level; a power of two."""
    variants: int
    """Textures of each kind; texture number = kind's place in `KINDS` x variants + variant."""

    @property
    def levels(self) -> int:
        """Mip levels, down to 4 x 4 texels."""
        return int(math.log2(self.size)) - 1

    @property
    def rows(self) -> int:
        """Rows of the atlas that one texture takes."""
        return self.atlas.shape[1] // (len(KINDS) * self.variants)

    def look_up(
        self, texture: Float[Tensor, "V H W"], uv: Float[Tensor, "V 2 H W"], level: Float[Tensor, "V H W"]
    ) -> Float[Tensor, "V 3 H W"]:
        """Colours at `uv` (in periods) of the given texture numbers, blended between the two nearest mip levels."""
        level = level.clamp(0, self.levels - 1)
        finer = level.floor()
        turn = uv - uv.floor()
        colour = self._look_up_level(texture, turn, finer)
        coarser = self._look_up_level(texture, turn, (finer + 1).clamp_(max=self.levels - 1))
        return colour.lerp_(coarser, (level - finer)[:, None])

    def _look_up_level(self, texture: Tensor, turn: Tensor, level: Tensor) -> Tensor:
        height, width = self.atlas.shape[-2:]
        texels = torch.exp2(-level).mul_(self.size)
        # Above this tile stand those of sizes S, S/2, S/4 ... with their gutters, and all textures before.
        above = (self.size - texels) * 2 + level * (2 * GUTTER) + texture * self.rows
        grid = torch.empty(*level.shape, 2, dtype=level.dtype, device=level.device)
        grid[..., 0] = (turn[:, 0] * texels + GUTTER) * (2 / width) - 1
        grid[..., 1] = (turn[:, 1] * texels + (above + GUTTER)) * (2 / height) - 1
        flat = rearrange(grid, "v h w c -> 1 (v h) w c")
        found = torch.nn.functional.grid_sample(self.atlas[None], flat, padding_mode="border", align_corners=False)
        return rearrange(found[0], "c (v h) w -> v c h w", v=len(level))


@cache
def default_bank(device: torch.device, dtype: torch.dtype, seed: int) -> TextureBank:
    """The textures of random worlds: the same on every machine, made once per process, device and seed."""
    bank = make_bank(seed=seed, size=256, variants=3)
    return TextureBank(atlas=bank.atlas.to(device, dtype), size=bank.size, variants=bank.variants)


def make_bank(*, seed: int, size: int, variants: int) -> TextureBank:
    """Draw `variants` textures of every kind, on the CPU in float32. `size` is a power of two, in texels."""
    generator = torch.Generator().manual_seed(seed)
    pictures = [draw(generator, size).clamp(0, 1) for draw in KINDS.values() for _ in range(variants)]
    columns = [_tile_column(picture) for picture in pictures]
    return TextureBank(atlas=torch.cat(columns, dim=-2), size=size, variants=variants)


def _tile_column(picture: Tensor) -> Tensor:
    """All mip levels of one texture with their gutters, top to bottom."""
    size = picture.shape[-1]
    tiles = []
    while picture.shape[-1] >= 4:
        wrapped = torch.nn.functional.pad(picture[None], (GUTTER,) * 4, mode="circular")[0]
        tiles.append(torch.nn.functional.pad(wrapped, (0, size - picture.shape[-1])))
        picture = torch.nn.functional.avg_pool2d(picture[None], 2)[0]
    return torch.cat(tiles, dim=-2)


def _noise(generator: torch.Generator, size: int, slope: float, scale: float = 1.0, stretch: float = 1.0) -> Tensor:
    """Seamless Gaussian noise of unit variance; its spectrum falls with `slope` beyond `scale` waves per period.

    `stretch` > 1 draws it out along u.
    """
    along = torch.fft.rfftfreq(size, 1 / size) * stretch
    across = torch.fft.fftfreq(size, 1 / size)[:, None]
    frequency = (along.square() + across.square()).sqrt()
    gain = (1 + (frequency / scale).square()) ** (-slope / 2)
    gain[0, 0] = 0
    noise = torch.fft.irfft2(torch.fft.rfft2(torch.randn(size, size, generator=generator)) * gain, s=(size, size))
    return noise / noise.std()


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _paint(generator: torch.Generator, base: tuple[float, float, float], spread: float, count: int = 1) -> Tensor:
    """Colours [count, 3, 1, 1] around a base: mostly brighter or darker, a little of another hue."""
    brightness = _uniform(generator, -spread, spread, count, 1, 1, 1)
    hue = _uniform(generator, -spread / 4, spread / 4, count, 3, 1, 1)
    return (torch.tensor(base)[:, None, None] + brightness + hue).clamp(0.02, 0.98)


def _any_paint(generator: torch.Generator, count: int = 1) -> Tensor:
    """Colours [count, 3, 1, 1] of any hue, muted as most things indoors are."""
    grey = _uniform(generator, 0.2, 0.75, count, 1, 1, 1)
    return (grey + _uniform(generator, -0.16, 0.16, count, 3, 1, 1)).clamp(0.03, 0.97)


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """U along columns and v along rows, texel centres in (0, 1)."""
    centre = (torch.arange(size) + 0.5) / size
    return centre[None, :].expand(size, size), centre[:, None].expand(size, size)


def _cells(
    generator: torch.Generator, size: int, rows: int, columns: int, shift: float, joint: float
) -> tuple[Tensor, Tensor]:
    """A wall of `rows` x `columns` stones: number of the stone at each texel, and 1 on stone falling to 0 in joints.

    Every second row is shifted by a share of a stone; outlines are wavy; `joint` is a share of the stone's height.
    """
    u, v = _grid(size)
    wobble = 0.15 * joint / rows
    row_place = (v + wobble * _noise(generator, size, 1.5, 3.0)) * rows
    row = row_place.floor()
    column_place = (u + wobble * _noise(generator, size, 1.5, 3.0)) * columns + shift * (row % 2)
    column = column_place.floor()
    inside = torch.minimum(
        0.5 - (row_place - row - 0.5).abs(), (0.5 - (column_place - column - 0.5).abs()) * rows / columns
    )
    stone = ((row % rows) * columns + column % columns).long()
    return stone, ((inside / joint - 0.35) * 4).clamp(0, 1)


def _plaster(generator: torch.Generator, size: int) -> Tensor:
    base = _paint(generator, (0.80, 0.77, 0.71), 0.12)[0]
    return base + 0.025 * _noise(generator, size, 2.0, 2.0) + 0.02 * _noise(generator, size, 0.8, 20.0)


def _concrete(generator: torch.Generator, size: int) -> Tensor:
    base = _paint(generator, (0.52, 0.51, 0.50), 0.12)[0]
    pores = (_noise(generator, size, 1.5, 40.0) - 1.7).clamp(min=0)
    return base + 0.07 * _noise(generator, size, 1.6, 2.0) + 0.03 * _noise(generator, size, 0.5, 40.0) - 0.15 * pores


def _wallpaper(generator: torch.Generator, size: int) -> Tensor:
    u, v = _grid(size)
    ground, motif = _paint(generator, (0.74, 0.70, 0.62), 0.15)[0], _any_paint(generator)[0]
    waves = int(torch.randint(3, 7, (1,), generator=generator))
    bend = 0.3 * _noise(generator, size, 2.5, 2.0)
    leaf = (math.tau * (waves * u + bend)).sin() * (math.tau * waves * v + 2 * (math.tau * waves * u).sin()).sin()
    share = 0.55 * ((leaf - 0.25) * 4).clamp(0, 1) * (0.8 + 0.2 * _noise(generator, size, 1.0, 10.0))
    return ground + (motif - ground) * share + 0.015 * _noise(generator, size, 0.8, 20.0)


def _brick(generator: torch.Generator, size: int) -> Tensor:
    stone, solid = _cells(generator, size, 16, 6, 0.5, 0.12)
    colours = _paint(generator, (0.55, 0.31, 0.24), 0.12, 16 * 6)[:, :, 0, 0]
    face = colours[stone].movedim(-1, 0) + 0.06 * _noise(generator, size, 1.0, 12.0)
    mortar = 0.62 + 0.04 * _noise(generator, size, 0.6, 30.0)
    return mortar + (face - mortar) * solid


def _tiles(generator: torch.Generator, size: int) -> Tensor:
    count = int(torch.randint(3, 7, (1,), generator=generator))
    stone, solid = _cells(generator, size, count, count, 0.0, 0.04)
    colours = _paint(generator, (0.66, 0.62, 0.56), 0.13, count * count)[:, :, 0, 0]
    veins = (_noise(generator, size, 1.8, 4.0).abs() * 2).clamp(max=1) - 0.6
    return (
        0.35 + (colours[stone].movedim(-1, 0) + 0.08 * veins + 0.03 * _noise(generator, size, 0.8, 30.0) - 0.35) * solid
    )


def _grain(generator: torch.Generator, size: int) -> Tensor:
    """Wood grain along u, about zero mean and unit contrast."""
    _, v = _grid(size)
    rings = (math.tau * (9 * v + 0.9 * _noise(generator, size, 3.0, 2.0, stretch=5.0))).sin()
    return 0.6 * rings + 0.5 * _noise(generator, size, 1.2, 20.0, stretch=16.0)


def _planks(generator: torch.Generator, size: int) -> Tensor:
    stone, solid = _cells(generator, size, 8, 2, 0.5, 0.05)
    colours = _paint(generator, (0.56, 0.40, 0.26), 0.11, 16)[:, :, 0, 0]
    wood = colours[stone].movedim(-1, 0) * (1 + 0.14 * _grain(generator, size))
    return wood * (0.35 + 0.65 * solid)


def _wood(generator: torch.Generator, size: int) -> Tensor:
    base = _paint(generator, (0.55, 0.38, 0.24), 0.14)[0]
    return base * (1 + 0.2 * _grain(generator, size))


def _carpet(generator: torch.Generator, size: int) -> Tensor:
    ground, motif, line = _any_paint(generator, 3)
    u, v = _grid(size)
    reach = torch.maximum((u - 0.5).abs(), (v - 0.5).abs())
    star = (math.tau * 5 * u).cos() + (math.tau * 5 * v).cos() + 0.3 * _noise(generator, size, 1.5, 3.0)
    picture = ground + (motif - ground) * ((star - 0.4) * 6).clamp(0, 1)
    border = ((reach - 0.40).abs() < 0.025) | (reach > 0.47)
    return torch.where(border, line, picture) * (1 + 0.10 * _noise(generator, size, 0.3, 60.0))


def _cloth(generator: torch.Generator, size: int) -> Tensor:
    u, v = _grid(size)
    bands = [_uniform(generator, 0.0, 1.0, 12).repeat_interleave(-(-size // 12))[:size] for _ in range(2)]
    first, second = _any_paint(generator, 2)
    check = 0.5 * (bands[0][None, :] + bands[1][:, None])
    thread = (math.tau * 40 * u).sin() * (math.tau * 40 * v).sin()
    return (first + (second - first) * check) * (1 + 0.10 * thread + 0.07 * _noise(generator, size, 0.6, 30.0))


def _terrazzo(generator: torch.Generator, size: int) -> Tensor:
    picture = _paint(generator, (0.70, 0.68, 0.64), 0.1)[0].expand(3, size, size)
    for chip in _any_paint(generator, 4):
        share = ((_noise(generator, size, 4.0, 14.0) - 1.2) * 8).clamp(0, 1)
        picture = picture + (chip - picture) * share
    return picture + 0.02 * _noise(generator, size, 0.5, 40.0)


def _marble(generator: torch.Generator, size: int) -> Tensor:
    u, v = _grid(size)
    light, dark = _paint(generator, (0.82, 0.80, 0.78), 0.1)[0], _any_paint(generator)[0]
    fold = (math.tau * (u + 2 * v + 0.5 * _noise(generator, size, 2.6, 2.0))).sin().abs()
    vein = (1 - 2.2 * fold).clamp(min=0) + 0.25 * _noise(generator, size, 1.5, 6.0).clamp(min=0)
    return light + (dark - light) * (0.75 * vein).clamp(0, 1)


def _stone(generator: torch.Generator, size: int) -> Tensor:
    light, dark = _any_paint(generator, 2)
    share = torch.sigmoid(1.2 * _noise(generator, size, 1.5, 5.0) + 0.5 * _noise(generator, size, 0.7, 40.0))
    return light + (dark - light) * share


def _grass(generator: torch.Generator, size: int) -> Tensor:
    dark, light = _paint(generator, (0.22, 0.28, 0.12), 0.06)[0], _paint(generator, (0.50, 0.52, 0.28), 0.08)[0]
    blades = _noise(generator, size, 1.0, 40.0) + 0.5 * _noise(generator, size, 1.8, 4.0)
    return dark + (light - dark) * torch.sigmoid(1.3 * blades)


def _books(generator: torch.Generator, size: int) -> Tensor:
    """Two shelves of book spines, with labels."""
    u, v = _grid(size)
    count = 26
    edges = _uniform(generator, 0.4, 1.0, count).cumsum(0)
    book = torch.bucketize(u[0] * edges[-1], edges).clamp(max=count - 1)
    shelf = (v[:, 0] * 2).long()
    colours = _any_paint(generator, 2 * count)[:, :, 0, 0].reshape(2, count, 3)
    spine = colours[shelf][:, book].movedim(-1, 0)
    height = _uniform(generator, 0.06, 0.3, 2, count)[shelf][:, book]
    label = _uniform(generator, 0.35, 0.75, 2, count)[shelf][:, book]
    place = (v * 2) % 1
    picture = torch.where((place - label).abs() < 0.05, 1 - spine, spine)
    within = (u * edges[-1] - torch.cat([torch.zeros(1), edges])[book]) / edges.diff(prepend=torch.zeros(1))[book]
    picture = picture * (0.55 + 0.9 * within * (1 - within) * 2).clamp(max=1.0)
    picture = torch.where(place < height, torch.full_like(picture, 0.09), picture)
    board = torch.tensor([0.45, 0.33, 0.22])[:, None, None] * (1 + 0.1 * _noise(generator, size, 1.2, 10.0, 12.0))
    return torch.where(place > 0.94, board, picture) + 0.015 * _noise(generator, size, 0.5, 40.0)


def _landscape(generator: torch.Generator, size: int) -> Tensor:
    """A framed painting: sky, ridges one behind the other, foreground."""
    _, v = _grid(size)
    high, low = _paint(generator, (0.45, 0.58, 0.75), 0.12)[0], _paint(generator, (0.88, 0.78, 0.62), 0.1)[0]
    picture = high + (low - high) * v + 0.05 * _noise(generator, size, 2.2, 2.0, 4.0)
    for depth in range(4):
        ridge = 0.38 + 0.14 * depth + 0.07 * _noise(generator, size, 2.2, 3.0)[0]
        colour = _any_paint(generator)[0] * (0.9 - 0.15 * depth)
        hill = colour * (1 + 0.18 * _noise(generator, size, 1.2, 8.0))
        picture = torch.where(v > ridge, hill, picture)
    return _framed(generator, picture)


def _abstract(generator: torch.Generator, size: int) -> Tensor:
    """A framed picture of overlapping discs and bars."""
    u, v = _grid(size)
    picture = _any_paint(generator)[0].expand(3, size, size)
    for number in range(14):
        x, y, wide, tall, turn = _uniform(generator, 0.0, 1.0, 5).tolist()
        cosine, sine = math.cos(math.pi * turn), math.sin(math.pi * turn)
        across = ((u - x) * cosine + (v - y) * sine) / (0.06 + 0.25 * wide)
        along = ((v - y) * cosine - (u - x) * sine) / (0.05 + 0.2 * tall)
        inside = across.square() + along.square() < 1 if number % 2 else torch.maximum(across.abs(), along.abs()) < 1
        picture = torch.where(inside, _any_paint(generator)[0], picture)
    return _framed(generator, picture + 0.03 * _noise(generator, size, 1.0, 10.0))


def _framed(generator: torch.Generator, picture: Tensor) -> Tensor:
    u, v = _grid(picture.shape[-1])
    edge = 0.5 - torch.maximum((u - 0.5).abs(), (v - 0.5).abs())
    frame = _paint(generator, (0.35, 0.25, 0.15), 0.15)[0] * (1 + 8 * (0.05 - edge).abs())
    picture = torch.where(edge < 0.11, torch.tensor(0.88), picture)
    return torch.where(edge < 0.05, frame, picture)


def _crate(generator: torch.Generator, size: int) -> Tensor:
    """One side of a wooden or cardboard box: boards, edges, a printed label."""
    u, v = _grid(size)
    side = _planks(generator, size) * 1.15
    edge = 0.5 - torch.maximum((u - 0.5).abs(), (v - 0.5).abs())
    side = torch.where(edge < 0.09, _wood(generator, size), side)
    side = torch.where((edge - 0.09).abs() < 0.006, side * 0.3, side)
    x, y = _uniform(generator, 0.3, 0.6, 2).tolist()
    label = ((u - x).abs() < 0.14) & ((v - y).abs() < 0.09)
    lines = 0.9 - 0.75 * ((math.tau * 16 * v).sin() + _noise(generator, size, 1.0, 20.0, 0.3) > 0.9).float()
    return torch.where(label, lines, side)


def _ball(generator: torch.Generator, size: int) -> Tensor:
    """Panels of two colours with scuffs, for toys."""
    stone, solid = _cells(generator, size, 2, 2, 0.5, 0.03)
    colours = _any_paint(generator, 4)[:, :, 0, 0]
    scuff = (_noise(generator, size, 1.2, 10.0) - 1.0).clamp(min=0)
    return 0.9 + (colours[stone].movedim(-1, 0) * (1 - 0.2 * scuff) - 0.9) * solid + 0.02 * scuff


def _painted(generator: torch.Generator, size: int) -> Tensor:
    """A painted surface with hardly any texture."""
    return _any_paint(generator)[0] * (1 + 0.02 * _noise(generator, size, 1.6, 2.0))


def _clouds(generator: torch.Generator, size: int) -> Tensor:
    blue, white = _paint(generator, (0.45, 0.62, 0.85), 0.06)[0], torch.tensor(0.93)
    cover = torch.sigmoid(2.5 * _noise(generator, size, 1.9, 3.0) - 0.5)
    return blue + (white - blue) * cover


KINDS: dict[str, Callable[[torch.Generator, int], Tensor]] = {
    "plaster": _plaster,
    "concrete": _concrete,
    "wallpaper": _wallpaper,
    "brick": _brick,
    "tiles": _tiles,
    "planks": _planks,
    "wood": _wood,
    "carpet": _carpet,
    "cloth": _cloth,
    "terrazzo": _terrazzo,
    "marble": _marble,
    "stone": _stone,
    "grass": _grass,
    "books": _books,
    "landscape": _landscape,
    "abstract": _abstract,
    "crate": _crate,
    "ball": _ball,
    "painted": _painted,
    "clouds": _clouds,
}
"""What a texture shows, by name; each draws a seamless [3, size, size] picture."""
