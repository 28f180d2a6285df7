"""The one walk over tensors reaches all of them and changes nothing else; the digest knows all that makes them."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from unproject.tensors import map_tensors, sha256_of_tensors


@dataclass(frozen=True)
class Leaf:
    value: Tensor
    name: str = "leaf"


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    root: Tensor
    shared: Leaf | None = None


def tree(start: float) -> Tree:
    return Tree((Leaf(torch.tensor(start), "first"), Leaf(torch.tensor(start + 1))), torch.tensor(start + 2))


def test_every_tensor_is_changed_and_nothing_else():
    doubled = map_tensors(lambda tensor: 2 * tensor, tree(1))
    assert [leaf.value.item() for leaf in doubled.leaves] == [2, 4] and doubled.root == 6
    assert doubled.leaves[0].name == "first" and doubled.shared is None


def test_tensors_at_the_same_place_come_together():
    joined = map_tensors(lambda *parts: torch.stack(parts), tree(1), tree(10), tree(100))
    assert joined.leaves[1].value.tolist() == [2, 11, 101]
    assert joined.root.tolist() == [3, 12, 102]


def test_what_is_kept_is_the_same_object():
    value = Tree((), torch.zeros(()), Leaf(torch.ones(())))
    assert map_tensors(torch.neg, value, keep=Leaf).shared is value.shared


@pytest.mark.parametrize(
    "other", [Tree((), torch.zeros(())), Tree(tree(0).leaves, torch.zeros(()), Leaf(torch.ones(())))]
)
def test_values_of_other_shapes_are_refused(other):
    with pytest.raises(ValueError, match=r"no common shape: NoneType, Leaf|shorter"):
        map_tensors(torch.add, tree(0), other)


def test_the_digest_of_tensors_knows_names_types_shapes_and_bytes_but_neither_order_nor_layout():
    some = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones((), dtype=torch.bfloat16)}
    digest = sha256_of_tensors(some)
    turned = {"b": some["b"].clone(), "a": some["a"].T.contiguous().T}
    assert sha256_of_tensors(turned) == digest and len(digest) == 64
    others = [
        {"a": some["a"], "c": some["b"]},
        {"a": some["a"].double(), "b": some["b"]},
        {"a": some["a"].view(3, 2), "b": some["b"]},
        {"a": some["a"] + 1, "b": some["b"]},
    ]
    assert len({digest, sha256_of_tensors(some, "about"), *map(sha256_of_tensors, others)}) == 6
