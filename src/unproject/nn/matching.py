"""Matching by correlation: all pairs of coarse cells first, then small corrections at finer and finer cells."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, normalize, pad, relu, unfold

from unproject.geometry.camera import pixel_grid


def cell_centres(height: int, width: int, like: Tensor) -> Float[Tensor, "H W 2"]:
    """Cell coordinates (x, y) of the centres of all cells, the corner of the first being (0, 0)."""
    return pixel_grid(height, width, like.dtype, like.device)


class GlobalMatching(nn.Module):
    """Compares every coarse cell of one image with every one of the other."""

    def __init__(self, width: int, descriptor: int = 64) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, descriptor, 1)
        # Five times the temperature's logarithm-free value: Adam moves all parameters alike, and this one is large.
        self.sharpness = nn.Parameter(torch.tensor(4.0))

    def forward(self, source: Float[Tensor, "F C h w"], target: Float[Tensor, "F C h w"]) -> Float[Tensor, "F hw hw"]:
        """Of each source cell, the log-probability of each target cell."""
        a, b = (normalize(self.project(x).flatten(2), dim=1) for x in (source, target))
        return ((5 * self.sharpness).clamp(max=80) * (a.mT @ b)).log_softmax(-1)


def mutual_flow(
    forward: Float[Tensor, "F hw hw"], backward: Float[Tensor, "F hw hw"], height: int, width: int, radius: int = 2
) -> tuple[Float[Tensor, "F 2 h w"], Float[Tensor, "F 1 h w"]]:
    """Flow in cells and the log-probability of the match, from log-probabilities of matches in both directions.

    The best cell in both directions together, then the mean of the probabilities around it.
    """
    both = forward + backward.mT
    best = both.argmax(-1, keepdim=True)
    x, y = best % width, best // width
    offset = torch.arange(-radius, radius + 1, device=best.device)
    near_x = (x[..., None] + offset).clamp(0, width - 1).expand(-1, -1, len(offset), -1)
    near_y = (y[..., None] + offset[:, None]).clamp(0, height - 1).expand(-1, -1, -1, len(offset))
    index = (near_y * width + near_x).flatten(-2)
    share = forward.gather(-1, index).softmax(-1)
    # Cells past an edge stand twice in the window; they weigh alike, which pulls the mean towards the edge.
    place = torch.stack([(share * (near.flatten(-2) + 0.5)).sum(-1) for near in (near_x, near_y)], dim=-1)
    flow = place - cell_centres(height, width, share).flatten(0, 1)
    sure = both.gather(-1, best)[..., 0]
    return (
        rearrange(flow, "f (h w) c -> f c h w", h=height),
        rearrange(sure, "f (h w) -> f 1 h w", h=height),
    )


def warp(features: Float[Tensor, "F C h w"], flow: Float[Tensor, "F 2 h w"]) -> Float[Tensor, "F C h w"]:
    """Features of the target at the cells where the flow (cells) leads; those of the edge outside."""
    height, width = features.shape[-2:]
    size = flow.new_tensor([width, height])
    place = cell_centres(height, width, flow) + rearrange(flow, "f c h w -> f h w c")
    return grid_sample(features, place / size * 2 - 1, padding_mode="border", align_corners=False)


def local_correlation(
    source: Float[Tensor, "F C h w"], warped: Float[Tensor, "F C h w"], radius: int
) -> Float[Tensor, "F _ h w"]:
    """Of each cell with the warped cells around it, row by row."""
    height, width = source.shape[-2:]
    source, around = normalize(source, dim=1), pad(normalize(warped, dim=1), (radius,) * 4)
    side = range(2 * radius + 1)
    rows = [(source * around[..., y : y + height, x : x + width]).sum(1) for y in side for x in side]
    return torch.stack(rows, dim=1)


class Correction(nn.Module):
    """Looks around where the flow leads, corrects it, and says how likely it is right then."""

    def __init__(self, features: int, hidden: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.enter = nn.Conv2d((2 * radius + 1) ** 2 + features + 3, hidden, 3, padding=1)
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.leave = nn.Conv2d(hidden, 3, 3, padding=1)

    def forward(
        self,
        source: Float[Tensor, "F C h w"],
        target: Float[Tensor, "F C h w"],
        flow: Float[Tensor, "F 2 h w"],
        logit: Float[Tensor, "F 1 h w"],
    ) -> tuple[Float[Tensor, "F 2 h w"], Float[Tensor, "F 1 h w"]]:
        """(flow, logit). The flow it starts from is taken as given: gradients do not run through places."""
        flow, logit = flow.detach(), logit.detach()
        correlation = local_correlation(source, warp(target, flow), self.radius)
        # Flow to the power one half: its size matters less the larger it is.
        size = flow.norm(dim=1, keepdim=True)
        seen = torch.cat([5 * correlation, source, flow / (1 + size).sqrt(), 0.2 * logit], dim=1)
        change = self.leave(relu(self.middle(relu(self.enter(seen)))))
        return flow + change[:, :2], change[:, 2:]


def finer(flow: Float[Tensor, "F 2 h w"], logit: Float[Tensor, "F 1 h w"]) -> tuple[Tensor, Tensor]:
    """The same in cells of half the size."""
    flow, logit = (interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) for x in (2 * flow, logit))
    return flow, logit


class ConvexUpsampling(nn.Module):
    """Maps at finer cells, each a weighted mean of the nine coarse cells around it (RAFT, sec. 3.3), weights learned.

    Means of neighbours keep edges sharp and cannot leave the range of what they average.
    """

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.weigh = nn.Conv2d(width, 9 * factor**2, 1)

    def forward(self, maps: Float[Tensor, "F K h w"], features: Float[Tensor, "F C h w"]) -> Float[Tensor, "F K H W"]:
        """Upsampled maps."""
        height, width = maps.shape[-2:]
        shape = "f (nine a b) h w -> f 1 nine (a b) h w"
        share = rearrange(self.weigh(features), shape, nine=9, a=self.factor).softmax(2)
        around = unfold(pad(maps, (1, 1, 1, 1), mode="replicate"), 3)
        around = rearrange(around, "f (k nine) (h w) -> f k nine 1 h w", nine=9, h=height, w=width)
        fine = (share * around).sum(2)
        return rearrange(fine, "f k (a b) h w -> f k (h a) (w b)", a=self.factor)
