"""The compact network: small enough to be trained on a desk, so matching and geometry are built in, not learned.

Images are matched (`matcher`); a solver and triangulation explain the flow by a moving camera (`triangulation`); a
small transformer then mends what that cannot know: what moves, what has no parallax, what the other image does not see.
The result is Flow4R's property set: P, P_vt, W and C.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, logsigmoid, pixel_shuffle, relu

from unproject.errors import UsageError
from unproject.geometry.camera import intrinsics_from_focal, pixel_grid, rays
from unproject.geometry.motion import transform_map
from unproject.geometry.rigid import inverse, so3_log
from unproject.models.base import Reconstructor
from unproject.models.matcher import Matched, Matcher, MatcherShape, swap
from unproject.models.pairing import common_gauge, runs_of
from unproject.models.triangulation import LEAST, MOST, Explained, explain
from unproject.nn.attention import Turns
from unproject.nn.matching import ConvexUpsampling, warp
from unproject.nn.transformer import DecoderBlock
from unproject.types import Matching, Prediction, Views

DEFAULT_MATCHER = MatcherShape()
STRIDE = 4
"""Pixels of a cell of the geometry."""
NOISE_CELLS = 0.25
"""Usual error of flow, in such cells."""
EVIDENCE = 16
RAW = 7
ASSUMED_VIEW_DEG = 60.0
"""Field of view along the longer side where no intrinsics are given."""


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """What a compact network is made from."""

    matcher: MatcherShape = DEFAULT_MATCHER
    dim: int = 192
    heads: int = 6
    blocks: int = 4
    """Without any, depth is what triangulation says: a matcher that is being trained."""


class GeometryNet(nn.Module):
    """From what geometry explains, and what both images look like there, to corrections at every cell."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        _, quarter, eighth = config.matcher.widths
        self.head_dim = config.dim // config.heads
        self.look = nn.Conv2d(2 * eighth, config.dim, 1)
        self.measure = nn.Conv2d(EVIDENCE, config.dim, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(DecoderBlock(config.dim, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.spread = nn.Linear(config.dim, 4 * quarter)
        self.mix = nn.Conv2d(2 * quarter + EVIDENCE, 64, 3, padding=1)
        self.mend = nn.Conv2d(64, 64, 3, padding=1)
        self.leave = nn.Conv2d(64, RAW, 3, padding=1)
        self.upsample = ConvexUpsampling(64, STRIDE)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, scales: list[Float[Tensor, "S _ _ _"]], flow: Float[Tensor, "S H W 2"], evidence: Float[Tensor, "S E h w"]
    ) -> tuple[Float[Tensor, "S 7 h w"], Float[Tensor, "S 64 h w"]]:
        """(raw corrections, features to upsample by)."""
        coarse = rearrange(flow, "s h w c -> s c h w") / 8
        seen = warp(swap(scales[2]), avg_pool2d(coarse, 8))
        tokens = self.look(torch.cat([scales[2], seen], dim=1)) + self.measure(evidence)
        rows, columns = tokens.shape[-2:]
        tokens = rearrange(tokens, "s d h w -> s (h w) d")
        turns = Turns.of(_positions(rows, columns, tokens.device), self.head_dim)
        for block in self.blocks:
            tokens = block(tokens, swap(tokens), turns, turns)
        spread = rearrange(self.spread(self.norm(tokens)), "s (h w) d -> s d h w", h=rows)
        mixed = torch.cat([pixel_shuffle(spread, 2), scales[1], evidence], dim=1)
        features = relu(self.mend(relu(self.mix(mixed))))
        return self.leave(features), features


def _positions(rows: int, columns: int, device: torch.device) -> Int[Tensor, "L 2"]:
    return torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))


@dataclass(frozen=True)
class SideMaps:
    """What each side of each pair says of its pixels, in Flow4R's terms."""

    points: Float[Tensor, "S H W 3"]
    target_points: Float[Tensor, "S H W 3"]
    log_weight: Float[Tensor, "S H W"]
    confidence: Float[Tensor, "S H W"]
    flow: Float[Tensor, "S H W 2"]


@final
class Compact(Reconstructor):
    """Two-view network of a few million parameters for images of 100 to 500 pixels, sides multiples of 8."""

    long_side = 160
    patch = 8
    assumed_view_deg = ASSUMED_VIEW_DEG

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.matcher = Matcher(config.matcher)
        self.geometry = GeometryNet(config) if config.blocks else None

    def forward(self, views: Views) -> Prediction:
        """Each image is encoded once, each unordered pair solved once. Views of an item share one scale.

        Intrinsics are honoured; without them a field of view of 60 degrees is assumed. UsageError for a view that is
        in no pair, and for sides that are not multiples of 8.
        """
        return self._run(views, None)

    def with_cameras(self, views: Views, world_from_cam: Float[Tensor, "B N 4 4"]) -> Prediction:
        """The same where cameras are known: nothing is solved, and points are in the cameras' units."""
        return self._run(views, world_from_cam)

    def _run(self, views: Views, world_from_cam: Float[Tensor, "B N 4 4"] | None) -> Prediction:
        batch, count, _, height, width = views.images.shape
        if height % 8 or width % 8:
            raise UsageError(f"the compact network needs sides that are multiples of 8, and got {width}x{height}")
        runs = runs_of(views.pairs, count)
        both = torch.cat([runs.item * count + runs.first, runs.item * count + runs.second])
        scales = [features[both] for features in self.matcher.pyramid(views.images.flatten(0, 1))]
        matched = self.matcher(scales)
        intrinsics = _intrinsics(views).flatten(0, 1)[both]
        with torch.autocast(views.images.device.type, enabled=False):
            poses = None if world_from_cam is None else world_from_cam.flatten(0, 1)[both].chunk(2)
            known_pose = None if poses is None else inverse(poses[1]) @ poses[0]
            explained = self._explain(matched, intrinsics, known_pose)
        maps = self._maps([features.detach() for features in scales], matched, explained, intrinsics)
        distance = maps.points.detach().norm(dim=-1).mean((-2, -1)).view(2, -1)
        gauge = common_gauge(runs, distance, batch, count)
        if world_from_cam is not None:
            gauge = replace(gauge, scale=1 / explained.scale.chunk(2)[0])
        side, run = runs.flipped.long(), runs.run_of_pair
        row = side * len(runs.item) + run
        scale = gauge.scale[:, None, None, None].repeat(2, 1, 1, 1)
        own = gauge.side * len(runs.item) + gauge.run
        return Prediction(
            points=(maps.points * scale)[own],
            confidence=maps.confidence[own],
            flow=maps.flow[row],
            target_points=(maps.target_points * scale)[row],
            pose_weight=maps.log_weight[row].exp(),
            flow_confidence=matched.logit.sigmoid()[row],
            matching=_matching(matched, row) if self.training else None,
        )

    def _explain(
        self, matched: Matched, intrinsics: Float[Tensor, "S 3 3"], known_pose: Float[Tensor, "F 4 4"] | None
    ) -> Explained:
        """At the cells of the geometry, of which the solver reads every fourth."""
        flow = rearrange(matched.flow.detach().float(), "s h w c -> s c h w")
        cells = rearrange(avg_pool2d(flow, STRIDE), "s c h w -> s h w c") / STRIDE
        sure = avg_pool2d(matched.logit.detach().float()[:, None].sigmoid(), STRIDE)[:, 0]
        return explain(cells, sure, _shrunk(intrinsics), NOISE_CELLS, every=2, known_pose=known_pose)

    def _maps(
        self, scales: list[Tensor], matched: Matched, explained: Explained, intrinsics: Float[Tensor, "S 3 3"]
    ) -> SideMaps:
        flow, sure = matched.flow.detach(), matched.logit.detach()
        if self.geometry is None:
            raw = flow.new_zeros(len(flow), RAW, *explained.trust.shape[1:])
            maps = interpolate(_activated(raw, explained), scale_factor=STRIDE, mode="bilinear", align_corners=False)
        else:
            raw, features = self.geometry(scales, flow, _evidence(explained, intrinsics))
            with torch.autocast(flow.device.type, enabled=False):
                maps = self.geometry.upsample(_activated(raw.float(), explained), features.float())
        with torch.autocast(flow.device.type, enabled=False):
            return _side_maps(maps.float(), flow.float(), sure.float(), explained, intrinsics)


def _intrinsics(views: Views) -> Float[Tensor, "B N 3 3"]:
    if views.intrinsics is not None:
        return views.intrinsics
    height, width = views.images.shape[-2:]
    focal = max(height, width) / 2 / math.tan(math.radians(ASSUMED_VIEW_DEG / 2))
    return intrinsics_from_focal(torch.full_like(views.times, focal), width, height)


def _shrunk(intrinsics: Float[Tensor, "S 3 3"]) -> Float[Tensor, "S 3 3"]:
    """Of an image in which each cell is a pixel."""
    return intrinsics * intrinsics.new_tensor([1 / STRIDE, 1 / STRIDE, 1.0])[:, None]


def _evidence(explained: Explained, intrinsics: Float[Tensor, "S 3 3"]) -> Float[Tensor, "S 16 h w"]:
    """What the network is told of each cell, all of size about 1."""
    focal = (intrinsics[:, 0, 0] / STRIDE)[:, None, None]
    pose = explained.target_from_source
    motion = torch.cat([so3_log(pose[:, :3, :3]), pose[:, :3, 3]], dim=-1)
    parallax, miss = (focal * x / NOISE_CELLS for x in (explained.parallax, explained.epipolar))
    shift = explained.target_xy - explained.source_xy
    maps = [
        explained.inverse_depth.log(),
        (1 / (1 + parallax.square())),
        (1 + parallax.abs()).log() * parallax.sign() / 2,
        (1 + miss.abs()).log(),
        explained.trust,
        *shift.unbind(-1),
        *explained.source_xy.unbind(-1),
        explained.source_xy.square().sum(-1),
    ]
    here = torch.stack([x.clamp(-5, 5) for x in maps], dim=1)
    everywhere = motion.clamp(-3, 3)[:, :, None, None].expand(-1, -1, *here.shape[-2:])
    return torch.cat([here, everywhere], dim=1)


def _activated(raw: Float[Tensor, "S 7 h w"], explained: Explained) -> Float[Tensor, "S 7 h w"]:
    """Inverse depth, log-ratio of target depth, flow in pixels, log-odds of W and C, and trust: what may be averaged.

    Inverse depth of a plane is linear in the image, and so are its means.
    """
    depth, gate, ratio, x, y, weight, confidence = raw.unbind(1)
    inverse_depth = (torch.sigmoid(gate + 3) * explained.inverse_depth.log() - depth).clamp(-8, 5).exp()
    return torch.stack([inverse_depth, ratio, STRIDE * x, STRIDE * y, weight, confidence, explained.trust], dim=1)


def _side_maps(
    maps: Float[Tensor, "S 7 H W"], flow: Tensor, sure: Tensor, explained: Explained, intrinsics: Tensor
) -> SideMaps:
    inverse_depth, ratio, x, y, weight, confidence, trust = maps.unbind(1)
    grid = pixel_grid(flow.shape[1], flow.shape[2], flow.dtype, flow.device)
    ray = rays(grid.flatten(0, 1).expand(len(flow), -1, -1), intrinsics).unflatten(1, flow.shape[1:3])
    points = ray / inverse_depth[..., None]
    moved = flow + torch.stack([x, y], dim=-1)
    landing = rays((grid + moved).flatten(1, 2), swap(intrinsics)).unflatten(1, flow.shape[1:3])
    rigid = transform_map(explained.target_from_source, points)[..., 2]
    depth = rigid.clamp(min=LEAST / MOST) * ratio.clamp(-5, 5).exp()
    log_weight = logsigmoid(sure) + weight + trust.clamp(min=1e-4).log()
    return SideMaps(
        points=points,
        target_points=landing * depth[..., None],
        log_weight=log_weight.flatten(1).log_softmax(-1).view_as(log_weight),
        confidence=(confidence + sure).sigmoid(),
        flow=moved,
    )


def _matching(matched: Matched, row: Int[Tensor, "B P"]) -> Matching:
    height, width = matched.flows[0].shape[1:3]
    return Matching(
        log_match=rearrange(matched.log_match[row], "b p (h w) k -> b p h w k", h=height, w=width),
        flows=tuple(flow[row] for flow in matched.flows),
        logits=tuple(logit[row] for logit in matched.logits),
    )


SIZES = {
    "compact": CompactConfig(),
    "tiny": CompactConfig(
        matcher=MatcherShape(widths=(8, 16, 32), depths=(1, 1, 1), hidden=(16, 16, 32)), dim=32, heads=2, blocks=2
    ),
}


def config(size: str = "compact") -> CompactConfig:
    """The network that ships is ``compact``; ``tiny`` is for tests."""
    if size not in SIZES:
        raise UsageError(f"the compact network has no size {size!r}; choose one of {', '.join(SIZES)}")
    return SIZES[size]
