"""What settings look like in words, and how two of them are told apart."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import mean_error, tiny_recipe

from unproject.io.description import describe, differences


@dataclass(frozen=True)
class Things:
    value: object


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, 3),
        (None, None),
        (True, True),
        ((1, (2.5, "x")), [1, [2.5, "x"]]),
        (Path("a/b"), "a/b"),
        (mean_error, "tiny_training.mean_error"),
        (partial(mean_error, sample=1), {"partial": "tiny_training.mean_error", "args": [], "keywords": {"sample": 1}}),
        ({"a": Things(1)}, {"a": {"kind": f"{Things.__module__}.Things", "value": 1}}),
    ],
)
def test_words(value, words):
    assert describe(value) == words


def test_tensors_differ_where_their_numbers_do():
    one, same, other = torch.zeros(2), np.zeros(2, dtype=np.float32), torch.ones(2)
    assert describe(one) == describe(same) != describe(other)
    assert describe(one).startswith("float32[2] ")


def test_a_recipe_differs_from_itself_nowhere_and_from_others_where_it_does():
    recipe = tiny_recipe()
    words = describe(recipe)
    assert list(differences(words, describe(tiny_recipe()))) == []
    sources = (recipe.sources[0], replace(recipe.sources[1], share=2.0))
    found = differences(words, describe(replace(recipe, sources=sources, validation=None)))
    paths = [line.partition(" ")[0] for line in found]
    assert paths == ["sources[1].share", "validation"]
    assert list(differences([1, {"a": 2}], [3])) == ["[0] (1, now 3)", "[1] ({'a': 2}, now None)"]
    assert "clip.sizes" in next(differences(words, describe(replace(recipe, clip=replace(recipe.clip, sizes=())))))
