"""A network with its weights, by name or path, ready to be used."""

import re
from importlib.resources import as_file, files
from pathlib import Path

import torch

from unproject.errors import UsageError, WeightsError
from unproject.models import catalogue, checkpoints
from unproject.models.base import Reconstructor
from unproject.tensors import sha256_of_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(name_or_path: str | Path, device: str = "auto", dtype: str = "auto") -> Reconstructor:
    """A network in eval mode: a file of ours, a released checkpoint, or the name of weights that are on this machine.

    A name is looked for in the package, among imported weights, and in the hub's cache, in this order and offline.

    ``device`` is auto, cpu, cuda or cuda:N. ``dtype`` is what the trunk runs in: float32, bfloat16, or auto, which is
    bfloat16 where CUDA has it and float32 elsewhere; heads and results are float32 always.

    Raises:
        WeightsError: no such file, or a name whose weights are not here; the text says where to get them.
        InputError: the file is damaged, or holds something else.
        UsageError: a name, device or dtype that is not known, or weights that lack a head.
    """
    place, precision = device_of(device), precision_of(dtype, device)
    model = checkpoints.load(catalogue.resolve(name_or_path))
    model.origin = str(name_or_path)
    model.precision = precision
    return model.to(place).eval()


def shipped(name: str) -> Reconstructor:
    """The network of that name with the weights that come with the package, on the processor, in eval mode.

    WeightsError where none come with it.
    """
    with as_file(files("unproject") / "assets" / "weights" / f"{name}.safetensors") as path:
        if not path.is_file():
            raise WeightsError(f"no weights of {name} come with this package; give the path of a file")
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
    """SHA-256 over what the network is made from and all weights: the same in whatever file and on whatever device."""
    return sha256_of_tensors(model.state_dict(), f"{model.config}\n")
