"""Training runs, one function each: the only place where networks, losses and data meet."""

from collections.abc import Callable
from pathlib import Path

from unproject.errors import UsageError
from unproject.recipes import compact
from unproject.recipes.reliev3r import reliev3r
from unproject.recipes.smoke import smoke
from unproject.recipes.videos import videos
from unproject.training.recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    "smoke": smoke,
    "compact-matching": compact.matching,
    "compact": compact.geometry,
    "compact-larger": compact.larger,
}
"""Recipes that run with nothing but the package, as the command line calls them."""


FROM_LABELS: dict[str, Callable[..., Recipe]] = {"videos": videos, "reliev3r": reliev3r}
"""Recipes of a folder of labels and a size of network."""


def named(name: str, labels: Path | None = None, size: str | None = None) -> Recipe:
    """The recipe of this name; `UsageError` that lists all names where there is none, or says what it needs."""
    if name in FROM_LABELS:
        if labels is None:
            raise UsageError(f"{name} learns from labels: give their folder with --labels (see `unproject label`)")
        return FROM_LABELS[name](str(labels), *(() if size is None else (size,)))
    if name not in RECIPES:
        raise UsageError(f"no recipe is called {name!r}; choose one of {', '.join((*RECIPES, *FROM_LABELS))}")
    if labels is not None or size is not None:
        raise UsageError(f"{name} brings its own clips and network: leave out --labels and --size")
    return RECIPES[name]()
