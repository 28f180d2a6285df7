"""What a model is: views in, prediction out."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from unproject.errors import UsageError
from unproject.types import Prediction, Views


class Reconstructor(nn.Module, ABC):
    """A network with weights. Concrete models are final and keep the frozen dataclass that they were made from."""

    config: Any
    """Rebuilds the model: ``type(model)(model.config)`` has the same weights' names and shapes."""
    precision: torch.dtype | None = None
    """What its trunk runs in when it is called; None leaves that to the caller's autocast."""
    long_side: int = 512
    """Pixels of the images that it is at its best with."""
    patch: int = 16
    """Sides of its images are multiples of this."""
    needs_intrinsics: bool = False
    """Whether it says nothing without `Views.intrinsics`."""
    assumed_view_deg: float | None = None
    """Field of view along the longer side, assumed where `Views.intrinsics` are not given; None: it needs none."""
    origin: str | None = None
    """The file that its weights came from; None for weights that were made here."""
    licence: str | None = None
    """Of its weights, where that is known."""
    made_from: str | None = None
    """The released file, with its SHA-256, that its weights were imported from."""
    notes: tuple[str, ...] = ()
    """What whoever uses these weights should know of them."""

    @abstractmethod
    def forward(self, views: Views) -> Prediction:
        """What the network says, in its own gauge; trunks run under the caller's autocast, results are float32."""

    def __call__(self, views: Views) -> Prediction:
        """`forward` with the trunk in this model's `precision`."""
        with trunk_in(self.precision, views.images.device):
            return super().__call__(views)


class MultiViewNetwork(ABC):
    """What a `Reconstructor` is besides, if it sees any number of views at once and places them in a world of its own.

    It is run on windows of views, not on pairs.
    """

    @property
    @abstractmethod
    def tells_flow(self) -> bool:
        """Whether it says how pixels move between the pairs it is asked for."""

    @abstractmethod
    def working_bytes(self, views: int, pairs: int, height: int, width: int) -> int:
        """Peak of a call on one item without gradients, beyond its weights."""


def trunk_in(precision: torch.dtype | None, device: torch.device) -> AbstractContextManager:
    """Autocast of a trunk to this type; None leaves things as they are."""
    if precision is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)


def require_views(pairs: Int[Tensor, "B P 2"], views: int) -> None:
    """UsageError where a pair names no view: numbered through a batch, it would be one of another item."""
    if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < views:
        raise UsageError(f"pairs name views {int(pairs.min())} to {int(pairs.max())}, but there are {views} views")
