"""Flow labels from a teacher, for clips of which nothing is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange

from unproject.data.base import Dataset, Framing, Sample
from unproject.teachers.base import Teacher
from unproject.types import Known, Labels, require


@dataclass(frozen=True, kw_only=True)
class TaughtFlow(Dataset):
    """The clips of another dataset; what is known of them is what a teacher of flow says of each pair of views.

    The teacher sees the images as the network does. Its labels of two images must hold ``Labels.flow``.
    """

    dataset: Dataset
    teacher: Teacher

    @property
    def count(self) -> int | None:
        """As many as the other has."""
        return self.dataset.count

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """The same clips with the teacher's flow and covisibility, and without intrinsics."""
        sample = self.dataset(numbers, framing)
        images = (sample.views.images * 255).round().clamp(0, 255).to(torch.uint8)
        pictures = rearrange(images, "b n c h w -> b n h w c").cpu().numpy()
        said: list[Known] = [
            require(self.teacher.label([clip[source], clip[target]]), "flow")
            for clip in pictures
            for source, target in framing.pairs
        ]
        clips = (len(pictures), len(framing.pairs))
        flow, weight = (
            torch.cat([getattr(known, name)[:, 0] for known in said]).unflatten(0, clips)
            for name in ("value", "weight")
        )
        views = replace(sample.views, intrinsics=None)
        return replace(sample, views=views, labels=Labels(flow=Known(flow.to(images.device), weight.to(images.device))))
