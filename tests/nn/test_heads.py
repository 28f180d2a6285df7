import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from unproject.nn.dpt import DptHead
from unproject.nn.heads import LinearHead, exp_direction
from unproject.nn.patches import PatchEmbed, pixels_from_tokens

DIMS, WIDTHS, FEATURES = (12, 8, 8, 8), (4, 6, 8, 10), 8


def same_with_gradients(fast, slow, parameters, atol=1e-5):
    cotangent = torch.randn_like(fast)
    assert torch.allclose(fast, slow, atol=atol)
    pairs = zip(*(torch.autograd.grad(value, parameters, cotangent) for value in (fast, slow)), strict=True)
    assert all(torch.allclose(a, b, atol=100 * atol, rtol=1e-4) for a, b in pairs)


def test_patches_are_linear_maps_of_squares():
    embed, images = PatchEmbed(8, 4), torch.randn(2, 3, 8, 12)
    slow = torch.stack(
        [
            images[:, :, y : y + 4, x : x + 4].flatten(1) @ embed.proj.weight.flatten(1).T + embed.proj.bias
            for y in (0, 4)
            for x in (0, 4, 8)
        ],
        dim=1,
    )
    same_with_gradients(embed(images), slow, list(embed.parameters()))


def test_tokens_unfold_channel_by_channel():
    tokens = torch.arange(6 * 2 * 16).float().view(1, 6, 32)
    pixels = pixels_from_tokens(tokens, rows=2, patch=4)
    assert pixels.shape == (1, 2, 8, 12)
    for channel, y, x in ((0, 0, 0), (1, 3, 3), (1, 5, 10), (0, 7, 4)):
        token = (y // 4) * 3 + x // 4
        assert pixels[0, channel, y, x] == tokens[0, token, channel * 16 + (y % 4) * 4 + x % 4]
    assert torch.equal(pixels, torch.pixel_shuffle(tokens.mT.reshape(1, 32, 2, 3), 4))


def test_linear_head_reads_the_last_layer():
    head, layers = LinearHead(8, 3, 4), [torch.randn(1, 6, 8), torch.randn(1, 6, 8)]
    slow = pixels_from_tokens(head.proj(layers[1]), 2, 4)
    assert torch.equal(head(layers, 2), slow)


def slow_dpt(head, layers, rows):
    """The head as the paper's figure has it: 1x1 convolutions after the upsampling, step by step."""

    def residual(unit, x):
        return x + unit.conv2(unit.conv1(x.clamp_min(0)).clamp_min(0))

    def double(x):
        return interpolate(x, size=(2 * x.shape[-2], 2 * x.shape[-1]), mode="bilinear", align_corners=True)

    levels = []
    for tokens, reassemble, to_features in zip(layers, head.reassemble, head.to_features, strict=True):
        levels.append(to_features(reassemble(tokens.mT.unflatten(-1, (rows, -1)))))
    fused = head.fuse[3].out(double(residual(head.fuse[3].refine, levels[3])))
    fused = fused[..., : levels[2].shape[-2], : levels[2].shape[-1]]
    for level in (2, 1, 0):
        block = head.fuse[level]
        fused = block.out(double(residual(block.refine, fused + residual(block.skip, levels[level]))))
    return head.readout(double(head.narrow(fused)))


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (3, 2), (3, 5), (1, 1)])
def test_dpt_head(rows, columns):
    head = DptHead(DIMS, WIDTHS, FEATURES, 2)
    layers = [torch.randn(1, rows * columns, dim) for dim in DIMS]
    fast = head(layers, rows)
    assert fast.shape == (1, 2, 16 * rows, 16 * columns)
    same_with_gradients(fast, slow_dpt(head, layers, rows), list(head.parameters()))


def test_every_weight_of_the_dpt_head_is_used():
    head = DptHead(DIMS, WIDTHS, FEATURES, 2)
    head([torch.randn(1, 6, dim) for dim in DIMS], 2).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_exp_direction_keeps_the_direction():
    raw = torch.randn(50, 3, dtype=torch.float64) * 3
    points = exp_direction(raw)
    assert torch.allclose(points.norm(dim=-1), raw.norm(dim=-1).exp() - 1)
    assert torch.allclose(points / points.norm(dim=-1, keepdim=True), raw / raw.norm(dim=-1, keepdim=True))


def test_exp_direction_is_smooth_at_zero():
    raw = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(exp_direction, raw)
    assert torch.allclose(jacobian, torch.eye(3, dtype=torch.float64))
    edge = torch.tensor([[0.9999e-3, 0, 0], [1.0001e-3, 0, 0]], dtype=torch.float64)
    assert torch.allclose(exp_direction(edge), torch.expm1(edge), rtol=1e-9)
    assert torch.autograd.gradcheck(exp_direction, (torch.randn(4, 3, dtype=torch.float64, requires_grad=True),))


def test_distances_agree_with_the_released_code(parity):
    known = np.load(parity / "functions.npz")
    points = exp_direction(torch.from_numpy(known["act_in"]))
    assert np.allclose(points.numpy(), known["act_exp"], rtol=1e-5, atol=1e-5)
