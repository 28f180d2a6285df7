"""Teachers that ask somebody else's network: it is brought in when it is first asked, and kept for the process."""

import pickle
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unproject.errors import WeightsError
from unproject.teachers.base import Provenance, Shot, Teacher
from unproject.tensors import sha256_of_tensors

AT_ONCE = 8
"""Pairs of views, or views, that a network sees at a time where its package takes several."""
# What loaders of other packages throw where weights are absent, of another network, or not to be fetched.
_UNLOADABLE = (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError, pickle.UnpicklingError)


@dataclass(frozen=True, kw_only=True)
class Package:
    """Somebody else's code, and where it and its weights come from."""

    name: str
    install: str
    """The command that brings the code."""
    weights_from: str


@dataclass(frozen=True, kw_only=True)
class LearnedTeacher(Teacher):
    """Cheap to make and to pickle: the network itself is loaded once per process and settings."""

    device: str = "auto"
    """As torch names it; auto is CUDA where there is one."""
    weights: Path | None = None
    """A file of weights on this machine; None is what the package itself finds or fetches."""
    package: ClassVar[Package]

    @abstractmethod
    def load(self) -> nn.Module:
        """The network, on any device; whatever goes wrong leaves as the package throws it."""

    def network(self) -> Any:
        """The network on its device, in eval mode.

        Raises:
            WeightsError: the package or its weights are not on this machine; the text says how to get them.
        """
        return _loaded(self)

    @property
    def place(self) -> torch.device:
        """Where the network runs."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def provenance(self) -> Provenance:
        """Device and path of the weights are no part of it: the digest says what they were; errors as `network`."""
        ours = super().provenance()
        settings = {name: value for name, value in ours.settings.items() if name not in ("device", "weights")}
        digest = sha256_of_tensors(self.network().state_dict())
        return replace(ours, version=_version(self.package.name), weights_sha256=digest, settings=settings)


@cache
def _loaded(teacher: LearnedTeacher) -> Any:
    package, name = teacher.package, type(teacher).__name__
    if teacher.weights is not None and not teacher.weights.exists():
        raise WeightsError(f"{teacher.weights} does not exist: {name} takes {package.weights_from}")
    try:
        return teacher.load().to(teacher.place).eval()
    except ImportError as error:
        raise WeightsError(
            f"{name} needs the package {package.name} ({error}): run `{package.install}`; its weights: "
            f"{package.weights_from}; licence: {teacher.licence}"
        ) from error
    except _UNLOADABLE as error:
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{name} could not be loaded ({reason}): its weights are {package.weights_from}") from error


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # torch.hub fetches code without one
        return f"{package}, unversioned"


def pictures(shot: Shot, place: torch.device) -> list[Float[Tensor, "3 H W"]]:
    """The views in [0, 1]."""
    views = [torch.tensor(shot.images[view], device=place) for view in shot.views]
    return [rearrange(view, "h w c -> c h w").float() / 255 for view in views]


def plain(found: Tensor | np.ndarray) -> Float[Tensor, "..."]:
    """An answer as float32 on the CPU, free of autograd and of inference mode."""
    if isinstance(found, Tensor):
        found = found.detach().float().cpu().numpy()
    return torch.from_numpy(np.array(found, np.float32))


def spread(count: int) -> list[int]:
    """The first, the middle and the last of so many."""
    return sorted({0, count // 2, count - 1})
