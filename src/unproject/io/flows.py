"""Flow of pairs of frames in a result's folder: one file per ordered pair, read when it is asked for."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unproject.io import disk, schema
from unproject.types import FlowMaps

Pair = tuple[int, int]
"""(source, target): numbers of frames."""
_NAME = re.compile(r"(\d{6,})_(\d{6,})\.npz")


@dataclass(frozen=True)
class LazyFlows(Mapping):  # not Mapping[Pair, FlowMaps]: run-time type checks would make an item to look at it
    """`FlowMaps` of pairs, made when they are asked for, from disk or from others; nothing is kept in memory."""

    pairs: tuple[Pair, ...]
    make: Callable[[int, int], FlowMaps]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __contains__(self, pair: object) -> bool:  # that of Mapping would make the item
        return pair in self.pairs

    def __getitem__(self, pair: Pair) -> FlowMaps:
        if pair not in self.pairs:
            raise KeyError(pair)
        return self.make(*pair)


def flow_path(folder: Path, source: int, target: int) -> Path:
    """Where the flow of a pair lies."""
    return folder / "flow" / f"{source:06d}_{target:06d}.npz"


def flows_on_disk(folder: Path) -> LazyFlows:
    """The flow of all pairs in a result folder, each read (and checked) when it is asked for."""
    named = (_NAME.fullmatch(path.name) for path in (folder / "flow").glob("*.npz"))

    def read(source: int, target: int) -> FlowMaps:
        path = flow_path(folder, source, target)
        return schema.flow_from_arrays(disk.read_npz(path), path)

    return LazyFlows(tuple(sorted((int(name[1]), int(name[2])) for name in named if name)), read)
