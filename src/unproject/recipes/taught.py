"""Labels from teachers, for clips of which nothing is known but perhaps intrinsics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from unproject.data.base import Dataset, Framing, Sample, joined
from unproject.labelling.clips import taught
from unproject.teachers.base import Shot, Teacher
from unproject.types import Known, Labels, require


@dataclass(frozen=True, kw_only=True)
class TaughtFlow(Dataset):
    """The clips of another dataset; what is known of them is what a teacher of flow says of each pair of views.

    Its labels of two images must hold ``Labels.flow``. A pixel of the network's images gets the mean over those
    that the teacher saw there, where it trusts all of them.
    """

    dataset: Dataset
    teacher: Teacher
    times: int = 1
    """How many times larger the images are that the teacher sees: small ones are hard for teachers."""

    @property
    def count(self) -> int | None:
        """As many as the other has."""
        return self.dataset.count

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The same clips with the teacher's flow and covisibility, and without intrinsics."""
        sample = self.dataset(numbers, framing)
        larger = replace(framing, height=self.times * framing.height, width=self.times * framing.width)
        seen = sample if self.times == 1 else self.dataset(numbers, larger)
        images, pictures = seen.views.images, _pictures(seen.views.images)
        said: list[Known] = [
            require(self.teacher.label(Shot.of([clip[source], clip[target]])), "flow")
            for clip in pictures
            for source, target in framing.pairs
        ]
        clips = (len(pictures), len(framing.pairs))
        flow, weight = (
            torch.cat([getattr(known, name)[:, 0] for known in said]).unflatten(0, clips)
            for name in ("value", "weight")
        )
        size = {"r": self.times, "s": self.times}
        flow = reduce(flow, "b p (h r) (w s) c -> b p h w c", "mean", **size) / self.times
        weight = reduce(weight, "b p (h r) (w s) -> b p h w", "min", **size)
        views = replace(sample.views, intrinsics=None)
        return replace(sample, views=views, labels=Labels(flow=Known(flow.to(images.device), weight.to(images.device))))


@dataclass(frozen=True, kw_only=True)
class Taught(Dataset):
    """The clips of another dataset; what is known of them is what teachers say, and intrinsics that it tells.

    They are put together as `labelling.clips.taught` does. What the dataset tells of intrinsics stands against what a
    teacher says. Calling it raises what a teacher raises: it refuses a clip that it cannot label.
    """

    dataset: Dataset
    teachers: tuple[Teacher, ...]

    @property
    def count(self) -> int | None:
        """As many as the other has."""
        return self.dataset.count

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The same images, which the teachers see as they are."""
        sample = self.dataset(numbers, framing)
        said = [taught(Shot.of(list(clip), framing.pairs), self.teachers) for clip in _pictures(sample.views.images)]
        labels = joined(said, framing.views)
        told = sample.labels.intrinsics
        return replace(sample, labels=labels if told is None else replace(labels, intrinsics=told))


def _pictures(images: Float[Tensor, "B N 3 H W"]) -> np.ndarray:
    """Uint8 RGB [B, N, H, W, 3], as teachers see them."""
    seen = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return rearrange(seen, "b n c h w -> b n h w c").cpu().numpy()
