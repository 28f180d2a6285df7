"""Depth of one frame with the help of others."""

import numpy as np
import pytest
from flat_world import pose, render, sparse_points, view_at, wall_depth

from unproject.inference.measure import measure, sparse_prior, without_movers
from unproject.inference.neighbours import SparseDepth

NOTHING = SparseDepth(uv=np.zeros((0, 2), np.float32), depth=np.zeros(0, np.float32))
OTHERS = (-0.3, -0.15, 0.15, 0.3)


def test_a_wall_is_measured() -> None:
    truth = wall_depth(pose())
    found = measure(view_at(pose()), [view_at(pose(x)) for x in OTHERS], sparse_points(truth), thorough=False)
    error = np.abs(found.inverse_depth * truth - 1)
    assert np.median(error) < 0.003
    assert error[found.precision > 1.5].mean() < 0.01
    assert (found.precision > 1.5).mean() > 0.85
    assert not found.stuck.any()


def test_a_mover_among_what_is_at_rest_has_little_precision() -> None:
    cameras = dict(zip(OTHERS, (pose(x) for x in OTHERS), strict=True))
    rgb, _, mover = render(pose(), 0.0)
    others = [view_at(camera, render(camera, 0.6 * x + 2 * x * x)[0]) for x, camera in cameras.items()]
    truth = wall_depth(pose())
    found = measure(view_at(pose(), rgb), others, sparse_points(truth, ~mover), thorough=False)
    assert np.median(found.precision[mover]) < 0.2 * np.median(found.precision[~mover])


def test_two_frames_are_enough() -> None:
    truth = wall_depth(pose())
    found = measure(view_at(pose()), [view_at(pose(0.2))], sparse_points(truth), thorough=True)
    assert np.median(np.abs(found.inverse_depth * truth - 1)) < 0.01
    assert (found.precision > 1.5).mean() > 0.6


def test_alone_a_frame_knows_no_more_than_its_points() -> None:
    view, truth = view_at(pose()), wall_depth(pose())
    points = sparse_points(truth)
    found = measure(view, [], points, thorough=False)
    np.testing.assert_array_equal(found.inverse_depth, sparse_prior(view, points))
    assert not found.precision.any()


def test_the_prior_follows_the_points_and_needs_none() -> None:
    view, truth = view_at(pose()), wall_depth(pose())
    assert np.median(np.abs(sparse_prior(view, sparse_points(truth)) * truth - 1)) < 0.03
    assert (sparse_prior(view, NOTHING) == 1).all()


def test_points_outside_the_image_or_behind_the_camera_are_not_read() -> None:
    wrong = SparseDepth(
        uv=np.float32([[-3, 5], [50, 500], [80, 60], [20, 20]]), depth=np.float32([0.01, 0.01, -4.0, 2.0])
    )
    np.testing.assert_allclose(sparse_prior(view_at(pose()), wrong), 0.5, rtol=1e-3)


@pytest.mark.parametrize("everything", [False, True])
def test_movers_leave_the_scene_behind_them(everything: bool) -> None:
    view, truth = view_at(pose()), wall_depth(pose())
    found = measure(view, [view_at(pose(x)) for x in OTHERS], sparse_points(truth), thorough=False)
    moving = np.zeros(truth.shape, bool)
    moving[40:80, 60:100] = True
    found.inverse_depth[moving] = 3.0
    mended = without_movers(view, found, moving | everything)
    assert not mended.precision[moving].any()
    if not everything:
        assert np.median(np.abs(mended.inverse_depth * truth - 1)[moving]) < 0.03
