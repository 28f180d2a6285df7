"""AdamW with the schedule of a recipe: rates, weight decay, clipping, and a moving average of the weights."""

import math

import torch
from torch import Tensor, nn

from unproject.errors import UsageError
from unproject.training.parts import belongs, part_of, require_parts
from unproject.training.recipe import Schedule


def make_optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """Weights of two and more dimensions decay; biases, norms and other scales do not.

    UsageError for a rate of a part that there is not, or for one that is not above 0.
    """
    rates = schedule.part_rates or ()
    require_parts(model, tuple(part for part, _ in rates), "Schedule.part_rates")
    if any(factor <= 0 for _, factor in rates):
        raise UsageError("Schedule.part_rates need factors above 0; parts are held fast by Recipe.trained")
    trained: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = next((factor for part, factor in rates if belongs(name, part)), 1.0)
            trained.setdefault(factor, []).append(parameter)
    groups = []
    for factor, some in trained.items():
        matrices, others = [p for p in some if p.ndim >= 2], [p for p in some if p.ndim < 2]
        groups.append({"params": matrices, "weight_decay": schedule.weight_decay, "factor": factor})
        groups.append({"params": others, "weight_decay": 0.0, "factor": factor})
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=schedule.betas, fused=on_gpu or None
    )


def learning_rate(schedule: Schedule, step: int) -> float:
    """Of the step of this number, from 0: linear from nearly nothing, then half a cosine.

    min + (max - min) / 2 (1 + cos(pi (step - warm-up) / (steps - warm-up))), as DUSt3R's code has it.
    """
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / (schedule.warmup_steps + 1)
    done = (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps)
    span = schedule.learning_rate - schedule.last_learning_rate
    return schedule.last_learning_rate + span / 2 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """In all groups, times the factor of each."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)  # states of runs that began before factors have none


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Norm of the gradient of each top-level part that has one, before clipping."""
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parts.setdefault(part_of(name), []).append(parameter.grad)
    return {part: torch.nn.utils.get_total_norm(gradients) for part, gradients in parts.items()}


def clip(model: nn.Module, norms: dict[str, Tensor], schedule: Schedule) -> None:
    """Shorten the gradient of the whole, or of each part by itself, to the norm of the schedule."""
    if not schedule.clip_parts:
        norms = dict.fromkeys(norms, torch.stack(list(norms.values())).norm())
    own: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        own.setdefault(part_of(name), []).append(parameter)
    for part, norm in norms.items():
        torch.nn.utils.clip_grads_with_norm_(own[part], schedule.clip_norm, norm)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average of the weights after step number ``step``; the first ones count more: it forgets the start."""
    decay = min(decay, (1 + step) / (10 + step))
    kept: list[Tensor] = list(average.parameters())
    new: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(kept, new, 1 - decay)
    for buffer, now in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(now)
