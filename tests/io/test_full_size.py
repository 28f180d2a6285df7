"""Maps at another size: planes stay planes, edges stay sharp, and every pixel knows its original."""

import torch

from unproject.geometry.camera import intrinsics_from_focal, pixel_grid, rays
from unproject.io.full_size import at_size
from unproject.types import FrameMaps


def maps(depth: torch.Tensor, **other) -> FrameMaps:
    rows, columns = depth.shape
    given = {
        "depth": depth,
        "valid": torch.ones_like(depth, dtype=torch.bool),
        "confidence": torch.full_like(depth, 0.5),
        "motion": torch.zeros_like(depth),
        "to_original": torch.diag(torch.tensor([96 / columns, 72 / rows, 1.0], dtype=torch.float64)),
    }
    return FrameMaps(**{**given, **other})


def plane(rows: int, columns: int) -> torch.Tensor:
    ray = rays(
        pixel_grid(rows, columns).flatten(0, 1), intrinsics_from_focal(torch.tensor(float(columns)), columns, rows)
    )
    return (2 / (1 - 0.6 * ray[:, 1] - 0.3 * ray[:, 0])).view(rows, columns)


def test_a_plane_stays_one():
    large = at_size(maps(plane(24, 32)), 96, 72)
    inner = (slice(3, -3), slice(3, -3))
    torch.testing.assert_close(large.depth[inner], plane(72, 96)[inner], rtol=1e-4, atol=0)
    torch.testing.assert_close(large.to_original, torch.eye(3).double())


def test_an_edge_stays_sharp():
    depth = torch.ones(8, 8)
    depth[:, 4:] = 3
    valid = depth < 2
    large = at_size(maps(depth, valid=valid, rgb=torch.zeros(8, 8, 3, dtype=torch.uint8)), 40, 40)
    assert set(large.depth.round(decimals=4).unique().tolist()) == {1.0, 3.0}
    assert (large.valid == (large.depth < 2)).all() and large.rgb.shape == (40, 40, 3)


def test_its_own_size_changes_nothing():
    given = maps(1 + torch.rand(9, 7), motion=torch.rand(9, 7), scene_flow=torch.rand(9, 7, 3))
    same = at_size(given, 7, 9)
    for name in ("depth", "valid", "confidence", "motion", "to_original", "scene_flow"):
        torch.testing.assert_close(getattr(same, name), getattr(given, name))
