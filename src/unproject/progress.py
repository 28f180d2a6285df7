"""How long work tells where it stands, without knowing whether anybody looks."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Progress(Protocol):
    """Passes items through and may show how many went by. The CLI draws bars; a library caller hears nothing."""

    def __call__(self, items: Iterable[Item], stage: str, total: int | None = None) -> Iterator[Item]:
        """Pass every item through and count it under the stage's name."""
        ...


def silent(items: Iterable[Item], stage: str, total: int | None = None) -> Iterator[Item]:
    """Pass every item through without a word."""
    del stage, total
    return iter(items)
