"""The multi-view trunk of VGGT and π³ (arXiv 2503.11651, 2507.13347): attention within a view and over all, in turns.

Views are a set: nothing tells the first from the others, so reordering them reorders what comes out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unproject.geometry.rigid import from_rt, nearest_rotation
from unproject.nn.attention import Turns
from unproject.nn.rope import grid_positions
from unproject.nn.transformer import EncoderBlock
from unproject.tensors import at_least_float32

RopePrecision = Literal["float32", "reference"]


def token_positions(rows: int, columns: int, registers: int, device: torch.device | None = None) -> Int[Tensor, "L 2"]:
    """(y, x) of a view's tokens: registers at (0, 0), the patches from (1, 1) on."""
    nowhere = torch.zeros(registers, 2, dtype=torch.long, device=device)
    return torch.cat([nowhere, grid_positions(rows, columns, device) + 1])


class AlternatingBlocks(nn.ModuleList):
    """Even blocks look within each view, odd ones over the tokens of all views of an item."""

    def __init__(self, dim: int, heads: int, depth: int, layer_scale: float) -> None:
        if depth % 2:
            raise ValueError(f"{depth} blocks cannot alternate; give an even number")
        super().__init__(EncoderBlock(dim, heads, layer_scale=layer_scale, qk_norm=True) for _ in range(depth))
        self.head_dim = dim // heads

    def forward(
        self, tokens: Float[Tensor, "B N L D"], positions: Int[Tensor, "L 2"], precision: RopePrecision
    ) -> tuple[Float[Tensor, "B N L D"], Float[Tensor, "B N L D"]]:
        """What the last block within views left, and the last one over all views."""
        batch, views = tokens.shape[:2]
        within = turns_of(positions, self.head_dim, precision)
        over = turns_of(positions.repeat(views, 1), self.head_dim, precision)
        last = tokens
        for number, block in enumerate(self):
            if number % 2 == 0:
                last = rearrange(block(tokens.flatten(0, 1), within), "(b n) l d -> b n l d", b=batch)
                tokens = last
            else:
                tokens = rearrange(block(tokens.flatten(1, 2), over), "b (n l) d -> b n l d", n=views)
        return last, tokens


def turns_of(positions: Int[Tensor, "L 2"], head_dim: int, precision: RopePrecision) -> Turns:
    """By how much heads are turned. ``reference``: with angles rounded to the type of tokens, as released code does."""
    kind = positions.device.type
    rounded = precision == "reference" and torch.is_autocast_enabled(kind)
    return Turns.of(positions, head_dim, torch.get_autocast_dtype(kind) if rounded else None)


@dataclass(frozen=True)
class TrunkState:
    """What the trunk left of each view: within it, and over all views."""

    within: Float[Tensor, "F L D"]
    over: Float[Tensor, "F L D"]

    def __getitem__(self, views: Tensor) -> "TrunkState":
        return TrunkState(self.within[views], self.over[views])

    def split(self, most: int) -> list["TrunkState"]:
        """The views that are worked on `together`."""
        size = together(len(self.over), most)
        return [TrunkState(*parts) for parts in zip(self.within.split(size), self.over.split(size), strict=True)]


def together(count: int, most: int) -> int:
    """How many of so many views, or pairs, are worked on at a time: ``most``, or all where gradients are wanted."""
    return max(1, count if torch.is_grad_enabled() else most)


def trunk_state(
    encoder: Callable[[Tensor], Tensor],
    blocks: AlternatingBlocks,
    images: Float[Tensor, "B N 3 H W"],
    special: Float[Tensor, "B N S D"],
    positions: Int[Tensor, "L 2"],
    *,
    precision: RopePrecision = "float32",
    most: int,
    hint: Float[Tensor, "B N K D"] | None = None,
) -> TrunkState:
    """What the trunk leaves of every view: encoded one by one, then seen together.

    Args:
        encoder: of images [F, 3, H, W] with pixels in [0, 1], to K tokens of width D.
        blocks: what the tokens of all views go through.
        images: RGB in [0, 1], of whole patches.
        special: tokens of each view before those of its patches.
        positions: of all tokens of a view, L = S + K.
        precision: how exact positions are.
        most: views that are encoded `together`.
        hint: what else is known of each patch, added to its token.
    """
    flat = images.flatten(0, 1)
    patches = torch.cat([encoder(some) for some in flat.split(together(len(flat), most))])
    tokens = patches.to(special.dtype).unflatten(0, images.shape[:2])
    if hint is not None:
        tokens = tokens + hint
    within, over = blocks(torch.cat([special, tokens], dim=2), positions, precision)
    return TrunkState(within.flatten(0, 1), over.flatten(0, 1))


class TaskDecoder(nn.Module):
    """Blocks within views that turn the trunk's two states into what one head reads."""

    def __init__(self, dim: int, heads: int, depth: int, out: int, *, width: int | None = None) -> None:
        """On a trunk of width ``dim`` and so many heads; heads of another ``width`` are as wide as the trunk's."""
        super().__init__()
        width = width or dim
        self.projects = nn.Linear(2 * dim, width)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads * width // dim) for _ in range(depth))
        self.linear_out = nn.Linear(width, out)

    def forward(
        self, state: TrunkState, turns: Turns, registers: int, latents: int = 0
    ) -> tuple[Float[Tensor, "F K O"], list[Float[Tensor, "F K D"]]]:
        """Of the patches: what the head reads, in float32 or wider, and the last so many blocks' outputs."""
        tokens = self.projects(torch.cat([state.within, state.over], dim=-1))
        kept = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, turns)
            if number >= len(self.blocks) - latents:
                kept.append(at_least_float32(tokens[:, registers:]))
        return at_least_float32(self.linear_out(tokens)[:, registers:]), kept


class CameraHead(nn.Module):
    """Pose of each view from the mean over its patches (π³, section 3.2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList(_ResidualMlp(dim) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, 9)

    def forward(self, features: Float[Tensor, "F K D"]) -> tuple[Float[Tensor, "F 4 4"], Float[Tensor, "F D"]]:
        """world_from_cam, and the features of a view that it is read from."""
        for unit in self.res_conv:
            features = unit(features)
        pooled = self.more_mlps(features.mean(1))
        rotation = self.fc_rot(pooled).unflatten(-1, (3, 3))
        rotation = nearest_rotation(rotation / rotation.norm(dim=-1, keepdim=True))
        return from_rt(rotation, self.fc_t(pooled)), pooled


class _ResidualMlp(nn.Module):
    """Three linear maps beside the identity, each with a ReLU after it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv1 = nn.Linear(dim, dim)
        self.res_conv2 = nn.Linear(dim, dim)
        self.res_conv3 = nn.Linear(dim, dim)

    def forward(self, features: Float[Tensor, "F K D"]) -> Float[Tensor, "F K D"]:
        """Features of the same size."""
        added = features
        for layer in (self.res_conv1, self.res_conv2, self.res_conv3):
            added = layer(added).relu()
        return features + added
