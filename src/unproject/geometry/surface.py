"""What a depth map shows of its own faults: edges that no surface has, and the pattern of a head's patches."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

JUMP = 0.03
"""Share of depth by which it may change within three pixels."""
ROUNDS = 4
CAUTION = 2.0
BEND_DEG = 5.0
"""Angle by which the surface may turn there."""


def torn(points: Float[Tensor, "F H W 3"], valid: Bool[Tensor, "F H W"]) -> Bool[Tensor, "F H W"]:
    """Pixels at an edge of depth where the surface also turns: points there float between what is near and far.

    Depth alone would take far, smooth surfaces that are seen at a flat angle. The rule is that of π³'s later tools:
    (max - min of depth in 3x3) / depth > 3 %, and within a pixel a normal that turns by more than 5 degrees.
    """
    normal, known = _normals(points, valid)
    return depth_edges(points[..., 2], valid) & _dilated(_turns(normal, known))


def depth_edges(depth: Float[Tensor, "*batch H W"], valid: Bool[Tensor, "*batch H W"]) -> Bool[Tensor, "*batch H W"]:
    """Valid pixels around which depth jumps, among valid neighbours."""
    low, high = (
        sign * _lowest(torch.where(valid, sign * depth, torch.inf).flatten(0, -3)).view_as(depth) for sign in (1, -1)
    )
    return valid & ((high - low) > JUMP * depth.clamp(min=1e-6))


def _lowest(values: Float[Tensor, "F H W"]) -> Float[Tensor, "F H W"]:
    return -max_pool2d(-values[:, None], 3, 1, 1)[:, 0]


def _dilated(mask: Bool[Tensor, "F H W"]) -> Bool[Tensor, "F H W"]:
    return max_pool2d(mask[:, None].float(), 3, 1, 1)[:, 0] > 0


def _normals(points: Tensor, valid: Tensor) -> tuple[Float[Tensor, "F H W 3"], Bool[Tensor, "F H W"]]:
    """Of the four triangles with neighbours that are valid, together; and where there is one."""
    around = []
    for row, column in ((-1, 0), (0, -1), (1, 0), (0, 1)):
        shifted = torch.roll(points, (-row, -column), (1, 2)) - points
        there = valid & torch.roll(valid, (-row, -column), (1, 2))
        there = _without_border(there, row, column)
        around.append(torch.where(there[..., None], shifted, 0))
    total = torch.stack([torch.linalg.cross(around[n], around[(n + 1) % 4]) for n in range(4)]).sum(0)
    length = total.norm(dim=-1, keepdim=True)
    known = length[..., 0] > 0
    return torch.where(known[..., None], total / torch.where(length > 0, length, 1), 0), known


def _without_border(mask: Tensor, row: int, column: int) -> Tensor:
    """Where a shift reached past the image it came round from the other side."""
    height, width = mask.shape[1:]
    rows = torch.arange(height, device=mask.device)[:, None] + row
    columns = torch.arange(width, device=mask.device)[None] + column
    return mask & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)


def _turns(normal: Tensor, known: Tensor) -> Bool[Tensor, "F H W"]:
    """Whether a normal within a pixel is another."""
    least = torch.cos(torch.deg2rad(torch.tensor(BEND_DEG))).item()
    turns = torch.zeros_like(known)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            other, there = (torch.roll(value, (-row, -column), (1, 2)) for value in (normal, known))
            there = _without_border(known & there, row, column)
            turns |= there & ((normal * other).sum(-1) < least)
    return turns


def patch_pattern(
    log_depth: Float[Tensor, "F H W"], valid: Bool[Tensor, "F H W"], patch: int
) -> Float[Tensor, "patch patch"]:
    """What log depth has in common at the same place of every patch, beyond what is smooth; 0 on average.

    A head that unfolds tokens into patches leaves such a grid. The residual is against the mean over one patch around
    the pixel, which no pattern of that period changes; strong residuals are edges and are left out. What the scatter
    of the patches would explain by chance is taken off (James and Stein), so a map without a grid stays as it is.
    """
    pattern = log_depth.new_zeros(patch, patch)
    if min(log_depth.shape[-2:]) < 3 * patch:
        return pattern
    for _ in range(ROUNDS):
        pattern = pattern + _pattern_left(without_pattern(log_depth, pattern), valid, patch)
    return pattern


def _pattern_left(log_depth: Tensor, valid: Tensor, patch: int) -> Float[Tensor, "patch patch"]:
    """One round: what is strong hides behind edges, and shows once the rest of the pattern is gone."""
    height, width = log_depth.shape[-2:]
    none = log_depth.new_zeros(patch, patch)
    known = valid.to(log_depth)
    smooth, full = _patch_mean(torch.where(valid, log_depth, 0), patch), _patch_mean(known, patch)
    rest = log_depth - smooth
    usable = valid & (full > 1 - 1e-4) & _inner(height, width, patch, log_depth.device)
    if not bool(usable.any()):
        return none
    usable &= rest.abs() <= 3 * rest[usable].abs().median()
    # Twice the mean: what is smooth but curved leaves a rest of its own, which changes slowly.
    slow = _patch_mean(torch.where(usable, rest, 0), patch) / _patch_mean(usable.to(rest), patch).clamp(min=1e-6)
    rest = torch.where(usable, rest - slow, 0)
    count, total, square = (_by_place(value, patch) for value in (usable.to(rest), rest, rest.square()))
    if float(count.min()) < 2:
        return none
    mean = total / count
    # Views of one scene repeat each other's chances: only the patches of one view count as tries.
    chance = ((square / count - mean.square()).clamp(min=0) / count).mean() * len(log_depth)
    mean = mean - mean.mean()
    return mean * (1 - CAUTION * chance / mean.square().mean().clamp(min=torch.finfo(mean.dtype).tiny)).clamp(min=0)


def without_pattern(log_depth: Float[Tensor, "F H W"], pattern: Float[Tensor, "patch patch"]) -> Float[Tensor, "F H W"]:
    """The maps with the pattern of every patch taken off."""
    rows, columns = (side // pattern.shape[0] for side in log_depth.shape[-2:])
    return log_depth - pattern.repeat(rows, columns)


def _patch_mean(values: Float[Tensor, "F H W"], patch: int) -> Float[Tensor, "F H W"]:
    """Mean over ``patch`` pixels in each direction, with halves at both ends where that is an even number."""
    line = values.new_ones(patch + 1 - patch % 2)
    if patch % 2 == 0:
        line[[0, -1]] = 0.5
    line = line / patch
    half = len(line) // 2
    wide = pad(values[:, None], (half, half, half, half), mode="replicate")
    return conv2d(conv2d(wide, line[None, None, None]), line[None, None, :, None])[:, 0]


def _inner(height: int, width: int, patch: int, device: torch.device) -> Bool[Tensor, "{height} {width}"]:
    """Where the mean over a patch, and that of the means, is one over whole images."""
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)[None]
    edge = patch // 2
    return (rows >= edge) & (rows < height - edge) & (columns >= edge) & (columns < width - edge)


def _by_place(values: Float[Tensor, "F H W"], patch: int) -> Float[Tensor, "patch patch"]:
    """Sums over all patches; sides are whole numbers of these."""
    return values.unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).sum((0, 1, 3))
