"""What maps agree on."""

import numpy as np
import pytest
from flat_world import pose, view_at, wall_depth

from unproject.inference.measure import Measured
from unproject.inference.merge import merge


def exact(x: float, precision: float = 10.0, factor: float = 1.0) -> tuple:
    depth = wall_depth(pose(x))
    inverse = (factor / depth).astype(np.float32)
    trust = np.full(depth.shape, precision, np.float32)
    return view_at(pose(x)), Measured(inverse_depth=inverse, precision=trust, stuck=np.zeros(depth.shape, bool))


def inner(values: np.ndarray) -> np.ndarray:
    return values[12:-12, 25:-25]


@pytest.mark.parametrize("own", [True, False])
def test_exact_maps_give_exact_depth(own: bool) -> None:
    view, mine = exact(0.0)
    sources = [(view, mine)] if own else []
    merged, precision = merge(view, [*sources, exact(0.1), exact(-0.1)])
    np.testing.assert_allclose(inner(merged * wall_depth(pose())), 1, atol=2e-3)
    np.testing.assert_allclose(inner(precision), 10, rtol=0.05)


def test_a_map_that_disagrees_is_left_out_and_costs_precision() -> None:
    view, mine = exact(0.0)
    merged, precision = merge(view, [(view, mine), exact(0.1), exact(-0.1, factor=1.4)])
    np.testing.assert_allclose(inner(merged * wall_depth(pose())), 1, atol=2e-3)
    np.testing.assert_allclose(inner(precision), 20 / 3, rtol=0.05)


def test_maps_without_precision_still_give_some_depth() -> None:
    merged, precision = merge(view_at(pose()), [exact(0.1, precision=0.0), exact(-0.1, precision=0.0)])
    np.testing.assert_allclose(inner(merged * wall_depth(pose())), 1, atol=5e-3)
    assert not precision.any()


def test_what_no_map_sees_has_no_precision() -> None:
    view = view_at(pose())
    _, precision = merge(view, [exact(0.8), exact(0.9)])
    assert not precision[:, :10].any()
    assert precision[60, 150] > 1e-3
