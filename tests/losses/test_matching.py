"""The matching loss: least at the truth, blind where nothing is covisible."""

from dataclasses import replace

import pytest
import torch

from unproject.data.base import Framing
from unproject.data.pairs import SyntheticPairs
from unproject.losses.matching import MatchingLoss
from unproject.types import Known, Labels, Matching, Prediction

FRAMING = Framing(views=2, pairs=((0, 1), (1, 0)), height=48, width=64)


@pytest.fixture(scope="module")
def sample():
    return SyntheticPairs(gap_s=(0.2, 0.4))([0, 1], FRAMING)


def at_stride(flow, stride: int):
    """Flow at the middle of each cell."""
    return torch.nn.functional.avg_pool2d(flow.flatten(0, 1).movedim(-1, 1), stride).movedim(1, -1).unflatten(0, (2, 2))


def true_matching(sample, off_px: float = 0.0) -> Matching:
    """What a matcher without fault would say, or one that is off by so much everywhere."""
    flow = sample.labels.flow.value + off_px
    coarse = at_stride(flow, 8)
    place = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")[::-1], -1) + coarse / 8
    cells = torch.cartesian_prod(torch.arange(6.0), torch.arange(8.0)).flip(-1)
    share = (1 - (place[..., None, :] - cells).abs()).clamp(min=0).prod(-1)
    flows = (*(at_stride(flow, stride) for stride in (8, 8, 2)), flow)
    logits = tuple(torch.full(flow.shape[:-1], 20.0 if off_px == 0 else -20.0) for flow in flows[1:])
    return Matching(log_match=share.clamp(min=1e-6).log(), flows=flows, logits=logits)


def values(sample, matching, labels=None, loss=None):
    points = sample.labels.points.value
    prediction = Prediction(points=points, confidence=torch.ones_like(points[..., 0]), matching=matching)
    found = (loss or MatchingLoss())(prediction, labels or sample.labels, sample.views)
    return {term.name: term.value.item() for term in found.terms}


def test_the_truth_costs_next_to_nothing(sample):
    right, wrong = values(sample, true_matching(sample)), values(sample, true_matching(sample, off_px=5.0))
    assert right["flow"] < 0.05 and wrong["flow"] > 1
    assert right["match"] < 0.7 < wrong["match"]


def test_certainty_is_asked_for_where_flow_is_right_and_seen(sample):
    everything = replace(sample.labels, flow=replace(sample.labels.flow, weight=torch.ones(2, 2, 48, 64)))
    sure, doubtful = true_matching(sample), true_matching(sample, off_px=5.0)
    assert values(sample, doubtful, everything)["certainty"] < 1e-3
    hidden = replace(sample.labels, flow=replace(sample.labels.flow, weight=torch.zeros(2, 2, 48, 64)))
    assert values(sample, sure, hidden)["certainty"] > 10


def test_hidden_pixels_are_never_read(sample):
    weight = sample.labels.flow.weight.clone()
    weight[..., :24, :] = 0
    value = sample.labels.flow.value.clone()
    first = values(sample, true_matching(sample), replace(sample.labels, flow=Known(value, weight)))
    value[..., :24, :, :] = torch.nan
    again = values(sample, true_matching(sample), replace(sample.labels, flow=Known(value, weight)))
    assert first == again


def test_without_labels_or_matching_the_field_is_named(sample):
    with pytest.raises(ValueError, match=r"Labels\.flow"):
        values(sample, true_matching(sample), Labels())
    with pytest.raises(ValueError, match=r"Prediction\.matching"):
        values(sample, None)


def test_a_term_without_weight_is_left_out(sample):
    found = true_matching(sample, off_px=1.0)
    alone = values(sample, found, loss=MatchingLoss(match=0, certainty=0))
    assert alone == {"flow": values(sample, found)["flow"]}
    with pytest.raises(ValueError, match="every weight is 0"):
        values(sample, found, loss=MatchingLoss(match=0, flow=0, certainty=0))
