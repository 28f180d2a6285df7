"""What a user sees: results on stdout, progress on stderr."""

import json as json_format
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unproject.progress import Item, Progress, silent

if TYPE_CHECKING:
    from unproject.io.result import Reconstruction


def progress(quiet: bool) -> Progress:
    """Bars on stderr with stage, count and time left; nothing where nobody looks."""
    if not watched(quiet):
        return silent
    from tqdm import tqdm

    def bar(items: Iterable[Item], stage: str, total: int | None = None) -> Iterator[Item]:
        return iter(tqdm(items, desc=f"{stage:<12}", total=total, file=sys.stderr, dynamic_ncols=True))

    return bar


def counted(quiet: bool, unit: str, found: str) -> Progress:
    """As `progress`, of items that say how many of what is found there are so far."""
    if not watched(quiet):
        return silent
    from tqdm import tqdm

    def bar(items: Iterable[Item], stage: str, total: int | None = None) -> Iterator[Item]:
        # Times of videos differ: what is left is judged by the mean of all, not by the last.
        line = tqdm(items, desc=stage, total=total, unit=f" {unit}", smoothing=0, file=sys.stderr, dynamic_ncols=True)
        for item in line:
            line.set_postfix({found: item}, refresh=False)
            yield item

    return bar


def watched(quiet: bool) -> bool:
    """Whether somebody looks at stderr and wants to see it move."""
    return not (quiet or os.environ.get("NO_COLOR")) and sys.stderr.isatty()


def facts(named: dict[str, Any], json: bool) -> None:
    """As JSON, or as a column of names and one of values."""
    if json:
        print(json_format.dumps(named, indent=1, default=str))
        return
    width = max(map(len, named))
    for name, value in named.items():
        items = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
        between = f"\n{'':<{width}}  " if any(" " in item for item in items) else ", "
        print(f"{name.replace('_', ' '):<{width}}  {between.join(items) or 'none'}")


def outcome(result: "Reconstruction", output: Path | None, json: bool, quiet: bool) -> None:
    """What was found, and where it lies."""
    notes = result.provenance["notes"]
    found = {
        "output": str(output),
        "state": result.provenance["state"],
        "frames": len(result),
        "cameras_found": int(result.cameras.found.sum()),
        "parts": len(result.components),
        "points": 0 if result.sparse is None else len(result.sparse.xyz),
        "depth_maps": len(result.maps),
        "scale": result.scale,
        "notes": notes,
    }
    if json:
        facts(found, json)
        return
    print("" if quiet else "".join(f"- {note}\n" for note in notes), end="")
    print("{state} result: {cameras_found} of {frames} cameras, {points} points, scale {scale}".format_map(found))
    print(f"written to {output}, look at {output}/preview/index.html")
