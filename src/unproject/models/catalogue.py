"""Weights by name: which there are, where they lie on this machine, and what a file of them holds.

All of it offline.
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, TypeGuard

import torch
from torch import nn

from unproject.errors import InputError, UsageError, WeightsError
from unproject.io.cache import cache_folder, in_hub_cache
from unproject.models import checkpoints, flow_check
from unproject.models.build import CONFIGS, build
from unproject.models.flow3r import Flow3r
from unproject.models.header import Header, said_of, without_weights
from unproject.models.released import LICENCES, ONLY_A_START

Place = Literal["package", "imported", "hub cache"]


@dataclass(frozen=True)
class OnHub:
    """A file in a repository of Hugging Face."""

    repository: str
    file: str

    def __str__(self) -> str:
        return f"{self.file} of https://huggingface.co/{self.repository}"


@dataclass(frozen=True)
class Known:
    """Weights that go by the name of a network."""

    licence: str
    source: OnHub | str
    """Where they come from: the hub, or in words."""


KNOWN = {
    "compact": Known("Apache-2.0", "comes with the package"),
    "pi3": Known("CC BY-NC 4.0", OnHub("yyfz233/Pi3", "model.safetensors")),
    "flow3r": Known(
        "not stated; made from π³'s weights, which are CC BY-NC 4.0", OnHub("Clara211111/flow3r", "flow3r.bin")
    ),
    "dust3r": Known(
        "CC BY-NC-SA 4.0", OnHub("naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt", "model.safetensors")
    ),
    "flow4r": Known(
        "none released",
        "its authors released none; train it from CroCo v2 (huggingface.co/naver and github.com/naver/croco)",
    ),
    "reliev3r": Known("none released", "its authors released none; train it (docs/training.md)"),
}  # fmt: skip
"""By the name that `build` knows the network by."""


@dataclass(frozen=True)
class Found:
    """A file of weights on this machine."""

    path: Path
    place: Place


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of the catalogue."""

    here: Place | None
    path: Path | None
    parameters: int | None
    licence: str | None
    source: str
    broken: str | None
    """Why the file that is here cannot be used, as far as that is told without reading all of it."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a file of weights holds."""

    path: Path
    network: str
    layout: Literal["ours", "released"]
    sizes: dict[str, Any]
    """What the network is made from; empty for weights that are only a start."""
    parameters: int
    bytes: int
    sha256: str
    licence: str | None
    made_from: str | None
    flow: tuple[str, ...]
    """What the network says of a picture's flow to itself, in every convention; empty without a flow head."""
    notes: tuple[str, ...]


def find(name: str) -> Found | None:
    """Weights of that name: from the package, else imported, else in the hub's cache."""
    with as_file(files("unproject") / "assets" / "weights" / f"{name}.safetensors") as path:
        if path.is_file():
            return Found(path, "package")
    if imported_path(name).is_file():
        return Found(imported_path(name), "imported")
    fetched = fetched_path(name)
    return None if fetched is None else Found(fetched, "hub cache")


def fetched_path(name: str) -> Path | None:
    """Where the file of released weights lies in the hub's cache."""
    source = KNOWN[name].source if name in KNOWN else None
    return in_hub_cache(source.repository, source.file) if isinstance(source, OnHub) else None


def imported_path(name: str) -> Path:
    """Where weights lie that were imported under this name."""
    return cache_folder() / "weights" / f"{name}.safetensors"


def resolve(name_or_path: str | Path) -> Path:
    """A file by its path, or by the name of weights that are here.

    WeightsError that says where to get weights of a known name, UsageError for a name that nothing goes by.
    """
    if not is_name(name_or_path):
        return Path(name_or_path).expanduser()
    found = find(name_or_path)
    if found is None:
        raise absent(name_or_path)
    return found.path


def is_name(given: str | Path) -> TypeGuard[str]:
    """A bare word is a name unless a file is called so; a folder is not meant, such as that of a run."""
    return isinstance(given, str) and bool(re.fullmatch(r"[\w-]+", given)) and not Path(given).is_file()


def absent(name: str) -> UsageError | WeightsError:
    """Why there are no weights of that name, and what to do."""
    if name not in KNOWN:
        return UsageError(f"no model is called {name!r}; choose one of {', '.join(CONFIGS)}, or give a file's path")
    source = KNOWN[name].source
    if not isinstance(source, OnHub):
        return WeightsError(f"no weights of {name} on this machine ({source}); give the path of a file")
    return WeightsError(
        f"no weights of {name} on this machine: get {source} (licence: {KNOWN[name].licence}) and run `unproject "
        f"weights import {source.file}`, which puts them to {imported_path(name)}; or let `unproject weights import "
        f"{name} --download` do both"
    )


def listed() -> dict[str, Listed]:
    """Every name, and whether its weights are here."""
    imported = [path.stem for path in sorted(imported_path("any").parent.glob("*.safetensors"))]
    whole = [name for name in imported if "." not in name]  # what is being written has another suffix before its own
    return {name: _listed(name) for name in dict.fromkeys([*KNOWN, *whole])}


def _listed(name: str) -> Listed:
    found, known = find(name), KNOWN.get(name)
    place, path = (None, None) if found is None else (found.place, found.path)
    header, parameters, broken = None, None, None
    try:
        header = None if path is None else checkpoints.header_of(path)
        parameters = _parameters(_outline(name, path, header))
    except InputError as error:  # of one file; the others are listed all the same
        broken = str(error)
    facts: dict[str, Any] = {"here": place, "path": path, "parameters": parameters, "broken": broken}
    if known is not None:
        return Listed(licence=known.licence if header is None else header.licence, source=str(known.source), **facts)
    licence, made_from = (None, None) if header is None else (header.licence, header.made_from)
    return Listed(licence=licence, source=made_from or "made on this machine", **facts)


def _outline(name: str, path: Path | None, header: Header | None) -> nn.Module:
    """The network of a name, without its weights."""
    if path is not None and header is not None:
        with said_of(path):
            return without_weights(header.config, "weights")
    if name not in CONFIGS:
        raise InputError(f"{path} does not say of which network it is; bring it here with `unproject weights import`")
    with torch.device("meta"):
        return build(name)


def about(name_or_path: str | Path) -> About:
    """What a file holds; errors as those of `resolve` and `checkpoints.load`."""
    path = resolve(name_or_path)
    state, header = checkpoints.read_weights(path), checkpoints.header_of(path)
    facts: dict[str, Any] = {
        "path": path,
        "layout": "released" if header is None else "ours",
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }
    start = checkpoints.layout_in(path, state) if header is None else ""
    if start in ONLY_A_START:
        return About(
            network=start,
            sizes={},
            parameters=sum(tensor.numel() for tensor in state.values()),
            licence=LICENCES[start],
            made_from=None,
            flow=(),
            notes=(f"{ONLY_A_START[start]} is no network here: training starts from it (`unproject train --start`)",),
            **facts,
        )
    model = checkpoints.network_of(path, state)
    return About(
        network=checkpoints.name_of(model),
        sizes=asdict(model.config),
        parameters=_parameters(model),
        licence=model.licence,
        made_from=model.made_from,
        flow=tuple(map(str, flow_check.readings(model))) if isinstance(model, Flow3r) and model.config.flow else (),
        notes=model.notes,
        **facts,
    )


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def sha256_of(path: Path) -> str:
    """Of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
