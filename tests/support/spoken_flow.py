"""A tiny Flow3r whose flow head is set by hand, so that what it says is right in a convention of our choice."""

from contextlib import contextmanager

import torch
from torch import Tensor

from unproject.models import build, flow_check
from unproject.models.flow3r import Flow3r, FlowConvention
from unproject.nn.flow_head import UV_BASE, UV_SHARE

PAIRS = torch.tensor([[[0, 0], [0, 1]]])


@torch.no_grad()
def speaking(convention: FlowConvention) -> Flow3r:
    """Right on the pictures of the check; its place is said in that convention, or its displacement.

    Its config says ``pytorch3d`` whatever it speaks.
    """
    torch.manual_seed(0)
    made = build("flow3r", "tiny").eval()
    assert isinstance(made, Flow3r)
    if convention == "pixels":
        _say_displacements(made)
    else:
        _say_places(made, -1 if convention == "pytorch3d" else 1)
    return made


def _say_places(model: Flow3r, sign: int) -> None:
    """Of every pixel its own, read off the head's embedding of places alone: its slowest sine is as good as linear."""
    head = model.flow_head.scratch
    for parameter in (*head["output_conv1"].parameters(), *head["output_conv2"].parameters()):
        parameter.zero_()
    height, width = flow_check.pictures(14).shape[-2:]
    diagonal = (height**2 + width**2) ** 0.5
    quarter = head["output_conv1"].out_channels // 4
    slowest = UV_BASE ** (-(quarter - 1) / quarter)
    first, last = head["output_conv2"][0], head["output_conv2"][2]
    for axis, side in enumerate((width, height)):
        largest = side / diagonal * (side - 1) / side
        first.weight[axis, 2 * quarter * axis + quarter - 1, 1, 1] = 1 / (UV_SHARE * slowest * largest)
        first.bias[axis] = 2  # what comes is in [-1, 1], and must pass a ReLU
        last.weight[axis, axis] = sign
        last.bias[axis] = -2 * sign


def _say_displacements(model: Flow3r) -> None:
    """Fusion tells only which of the two pictures is the target; the last layer is fitted to the displacements."""
    head, dim = model.flow_head, model.config.shape.encoder.dim
    with _seen(head.mlp[0]) as given:
        model.raw(flow_check.pictures(14), PAIRS)
    here, there = given[-1][:, 0, dim : 2 * dim]
    apart = (there - here) / (there - here).square().sum()
    for layer in (head.mlp[0], head.mlp[2], head.mlp[4]):
        layer.weight.zero_()
        layer.bias.zero_()
    for row, sign in enumerate((100.0, -100.0)):
        head.mlp[0].weight[row, dim : 2 * dim] = sign * apart
        head.mlp[0].bias[row] = -sign * (here + there) @ apart / 2
        head.mlp[2].weight[row, row] = 1
        head.mlp[4].weight[:, row] = torch.randn(dim, generator=torch.Generator().manual_seed(1)) * (-1) ** row
    head.projects[3].weight.mul_(30)  # louder than the places that are added to it
    first, last = head.scratch["output_conv2"][0], head.scratch["output_conv2"][2]
    first.bias.fill_(1)
    with _seen(last) as given:
        model.raw(flow_check.pictures(14), PAIRS)
    hidden = torch.cat([given[0], torch.ones_like(given[0][:, :1])], dim=1).movedim(1, -1)
    move = -14.0 * torch.tensor([flow_check.MOVED[1], flow_check.MOVED[0]])
    wanted = torch.stack([torch.zeros(2), move])[:, None, None].expand(*hidden.shape[:-1], 2)
    fitted = torch.linalg.lstsq(hidden.flatten(0, 2).double(), wanted.flatten(0, 2).double()).solution.float()
    last.weight.copy_(fitted[:-1].T[..., None, None])
    last.bias.copy_(fitted[-1])


@contextmanager
def _seen(part: torch.nn.Module):
    """What a part is given while the block runs, call by call."""
    given: list[Tensor] = []
    hook = part.register_forward_pre_hook(lambda _part, inputs: given.append(inputs[0]))
    yield given
    hook.remove()
