import cmath

import numpy as np
import pytest
import torch

from unproject.nn import rope


def slow_rotate(heads, positions):
    """One number pair at a time, as a product of complex numbers."""
    out = torch.empty_like(heads)
    quarter = heads.shape[-1] // 4
    for index in np.ndindex(*heads.shape[:-1]):
        for axis in range(2):
            for k in range(quarter):
                u = axis * 2 * quarter + k
                angle = float(positions[index[-1], axis]) * 100.0 ** (-2 * k / (2 * quarter))
                turned = complex(heads[(*index, u)], heads[(*index, u + quarter)]) * cmath.exp(1j * angle)
                out[(*index, u)], out[(*index, u + quarter)] = turned.real, turned.imag
    return out


def fast_rotate(heads, positions):
    angle = rope.angles(positions, heads.shape[-1])
    return rope.rotate(heads, angle.cos(), angle.sin())


def test_equals_complex_multiplication():
    heads, positions = torch.randn(1, 2, 6, 16), rope.grid_positions(2, 3)
    assert torch.allclose(fast_rotate(heads, positions), slow_rotate(heads, positions), atol=1e-6)


def test_positions_go_row_by_row():
    assert rope.grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_products_depend_on_the_offset_only():
    q, k = torch.randn(32), torch.randn(32)

    def product(at, offset):
        here, there = torch.tensor([at]), torch.tensor([[at[0] + offset[0], at[1] + offset[1]]])
        return fast_rotate(q[None], here)[0] @ fast_rotate(k[None], there)[0]

    assert torch.allclose(product([0, 0], [3, -2]), product([17, 9], [3, -2]), atol=1e-4)
    assert not torch.allclose(product([0, 0], [3, -2]), product([0, 0], [-2, 3]), atol=1e-2)


def test_lengths_and_gradients_are_kept():
    heads = torch.randn(1, 2, 6, 16, dtype=torch.float64, requires_grad=True)
    turned = fast_rotate(heads, rope.grid_positions(3, 2))
    assert torch.allclose(turned.norm(dim=-1), heads.norm(dim=-1))
    (gradient,) = torch.autograd.grad(turned.square().sum() / 2, heads)
    assert torch.allclose(gradient, heads)


def test_far_positions_are_exact_in_half_precision():
    heads, positions = torch.ones(1, 1, 64), torch.tensor([[31, 31]])
    assert torch.allclose(fast_rotate(heads.bfloat16(), positions).float(), fast_rotate(heads, positions), atol=0.02)


def test_agrees_with_the_released_code(parity):
    known = np.load(parity / "functions.npz")
    positions = torch.from_numpy(known["rope_pos"])[:, None]
    angle = rope.angles(positions, known["rope_in"].shape[-1])
    turned = rope.rotate(torch.from_numpy(known["rope_in"]), angle.cos(), angle.sin())
    assert np.abs(turned.numpy() - known["rope_out"]).max() < 1e-5


@pytest.mark.parametrize("fault", ["swap axes", "interleave"])
def test_the_comparison_catches_a_wrong_layout(fault):
    heads, positions = torch.randn(1, 1, 6, 16), rope.grid_positions(2, 3)
    wrong = fast_rotate(heads, positions.flip(-1) if fault == "swap axes" else positions)
    if fault == "interleave":
        wrong = fast_rotate(heads.unflatten(-1, (8, 2)).mT.flatten(-2), positions)
    assert not torch.allclose(wrong, slow_rotate(heads, positions), atol=1e-2)
