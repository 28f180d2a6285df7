"""A network with its weights, by name or path, ready to be used."""

import hashlib
import re
from importlib.resources import as_file, files
from pathlib import Path
from typing import TypeGuard

import torch

from unproject.errors import UsageError, WeightsError
from unproject.models import checkpoints
from unproject.models.base import Reconstructor
from unproject.models.build import CONFIGS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SOURCES = {
    "dust3r": "its authors' file is at huggingface.co/naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt",
    "flow4r": "its authors released none; train it from CroCo v2 (huggingface.co/naver and github.com/naver/croco)",
}
"""Where weights are that do not come with the package."""


def load(name_or_path: str | Path, device: str = "auto", dtype: str = "auto") -> Reconstructor:
    """A network in eval mode: a file of ours, a released checkpoint, or the name of weights that come with the package.

    ``device`` is auto, cpu, cuda or cuda:N. ``dtype`` is what the trunk runs in: float32, bfloat16, or auto, which is
    bfloat16 where CUDA has it and float32 elsewhere; heads and results are float32 always.

    Raises:
        WeightsError: no such file, or a name whose weights do not come with the package.
        InputError: the file is damaged, or holds something else.
        UsageError: a name, device or dtype that is not known, or weights that lack a head.
    """
    place, precision = device_of(device), precision_of(dtype, device)
    model = shipped(name_or_path) if _is_name(name_or_path) else checkpoints.load(Path(name_or_path).expanduser())
    model.origin = str(name_or_path)
    model.precision = precision
    return model.to(place).eval()


def shipped(name: str) -> Reconstructor:
    """The network of that name with the weights that come with the package, on the processor, in eval mode.

    WeightsError where none come with it, UsageError for a name that no network has.
    """
    with as_file(files("unproject") / "assets" / "weights" / f"{name}.safetensors") as path:
        if not path.is_file():
            raise _absent(name)
        return checkpoints.load(path).eval()


def device_of(device: str) -> torch.device:
    """The device of this name; UsageError where the name or the device is unknown here."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device} is not known: give auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: this machine has no CUDA device; use --device auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(device)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0")
    return place


def precision_of(dtype: str, device: str) -> torch.dtype:
    """What a trunk runs in; UsageError where the name is unknown."""
    if dtype == "auto":
        fast = device_of(device).type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not known: give auto, float32 or bfloat16")
    return DTYPES[dtype]


def fingerprint(model: Reconstructor) -> str:
    """SHA-256 over names, shapes and values of all weights: the same in whatever file and on whatever device."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _is_name(given: str | Path) -> TypeGuard[str]:
    """A bare word is a name unless a file is called so; a folder is not meant, such as that of a run."""
    return isinstance(given, str) and bool(re.fullmatch(r"[\w-]+", given)) and not Path(given).is_file()


def _absent(name: str) -> UsageError | WeightsError:
    if name not in CONFIGS:
        return UsageError(f"no model is called {name!r}; choose one of {', '.join(CONFIGS)}, or give a file's path")
    where = SOURCES.get(name, "its file is missing from this installation")
    return WeightsError(f"no weights of {name} come with this package ({where}); give the path of a file with --model")
