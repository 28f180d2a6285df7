"""Attention over tokens that know where they lie."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unproject.nn import rope


@dataclass(frozen=True)
class Turns:
    """Cosines and sines of the positions of a set of tokens, made once and used by every layer."""

    cos: Float[Tensor, "*batch L 2 K"]
    sin: Float[Tensor, "*batch L 2 K"]

    @staticmethod
    def of(positions: Int[Tensor, "*batch L 2"], head_dim: int, rounding: torch.dtype | None = None) -> "Turns":
        """For heads of the given width. A batch axis of positions needs a second axis of size 1 for the heads.

        ``rounding`` is the type that angles are rounded to, as code does that some weights were trained with.
        """
        angle = rope.angles(positions, head_dim)
        angle = angle if rounding is None else angle.to(rounding)
        return Turns(cos=angle.cos(), sin=angle.sin())

    def turn(self, heads: Float[Tensor, "B heads L D"]) -> Float[Tensor, "B heads L D"]:
        """Queries or keys at these positions."""
        return rope.rotate(heads, self.cos, self.sin)


def require_even_heads(dim: int, heads: int) -> None:
    """ValueError where heads cannot share the channels."""
    if heads < 1 or dim % heads:
        raise ValueError(f"{heads} heads cannot share {dim} channels; give a number that divides them")


class SelfAttention(nn.Module):
    """Every token looks at every token of its image.

    ``qk_norm`` normalises each head of queries and keys before they are turned.
    """

    def __init__(self, dim: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        require_even_heads(dim, heads)
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Float[Tensor, "B L D"], turns: Turns | None) -> Float[Tensor, "B L D"]:
        """What each token gathered. Without turns, attention does not know where tokens lie."""
        q, k, v = rearrange(self.qkv(tokens), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        # Autocast normalises in float32; what attention compares must have the type of what it gathers.
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if turns is not None:
            q, k = turns.turn(q), turns.turn(k)
        return self.proj(rearrange(scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)"))


class CrossAttention(nn.Module):
    """Every token looks at every token of another image, the memory."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        require_even_heads(dim, heads)
        self.heads = heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, tokens: Float[Tensor, "B L D"], memory: Float[Tensor, "B M D"], turns: Turns, memory_turns: Turns
    ) -> Float[Tensor, "B L D"]:
        """What each token gathered from the memory."""
        q, k, v = (
            rearrange(projection(x), "b l (h d) -> b h l d", h=self.heads)
            for projection, x in ((self.projq, tokens), (self.projk, memory), (self.projv, memory))
        )
        gathered = scaled_dot_product_attention(turns.turn(q), memory_turns.turn(k), v)
        return self.proj(rearrange(gathered, "b h l d -> b l (h d)"))
