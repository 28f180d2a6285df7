"""Pre-norm transformer blocks, and how their weights start."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.checkpoint import checkpoint

from unproject.nn.attention import CrossAttention, SelfAttention, Turns

NORM_EPS = 1e-6
MLP_RATIO = 4


TOKENS_AT_ONCE = 16384
"""Whose four times wider hidden layer is held together where no gradient needs it."""


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between; many tokens in parts, unless gradients are wanted."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Each token by itself."""
        if torch.is_grad_enabled() or tokens.shape[:2].numel() <= TOKENS_AT_ONCE:
            return self.fc2(gelu(self.fc1(tokens)))
        parts = tokens.flatten(0, 1).split(TOKENS_AT_ONCE)
        return torch.cat([self.fc2(gelu(self.fc1(part))) for part in parts]).view(tokens.shape)


class LayerScale(nn.Module):
    """A factor per channel on what a branch adds (CaiT, arXiv 2103.17239)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The same, scaled."""
        return tokens * self.gamma


class EncoderBlock(nn.Module):
    """Self-attention, then an MLP; each branch scaled where ``layer_scale`` says what its scale starts from."""

    recomputed: bool = False
    """Where gradients are wanted, keep its input alone and compute the rest again when they are: the same numbers."""

    def __init__(self, dim: int, heads: int, *, layer_scale: float | None = None, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads, qk_norm=qk_norm)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, tokens: Float[Tensor, "B L D"], turns: Turns | None = None) -> Float[Tensor, "B L D"]:
        """The next layer's tokens."""
        if self.recomputed and torch.is_grad_enabled():
            # Nothing here draws random numbers, so that their state need not be kept.
            return checkpoint(self._next, tokens, turns, use_reentrant=False, preserve_rng_state=False)
        return self._next(tokens, turns)

    def _next(self, tokens: Float[Tensor, "B L D"], turns: Turns | None) -> Float[Tensor, "B L D"]:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), turns))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to a memory that has a norm of its own, then an MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm_y = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim)

    def forward(
        self, tokens: Float[Tensor, "B L D"], memory: Float[Tensor, "B M D"], turns: Turns, memory_turns: Turns
    ) -> Float[Tensor, "B L D"]:
        """The next layer's tokens."""
        tokens = tokens + self.attn(self.norm1(tokens), turns)
        tokens = tokens + self.cross_attn(self.norm2(tokens), self.norm_y(memory), turns, memory_turns)
        return tokens + self.mlp(self.norm3(tokens))


def start_linear_maps(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear map and patch convolution inside, as CroCo starts."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.detach().flatten(1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
