"""Windows of views, each in a world and unit of its own, brought together by the views they share.

Two windows that share a view see the same pixels of it, so their points correspond one by one: a robust similarity
takes one to the other. Where these links close a loop, least squares over the similarities spreads what is left over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unproject.geometry.rigid import transform
from unproject.geometry.similar import Similarity, robust_similarity
from unproject.tensors import map_tensors

CENTRES = 0.1
"""What a shared view's camera counts, beside its points together."""
SURE = 0.01
"""Share of distance below which a link's miss says nothing of how well it was found."""
ROUNDS, DOUBTING = 30, 15
CONTRADICTS = 100.0
"""How many times the usual squared rest a link may leave over, once others have had their say."""


@dataclass(frozen=True, kw_only=True)
class ThinView:
    """What a window says of one of its views, at pixels that are the same ones in every window."""

    view: int
    world_from_cam: Float[Tensor, "4 4"]
    """The window's world; float64."""
    points: Float[Tensor, "G 3"]
    """In the camera, in the window's unit."""
    trust: Float[Tensor, " G"]


@dataclass(frozen=True, kw_only=True)
class Link:
    """How two windows lie to each other."""

    first: int
    second: int
    first_from_second: Similarity
    miss: float
    """Usual distance between points that are one, as a share of their distance from the camera."""
    shared: int
    """Views in both."""


def links_between(windows: Sequence[Sequence[ThinView]]) -> list[Link]:
    """One for each two windows that share a view which both trust somewhere."""
    found = []
    for second in range(len(windows)):
        for first in range(second):
            link = _link(first, windows[first], second, windows[second])
            found += [] if link is None else [link]
    return found


def _link(first: int, ours: Sequence[ThinView], second: int, theirs: Sequence[ThinView]) -> Link | None:
    by_view = {one.view: one for one in ours}
    both = [(by_view[other.view], other) for other in theirs if other.view in by_view]
    rows = [_matches(one, other) for one, other in both]
    rows = [row for row in rows if bool((row[2] > 0).any())]
    if not rows:
        return None
    x, y, weight, error = (torch.cat(parts) for parts in zip(*rows, strict=True))
    found, miss = robust_similarity(x, y, weight, error)
    return Link(first=first, second=second, first_from_second=found, miss=float(miss), shared=len(rows))


def _matches(one: ThinView, other: ThinView) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(points of the other's world, of the one's, weight, expected error up to a factor): pixels, and the camera."""
    weight = (one.trust * other.trust).double().sqrt()
    distance = one.points.double().norm(dim=-1).clamp(min=1e-9)
    x = torch.cat([transform(other.world_from_cam, other.points.double()), other.world_from_cam[None, :3, 3]])
    y = torch.cat([transform(one.world_from_cam, one.points.double()), one.world_from_cam[None, :3, 3]])
    weight = torch.cat([weight, CENTRES * weight.sum()[None]])
    return x, y, weight, torch.cat([distance, distance.median()[None]])


@dataclass(frozen=True)
class Gauges:
    """One world for all windows that links lead to."""

    world_from_window: Similarity
    """Batch axis: windows. The unit and frame are those of the first window of each part."""
    part: Int[Tensor, " W"]
    """Windows with different numbers are not linked."""


def solve(count: int, links: Sequence[Link], reach: Float[Tensor, " W"]) -> Gauges:
    """Gauges of all windows: along the surest links first, then by least squares where there are more links than that.

    ``reach`` is the usual distance in each window, in its unit: translations count as shares of it. Links that
    contradict the others count less, and in the end not at all.
    """
    gauges, part, roots = _along_tree(count, links)
    if len(links) > count - len(roots):
        gauges = _least_squares(gauges, links, reach, roots)
    return Gauges(_stacked(gauges), torch.tensor(part))


def _along_tree(count: int, links: Sequence[Link]) -> tuple[list[Similarity], list[int], list[int]]:
    """Each window by the surest link to those already placed."""
    gauges, part = [Similarity.identity() for _ in range(count)], [-1] * count
    roots = []
    for start in range(count):
        if part[start] >= 0:
            continue
        part[start] = len(roots)
        roots.append(start)
        while open_links := [one for one in links if (part[one.first] < 0) != (part[one.second] < 0)]:
            best = min(open_links, key=lambda one: (one.miss + SURE) / one.shared**0.5)
            if part[best.first] >= 0:
                gauges[best.second] = gauges[best.first] @ best.first_from_second
            else:
                gauges[best.first] = gauges[best.second] @ best.first_from_second.inverse()
            part[best.first] = part[best.second] = part[start]
    return gauges, part, roots


def _least_squares(
    gauges: list[Similarity], links: Sequence[Link], reach: Float[Tensor, " W"], roots: list[int]
) -> list[Similarity]:
    """Gauss-Newton on what the links leave over, reweighted; the first window of each part stays."""
    first, second = (torch.tensor([getattr(one, side) for one in links]) for side in ("first", "second"))
    measured = _stacked([one.first_from_second for one in links]).inverse()
    unit = torch.ones(len(links), 7, dtype=torch.float64)
    unit[:, 3:6] = reach.double()[second, None]
    sure = torch.tensor([one.shared / (one.miss**2 + SURE**2) for one in links], dtype=torch.float64)
    free = torch.tensor([window not in roots for window in range(len(gauges))])
    now = _stacked(gauges)

    def left(step: Float[Tensor, "L 14"]) -> Float[Tensor, "L 7"]:
        ahead = _at(now, first) @ Similarity.exp(step[:, :7])
        there = _at(now, second) @ Similarity.exp(step[:, 7:])
        return (measured @ ahead.inverse() @ there).log() / unit

    for number in range(ROUNDS):
        rest, slope = _with_slope(left, len(links))
        size = rest.square().sum(-1) * sure
        if number == DOUBTING:
            sure = torch.where(size > CONTRADICTS * size.median().clamp(min=1), 0, sure)
        weight = sure / (1 + size).sqrt()
        step = _step(rest, slope, weight, first, second, free)
        now = now @ Similarity.exp(step)
        if number > DOUBTING and float(step.abs().max()) < 1e-10:
            break
    return [_at(now, torch.tensor(window)) for window in range(len(gauges))]


def _with_slope(
    function: Callable[[Tensor], Tensor], links: int
) -> tuple[Float[Tensor, "L 7"], Float[Tensor, "L 7 14"]]:
    """A link's rest depends on its own two windows alone, so seven backward passes give all derivatives."""
    step = torch.zeros(links, 14, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        rest = function(step)
        rows = [torch.autograd.grad(column.sum(), step, retain_graph=True)[0] for column in rest.unbind(-1)]
    return rest.detach(), torch.stack(rows, dim=1)


def _step(rest: Tensor, slope: Tensor, weight: Tensor, first: Tensor, second: Tensor, free: Tensor) -> Tensor:
    """Of every window, solving the normal equations; none for windows that stay."""
    count = len(free)
    normal, right = torch.zeros(count, count, 7, 7, dtype=torch.float64), torch.zeros(count, 7, dtype=torch.float64)
    weighted = slope.mT * weight[:, None, None]
    blocks, pulls = weighted @ slope, (weighted @ rest[..., None])[..., 0]
    ends = (first, second)
    for row in range(2):
        mine = slice(7 * row, 7 * row + 7)
        right.index_put_((ends[row],), pulls[:, mine], accumulate=True)
        for column in range(2):
            block = blocks[:, mine, 7 * column : 7 * column + 7]
            normal.index_put_((ends[row], ends[column]), block, accumulate=True)
    kept = free.repeat_interleave(7)
    matrix = normal.transpose(1, 2).reshape(7 * count, 7 * count)[kept][:, kept]
    matrix = matrix + 1e-9 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
    step = torch.zeros(7 * count, dtype=torch.float64)
    step[kept] = -torch.linalg.solve(matrix, right.flatten()[kept])
    return step.view(count, 7)


def _at(gauges: Similarity, index: Tensor) -> Similarity:
    return map_tensors(lambda tensor: tensor[index], gauges)


def _stacked(gauges: Sequence[Similarity]) -> Similarity:
    return map_tensors(lambda *tensors: torch.stack(tensors), *gauges)
