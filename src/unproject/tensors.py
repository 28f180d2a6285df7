"""All tensors of a value, however deep they lie in dataclasses and tuples, in one walk; and the digest of many."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


def map_tensors(
    change: Callable[..., Tensor], value: Value, *others: Value, keep: type | tuple[type, ...] = ()
) -> Value:
    """The value with every tensor in it changed; `change` gets the tensors at the same place of the others too.

    What is neither a tensor nor holds any stays as it is in the first, and so does every instance of `keep`. ValueError
    where there is a tensor in some of the values and none in others.
    """
    return _mapped(change, (value, *others), keep)


def _mapped(change: Callable[..., Tensor], values: tuple[Any, ...], keep: type | tuple[type, ...]) -> Any:
    first = values[0]
    if any(type(other) is not type(first) for other in values):
        raise ValueError(f"no common shape: {', '.join(type(value).__name__ for value in values)}")
    if isinstance(first, keep):
        return first
    if isinstance(first, Tensor):
        return change(*values)
    if isinstance(first, tuple):
        return tuple(_mapped(change, items, keep) for items in zip(*values, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return replace(
            first, **{name: _mapped(change, tuple(getattr(each, name) for each in values), keep) for name in names}
        )
    return first


def sha256_of_tensors(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """Over ``about``, names, types, shapes and bytes: the same in whatever file and on whatever device they lie."""
    total = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
