"""Matching on features whose true matches are known."""

import torch

from unproject.nn.matching import (
    ConvexUpsampling,
    Correction,
    GlobalMatching,
    finer,
    local_correlation,
    mutual_flow,
    warp,
)


def shifted(features, x: int, y: int):
    """What the other image shows when everything moves by whole cells."""
    return torch.roll(features, (y, x), (2, 3))


def test_global_matching_finds_a_shift():
    features = torch.randn(2, 32, 6, 8)
    matching = GlobalMatching(32, 32)
    matching.sharpness.data.fill_(16.0)
    there = matching(features, shifted(features, 2, -1))
    back = matching(shifted(features, 2, -1), features)
    assert torch.allclose(there.exp().sum(-1), torch.ones(2, 48), atol=1e-5)
    flow, sure = mutual_flow(there, back, 6, 8)
    inside = flow[:, :, 2:5, 1:5]
    assert torch.allclose(inside[:, 0], torch.full((2, 3, 4), 2.0), atol=0.05)
    assert torch.allclose(inside[:, 1], torch.full((2, 3, 4), -1.0), atol=0.05)
    assert sure.shape == (2, 1, 6, 8) and sure[:, :, 2:5, 1:5].exp().min() > 0.8


def test_mutual_flow_is_the_mean_around_the_best_cell():
    probability = torch.full((1, 25, 25), 1e-9)
    probability[0, :, 12] = 0.75
    probability[0, :, 13] = 0.25
    log = probability.log()
    flow, _ = mutual_flow(log, log.mT, 5, 5)
    # Cell 12 is (2, 2): place x = 0.75 * 2.5 + 0.25 * 3.5.
    assert torch.allclose(flow[0, :, 2, 2], torch.tensor([0.25, 0.0]), atol=1e-4)
    assert torch.allclose(flow[0, :, 0, 0], torch.tensor([2.25, 2.0]), atol=1e-4)


def test_warp_looks_where_the_flow_leads():
    features = torch.randn(1, 3, 6, 8)
    flow = torch.zeros(1, 2, 6, 8)
    assert torch.allclose(warp(features, flow), features, atol=1e-6)
    flow[:, 0], flow[:, 1] = 2, -1
    assert torch.allclose(warp(features, flow)[..., 1:, :-2], features[..., :-1, 2:], atol=1e-6)
    half = torch.zeros(1, 2, 6, 8)
    half[:, 0] = 0.5
    assert torch.allclose(warp(features, half)[..., :-1], (features[..., :-1] + features[..., 1:]) / 2, atol=1e-5)


def test_local_correlation_is_row_by_row():
    a, b = torch.randn(1, 4, 5, 6), torch.randn(1, 4, 5, 6)
    found = local_correlation(a, b, 1)
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (a, b)]
    for y in range(5):
        for x in range(6):
            for place, (dy, dx) in enumerate((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= y + dy < 5 and 0 <= x + dx < 6
                slow = (unit[0][0, :, y, x] * unit[1][0, :, y + dy, x + dx]).sum() if inside else torch.tensor(0.0)
                assert torch.allclose(found[0, place, y, x], slow, atol=1e-6)


def test_finer_cells_hold_the_same_flow():
    flow = torch.ones(1, 2, 3, 4)
    fine, logit = finer(flow, torch.full((1, 1, 3, 4), -2.0))
    assert fine.shape == (1, 2, 6, 8) and torch.allclose(fine, torch.full_like(fine, 2.0))
    assert torch.allclose(logit, torch.full((1, 1, 6, 8), -2.0))


def test_corrections_learn_a_shift_and_no_gradient_runs_through_places():
    torch.manual_seed(1)
    correction = Correction(8, 16, 2)
    optimiser = torch.optim.Adam(correction.parameters(), 1e-2)
    for _ in range(150):
        features = torch.randn(4, 8, 8, 8)
        start = torch.zeros(4, 2, 8, 8, requires_grad=True)
        flow, _ = correction(features, shifted(features, 1, -1), start, torch.zeros(4, 1, 8, 8))
        loss = (flow - torch.tensor([1.0, -1.0])[:, None, None]).abs()[..., 2:-2, 2:-2].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert start.grad is None or not start.grad.any()
    assert loss < 0.3


def test_convex_upsampling_stays_within_what_it_averages_and_keeps_constants():
    upsample = ConvexUpsampling(6, 4)
    features, maps = torch.randn(2, 6, 3, 5), torch.rand(2, 2, 3, 5)
    fine = upsample(maps, features)
    assert fine.shape == (2, 2, 12, 20)
    assert fine.min() >= maps.min() and fine.max() <= maps.max()
    assert torch.allclose(upsample(torch.full_like(maps, 0.7), features), torch.tensor(0.7))


def test_convex_upsampling_reads_the_nine_cells_around():
    upsample = ConvexUpsampling(1, 2)
    maps = torch.rand(1, 1, 4, 4)
    upsample.weigh.weight.data.zero_()
    bias = torch.full((9, 2, 2), -50.0)
    # Each fine cell takes one coarse neighbour: left, right, above, itself.
    for a, b, place in ((0, 0, 3), (0, 1, 5), (1, 0, 1), (1, 1, 4)):
        bias[place, a, b] = 50
    upsample.weigh.bias.data.copy_(bias.flatten())
    fine = upsample(maps, torch.zeros(1, 1, 4, 4))
    assert torch.allclose(fine[0, 0, 2, 2], maps[0, 0, 1, 0]) and torch.allclose(fine[0, 0, 2, 3], maps[0, 0, 1, 2])
    assert torch.allclose(fine[0, 0, 3, 2], maps[0, 0, 0, 1]) and torch.allclose(fine[0, 0, 3, 3], maps[0, 0, 1, 1])
