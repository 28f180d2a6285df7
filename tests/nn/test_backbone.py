"""The multi-view trunk against slow, obvious twins."""

import torch

from unproject.nn.attention import SelfAttention, Turns
from unproject.nn.backbone import AlternatingBlocks, token_positions
from unproject.nn.dpt import ResidualUnit
from unproject.nn.flow_head import uv_embedding
from unproject.nn.vit import VisionTransformer, VitShape

DIM, HEADS = 32, 2


def blocks(depth=4) -> AlternatingBlocks:
    torch.manual_seed(0)
    return AlternatingBlocks(DIM, HEADS, depth, layer_scale=0.5)


@torch.no_grad()
def test_even_blocks_do_not_see_other_views_and_odd_ones_do():
    stack, positions = blocks(2), token_positions(2, 3, 1)
    tokens = torch.randn(1, 3, 7, DIM)
    other = tokens.clone()
    other[:, 2] = torch.randn(7, DIM)
    (within, over), (within_other, over_other) = (stack(x, positions, "float32") for x in (tokens, other))
    torch.testing.assert_close(within[:, :2], within_other[:, :2])
    assert not torch.allclose(over[:, :2], over_other[:, :2], rtol=1e-3)


def test_registers_lie_at_the_origin_and_patches_begin_at_one():
    assert token_positions(2, 2, 2).tolist() == [[0, 0], [0, 0], [1, 1], [1, 2], [2, 1], [2, 2]]


@torch.no_grad()
def test_queries_and_keys_are_normalised_head_by_head_before_they_are_turned():
    layer, x = SelfAttention(DIM, HEADS, qk_norm=True), torch.randn(1, 5, DIM)
    for norm in (layer.q_norm, layer.k_norm):
        torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    turns = Turns.of(token_positions(2, 2, 1), DIM // HEADS)
    q, k, v = layer.qkv(x)[0].view(5, 3, HEADS, DIM // HEADS).permute(1, 2, 0, 3)

    def normed(heads, norm):
        spread = (heads.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return (heads - heads.mean(-1, keepdim=True)) / spread * norm.weight + norm.bias

    q, k = turns.turn(normed(q, layer.q_norm)[None])[0], turns.turn(normed(k, layer.k_norm)[None])[0]
    shares = (q @ k.mT / (DIM // HEADS) ** 0.5).softmax(-1)
    slow = layer.proj((shares @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(layer(x, turns)[0], slow, atol=1e-5, rtol=1e-4)


def test_a_rounded_angle_is_off_and_an_exact_one_is_not():
    positions = token_positions(38, 38, 0)
    exact, rounded = Turns.of(positions, 64), Turns.of(positions, 64, torch.bfloat16)
    assert 0.02 < float((exact.sin - rounded.sin.float()).abs().max()) < 0.15


@torch.no_grad()
def test_positions_are_read_between_those_that_are_learned():
    vit = VisionTransformer(VitShape(dim=DIM, depth=1, heads=HEADS, patch=2, grid=4)).eval()
    learned = vit.pos_embed[:, 1:]
    assert torch.equal(vit._positions(4, 4)[1], learned)
    assert vit._positions(8, 3)[1].shape == (1, 24, DIM)
    # A constant field stays constant on any grid.
    torch.nn.init.ones_(vit.pos_embed)
    torch.testing.assert_close(vit._positions(5, 9)[1], torch.ones(1, 45, DIM))


@torch.no_grad()
def test_a_residual_unit_of_what_is_rectified_adds_to_what_is_rectified():
    """The trap in released flow heads: their units work in place."""
    unit, maps = ResidualUnit(4), torch.randn(1, 4, 5, 5)
    rectified = maps.relu()
    released = rectified + unit.conv2(unit.conv1(rectified).relu())
    torch.testing.assert_close(unit(maps.relu()), released)
    assert not torch.allclose(unit(maps), released)


def test_places_in_an_image():
    table = uv_embedding(3, 5, 8, aspect=5 / 3)
    assert table.shape == (8, 3, 5)
    columns, rows = table[:4], table[4:]
    assert torch.equal(columns[:, 0], columns[:, 2]) and torch.equal(rows[..., 0], rows[..., 4])
    torch.testing.assert_close(columns[:2, :, 2], torch.zeros(2, 3))  # sines in the middle
    last = (5 / 3) / ((5 / 3) ** 2 + 1) ** 0.5 * 4 / 5
    torch.testing.assert_close(columns[0, 0, 4].item(), torch.tensor(last).sin().item())


@torch.no_grad()
def test_a_fresh_trunk_lets_other_views_in_as_far_as_its_scale_says():
    positions = token_positions(2, 3, 1)
    tokens, other = torch.randn(2, 1, 2, 7, DIM)
    other[:, 0] = tokens[:, 0]
    heard = []
    for scale in (0.01, 1.0):
        torch.manual_seed(0)
        stack = AlternatingBlocks(DIM, HEADS, 2, layer_scale=scale)
        (_, over), (_, over_other) = (stack(x, positions, "float32") for x in (tokens, other))
        heard.append(float((over - over_other)[:, 0].abs().mean()))
    assert heard[0] < 0.02 * heard[1] and heard[1] > 1e-3


@torch.no_grad()
def test_a_narrow_encoder_starts_as_loud_as_a_wide_one():
    """A linear map's answer to unit noise; of 1024 channels it is DINOv2's, whose weights start at 0.02."""
    loud = {}
    for dim in (64, 1024):
        layer = VisionTransformer(VitShape(dim=dim, depth=1, heads=2, patch=2, grid=4)).blocks[0].attn.qkv
        loud[dim] = float(layer(torch.randn(64, dim)).std())
    assert abs(loud[1024] - 0.02 * 1024**0.5) < 0.02 and abs(loud[64] / loud[1024] - 1) < 0.1
