"""A table of training runs: its rows, its columns, and the stages that a row is made of."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from unproject.errors import UsageError
from unproject.io.description import describe
from unproject.io.disk import plain
from unproject.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Rows that are trained alike, once per seed, and what the last stage of each measures."""

    name: str
    """Of the files that tell what came of it."""
    title: str
    rows: Mapping[str, Callable[..., tuple[Recipe, ...]]]
    """Called with ``seed=``, the stages of each row in order: each begins from the weights of the one before."""
    columns: Mapping[str, str]
    """Which of `Recipe.validation`'s measures are shown, and what their heads say."""

    def stages(self, seeds: int) -> dict[str, list["Stage"]]:
        """The last stage of every seed of every row; those that rows share are equal. UsageError for no seed."""
        if seeds < 1:
            raise UsageError(f"seeds is {seeds}; give 1 or more")
        return {row: [_chained(made(seed=seed)) for seed in range(seeds)] for row, made in self.rows.items()}

    def distinct(self, seeds: int) -> list["Stage"]:
        """Every stage once, each after the one that it begins from."""
        lasts = [last for of_seeds in self.stages(seeds).values() for last in of_seeds]
        return list(dict.fromkeys(stage for last in lasts for stage in last.chain()))


@dataclass(frozen=True)
class Stage:
    """A recipe and what it begins from. Equal ones are one run, whichever rows ask for it."""

    recipe: Recipe
    after: "Stage | None"

    @cached_property
    def place(self) -> str:
        """Name of its folder: what it is called, and a digest of all that its recipe says.

        UsageError for a recipe with a lambda: all are called alike, so stages that differ would share a folder.
        """
        said = json.dumps([plain(describe(self.recipe)), self.after.place if self.after else None])
        if "<lambda>" in said:
            raise UsageError(
                f"the recipe {self.recipe.name!r} holds a lambda, whose code no name tells: give a function"
            )
        name = "".join(letter if letter.isalnum() else "-" for letter in self.recipe.name)
        return f"{name}-{self.recipe.seed}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"

    def chain(self) -> Iterator["Stage"]:
        """All stages up to this one, in order."""
        if self.after is not None:
            yield from self.after.chain()
        yield self


def _chained(recipes: tuple[Recipe, ...]) -> Stage:
    stage = None
    for recipe in recipes:
        stage = Stage(recipe, stage)
    if stage is None:
        raise ValueError("a row has no stage")
    return stage
