"""Where networks are trained, and in which precision."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from unproject.errors import UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device} is not known: give auto, cpu, cuda or cuda:N")
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"--dtype {dtype} is not known: give auto, float32 or bfloat16")
    cuda = torch.cuda.is_available()
    if device.startswith("cuda") and not cuda:
        raise UsageError(f"--device {device}: this machine has no CUDA device; use --device auto")
    chosen = torch.device(("cuda" if cuda else "cpu") if device == "auto" else device)
    if dtype == "auto":
        dtype = "bfloat16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return Place(chosen, DTYPES[dtype])
