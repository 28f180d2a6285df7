"""How flags look in every verb."""

from pathlib import Path
from typing import Annotated, Any

import tyro


def flag(kind: str | None = None, short: str | None = None) -> Any:
    """A flag whose value is shown as ``kind``, with a short form where one is given."""
    return tyro.conf.arg(metavar=kind, aliases=[short] if short else None, help_behavior_hint="")


Switch = Annotated[bool, flag()]
Output = Annotated[Path | None, flag("FOLDER", "-o")]
Place = Annotated[Path | None, flag("PATH")]
Count = Annotated[int | None, flag("N")]
Number = Annotated[float | None, flag("X")]
Quiet = Annotated[bool, flag(short="-q")]
