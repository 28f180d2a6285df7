"""Finished stages of a run, put aside as plain arrays: a run that was interrupted goes on from them.

A run that was never interrupted goes on from the same arrays, so both end in the same bytes.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from unproject.errors import UsageError
from unproject.io.cameras import MatchedCameras
from unproject.io.source import Source, hash_of_files
from unproject.io.writer import ResultWriter

Result = TypeVar("Result")


def stage(writer: ResultWriter | None, name: str, kind: type[Result], make: Callable[[], Result]) -> Result:
    """What ``make`` makes (a dataclass of type ``kind``), or made before the run was interrupted."""
    arrays = None if writer is None else writer.kept(name)
    if arrays is None:
        arrays = to_arrays(make())
        if writer is not None:
            writer.keep(name, arrays)
    return from_arrays(kind, arrays)


def to_arrays(value: Any) -> dict[str, np.ndarray]:
    """Everything inside nested dataclasses and lists under its dotted path; None leaves nothing."""
    if value is None:
        return {}
    if isinstance(value, np.ndarray | Tensor | str | bool | int | float):
        return {"": np.ascontiguousarray(value)}
    if isinstance(value, list):
        parts = {str(number): item for number, item in enumerate(value)}
    elif is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
    else:
        raise TypeError(f"{type(value).__name__} cannot be put aside as arrays")
    inside = {name: to_arrays(part) for name, part in parts.items()}
    return {f"{name}.{path}".rstrip("."): array for name in inside for path, array in inside[name].items()}


def from_arrays(kind: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Inverse of `to_arrays`: a value of the type ``kind``.

    Raises:
        UsageError: the arrays are not those of such a value.
    """
    if get_origin(kind) is UnionType:
        return from_arrays(get_args(kind)[0], arrays) if arrays else None
    if get_origin(kind) is list:
        numbers = dict.fromkeys(path.partition(".")[0] for path in arrays)
        return [from_arrays(get_args(kind)[0], _inside(arrays, number)) for number in numbers]
    if is_dataclass(kind):
        return kind(**{field.name: from_arrays(field.type, _inside(arrays, field.name)) for field in fields(kind)})
    if list(arrays) != [""]:
        raise UsageError("the interrupted run was of another version of unproject; overwrite starts again")
    array = arrays[""]
    if kind is np.ndarray:
        return array
    return torch.from_numpy(array) if getattr(kind, "array_type", None) is Tensor else array.item()


def _inside(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays of one part, under their paths in it."""
    parts = {path: path.partition(".") for path in arrays}
    return {rest: arrays[path] for path, (first, _, rest) in parts.items() if first == name}


def inputs_of(source: Source, cameras: MatchedCameras | None, masks: Path | None) -> dict[str, Any]:
    """Digests of all that a run reads: an interrupted one goes on only with the same."""
    known = [] if cameras is None else [cameras.intrinsics, cameras.distortion, cameras.world_from_cam]
    return {
        "input": source.content_hash,
        "cameras": hashlib.sha256(b"".join(part.numpy().tobytes() for part in known)).hexdigest(),
        "masks": {} if masks is None else {path.name: hash_of_files([path]) for path in masks.glob("*.png")},
    }
