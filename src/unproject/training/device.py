"""Where networks are trained, and in which precision."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from unproject.models.loading import device_of, precision_of


@dataclass(frozen=True)
class Place:
    """A device, and the type that trunks compute in; weights, heads and losses stay in float32."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """What networks run under."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def place(device: str = "auto", dtype: str = "auto") -> Place:
    """CUDA where there is one, and bfloat16 where CUDA has it, unless told; UsageError for what is not there."""
    return Place(device_of(device), precision_of(dtype, device))
