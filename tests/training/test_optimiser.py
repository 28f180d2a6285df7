"""Rates, decay, clipping and averages against their formulas."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from unproject.errors import UsageError
from unproject.training.optimiser import clip, follow, gradient_norms, learning_rate, make_optimiser, set_learning_rate
from unproject.training.recipe import Schedule

SCHEDULE = Schedule(steps=100, batch=4, learning_rate=1e-3, last_learning_rate=1e-5, warmup_steps=10)


def network() -> nn.Module:
    parts = {"body": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "unused": nn.Linear(4, 4)}
    return nn.ModuleDict(parts)


def test_the_rate_climbs_a_line_and_falls_along_half_a_cosine():
    rates = [learning_rate(SCHEDULE, step) for step in range(100)]
    assert rates[:10] == pytest.approx([1e-3 * (step + 1) / 11 for step in range(10)])
    assert rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(SCHEDULE, 100) == pytest.approx(1e-5)
    assert all(a > b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize("warmup", [0, 100])
def test_a_run_may_have_no_warm_up_or_nothing_else(warmup):
    schedule = replace(SCHEDULE, warmup_steps=warmup)
    rates = [learning_rate(schedule, step) for step in range(100)]
    assert max(rates) <= 1e-3 and min(rates) > 0


def test_only_matrices_decay_and_what_has_no_gradient_is_left_alone():
    model = network()
    optimiser = make_optimiser(model, replace(SCHEDULE, weight_decay=0.5))
    optimiser.param_groups[0]["lr"] = optimiser.param_groups[1]["lr"] = 0.1
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        weight.grad = None if name.startswith("unused") else torch.zeros_like(weight)
    optimiser.step()
    after = dict(model.named_parameters())
    torch.testing.assert_close(after["body.weight"], before["body.weight"] * (1 - 0.1 * 0.5))
    for name in ("body.bias", "norm.weight", "unused.weight", "unused.bias"):
        assert torch.equal(after[name], before[name])


def test_a_part_may_learn_at_its_own_rate():
    """Adam's first step is as long as the rate, whatever the gradient."""
    model = network()
    schedule = replace(SCHEDULE, weight_decay=0.0, part_rates=(("body", 0.1), ("norm.bias", 3.0)))
    optimiser = make_optimiser(model, schedule)
    set_learning_rate(optimiser, 0.01)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.rand_like(weight) + 1
    optimiser.step()
    for name, weight in model.named_parameters():
        factor = 0.1 if name.startswith("body.") else 3.0 if name == "norm.bias" else 1.0
        torch.testing.assert_close(before[name] - weight, torch.full_like(weight, 0.01 * factor), rtol=1e-3, atol=1e-6)


def test_rates_of_parts_are_kept_with_the_state_and_states_without_them_are_read():
    model = network()
    rated = make_optimiser(model, replace(SCHEDULE, part_rates=(("body", 0.1),)))
    again = make_optimiser(model, replace(SCHEDULE, part_rates=(("body", 0.1),)))
    again.load_state_dict(rated.state_dict())
    set_learning_rate(again, 1.0)
    assert sorted({group["lr"] for group in again.param_groups}) == [0.1, 1.0]
    plain = make_optimiser(model, SCHEDULE)
    assert [[p.ndim for p in group["params"]] for group in plain.param_groups] == [[2, 2], [1, 1, 1, 1]]
    old = plain.state_dict()
    for group in old["param_groups"]:
        del group["factor"]
    plain.load_state_dict(old)
    set_learning_rate(plain, 0.5)
    assert {group["lr"] for group in plain.param_groups} == {0.5}


def test_a_rate_of_a_part_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match=r"called nose; Schedule\.part_rates: body, norm, unused"):
        make_optimiser(network(), replace(SCHEDULE, part_rates=(("nose", 0.1),)))
    with pytest.raises(UsageError, match=r"factors above 0; parts are held fast by Recipe\.trained"):
        make_optimiser(network(), replace(SCHEDULE, part_rates=(("body", 0.0),)))


def flat(model: nn.Module, part: str) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in model[part].parameters()])


@pytest.mark.parametrize("parts", [False, True])
def test_clipping_keeps_directions_and_shortens_to_the_norm(parts):
    model = network()
    for weight in [*model["body"].parameters(), *model["norm"].parameters()]:
        weight.grad = torch.randn_like(weight)
    for weight in model["norm"].parameters():
        weight.grad *= 1e-3
    before = {part: flat(model, part) for part in ("body", "norm")}
    norms = gradient_norms(model)
    assert {part: norm.item() for part, norm in norms.items()} == pytest.approx(
        {part: gradient.norm().item() for part, gradient in before.items()}
    )
    clip(model, norms, replace(SCHEDULE, clip_norm=0.1, clip_parts=parts))
    whole = math.hypot(*(gradient.norm().item() for gradient in before.values()))
    for part, gradient in before.items():
        length = gradient.norm().item() if parts else whole
        torch.testing.assert_close(flat(model, part), gradient * min(1, 0.1 / (length + 1e-6)))


def test_an_average_forgets_its_start_and_then_follows_slowly():
    average, model = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        kept = average.weight.clone()
        for step in range(200):
            model.weight.fill_(float(step))
            decay = min(0.9, (1 + step) / (10 + step))
            kept = decay * kept + (1 - decay) * step
            follow(average, model, 0.9, step)
    torch.testing.assert_close(average.weight, kept)
    # A line is followed decay / (1 - decay) steps behind.
    assert average.weight.mean().item() == pytest.approx(199 - 9, abs=0.1)
