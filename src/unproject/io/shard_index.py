"""What lies beside the shards of labels: a file of facts per unit of work, and the index of all clips."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from unproject.errors import InputError, UsageError
from unproject.io import bounded, disk
from unproject.io.shard_labels import KEPT
from unproject.io.shards import FORMAT, MOST_VIEWS, Rejection, Row, document_of, read_bytes, row_of, shard_path

INDEX = "index.parquet"
_NO_ARROW = 'an index of labels needs pyarrow: run `pip install "unproject[labels]"`'
_ROWS_AT_A_TIME = 1 << 16
_LEAST_ROW_BYTES = 32
"""A row has a SHA-256, which no compression makes smaller."""
_MOST_ROW_BYTES = 1 << 14
_MOST_UNIT_BYTES = 1 << 28
_TEXTS = ("key", "shard", "sha256", "file")
_UNIT = re.compile(r"[0-9]{6,12}\.json")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a unit of work left: its shard, the clips in it, and what gave no clip."""

    shard: str
    """Name of its TAR."""
    length: int
    """Bytes of its TAR."""
    sha256: str
    """Of its TAR."""
    rows: tuple[Row, ...]
    rejections: tuple[Rejection, ...]

    @staticmethod
    def of(shard: Path, rows: tuple[Row, ...], rejections: tuple[Rejection, ...]) -> "Unit":
        """The facts of a shard that has just been written."""
        return Unit(
            shard=shard.name, length=shard.stat().st_size, sha256=_digest(shard), rows=rows, rejections=rejections
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_unit(path: Path, unit: Unit) -> None:
    """Write the facts of a unit, the same bytes for the same facts."""
    document = {
        "format": FORMAT,
        "shard": unit.shard,
        "length": unit.length,
        "sha256": unit.sha256,
        "rows": [document_of(row) for row in unit.rows],
        "rejections": [vars(rejection) for rejection in unit.rejections],
    }
    disk.write_text(path, json.dumps(document, allow_nan=False) + "\n")


def read_unit(path: Path) -> Unit:
    """The facts of a unit; InputError where the file is missing, damaged, or contradicts itself."""
    if not path.is_file() or path.stat().st_size > _MOST_UNIT_BYTES:
        raise InputError(f"{path}: missing, or larger than the facts of a unit can be; label the unit again")
    document = disk.read_json(path)
    try:
        return _unit_of(document)
    except bounded.DAMAGE as error:
        raise InputError(f"{path}: {error}; label the unit again") from error


def _unit_of(document: Any) -> Unit:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"not the facts of a unit in format {FORMAT}")
    shard, length, digest = (document.get(name) for name in ("shard", "length", "sha256"))
    rows, rejections = document.get("rows"), document.get("rejections")
    if not isinstance(shard, str) or not isinstance(digest, str) or type(length) is not int:
        raise ValueError("its shard has no name, length or digest")
    if not isinstance(rows, list) or not isinstance(rejections, list):
        raise ValueError("it has no list of rows or of rejections")
    unit = Unit(
        shard=shard,
        length=length,
        sha256=digest,
        rows=tuple(row_of(row) for row in rows),
        rejections=tuple(_rejection_of(rejection) for rejection in rejections),
    )
    end = 0
    for row in unit.rows:
        if row.shard != shard or row.offset != end:
            raise ValueError(f"clip {row.key} does not follow the one before it in {shard[:40]}")
        end = row.offset + row.length
    if end > length or len({row.key for row in unit.rows}) < len(unit.rows):
        raise ValueError("its clips are larger than its shard, or two have one key")
    return unit


def _rejection_of(document: Any) -> Rejection:
    names = ("file", "where", "reason")
    if not isinstance(document, dict) or set(document) != set(names):
        raise ValueError(f"a rejection must say {', '.join(names)}")
    if not all(isinstance(value, str) for value in document.values()):
        raise ValueError("a rejection must be of texts")
    return Rejection(**document)


@dataclass(frozen=True)
class Rows:
    """The rows of an index, made when they are asked for; columns stay as compact as they came."""

    path: Path
    table: Any

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, number: int) -> Row:
        """The row of this number; InputError where it cannot be one."""
        place = range(len(self))[number]
        try:
            (line,) = self.table.slice(place, 1).to_pylist()
            labels = [name for name in KEPT if line.pop(name)]
            return row_of({**line, "labels": labels, "quality": dict(line["quality"])})
        except bounded.DAMAGE as error:
            raise InputError(f"{self.path}: row {place}: {error}; fetch or make the labels again") from error

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    @property
    def labels(self) -> tuple[str, ...]:
        """Those that at least one clip has."""
        return tuple(name for name in KEPT if self.table[name].to_numpy().any())

    def having(self, labels: tuple[str, ...]) -> Int[np.ndarray, " clips"]:
        """Numbers of the clips that have all these labels."""
        there = np.ones(len(self), dtype=bool)
        for name in labels:
            there &= self.table[name].to_numpy()
        return np.flatnonzero(there)

    def views(self) -> Int[np.ndarray, " rows"]:
        """How many views each clip has."""
        return _arrow("pyarrow.compute").list_value_length(self.table["frames"]).to_numpy()


def write_index(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows as Parquet, some at a time: the same bytes for the same rows and the same pyarrow.

    Raises:
        UsageError: pyarrow is not installed.
        UnprojectError: the disk is full, or may not be written to.
    """
    pyarrow, parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
    left = iter(rows)
    with (
        disk.written_whole(path) as beside,
        parquet.ParquetWriter(beside, _schema(), compression="zstd", version="2.6") as writer,
    ):
        while some := [_line(row) for row in islice(left, _ROWS_AT_A_TIME)]:
            writer.write_table(pyarrow.Table.from_pylist(some, schema=_schema()))


def _line(row: Row) -> dict[str, Any]:
    """A row as a line of the table: a column of its own for each label."""
    document = document_of(row)
    labels = document.pop("labels")
    return {**document, **{name: name in labels for name in KEPT}, "quality": sorted(row.quality.items())}


def _schema() -> Any:
    pyarrow = _arrow("pyarrow")

    def listed(kind: Any) -> Any:
        return pyarrow.list_(pyarrow.field("element", kind, nullable=False))

    text, whole, number = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    kinds = {
        "key": text,
        "shard": text,
        "offset": whole,
        "length": whole,
        "sha256": text,
        "file": text,
        "frames": listed(whole),
        "times_s": listed(number),
        "width": whole,
        "height": whole,
        **dict.fromkeys(KEPT, pyarrow.bool_()),
        "quality": pyarrow.map_(text, pyarrow.field("value", number, nullable=False)),
    }
    return pyarrow.schema([pyarrow.field(name, kind, nullable=False) for name, kind in kinds.items()])


def read_index(path: Path) -> Rows:
    """The index of a folder of labels; it is not trusted.

    Raises:
        UsageError: pyarrow is not installed.
        InputError: the file is missing, damaged, or is no such index.
    """
    pyarrow, parquet = _arrow("pyarrow"), _arrow("pyarrow.parquet")
    if not path.is_file():
        raise InputError(f"{path} is missing: finish `unproject label`, which writes it last")
    with _explained(path):
        with parquet.ParquetFile(path) as file:
            _check_claims(file, path.stat().st_size)
        # Texts stay a number per row: one long text and a million rows would be a million long texts.
        with parquet.ParquetFile(path, read_dictionary=[*_TEXTS, "quality.key_value.key"]) as file:
            parts = [file.read_row_group(part) for part in range(file.num_row_groups)]
            return Rows(path, pyarrow.concat_tables([file.schema_arrow.empty_table(), *parts]))


def _check_claims(file: Any, size: int) -> None:
    """Before a column is read: it is our table, and not larger than a file of this size can mean."""
    if not file.schema_arrow.equals(_schema(), check_metadata=False):
        raise ValueError("not the columns of an index of labels")
    about = file.metadata
    if about.num_rows * _LEAST_ROW_BYTES > size:
        raise ValueError(f"claims {about.num_rows} rows, more than it has bytes for")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    values = max((g.column(c).num_values for g in groups for c in range(g.num_columns)), default=0)
    if sum(group.num_rows for group in groups) != about.num_rows or values > MOST_VIEWS * max(about.num_rows, 1):
        raise ValueError("claims more values than its rows can have")
    if sum(group.total_byte_size for group in groups) > _MOST_ROW_BYTES * (about.num_rows + 1):
        raise ValueError("claims more bytes than its rows can have")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (*bounded.DAMAGE, _arrow("pyarrow").ArrowException) as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged or no index of labels ({said}); fetch or make it again") from error


def require_arrow() -> None:
    """UsageError where pyarrow is not installed: who is to write an index is told so before anything is written."""
    if find_spec("pyarrow") is None:
        raise UsageError(_NO_ARROW)


def _arrow(module: str) -> Any:
    """A module of pyarrow; loading it takes a while, so only where it is used."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(_NO_ARROW) from error


def verify(folder: Path) -> list[str]:
    """What is wrong with a folder of labels: every shard and clip against the digests of its unit, and the index.

    Raises:
        UsageError: pyarrow is not installed.
    """
    wrong, shards, index, row = [], set(), None, 0
    try:
        index = read_index(folder / INDEX)
    except InputError as error:
        wrong.append(str(error))
    found = (path for path in (folder / "units").glob("*.json") if _UNIT.fullmatch(path.name))
    for path in sorted(found, key=lambda path: (int(path.stem), path.name)):  # numbers may outgrow their six digits
        try:
            unit = read_unit(path)
        except InputError as error:
            wrong.append(str(error))
            continue
        shards.add(unit.shard)
        wrong += _wrong_of(folder, unit)
        if index is not None:
            wrong += _wrong_rows(index, row, unit)
        row += len(unit.rows)
    if index is not None and row != len(index):
        wrong.append(f"{folder / INDEX} has {len(index)} rows and the units have {row}; make the index again")
    others = sorted(path.name for path in (folder / "shards").glob("*.tar") if path.name not in shards)
    return wrong + [f"{folder}: shard {name} belongs to no finished unit; label it again" for name in others]


def _wrong_of(folder: Path, unit: Unit) -> list[str]:
    """What is wrong with the shard of a unit."""
    try:
        path = shard_path(folder, unit.shard)
        if path.stat().st_size != unit.length or _digest(path) != unit.sha256:
            raise ValueError("it is not the file that was written")
        for row in unit.rows:
            read_bytes(folder, row)
    except bounded.DAMAGE as error:
        return [f"{folder}: shard {unit.shard[:40]}: {error}; fetch or label it again"]
    return []


def _wrong_rows(index: Rows, first: int, unit: Unit) -> list[str]:
    """What the index says otherwise than a unit, whose rows begin there in it."""
    try:
        for number, row in enumerate(unit.rows, first):
            if number >= len(index) or index[number] != row:
                raise InputError(f"{index.path}: row {number} is not that of clip {row.key}; make the index again")
    except InputError as error:
        return [str(error)]
    return []
