"""What a model is: views in, prediction out."""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from unproject.types import Prediction, Views


class Reconstructor(nn.Module, ABC):
    """A network with weights. Concrete models are final and keep the frozen dataclass that they were made from."""

    config: Any
    """Rebuilds the model: ``type(model)(model.config)`` has the same weights' names and shapes."""

    @abstractmethod
    def forward(self, views: Views) -> Prediction:
        """What the network says, in its own gauge; trunks run under the caller's autocast, results are float32."""
