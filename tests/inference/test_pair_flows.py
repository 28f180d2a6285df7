"""Flow pairs against the truth of a rendered room: what the camera causes, what both see, what moves."""

import pytest
import torch
from many_views import ManyViews
from oracle import clip

from unproject.data.synthetic import covisibility
from unproject.inference.pair_flows import pair_flows
from unproject.types import Views

PAIRS = torch.tensor([[[0, 2], [2, 0], [1, 3]]])


@pytest.fixture(scope="module")
def made():
    return clip(frames=4, height=48, width=64, duration_s=0.6)


@pytest.fixture(scope="module")
def said(made):
    times = torch.arange(4.0)[None]
    return ManyViews(made)(Views(images=torch.zeros(1, 4, 3, 48, 64), times=times, pairs=PAIRS))


@pytest.fixture(scope="module")
def flows(made, said):
    return pair_flows(said, PAIRS, made.intrinsics.float())


def test_what_stands_still_flows_as_the_camera_says(made, flows):
    still = made.valid[0, 0] & ~made.motion[0, 0]
    assert (flows.flow - flows.induced)[0, 0][still].norm(dim=-1).median() < 1e-3


def test_covisibility_is_that_of_a_still_room(made, flows):
    for row, (source, target) in enumerate(PAIRS[0].tolist()):
        truth = covisibility(made, source, target)[0]
        judged = made.valid[0, source] & ~made.motion[0, source]
        assert ((flows.covisible[0, row] == truth)[judged]).float().mean() > 0.93


def test_what_moves_differs(made, flows):
    moving, found = made.motion[0, 0], flows.motion[0, 0] > 0.5
    assert (found & ~moving).sum() < 0.02 * (~moving).sum()
    assert (found & moving).sum() > 0.5 * moving.sum()


def test_a_pair_without_its_way_back_is_confirmed_by_covisibility_alone(flows):
    assert not (flows.motion[0, 2] > 0)[~flows.covisible[0, 2]].any()
    assert (flows.motion[0, 0] > 0)[~flows.covisible[0, 0]].any()


def test_at_another_size_flow_is_in_its_pixels(flows):
    large = flows.resized(96, 128)
    assert large.flow.shape == (1, 3, 96, 128, 2) and large.covisible.shape == (1, 3, 96, 128)
    smooth = flows.covisible[0, 0, 8:40, 8:56]
    middle = (large.flow[0, 0, 17:80:2, 17:112:2] + large.flow[0, 0, 16:80:2, 16:112:2]) / 2
    assert (middle / 2 - flows.flow[0, 0, 8:40, 8:56])[smooth].norm(dim=-1).median() < 0.05
    torch.testing.assert_close(flows.resized(48, 64).flow, flows.flow, atol=1e-4, rtol=1e-4)
    assert (flows.resized(48, 64).covisible == flows.covisible).all()


def test_a_network_without_flow_is_refused(made):
    said = ManyViews(made, flow=False)(
        Views(images=torch.zeros(1, 4, 3, 48, 64), times=torch.arange(4.0)[None], pairs=PAIRS)
    )
    with pytest.raises(ValueError, match="flow"):
        pair_flows(said, PAIRS, made.intrinsics.float())
