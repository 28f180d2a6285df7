"""What a file of ours says of its network in its header: read back into a configuration, and trusted in nothing."""

import json
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open

from unproject.errors import InputError
from unproject.models.base import Reconstructor
from unproject.models.build import from_config
from unproject.models.compact import CompactConfig
from unproject.models.dust3r import Dust3rConfig
from unproject.models.flow3r import Flow3rConfig
from unproject.models.flow4r import Flow4rConfig
from unproject.models.reliev3r import Reliev3rConfig

METADATA = "unproject"
CONFIGS = {
    "flow4r": Flow4rConfig,
    "flow3r": Flow3rConfig,
    "reliev3r": Reliev3rConfig,
    "dust3r": Dust3rConfig,
    "compact": CompactConfig,
}
WIDEST = 2**16
"""No layer of any network is wider; with what is, sizes of weights are no longer numbers that a machine can hold."""
_LAYERS = ("depth", "depths", "blocks", "rounds")
"""How names of sizes end that count layers, each of which has weights of its own; there may be none of them."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file that `checkpoints.save` wrote says beside its weights."""

    config: Any
    licence: str | None
    made_from: str | None
    notes: tuple[str, ...]


def header_of(path: Path) -> Header | None:
    """None for files of others; InputError for a network that this version does not know."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            said, tensors = json.loads((file.metadata() or {}).get(METADATA, "null")), len(file.keys())
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}; fetch it again") from error
    if said is None:
        return None
    name = said.get("model") if isinstance(said, dict) else said
    if not isinstance(name, str) or name not in CONFIGS:
        raise InputError(
            f"{path} holds a model called {reprlib.repr(name)}; this version knows {', '.join(CONFIGS)}: "
            "install the version that made it, or fetch it again"
        )
    try:
        config = _of_values(CONFIGS[name], said["config"], tensors)
        return Header(config=config, **_told(said))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} describes its network in a way this version does not know: {error}; "
            "install the version that made it, or fetch it again"
        ) from error


def without_weights(config: Any, what: str) -> Reconstructor:
    """The network of a configuration that a file told, on torch's meta device; InputError where there can be none."""
    try:
        with torch.device("meta"):
            return from_config(config)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{what} tell sizes of which no network can be made ({error})") from error


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Let an InputError that speaks of weights say in one line which file they are from, and what to do."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}; give another file") from error


def _told(said: Mapping[str, Any]) -> dict[str, Any]:
    licence, made_from, notes = said.get("licence"), said.get("made_from"), said.get("notes", [])
    for name, text in {"licence": licence, "made_from": made_from}.items():
        if not (text is None or isinstance(text, str)):
            raise ValueError(f"{name}={reprlib.repr(text)} is no text")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError(f"notes={reprlib.repr(notes)} are no list of texts")
    return {"licence": licence, "made_from": made_from, "notes": tuple(notes)}


def _of_values(kind: type, values: Any, tensors: int) -> Any:
    """The frozen dataclass again, from what JSON made of it: that has no dataclasses and no tuples.

    ``tensors`` is how many the file holds.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{reprlib.repr(values)} is no {kind.__name__}")
    kinds = get_type_hints(kind)
    absent = [name for name in kinds if is_dataclass(kinds[name]) and name not in values]
    if absent:
        raise ValueError(f"{', '.join(absent)} is missing")
    strange = [name for name in values if name not in kinds]
    if strange:
        raise ValueError(f"{reprlib.repr(strange)} is not known")
    return kind(**{name: _value(name, kinds[name], said, tensors) for name, said in values.items()})


def _value(name: str, kind: Any, said: Any, tensors: int) -> Any:
    if type(None) in get_args(kind):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
        return None if said is None else _value(name, kind, said, tensors)
    if isinstance(kind, type) and is_dataclass(kind):
        return _of_values(kind, said, tensors)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not isinstance(said, list) or len(said) != len(parts):
            raise ValueError(f"{name}={reprlib.repr(said)} is not {len(parts)} numbers")
        return tuple(_value(name, part, one, tensors) for part, one in zip(parts, said, strict=True))
    if not _fits(name, kind, said, tensors):
        raise ValueError(f"{name}={reprlib.repr(said)} is not known")
    return said


def _fits(name: str, kind: Any, said: Any, tensors: int) -> bool:
    """Whether this can be the value of a field, by its type and by what sizes networks have."""
    if get_origin(kind) is Literal:
        return said in get_args(kind)
    if kind is float:
        return isinstance(said, int | float) and not isinstance(said, bool) and isfinite(said)
    if kind is int and isinstance(said, int) and not isinstance(said, bool):
        if name.endswith(_LAYERS):
            return 0 <= said <= tensors
        return (name != "registers") <= said <= WIDEST
    return isinstance(kind, type) and type(said) is kind
