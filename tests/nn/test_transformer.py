import math

import pytest
import torch
from torch import nn

from unproject.nn import rope
from unproject.nn.attention import CrossAttention, SelfAttention, Turns
from unproject.nn.transformer import DecoderBlock, EncoderBlock, Mlp, start_linear_maps

DIM, HEADS = 32, 2
HEAD_DIM = DIM // HEADS
GRID, MEMORY_GRID = rope.grid_positions(2, 3), rope.grid_positions(2, 2)


def turns(positions):
    return Turns.of(positions, HEAD_DIM)


def slow_attention(q, k, v, positions, memory_positions):
    """Softmax over the memory, head by head and token by token."""
    q, k = (rope_of(x, p) for x, p in ((q, positions), (k, memory_positions)))
    rows = []
    for head in range(HEADS):
        part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        row = []
        for token in range(q.shape[1]):
            scores = (q[:, token, None, part] * k[:, :, part]).sum(-1) / math.sqrt(HEAD_DIM)
            share = scores.exp() / scores.exp().sum(-1, keepdim=True)
            row.append((share[..., None] * v[:, :, part]).sum(1))
        rows.append(torch.stack(row, dim=1))
    return torch.cat(rows, dim=-1)


def rope_of(x, positions):
    angle = rope.angles(positions, HEAD_DIM).to(x.dtype)
    parts = [rope.rotate(part, angle.cos(), angle.sin()) for part in x.split(HEAD_DIM, dim=-1)]
    return torch.cat(parts, dim=-1)


def same_with_gradients(fast, slow, parameters):
    cotangent = torch.randn_like(fast)
    assert torch.allclose(fast, slow, atol=1e-5)
    pairs = zip(*(torch.autograd.grad(value, parameters, cotangent) for value in (fast, slow)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_self_attention():
    layer, x = SelfAttention(DIM, HEADS), torch.randn(2, 6, DIM, requires_grad=True)
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    slow = layer.proj(slow_attention(q, k, v, GRID, GRID))
    same_with_gradients(layer(x, turns(GRID)), slow, [x, *layer.parameters()])


def test_cross_attention():
    layer = CrossAttention(DIM, HEADS)
    x, memory = torch.randn(2, 6, DIM, requires_grad=True), torch.randn(2, 4, DIM, requires_grad=True)
    slow = layer.proj(slow_attention(layer.projq(x), layer.projk(memory), layer.projv(memory), GRID, MEMORY_GRID))
    same_with_gradients(layer(x, memory, turns(GRID), turns(MEMORY_GRID)), slow, [x, memory, *layer.parameters()])


def test_mlp_is_an_exact_gelu():
    layer, x = Mlp(DIM), torch.randn(1, 5, DIM)
    hidden = layer.fc1(x)
    slow = layer.fc2(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    same_with_gradients(layer(x), slow, list(layer.parameters()))


def normed(x, norm):
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


def test_encoder_block_is_pre_norm():
    block, x = EncoderBlock(DIM, HEADS), torch.randn(2, 6, DIM)
    slow = x + block.attn(normed(x, block.norm1), turns(GRID))
    slow = slow + block.mlp(normed(slow, block.norm2))
    same_with_gradients(block(x, turns(GRID)), slow, list(block.parameters()))


def test_decoder_block_norms_its_memory_apart():
    block, x, memory = DecoderBlock(DIM, HEADS), torch.randn(2, 6, DIM), torch.randn(2, 4, DIM)
    for norm in (block.norm1, block.norm2, block.norm3, block.norm_y):
        nn.init.normal_(norm.weight)
    slow = x + block.attn(normed(x, block.norm1), turns(GRID))
    slow = slow + block.cross_attn(
        normed(slow, block.norm2), normed(memory, block.norm_y), turns(GRID), turns(MEMORY_GRID)
    )
    slow = slow + block.mlp(normed(slow, block.norm3))
    same_with_gradients(block(x, memory, turns(GRID), turns(MEMORY_GRID)), slow, list(block.parameters()))


def test_weights_start_in_xaviers_range():
    module = nn.Sequential(nn.Linear(30, 60), nn.Conv2d(3, 24, 4))
    start_linear_maps(module)
    for part, fan_in, fan_out in ((module[0], 30, 60), (module[1], 48, 24)):
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.9 * bound < part.weight.abs().max() <= bound
        assert not part.bias.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_computed_twice_gives_the_same_and_keeps_its_input_alone(dtype):
    block, x, cotangent = EncoderBlock(DIM, HEADS, layer_scale=0.5, qk_norm=True), *torch.randn(2, 2, 6, DIM)

    def run(recomputed):
        block.recomputed = recomputed
        given, storages = x.clone().requires_grad_(), {}

        def keep(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                said = block(given, turns(GRID))
            kept = {tensor.shape for tensor in storages.values() if tensor.numel()}
        return kept, [said, *torch.autograd.grad(said, [given, *block.parameters()], cotangent)]

    (everything, plain), (little, twice) = run(recomputed=False), run(recomputed=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, twice, strict=True))
    assert little == {x.shape} and len(everything) > 4
