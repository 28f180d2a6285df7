"""What teachers would say of labelled clips: relative depth and tracks (Reliev3R), with errors that are known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from unproject.data.base import Dataset, Framing, Sample, joined
from unproject.data.clips import mixed_seed
from unproject.geometry.align import weighted_median
from unproject.geometry.camera import pixel_grid, project
from unproject.geometry.flow import sample
from unproject.geometry.rigid import inverse, transform
from unproject.types import Known, Labels, Tracks, require

SAME_SURFACE = 0.02
"""A point is seen where depth there is its own, up to this share."""
SKY = 20.0
"""Medians of depth that a teacher says of what is infinitely far, before its error."""
COARSE = 4
"""Rows and columns of the grid on which a teacher's error is drawn: it bends surfaces and is no noise of pixels."""


@dataclass(frozen=True, kw_only=True)
class Weakened(Dataset):
    """The clips of another dataset, of which no more is kept than teachers would know.

    Depth of every view in a scale of its own, off by a smooth error that grows with distance, and anywhere in the sky;
    tracks of random pixels, as points, poses and intrinsics of the dataset have them, so nothing may move. Intrinsics
    stay, unless they are to be found.
    """

    dataset: Dataset
    error: float = 0.03
    """Standard deviation of the logarithm of depth at the median distance, at points of a coarse grid; between them it
    is less. It grows in proportion to distance."""
    tracks: int = 256
    """Pixels of random views that are followed through a clip."""
    outliers: float = 0.0
    """Share of observations that are anywhere in the image."""
    intrinsics: bool = True
    """Whether they are known."""
    lens_error: float = 0.0
    """Standard deviation of the logarithm of the focal length that a teacher says of a clip."""

    @property
    def count(self) -> int | None:
        """As many as the other has."""
        return self.dataset.count

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The same images."""
        exact = self.dataset(numbers, framing)
        seeds = [mixed_seed(0x3EA4, number) for number in numbers]
        clips = [self._clip(exact.labels, clip, torch.Generator().manual_seed(seed)) for clip, seed in enumerate(seeds)]
        views, lens = exact.views, exact.labels.intrinsics
        if not self.intrinsics:
            views, lens = replace(views, intrinsics=None), None
        elif self.lens_error:
            zooms = self._zooms(seeds)
            views = replace(views, intrinsics=None if views.intrinsics is None else views.intrinsics * zooms)
            lens = None if lens is None else replace(lens, value=lens.value * zooms)
        return replace(exact, views=views, labels=replace(joined(clips, framing.views), intrinsics=lens))

    def _zooms(self, seeds: Sequence[int]) -> Float[Tensor, "B 1 3 3"]:
        """What is said of each clip's focal length over what is true, in the places of the focal lengths."""
        # Draws of their own, so that depth and tracks are those of a lens that is told right.
        draws = torch.cat([torch.randn(1, generator=torch.Generator().manual_seed(seed + 1)) for seed in seeds])
        zooms = torch.ones(len(seeds), 1, 3, 3)
        zooms[..., 0, 0] = zooms[..., 1, 1] = (self.lens_error * draws).exp()[:, None]
        return zooms

    def _clip(self, labels: Labels, clip: int, generator: torch.Generator) -> Labels:
        points, poses, intrinsics = (
            require(labels, name).value[clip] for name in ("points", "world_from_cam", "intrinsics")
        )
        known = require(labels, "points").weight[clip] > 0
        depth = torch.where(known, points[..., 2], 0)
        seen = _followed(points, known, poses, intrinsics, self.tracks, generator)
        if self.outliers:
            anywhere = torch.rand(len(seen.uv), 2, generator=generator) * seen.uv.new_tensor(depth.shape[:0:-1])
            wrong = torch.rand(len(seen.uv), generator=generator) < self.outliers
            seen = replace(seen, uv=torch.where(wrong[:, None], anywhere, seen.uv))
        relative = _relative(depth, known, self.error, generator)
        return Labels(mono_depth=Known(relative[None], torch.ones_like(relative)[None]), tracks=seen)


def _relative(
    depth: Float[Tensor, "N H W"], known: Tensor, error: float, generator: torch.Generator
) -> Float[Tensor, "N H W"]:
    """Depth as a teacher says it of each view."""
    middle = weighted_median(depth.flatten(1), known.flatten(1).to(depth))[:, None, None].clamp(min=1e-6)
    ratio = torch.where(known, depth / middle, SKY)
    coarse = torch.randn(len(depth), 1, COARSE, COARSE, generator=generator)
    smooth = interpolate(coarse, size=depth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    scale = torch.randn(len(depth), 1, 1, generator=generator).exp()
    return scale * ratio * (error * ratio.clamp(max=SKY) * smooth).clamp(-1, 1).exp()


def _followed(
    points: Float[Tensor, "N H W 3"],
    known: Tensor,
    world_from_cam: Float[Tensor, "N 4 4"],
    intrinsics: Float[Tensor, "N 3 3"],
    count: int,
    generator: torch.Generator,
) -> Tracks:
    """Tracks of random pixels whose surface at least two views see."""
    views, height, width = known.shape
    places = known.flatten().nonzero()[:, 0]
    picked = places[torch.randperm(len(places), generator=generator)[:count]]
    source, pixel = picked // (height * width), picked % (height * width)
    own = points.flatten(1, 2)[source, pixel]
    world = transform(world_from_cam[source], own[:, None])[:, 0]
    there = transform(inverse(world_from_cam), world.expand(views, -1, -1))
    uv = project(there, intrinsics)
    uv[source, torch.arange(len(source))] = pixel_grid(height, width, uv.dtype).flatten(0, 1)[pixel]
    depth = torch.where(known, points[..., 2], 0)
    surface, inside = sample(depth[..., None], uv)
    same = (surface[..., 0] - there[..., 2]).abs() < SAME_SURFACE * there[..., 2]
    same[source, torch.arange(len(source))] = True
    track, view = (inside & same).T.nonzero(as_tuple=True)
    rows = Tracks(view=view, track=track, uv=uv[view, track], weight=torch.ones(len(view), dtype=uv.dtype))
    return rows.shared()
