from itertools import permutations

import numpy as np
import pytest
import torch

from unproject.geometry.camera import intrinsics_from_focal, project
from unproject.geometry.rigid import from_rt, so3_exp, transform
from unproject.labelling.gates import (
    Agreement,
    PairQuality,
    agreement,
    connected,
    flow_matches,
    pair_qualities,
    summary,
    track_matches,
)
from unproject.labelling.wishes import Wishes
from unproject.types import Known, Labels, Tracks

K = intrinsics_from_focal(torch.tensor(400.0), 512, 288)


def seen_by_two(count=400, shift=(0.4, 0.05, 0.1), turn=(0.02, 0.06, 0.01), plane=False, noise_px=0.2):
    """Pixels [M, 2] of points of one scene in two views."""
    rng = np.random.default_rng(0)
    depth = np.full(count, 4.0) if plane else rng.uniform(2, 9, count)
    xy = rng.uniform(-1, 1, (count, 2)) * [0.6, 0.33]
    points = torch.tensor(np.column_stack([xy * depth[:, None], depth]), dtype=torch.float32)
    moved = transform(from_rt(so3_exp(torch.tensor(turn)), torch.tensor(shift)), points)
    noise = rng.normal(0, noise_px, (2, count, 2))
    return [
        (project(each, K).numpy() + shake).astype(np.float32)
        for each, shake in zip((points, moved), noise, strict=True)
    ]


def test_points_at_rest_agree_and_show_parallax():
    found = agreement(*seen_by_two())
    assert found.matches == 400
    assert found.inliers > 0.98
    assert found.sampson_px < 0.3
    assert found.flat < 0.5


@pytest.mark.parametrize("how", [{"shift": (0.0, 0.0, 0.0)}, {"plane": True}], ids=["turning", "one plane"])
def test_without_parallax_all_agree_and_are_flat(how):
    found = agreement(*seen_by_two(**how))
    assert found.inliers > 0.97
    assert found.flat > 0.95


def test_things_that_move_are_outvoted():
    source, target = seen_by_two()
    target[:120] += np.random.default_rng(1).normal(0, 25, (120, 2)).astype(np.float32)
    found = agreement(source, target)
    assert 0.68 < found.inliers < 0.78
    assert found.sampson_px < 0.6


def test_matches_by_chance_do_not_agree():
    source, target = np.random.default_rng(0).uniform(0, 288, (2, 400, 2)).astype(np.float32)
    assert agreement(source, target).inliers < 0.3


@pytest.mark.parametrize("count", [0, 3, 7])
def test_few_matches_agree_on_nothing(count):
    found = agreement(*(uv[:count] for uv in seen_by_two()))
    assert (found.matches, found.inliers) == (count, 0.0)


def test_matches_in_one_place_are_no_error():
    uv = np.full((50, 2), 100.0, np.float32)
    assert 0 <= agreement(uv, uv).inliers <= 1


def some_tracks(views=4, count=60, seed=0):
    rng = np.random.default_rng(seed)
    seen = rng.random((count, views)) < 0.7
    seen[:, 0] |= ~seen.any(1)
    track, view = np.nonzero(seen)
    return Tracks(
        view=torch.from_numpy(view),
        track=torch.from_numpy(track),
        uv=torch.from_numpy(rng.uniform(0, 100, (len(view), 2)).astype(np.float32)),
        weight=torch.from_numpy(rng.uniform(0.05, 1, len(view)).astype(np.float32)),
    )


def test_matches_of_tracks_equal_the_twin_that_looks_at_every_pair_of_rows():
    tracks = some_tracks()
    for source, target in permutations(range(4), 2):
        columns = (part.tolist() for part in (tracks.track, tracks.view, tracks.uv, tracks.weight))
        rows = list(zip(*columns, strict=True))
        slow = [
            (one[2], two[2])
            for one in rows
            for two in rows
            if one[0] == two[0] and (one[1], two[1]) == (source, target) and min(one[3], two[3]) >= 0.2
        ]
        fast = track_matches(tracks, source, target)
        np.testing.assert_allclose(np.stack(fast, 1), np.array(slow, np.float32))


def test_matches_of_flow_are_trusted_pixels_of_a_grid():
    height, width = 60, 80
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 3, (height, width, 2)).astype(np.float32)
    weight = rng.random((height, width)).astype(np.float32)
    source, target = flow_matches(flow, weight)
    column, row = (source - 0.5).astype(int).T
    assert (weight[row, column] > 0.5).all()
    np.testing.assert_allclose(target - source, flow[row, column], atol=1e-5)
    assert 0.3 < len(source) / 1500 < 1.1
    assert flow_matches(flow, 0 * weight)[0].shape == (0, 2)


def flow_labels(motion, weights):
    height, width = 40, 56
    value = torch.tensor(motion)[None, :, None, None].expand(1, len(motion), height, width, 2)
    weight = torch.tensor(weights)[None, :, None, None].expand(1, len(motion), height, width)
    return Labels(flow=Known(value.contiguous(), weight.contiguous()))


def test_flow_that_comes_back_is_told_from_flow_that_does_not():
    pairs = [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0)]
    labels = flow_labels([(2.0, 0.0), (-2.0, 0.0), (2.0, 1.0), (-2.0, 2.0), (0.0, 0.0)], [1.0, 1.0, 1.0, 1.0, 0.0])
    found = pair_qualities(labels, pairs)
    assert [each.covisible for each in found] == [1, 1, 1, 1, 0]
    assert [each.round_trip_px for each in found[:4]] == [0, 0, 3, 3]
    assert found[4].round_trip_px is None
    assert all(each.tracks is None for each in found)


def test_labels_without_pairs_pass_and_say_nothing():
    (found,) = pair_qualities(Labels(), [(0, 1)])
    assert found.passes(Wishes())
    assert summary([found]) == {}


def test_tracks_and_flow_must_both_pass():
    good, few, wild = (
        Agreement(matches=matches, inliers=inliers, sampson_px=0.2, flat=0.3)
        for matches, inliers in ((90, 0.9), (20, 0.9), (90, 0.3))
    )
    assert PairQuality(tracks=good, flow=good).passes(Wishes())
    for bad in (few, wild):
        assert not PairQuality(tracks=bad, flow=good).passes(Wishes())
        assert not PairQuality(tracks=good, flow=bad).passes(Wishes())


def test_flow_that_does_not_come_back_is_not_believed_however_well_a_camera_explains_it():
    """A network may see what is not there; one way, that fits the epipolar lines."""
    good = Agreement(matches=90, inliers=0.9, sampson_px=0.2, flat=0.3)
    assert PairQuality(flow=good, round_trip_px=1.0).passes(Wishes())
    assert not PairQuality(flow=good, round_trip_px=4.0).passes(Wishes())
    for lost in (float("inf"), float("nan")):
        assert not PairQuality(flow=good, round_trip_px=lost).passes(Wishes())


def test_flow_that_hardly_sees_the_same_is_not_believed():
    """However many pixels that is: Flow3r leaves out such pairs."""
    many = Agreement(matches=90, inliers=0.9, sampson_px=0.2, flat=0.3)
    assert PairQuality(flow=many, covisible=0.12).passes(Wishes())
    assert not PairQuality(flow=many, covisible=0.08).passes(Wishes())
    assert PairQuality(flow=many, covisible=0.08).passes(Wishes(least_covisible=0.05))


def test_the_summary_is_the_median_of_what_was_measured():
    pairs = [
        PairQuality(flow=Agreement(matches=n, inliers=0.5, sampson_px=1.0, flat=0.1), covisible=n / 9)
        for n in (1, 2, 9)
    ]
    found = summary(pairs)
    assert found == {"flow_matches": 2, "flow_inliers": 0.5, "flow_sampson_px": 1, "flow_flat": 0.1, "covisible": 2 / 9}


@pytest.mark.parametrize(
    ("pairs", "whole"),
    [([(0, 1), (1, 2), (2, 3)], True), ([(3, 2), (0, 3), (1, 0)], True), ([(0, 1), (2, 3)], False), ([], False)],
)
def test_views_hang_together_along_pairs(pairs, whole):
    assert connected(pairs, 4) == whole
