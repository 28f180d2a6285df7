"""Clips that `unproject label` has labelled, from its shards: what networks learn from without annotation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unproject.data.base import Dataset, Framing, Sample, images_of, joined, pair_table
from unproject.data.clips import mixed_seed
from unproject.data.crop import Crop
from unproject.errors import UsageError
from unproject.geometry.flow import ends_inside
from unproject.geometry.rigid import inverse
from unproject.io.shard_index import INDEX, Rows, read_index
from unproject.io.shard_labels import KEPT
from unproject.io.shards import LabelledClip, read_clip
from unproject.tensors import map_tensors
from unproject.types import Known, Labels, Tracks, Views, require

SAME_FLOW_PX = 0.5
"""Pixels that come together in one are of one surface if the flow of the middle one differs less from their mean."""
SAME_DEPTH = 0.02
"""The same of depth, as a share."""
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class LabelShards(Dataset):
    """The clips of a folder of labels, in the order of its index.

    Views are chosen, and put in order, by the clip's number, so that as many as can be of the pairs that are asked for
    were labelled; the others weigh nothing. Images are cropped in the middle to the wanted aspect, and labels with
    them. A label that some clips have weighs nothing in the others; one that no clip has is absent.
    """

    folder: str
    needs: tuple[str, ...] = ()
    """Labels that a clip must have: ``("flow", "tracks")``. With ``intrinsics`` among them, views tell them too."""

    @property
    def count(self) -> int:
        """Clips that have what is needed; raises what a call raises."""
        return len(_library(self.folder, self.needs).numbers)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that any of its clips has; raises what a call raises."""
        return _library(self.folder, self.needs).labels

    @property
    def fewest_views(self) -> int:
        """Of its clips; raises what a call raises."""
        return _library(self.folder, self.needs).fewest_views

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """Views, without intrinsics unless they are needed, and labels in float32.

        The world is the first camera that is known.

        Raises:
            UsageError: pyarrow is not installed, no clip has what is needed, or some have fewer views.
            InputError: the index or a shard is missing or damaged.
        """
        library = _library(self.folder, self.needs)
        if framing.views > library.fewest_views:
            raise UsageError(
                f"{self.folder} has clips of {library.fewest_views} views, and {framing.views} were asked for: set "
                f"Clip.views to at most {library.fewest_views}, or label clips of more views"
            )
        rows = [library.rows[int(library.numbers[number])] for number in numbers]
        clips = [
            _Framed.of(read_clip(Path(self.folder), row), number, framing)
            for row, number in zip(rows, numbers, strict=True)
        ]
        views = Views(
            images=images_of(np.stack([clip.images() for clip in clips])),
            times=torch.tensor([[clip.clip.times_s[view] for view in clip.order] for clip in clips]),
            pairs=pair_table(framing).expand(len(clips), -1, -1),
            intrinsics=torch.cat([clip.told_intrinsics() for clip in clips]) if "intrinsics" in self.needs else None,
        )
        labels = joined([clip.labels(library.labels) for clip in clips], framing.views)
        return Sample(views=views, labels=labels, names=tuple(f"{row.file} {row.key}" for row in rows))


@dataclass(frozen=True)
class _Library:
    """What a folder has."""

    rows: Rows
    numbers: Int[np.ndarray, " clips"]
    """Rows that have what is needed."""
    labels: tuple[str, ...]
    """That any of these has."""
    fewest_views: int


@lru_cache(maxsize=8)
def _library(folder: str, needs: tuple[str, ...]) -> _Library:
    if set(needs) - set(KEPT):
        raise UsageError(f"labels never hold {', '.join(sorted(set(needs) - set(KEPT)))}; choose of {', '.join(KEPT)}")
    rows = _rows(folder)
    numbers = rows.having(needs)
    if not len(numbers):
        what = f"{' and '.join(needs)} among {', '.join(rows.labels) or 'no labels'}" if len(rows) else "a label"
        raise UsageError(f"{folder} has no clip with {what}; label with the teachers of these, or need less")
    labels = tuple(name for name in rows.labels if len(np.intersect1d(rows.having((name,)), numbers)))
    return _Library(rows, numbers, labels, int(rows.views()[numbers].min()))


@lru_cache(maxsize=8)
def _rows(folder: str) -> Rows:
    return read_index(Path(folder) / INDEX)


@lru_cache(maxsize=256)
def _orders(labelled: Pairs, views: int, wanted: Pairs, many: int) -> tuple[tuple[int, ...], ...]:
    """So many of the views, in all even steps around their circle that have most of the wanted pairs labelled."""
    orders = [
        tuple((start + step * place) % views for place in range(many))
        for step in range(1, max(views, 2))
        for start in range(views)
        if many <= views // gcd(step, views)
    ]
    there = set(labelled)
    found = [sum((order[source], order[target]) in there for source, target in wanted) for order in orders]
    return tuple(order for order, count in zip(orders, found, strict=True) if count == max(found))


@dataclass(frozen=True)
class _Framed:
    """A clip as a batch wants it: some of its views in some order, cropped and resized."""

    clip: LabelledClip
    order: tuple[int, ...]
    """Of each view of the batch, its place in the clip."""
    crop: Crop
    framing: Framing

    @staticmethod
    def of(clip: LabelledClip, number: int, framing: Framing) -> "_Framed":
        orders = _orders(clip.pairs, len(clip.frames), framing.pairs, framing.views)
        order = orders[mixed_seed(number, framing.views) % len(orders)]
        return _Framed(clip, order, Crop.middle(clip.images[0], framing), framing)

    def images(self) -> np.ndarray:
        return np.stack([self.crop.image(self.clip.images[view]) for view in self.order])

    def labels(self, names: tuple[str, ...]) -> Labels:
        """These, whether the clip has them or not."""
        makers: dict[str, Callable[[], Any]] = {
            "flow": self.flow,
            "tracks": self.tracks,
            "mono_depth": self.mono_depth,
            "world_from_cam": self.poses,
            "intrinsics": self.intrinsics,
            "points": self.points,
        }
        return Labels(**{name: makers[name]() for name in names})

    def flow(self) -> Known:
        """Of the wanted pairs; what ends outside the target's part is seen by one only."""
        flow, (height, width) = self.clip.labels.flow, (self.crop.height, self.crop.width)
        value = np.zeros((len(self.framing.pairs), height, width, 2), np.float32)
        weight = np.zeros(value.shape[:-1], np.float32)
        stretch = np.diag(self.crop.from_image)[:2].astype(np.float32)

        def alike(mean: np.ndarray, middle: np.ndarray) -> np.ndarray:
            return np.all(np.abs(mean - middle) < SAME_FLOW_PX / stretch, axis=-1)

        for place, (source, target) in enumerate(self.framing.pairs):
            pair = self.order[source], self.order[target]
            if flow is not None and pair in self.clip.pairs:
                number = self.clip.pairs.index(pair)
                whole, trust = flow.value[0, number].numpy(), flow.weight[0, number].numpy()
                mean, weight[place] = self.crop.known(whole, trust, alike)
                value[place] = mean * stretch
        return _known(value, np.where(ends_inside(torch.from_numpy(value)).numpy(), weight, 0))

    def mono_depth(self) -> Known:
        known = self._map(self.clip.labels.mono_depth, 1)
        return Known(known.value[..., 0], known.weight)

    def points(self) -> Known:
        return self._map(self.clip.labels.points, 3)

    def _map(self, known: Known | None, channels: int) -> Known:
        """A label of each view whose last channel is depth."""
        shape = (len(self.order), self.crop.height, self.crop.width)
        value, weight = np.zeros((*shape, channels), np.float32), np.zeros(shape, np.float32)
        for place, view in enumerate(self.order):
            if known is not None:
                whole = known.value[0, view].numpy()
                whole = whole.reshape(*whole.shape[:2], channels)
                value[place], weight[place] = self.crop.known(whole, known.weight[0, view].numpy(), same_surface)
        return _known(value, weight)

    def intrinsics(self) -> Known:
        value, weight = self._of_views(self.clip.labels.intrinsics, 3)
        return Known((torch.from_numpy(self.crop.from_image) @ value).float()[None], weight)

    def told_intrinsics(self) -> Float[Tensor, "1 N 3 3"]:
        """Of every view: a clip is of one camera, so a view whose own are unknown has those of one that has some."""
        known = require(self.clip.labels, "intrinsics")
        value, some = known.value[0].double(), known.weight[0] > 0
        whole = torch.where(some[:, None, None], value, value[some.long().argmax()])[list(self.order)]
        return (torch.from_numpy(self.crop.from_image) @ whole).float()[None]

    def poses(self) -> Known:
        """From the first camera that is known: worlds may have their origin far away, where float32 is coarse."""
        value, weight = self._of_views(self.clip.labels.world_from_cam, 4)
        known = weight[0] > 0
        first = value[int(known.long().argmax())]
        based = torch.where(known[:, None, None], inverse(first) @ value, torch.eye(4, dtype=value.dtype))
        return Known(based.float()[None], weight)

    def _of_views(self, known: Known | None, size: int) -> tuple[Float[Tensor, "N M M"], Float[Tensor, "1 N"]]:
        """Matrices in double precision, the identity where there are none."""
        if known is None:
            return torch.eye(size, dtype=torch.float64).expand(len(self.order), -1, -1), torch.zeros(1, len(self.order))
        chosen = list(self.order)
        return known.value[0, chosen].double(), known.weight[:, chosen].float()

    def tracks(self) -> Tracks:
        """What the views see inside their parts; tracks of a single view go."""
        tracks = self.clip.labels.tracks
        if tracks is None:
            none = torch.zeros(0, dtype=torch.long)
            return Tracks(view=none, track=none, uv=torch.zeros(0, 2), weight=torch.zeros(0))
        place = torch.full((len(self.clip.frames),), -1)
        place[list(self.order)] = torch.arange(len(self.order))
        seen = self.crop.tracks(tracks)
        seen = replace(seen, view=place[seen.view]).select(place[seen.view] >= 0).shared()
        rows = (seen.track * len(self.order) + seen.view).argsort()
        return map_tensors(lambda column: column[rows], seen)


def same_surface(mean: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Where a mean of pixels, whose last channel is depth, is of the surface in their middle (`Crop.known`)."""
    return np.abs(mean[..., -1] - middle[..., -1]) <= SAME_DEPTH * np.abs(mean[..., -1])


def _known(value: np.ndarray, weight: np.ndarray) -> Known:
    return Known(torch.from_numpy(value)[None], torch.from_numpy(weight.astype(np.float32))[None])
