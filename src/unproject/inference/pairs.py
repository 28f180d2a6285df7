"""How a sequence asks a network: images are encoded apart from being paired, heads run where they are wanted.

A `TwoViewNetwork` encodes every image once. Any other network that speaks of pairs is run whole on each pair
(`WholePairs`): slower, and the plain twin that the split is tested against.
"""

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.errors import UsageError
from unproject.models.base import Reconstructor, trunk_in
from unproject.models.pairing import PairMaps, TwoViewNetwork
from unproject.nn.croco import Tokens
from unproject.types import Prediction, Views


@runtime_checkable
class Pairs(Protocol):
    """Images to codes once, then one code to many. What a code is, only its maker knows."""

    def encode(self, images: Float[Tensor, "F 3 H W"]) -> Any:
        """What is kept of each image."""
        ...

    def row(self, code: Any, index: int) -> Any:
        """One image's part, which does not hold the others' memory."""
        ...

    def rows(self, code: Any, chosen: slice) -> Any:
        """Some images' part."""
        ...

    def compare(self, anchor: Any, others: Any, both: bool) -> tuple[PairMaps, PairMaps | None]:
        """The maps of one image against each of F others, and those of the others where both are wanted."""
        ...


class SplitPairs:
    """A network that offers the split: each image is encoded once, however many pairs it is in."""

    def __init__(self, network: TwoViewNetwork, precision: torch.dtype | None) -> None:
        self.network, self.precision = network, precision

    def encode(self, images: Float[Tensor, "F 3 H W"]) -> Tokens:
        """Tokens."""
        with trunk_in(self.precision, images.device):
            return self.network.encode(images)

    def row(self, code: Tokens, index: int) -> Tokens:
        """Tokens of one image."""
        return replace(code, values=code.values[index : index + 1].clone())

    def rows(self, code: Tokens, chosen: slice) -> Tokens:
        """Tokens of some images."""
        return code[chosen]

    def compare(self, anchor: Tokens, others: Tokens, both: bool) -> tuple[PairMaps, PairMaps | None]:
        """One run of the decoder; the head reads the anchor's side, and the other one only where it is wanted."""
        repeated = replace(anchor, values=anchor.values.expand(len(others.values), -1, -1))
        with trunk_in(self.precision, others.values.device):
            first, second = self.network.relate(repeated, others)
        network = self.network
        maps = network.activate(network.read(first, anchor.rows))
        return maps, network.activate(network.read(second, others.rows)) if both else None


class WholePairs:
    """A network that is run on each pair from image to maps."""

    def __init__(self, network: Reconstructor, precision: torch.dtype | None) -> None:
        self.network, self.precision = network, precision

    def encode(self, images: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "F 3 H W"]:
        """The images themselves."""
        return images

    def row(self, code: Float[Tensor, "F 3 H W"], index: int) -> Float[Tensor, "1 3 H W"]:
        """One image."""
        return code[index : index + 1].clone()

    def rows(self, code: Float[Tensor, "F 3 H W"], chosen: slice) -> Float[Tensor, "_ 3 H W"]:
        """Some images."""
        return code[chosen]

    def compare(
        self, anchor: Float[Tensor, "1 3 H W"], others: Float[Tensor, "F 3 H W"], both: bool
    ) -> tuple[PairMaps, PairMaps | None]:
        """Both sides, whether they are wanted or not."""
        if anchor.shape[1:] != others.shape[1:]:
            raise UsageError(f"{type(self.network).__name__} cannot pair images of different sizes: give one size only")
        del both
        images = torch.stack([anchor.expand_as(others), others], dim=1)
        pairs = torch.tensor([[0, 1], [1, 0]], device=images.device).expand(len(images), -1, -1)
        with trunk_in(self.precision, images.device):
            prediction = self.network.forward(Views(images=images, times=images.new_zeros(len(images), 2), pairs=pairs))
        return self._side(prediction, 0), self._side(prediction, 1)

    def _side(self, prediction: Prediction, side: int) -> PairMaps:
        if prediction.target_points is None or prediction.pose_weight is None:
            raise UsageError(
                f"{type(self.network).__name__} says nothing of pairs of images: choose a two-view network"
            )
        return PairMaps(
            points=prediction.points[:, side],
            target_points=prediction.target_points[:, side],
            log_weight=prediction.pose_weight[:, side].log(),
            confidence=prediction.confidence[:, side],
        )


def pairs_of(network: TwoViewNetwork | Reconstructor, precision: torch.dtype | None = None) -> Pairs:
    """How to ask this network. The precision is its trunk's; None is the network's own, else the caller's autocast."""
    if precision is None and isinstance(network, Reconstructor):
        precision = network.precision
    return SplitPairs(network, precision) if isinstance(network, TwoViewNetwork) else WholePairs(network, precision)
