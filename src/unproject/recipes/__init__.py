"""Training runs, one function each: the only place where networks, losses and data meet."""

from collections.abc import Callable

from unproject.errors import UsageError
from unproject.recipes import compact
from unproject.recipes.smoke import smoke
from unproject.training.recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    "smoke": smoke,
    "compact-matching": compact.matching,
    "compact": compact.geometry,
    "compact-larger": compact.larger,
}
"""Recipes that run with nothing but the package, as the command line calls them."""


def named(name: str) -> Recipe:
    """The recipe of this name; `UsageError` that lists all names where there is none."""
    if name not in RECIPES:
        raise UsageError(f"no recipe is called {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()
