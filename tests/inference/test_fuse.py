"""Depth from flow to other views: exact flow gives exact depth, wrong sightings are outvoted, wrong poses noticed."""

import numpy as np
import pytest
from flat_world import pose, render, view_at, wall_depth

from unproject.inference.fuse import MODEL_ERROR, OUTLIER_PX, Sighting, fuse, sight


def exact_sightings(inverse_depth: np.ndarray, count: int = 5) -> list[Sighting]:
    ones = np.ones_like(inverse_depth)
    return [
        Sighting(
            inverse_depth=inverse_depth.copy(),
            trust=ones * np.float32(0.9),
            epipolar_px=ones * np.float32(0.05),
            sensitivity=ones * np.float32(20 + 10 * number),
            noise=ones,
        )
        for number in range(count)
    ]


def random_sightings(shape: tuple[int, int], count: int) -> list[Sighting]:
    generator = np.random.default_rng(3)

    def draw(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, shape).astype(np.float32)

    return [
        Sighting(
            inverse_depth=draw(0.3, 0.7),
            trust=draw(-0.3, 1).clip(0),
            epipolar_px=draw(0, 2),
            sensitivity=draw(5, 60),
            noise=draw(1, 4),
        )
        for _ in range(count)
    ]


def test_equal_sightings_are_their_own_mean() -> None:
    truth = np.random.default_rng(0).uniform(0.3, 0.9, (6, 7)).astype(np.float32)
    fused = fuse(exact_sightings(truth))
    np.testing.assert_allclose(fused.inverse_depth, truth, rtol=1e-5)
    assert (fused.agreeing == 5).all()


def test_a_wrong_sighting_is_outvoted_and_costs_certainty() -> None:
    truth = np.full((6, 7), 0.5, np.float32)
    sightings = exact_sightings(truth)
    before = fuse(sightings)
    sightings[-1].inverse_depth[:] = 0.8
    after = fuse(sightings)
    np.testing.assert_allclose(after.inverse_depth, truth, rtol=0.02)
    assert (after.agreeing == 4).all()
    assert (after.error > before.error).all()


def test_a_mover_that_fits_no_depth_is_uncertain() -> None:
    """Inverse depths that grow with time: what a mover along its epipolar line gives."""
    sightings = exact_sightings(np.full((6, 7), 0.5, np.float32))
    steady = fuse(sightings).error
    for number, one in enumerate(sightings):
        one.inverse_depth[:] += 0.1 * (number - 2)
    assert (fuse(sightings).error > 3 * steady).all()


def test_fusing_is_what_a_loop_over_pixels_gives() -> None:
    sightings = random_sightings((5, 6), 4)
    fused = fuse(sightings)
    for row in range(5):
        for column in range(6):
            middle, error, agreeing = fuse_one_pixel(sightings, row, column)
            assert fused.inverse_depth[row, column] == pytest.approx(middle, rel=1e-3)
            assert fused.error[row, column] == pytest.approx(error, rel=1e-2)
            assert fused.agreeing[row, column] == agreeing


def fuse_one_pixel(sightings: list[Sighting], row: int, column: int) -> tuple[float, float, int]:
    rows = [
        [float(getattr(one, name)[row, column]) for one in sightings]
        for name in ("inverse_depth", "trust", "epipolar_px", "sensitivity", "noise")
    ]
    w, trust, epipolar, sensitivity, noise = rows
    count = range(len(w))
    information = [trust[k] / (noise[k] / sensitivity[k] ** 2 + (MODEL_ERROR * w[k]) ** 2) for k in count]
    tolerance = [1 / sensitivity[k] + MODEL_ERROR * w[k] for k in count]
    reached, middle = 0.0, max(w)
    for k in sorted(count, key=lambda k: w[k]):
        reached += information[k]
        if reached >= sum(information) / 2:
            middle = w[k]
            break
    total = 0.0
    for _ in range(6):
        weight = [information[k] / (1 + ((w[k] - middle) / (OUTLIER_PX * tolerance[k])) ** 2) for k in count]
        total = sum(weight)
        middle = sum(weight[k] * w[k] for k in count) / max(total, 1e-12)
    off = [abs(w[k] - middle) / tolerance[k] for k in count]
    scatter = sum(trust[k] * (min(off[k] ** 2, 9) + 0.5 * epipolar[k] ** 2) for k in count) / max(sum(trust), 1e-6)
    error = ((0.25 + scatter) / max(total, 1e-12)) ** 0.5 / max(middle, 1e-9)
    return middle, min(max(error, 1e-3), 10), sum(off[k] < 1.5 and trust[k] > 0.1 for k in count)


@pytest.mark.parametrize("thorough", [False, True])
def test_a_rendered_wall_is_measured_from_a_wrong_guess(thorough: bool) -> None:
    view, others = view_at(pose()), [view_at(pose(x)) for x in (-0.3, -0.15, 0.15, 0.3)]
    truth = 1 / wall_depth(pose())
    fused = fuse([sight(view, other, truth * np.float32(1.15), thorough=thorough) for other in others])
    error = np.abs(fused.inverse_depth / truth - 1)[10:-10, 10:-10]
    assert np.median(error) < 0.004
    assert np.mean(error < 0.02) > 0.97
    assert np.mean(fused.error < 0.06) > 0.8


def test_far_views_match_because_they_are_moved_first() -> None:
    view, truth = view_at(pose()), 1 / wall_depth(pose())
    far = view_at(pose(0.9, 0.1, 0.4, yaw_deg=-20))
    one = sight(view, far, truth)
    seen = one.trust > 0.5
    assert seen.mean() > 0.3
    assert np.median(np.abs(one.inverse_depth / truth - 1)[seen]) < 0.004


def test_a_wrong_pose_costs_trust() -> None:
    view, truth = view_at(pose()), 1 / wall_depth(pose())
    image = render(pose(0.2))[0]
    right = sight(view, view_at(pose(0.2), image), truth)
    wrong = sight(view, view_at(pose(0.2, y=0.06, yaw_deg=1.5), image), truth)
    assert np.median(wrong.epipolar_px) > 10 * np.median(right.epipolar_px)
    assert wrong.trust.mean() < 0.3 * right.trust.mean()


def test_texture_decides_how_sure_flow_is() -> None:
    plain = render(pose())[0].copy()
    plain[:, 80:] = 128
    other = render(pose(0.1))[0]
    noise = sight(view_at(pose(), plain), view_at(pose(0.1), other), 1 / wall_depth(pose())).noise
    assert np.median(noise[:, 100:]) > 100 * np.median(noise[:, 10:60])
