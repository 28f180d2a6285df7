import pytest
import torch

from unproject.errors import UsageError
from unproject.models.pairing import common_gauge, runs_of


def test_both_directions_are_one_run():
    pairs = torch.tensor([[[1, 0], [0, 1], [2, 2]], [[0, 1], [1, 2], [0, 1]]])
    runs = runs_of(pairs, 3)
    rows = torch.stack([runs.item, runs.first, runs.second], dim=-1).tolist()
    assert rows == [[0, 0, 1], [0, 2, 2], [1, 0, 1], [1, 1, 2]]
    assert runs.run_of_pair.tolist() == [[0, 0, 1], [2, 3, 2]]
    assert runs.flipped.tolist() == [[True, False, False], [False, False, False]]


def gauge_of(pairs, scales, size):
    """Scales of runs whose views lie at distance ``size`` and who each measure with a unit of their own."""
    runs = runs_of(torch.tensor([pairs]), len(size))
    distance = torch.tensor(
        [[size[a] * s, size[b] * s] for a, b, s in zip(runs.first, runs.second, scales, strict=True)]
    )
    gauge = common_gauge(runs, distance.T, 1, len(size))
    return gauge.scale * torch.tensor(scales)


@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 1), (0, 2), (0, 3)],
        [(0, 1), (1, 2), (2, 3)],
        [(0, 3), (1, 2), (2, 3)],  # in sorted order the second run touches no view of the first
        [(0, 1), (1, 2), (0, 2), (3, 2)],
    ],
)
def test_runs_that_hang_together_get_one_scale(pairs):
    units = [2.0, 0.5, 3.0, 7.0][: len(pairs)]
    common = gauge_of(pairs, units, [1.0, 4.0, 2.0, 5.0])
    assert torch.allclose(common, torch.full_like(common, units[0]))


def test_runs_apart_keep_their_scales():
    assert torch.allclose(gauge_of([(0, 1), (2, 3)], [2.0, 5.0], [1.0] * 4), torch.tensor([2.0, 5.0]))


def test_items_have_nothing_to_do_with_each_other():
    runs = runs_of(torch.tensor([[[0, 1]], [[0, 1]]]), 2)
    gauge = common_gauge(runs, torch.tensor([[1.0, 9.0], [2.0, 5.0]]), 2, 2)
    assert gauge.scale.tolist() == [1, 1]
    assert gauge.run.tolist() == [[0, 0], [1, 1]] and gauge.side.tolist() == [[0, 1], [0, 1]]


def test_views_must_be_in_pairs_and_pairs_must_name_views():
    with pytest.raises(UsageError, match="view 2 of item 0 is in no pair"):
        common_gauge(runs_of(torch.tensor([[[0, 1]]]), 3), torch.ones(2, 1), 1, 3)
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(UsageError, match="there are 3 views"):
            runs_of(torch.tensor([[wrong]]), 3)
