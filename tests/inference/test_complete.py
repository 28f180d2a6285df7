"""Filling in: a plane stays a plane, edges hold, what is known is kept."""

import numpy as np
import pytest

from unproject.inference.complete import LINK, complete, edge_links, smooth


def plane(height: int = 40, width: int = 50) -> np.ndarray:
    """Inverse depth of a plane is linear in pixels."""
    v, u = np.mgrid[:height, :width]
    return (0.4 + 0.004 * u + 0.002 * v).astype(np.float32)


def test_a_plane_is_reproduced_inside_what_is_known() -> None:
    truth, known = plane(), np.zeros((40, 50), bool)
    known[:4], known[-4:], known[:, :4], known[:, -4:] = True, True, True, True
    filled = complete(truth, known, np.full((40, 50, 3), 90, np.uint8))
    np.testing.assert_allclose(filled, truth, rtol=5e-3)


@pytest.mark.parametrize(("grey", "hold"), [(200, LINK), (60, 1.0)], ids=["edge", "no edge"])
def test_depth_flows_as_far_as_the_picture_lets_it(grey: int, hold: float) -> None:
    """Two known columns, 43 links apart, the middle one ``hold`` strong: each link bends in proportion to 1 / hold."""
    rgb = np.full((40, 50, 3), 60, np.uint8)
    rgb[:, 25:] = grey
    truth = np.where(np.arange(50) < 25, 0.5, 1.5).astype(np.float32) * np.ones((40, 1), np.float32)
    known = np.zeros((40, 50), bool)
    known[:, [3, 46]] = True
    leak = 21 / (42 + 1 / hold)
    np.testing.assert_allclose(complete(truth, known, rgb)[:, [24, 25]], [[0.5 + leak, 1.5 - leak]] * 40, atol=0.01)


def test_what_is_known_is_kept_and_all_is_positive() -> None:
    generator = np.random.default_rng(0)
    depth = generator.uniform(0.2, 2, (30, 33)).astype(np.float32)
    known = generator.random((30, 33)) < 0.3
    rgb = generator.integers(0, 255, (30, 33, 3), dtype=np.uint8)
    filled = complete(np.where(known, depth, np.nan_to_num(-1.0)).astype(np.float32), known, rgb)
    np.testing.assert_allclose(filled[known], depth[known], rtol=1e-5)
    assert (filled > 0).all()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_unit_of_depth_does_not_matter(scale: float) -> None:
    generator = np.random.default_rng(1)
    depth = generator.uniform(0.5, 2, (24, 20)).astype(np.float32)
    known = generator.random((24, 20)) < 0.2
    rgb = generator.integers(0, 60, (24, 20, 3), dtype=np.uint8)
    scaled = complete(depth * np.float32(scale), known, rgb)
    np.testing.assert_allclose(scaled / scale, complete(depth, known, rgb), rtol=1e-3)


def test_conjugate_gradients_solve_the_dense_equations() -> None:
    generator = np.random.default_rng(2)
    shape = (5, 6)
    data, weight = (generator.random(shape).astype(np.float32) for _ in range(2))
    right, down = links = edge_links(generator.integers(0, 40, (*shape, 3), dtype=np.uint8))
    number = np.arange(30).reshape(shape)
    matrix = np.diag(weight.ravel().astype(float))
    pairs = [(number[:, :-1], number[:, 1:], right), (number[:-1], number[1:], down)]
    for first, second, strength in pairs:
        for p, q, link in zip(first.ravel(), second.ravel(), strength.ravel(), strict=True):
            matrix[[p, q], [p, q]] += link
            matrix[[p, q], [q, p]] -= link
    dense = np.linalg.solve(matrix, (weight * data).ravel()).reshape(shape)
    np.testing.assert_allclose(smooth(data, weight, links, np.zeros(shape, np.float32), 60), dense, atol=1e-4)
