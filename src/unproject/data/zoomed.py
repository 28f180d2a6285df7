"""Clips seen through a longer lens: the middle of larger images, so that no field of view is learned by heart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unproject.data.base import Dataset, Framing, Sample, joined
from unproject.data.clips import mixed_seed
from unproject.errors import InputError
from unproject.geometry.flow import ends_inside
from unproject.tensors import map_tensors
from unproject.types import Known, Tracks


@dataclass(frozen=True, kw_only=True)
class Zoomed(Dataset):
    """The clips of another dataset, each cropped to a share of its own around the middle (Reliev3R's supplement).

    All views of a clip are cropped alike, so that one camera stays one, and in the middle, where a network that finds
    its rays has its principal point. The dataset is asked for larger images, of which the middle is taken as it is. 3D
    tracks are refused: they speak of pixels of the whole image.
    """

    dataset: Dataset
    least: float = 0.5
    """Of the sides of an image, what is left at least; shares are drawn evenly from it up to 1."""
    seed: int = 0

    @property
    def count(self) -> int | None:
        """As many as the other has."""
        return self.dataset.count

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The same clips; what lies outside is not known to have been there."""
        parts = [self._clip(number, framing) for number in numbers]
        labels = joined([part.labels for part in parts], framing.views)
        views = map_tensors(lambda *same: torch.cat(same), *(part.views for part in parts))
        return Sample(views=views, labels=labels, names=tuple(part.names[0] for part in parts))

    def _clip(self, number: int, framing: Framing) -> Sample:
        generator = torch.Generator().manual_seed(mixed_seed(0xC405, self.seed, number))
        share = self.least + (1 - self.least) * torch.rand((), generator=generator).item()
        height, width = round(framing.height / share), round(framing.width / share)
        whole = self.dataset([number], replace(framing, height=height, width=width))
        if whole.labels.moving_tracks is not None:
            raise InputError("Zoomed cannot crop 3D tracks (Labels.moving_tracks); take them out of the dataset")
        top, left = (height - framing.height) // 2, (width - framing.width) // 2
        return cut(whole, top, left, framing)


def cut(whole: Sample, top: int, left: int, framing: Framing) -> Sample:
    """A part of all images: maps lose what lies outside, principal points and tracks move.

    Flow stays what it is; what it leads out of the target's part is seen by one view only.
    """
    rows, columns = slice(top, top + framing.height), slice(left, left + framing.width)

    def part(known: Known | None) -> Known | None:
        return None if known is None else Known(known.value[:, :, rows, columns], known.weight[:, :, rows, columns])

    views, labels, lens = whole.views, whole.labels, whole.labels.intrinsics
    images = views.images[..., rows, columns]
    intrinsics = None if views.intrinsics is None else _moved(views.intrinsics, top, left)
    return replace(
        whole,
        views=replace(views, images=images, intrinsics=intrinsics),
        labels=replace(
            labels,
            points=part(labels.points),
            flow=_inside(part(labels.flow)),
            target_points=part(labels.target_points),
            scene_flow=part(labels.scene_flow),
            mono_depth=part(labels.mono_depth),
            intrinsics=None if lens is None else Known(_moved(lens.value, top, left), lens.weight),
            tracks=None if labels.tracks is None else _seen(labels.tracks, top, left, framing),
        ),
    )


def _inside(flow: Known | None) -> Known | None:
    if flow is None:
        return None
    return Known(flow.value, torch.where(ends_inside(flow.value), flow.weight, 0))


def _moved(intrinsics: Tensor, top: int, left: int) -> Tensor:
    moved = intrinsics.clone()
    moved[..., 0, 2] -= left
    moved[..., 1, 2] -= top
    return moved


def _seen(tracks: Tracks, top: int, left: int, framing: Framing) -> Tracks:
    """Those that two views still see."""
    uv = tracks.uv - tracks.uv.new_tensor([left, top])
    inside = ((uv >= 0) & (uv <= uv.new_tensor([framing.width, framing.height]))).all(-1)
    return replace(tracks, uv=uv).select(inside).shared()
