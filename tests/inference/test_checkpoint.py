"""What is put aside comes back as it was, and nothing comes back that was not put aside."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from unproject.errors import UsageError
from unproject.inference.checkpoint import from_arrays, to_arrays
from unproject.io import disk


@dataclass(frozen=True)
class Part:
    name: Literal["near", "far"]
    centre: np.ndarray


@dataclass(frozen=True)
class Whole:
    parts: list[Part]
    depth: Float[Tensor, "H W"]
    sure: Part | None
    notes: list[str]
    count: int
    ready: bool


FAR = Part(name="far", centre=np.array([[1.0, np.nan, -0.0]]))


def whole(parts, sure=None, notes=()):
    depth = torch.arange(6.0).reshape(3, 2).T
    return Whole(parts=parts, depth=depth, sure=sure, notes=list(notes), count=3, ready=False)


@pytest.mark.parametrize(
    "value",
    [
        whole([]),
        whole([Part(name="near", centre=np.zeros((0, 3), np.int32)) for _ in range(12)] + [FAR], sure=FAR),
        whole([FAR], notes=["two\nlines, ü", "", "5"]),
    ],
)
def test_what_is_put_aside_comes_back(tmp_path, value):
    arrays = to_arrays(value)
    disk.write_npz(tmp_path / "kept.npz", arrays)
    for held in (arrays, disk.read_npz(tmp_path / "kept.npz")):
        again = from_arrays(Whole, held)
        assert (again.notes, again.count, again.ready) == (value.notes, 3, False)
        assert torch.equal(again.depth, value.depth) and again.depth.dtype == value.depth.dtype
        for ours, theirs in zip(again.parts, value.parts, strict=True):
            same(ours, theirs)
        assert again.sure is None if value.sure is None else same(again.sure, value.sure)


def same(one, other):
    assert one.name == other.name and one.centre.dtype == other.centre.dtype
    assert one.centre.shape == other.centre.shape and one.centre.tobytes() == other.centre.tobytes()
    return True


def test_what_is_no_array_cannot_be_put_aside():
    with pytest.raises(TypeError, match="builtin_function_or_method cannot be put aside"):
        to_arrays([print])


@pytest.mark.parametrize("missing", ["depth", "parts.0.centre", "count"])
def test_what_was_put_aside_otherwise_is_refused(missing):
    arrays = to_arrays(whole([FAR]))
    del arrays[missing]
    with pytest.raises(UsageError, match=r"another version.*overwrite"):
        from_arrays(Whole, arrays)
