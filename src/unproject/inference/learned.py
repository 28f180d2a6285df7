"""The compact network as another pair of eyes: depth of a view whose cameras are known, also where nothing matches."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import pad

from unproject.inference.view import View
from unproject.io.images import resize
from unproject.models.compact import Compact
from unproject.types import Views

CELL = 8
"""The network's images are multiples of this."""
LONG_SIDE = 160
"""Pixels: about what it was trained on; at twice that it is worse and takes four times as long (measured)."""
PARTNERS = 2
"""Other views that it is asked with; their median of two is their mean, and a third costs more than it gives."""


@dataclass(frozen=True)
class LearnedGuess:
    """Of a network on the processor; called by several threads at once."""

    model: Compact

    def __call__(self, view: View, others: Sequence[View]) -> Float32[np.ndarray, "H W"]:
        """Inverse depth in the units of the cameras, from the views that are farthest away."""
        far = sorted(others, key=lambda other: -_baseline(view, other))[:PARTNERS]
        return np.exp(np.mean([np.log(self._seen_with(view, other)) for other in far], axis=0))

    def _seen_with(self, view: View, other: View) -> Float32[np.ndarray, "H W"]:
        ours, theirs = _shrunk(view), _shrunk(other)
        poses = torch.from_numpy(np.stack([view.world_from_cam, other.world_from_cam])).float()[None]
        with torch.inference_mode():
            said = self.model.with_cameras(_views(ours, theirs), poses)
        height, width = ours.image.shape[1:]
        depth = said.points[0, 0, :height, :width, 2]
        return cv2.resize((1 / depth).numpy(), view.grey.shape[::-1], interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class _Small:
    """An image as the network sees it, and its camera."""

    image: Float[Tensor, "3 h w"]
    intrinsics: Float[Tensor, "3 3"]


def _shrunk(view: View) -> _Small:
    scale = LONG_SIDE / max(view.grey.shape)
    height, width = (max(1, round(side * scale / CELL)) * CELL for side in view.grey.shape)
    image = torch.from_numpy(resize(view.rgb, width, height)).movedim(-1, 0) / 255
    change = torch.tensor([width / view.grey.shape[1], height / view.grey.shape[0], 1.0])
    return _Small(image, change[:, None] * view.intrinsics)


def _baseline(view: View, other: View) -> float:
    return float(np.linalg.norm(view.world_from_cam[:3, 3] - other.world_from_cam[:3, 3]))


def _views(ours: _Small, theirs: _Small) -> Views:
    """Both images on one canvas, each in its upper left corner, so that its camera stays what it is."""
    height, width = (max(pair) for pair in zip(ours.image.shape[1:], theirs.image.shape[1:], strict=True))
    return Views(
        images=torch.stack([_on_canvas(one.image, height, width) for one in (ours, theirs)])[None],
        times=torch.zeros(1, 2),
        pairs=torch.tensor([[[0, 1], [1, 0]]]),
        intrinsics=torch.stack([ours.intrinsics, theirs.intrinsics])[None],
    )


def _on_canvas(image: Float[Tensor, "3 h w"], height: int, width: int) -> Float[Tensor, "3 {height} {width}"]:
    missing = (0, width - image.shape[2], 0, height - image.shape[1])
    return pad(image[None], missing, mode="replicate")[0]
