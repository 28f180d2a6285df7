"""The compact network as another pair of eyes: depth of a view whose cameras are known, also where nothing matches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from unproject.inference.view import View
from unproject.models.compact import Compact
from unproject.types import Views

CELL = 8
"""The network's images are multiples of this."""
PARTNERS = 2
"""Other views that it is asked with; their median of two is their mean, and a third costs more than it gives."""


@dataclass(frozen=True)
class LearnedGuess:
    """Called by several threads at once; UsageError where the network is not on the processor."""

    model: Compact

    def __call__(self, view: View, others: Sequence[View]) -> Float32[np.ndarray, "H W"]:
        """Inverse depth in the units of the cameras, from the views that are farthest away."""
        far = sorted(others, key=lambda other: -_baseline(view, other))[:PARTNERS]
        return np.exp(np.mean([np.log(self._seen_with(view, other)) for other in far], axis=0))

    def _seen_with(self, view: View, other: View) -> Float32[np.ndarray, "H W"]:
        height, width = view.grey.shape
        poses = torch.from_numpy(np.stack([view.world_from_cam, other.world_from_cam])).float()[None]
        with torch.inference_mode():
            said = self.model.with_cameras(_views(view, other), poses)
        return (1 / said.points[0, 0, :height, :width, 2]).numpy()


def _baseline(view: View, other: View) -> float:
    return float(np.linalg.norm(view.world_from_cam[:3, 3] - other.world_from_cam[:3, 3]))


def _views(view: View, other: View) -> Views:
    """Both images on one canvas, each in its upper left corner, so that its camera stays what it is."""
    sides = zip(view.grey.shape, other.grey.shape, strict=True)
    height, width = (-(-max(pair) // CELL) * CELL for pair in sides)
    return Views(
        images=torch.stack([_on_canvas(image.rgb, height, width) for image in (view, other)])[None],
        times=torch.zeros(1, 2),
        pairs=torch.tensor([[[0, 1], [1, 0]]]),
        intrinsics=torch.stack([view.intrinsics, other.intrinsics])[None],
    )


def _on_canvas(rgb: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> Tensor:
    missing = ((0, height - rgb.shape[0]), (0, width - rgb.shape[1]), (0, 0))
    return torch.from_numpy(np.pad(rgb, missing, mode="edge")).movedim(-1, 0) / 255
