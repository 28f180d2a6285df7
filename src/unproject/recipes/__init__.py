"""Training runs, one function each: the only place where networks, losses and data meet."""

from collections.abc import Callable

from unproject.errors import UsageError
from unproject.training.recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {}
"""Recipes that run with nothing but the package, as the command line calls them."""


def named(name: str) -> Recipe:
    """The recipe of this name; `UsageError` that lists all names where there is none."""
    if name not in RECIPES:
        known = f"choose one of {', '.join(RECIPES)}" if RECIPES else "this version has none by name, call train()"
        raise UsageError(f"no recipe is called {name!r}; {known}")
    return RECIPES[name]()
