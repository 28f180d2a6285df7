"""What the compact network sees in a clip whose cameras are known: matches, and depth where nothing matches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from unproject.geometry.flow import forward_backward_error
from unproject.inference.fuse import Sighting, sighting
from unproject.inference.view import View
from unproject.models.compact import Compact
from unproject.types import Prediction, Views, require

SIDE = 8
"""The network's images are multiples of this."""
NOISE = 4.0
"""Variance of its flow in squared pixels; that of a search in a textured place counts 1."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Of one view with one other."""

    sighting: Sighting
    inverse_depth: Float32[np.ndarray, "H W"]
    """What the network makes of it, also where nothing matches; in the units of the cameras."""
    confidence: Float32[np.ndarray, "H W"]


@dataclass(frozen=True)
class LearnedSight:
    """The network with its way of being asked; called by several threads at once."""

    model: Compact

    def __call__(self, view: View, others: Sequence[View]) -> list[Seen]:
        """One answer per other view."""
        return [self._pair(view, other) for other in others]

    def _pair(self, view: View, other: View) -> Seen:
        height, width = view.grey.shape
        views = _views(view, other)
        poses = torch.from_numpy(np.stack([view.world_from_cam, other.world_from_cam])).float()[None]
        with torch.inference_mode():
            said = self.model.with_cameras(views, poses)
        return Seen(
            sighting=_sighting(view, other, said),
            inverse_depth=(1 / said.points[0, 0, :height, :width, 2]).numpy(),
            confidence=said.confidence[0, 0, :height, :width].numpy(),
        )


def _views(view: View, other: View) -> Views:
    """Both images on one canvas, each in its upper left corner, so that its camera stays what it is."""
    height, width = (-(-max(a, b) // SIDE) * SIDE for a, b in zip(view.grey.shape, other.grey.shape, strict=True))
    return Views(
        images=torch.stack([_on_canvas(image.rgb, height, width) for image in (view, other)])[None],
        times=torch.zeros(1, 2),
        pairs=torch.tensor([[[0, 1], [1, 0]]]),
        intrinsics=torch.stack([view.intrinsics, other.intrinsics])[None],
    )


def _on_canvas(rgb: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> Tensor:
    missing = ((0, height - rgb.shape[0]), (0, width - rgb.shape[1]), (0, 0))
    return torch.from_numpy(np.pad(rgb, missing, mode="edge")).movedim(-1, 0) / 255


def _sighting(view: View, other: View, said: Prediction) -> Sighting:
    height, width = view.grey.shape
    flow, trust = require(said, "flow")[0], require(said, "flow_confidence")[0, 0, :height, :width].numpy()
    missed = forward_backward_error(flow[0], flow[1])[:height, :width].numpy()
    found = sighting(view, other, view.pixels + flow[0, :height, :width].numpy(), missed)
    return replace(found, trust=found.trust * trust, noise=np.full_like(found.noise, NOISE))
