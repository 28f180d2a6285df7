"""From images of any size to those of a batch: the largest part in the middle, resized, and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from unproject.data.base import Framing
from unproject.io.images import resize
from unproject.types import Tracks


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of an image, and the size in pixels that it is brought to."""

    top: int
    left: int
    tall: int
    wide: int
    height: int
    width: int

    @staticmethod
    def middle(image: np.ndarray, framing: Framing) -> "Crop":
        """The largest part in the middle of an image [H, W, C] that has the framing's aspect."""
        height, width = image.shape[:2]
        scale = min(height / framing.height, width / framing.width)
        tall, wide = max(1, round(scale * framing.height)), max(1, round(scale * framing.width))
        return Crop(
            top=(height - tall) // 2,
            left=(width - wide) // 2,
            tall=tall,
            wide=wide,
            height=framing.height,
            width=framing.width,
        )

    @property
    def from_image(self) -> Float[np.ndarray, "3 3"]:
        """Takes homogeneous pixels of the image to those of the part: exact, since it is affine."""
        x, y = self.width / self.wide, self.height / self.tall
        return np.array([[x, 0.0, -x * self.left], [0.0, y, -y * self.top], [0.0, 0.0, 1.0]])

    def image(self, image: np.ndarray) -> np.ndarray:
        """The part of an image [H, W] or [H, W, C]."""
        part = image[self.top : self.top + self.tall, self.left : self.left + self.wide]
        return resize(part, self.width, self.height)

    def tracks(self, tracks: Tracks) -> Tracks:
        """What is seen inside the part, in its pixels."""
        affine = torch.from_numpy(self.from_image)
        uv = (tracks.uv.double() * affine.diagonal()[:2] + affine[:2, 2]).float()
        inside = ((uv >= 0) & (uv < torch.tensor([self.width, self.height]))).all(-1)
        return replace(tracks, uv=uv).select(inside)

    def known(
        self,
        value: Float[np.ndarray, "H W C"],
        weight: Float[np.ndarray, "H W"],
        alike: Callable[[np.ndarray, np.ndarray], Bool[np.ndarray, "h w"]],
    ) -> tuple[Float[np.ndarray, "h w C"], Float[np.ndarray, "h w"]]:
        """The part of a label: means over the pixels that come together in one, with the mean of their weights.

        Unknown (weight and value 0) where one of them is, and where they are of two surfaces: where ``alike``, given
        the mean and the value of the pixel in their middle, says no.
        """
        mean = self.image(value).reshape(self.height, self.width, -1)
        all_known = self.image((weight > 0).astype(np.float32)) > 1 - 1e-5
        kept = all_known & alike(mean, self._nearest(value))
        return np.where(kept[..., None], mean, 0), np.where(kept, self.image(weight), 0)

    def _nearest(self, value: np.ndarray) -> np.ndarray:
        """The value at the pixel that holds the middle of each of the part's."""
        row = self.top + ((np.arange(self.height) + 0.5) * self.tall / self.height).astype(int)
        column = self.left + ((np.arange(self.width) + 0.5) * self.wide / self.width).astype(int)
        return value[row[:, None], column]
