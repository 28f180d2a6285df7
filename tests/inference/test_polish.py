"""The images' own last word on depth."""

import numpy as np
from flat_world import pose, view_at, wall_depth

from unproject.inference.polish import polish

OTHERS = (-0.3, -0.15, 0.15, 0.3)


def test_a_disturbed_wall_comes_closer_to_the_truth() -> None:
    view, others = view_at(pose()), [view_at(pose(x)) for x in OTHERS]
    truth = 1 / wall_depth(pose())
    v, u = np.mgrid[: truth.shape[0], : truth.shape[1]]
    disturbed = (truth * (1 + 0.02 * np.sin(u / 9) * np.cos(v / 7))).astype(np.float32)
    mended = polish(view, others, disturbed)
    before, after = (np.abs(w / truth - 1)[8:-8, 8:-8].mean() for w in (disturbed, mended))
    assert after < 0.4 * before


def test_the_truth_stays() -> None:
    view, others = view_at(pose()), [view_at(pose(x)) for x in OTHERS]
    truth = 1 / wall_depth(pose())
    assert np.abs(polish(view, others, truth) / truth - 1)[8:-8, 8:-8].mean() < 0.003


def test_without_texture_nothing_moves_far() -> None:
    grey = np.full((120, 160, 3), 100, np.uint8)
    guess = 1 / wall_depth(pose())
    found = polish(view_at(pose(), grey), [view_at(pose(0.2), grey)], guess)
    np.testing.assert_allclose(found, guess, rtol=0.15)
