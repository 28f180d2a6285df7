"""Facts of units and the index: they come back, are the same bytes each time, and tell what is wrong with a folder."""

import json
import shutil
import sys
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import labelled_clip, only, write_library

from unproject.errors import InputError, UsageError
from unproject.io.shard_index import INDEX, Unit, read_index, read_unit, verify, write_index, write_unit
from unproject.io.shards import Rejection, read_clip, write_shard

SIZE = {"views": 2, "height": 24, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    clips = [labelled_clip(number, **SIZE) for number in range(3)]
    write_library(folder, [[clips[0], only(clips[1], "flow", "tracks")], [only(clips[2], "mono_depth")]])
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_the_index_gives_back_every_row(folder):
    rows = read_index(folder / INDEX)
    units = [read_unit(folder / "units" / f"00000{number}.json") for number in range(2)]
    assert len(rows) == 3 and tuple(rows) == units[0].rows + units[1].rows
    assert rows[-1].labels == ("mono_depth",) and rows[1].quality == {"covisible": 0.75, "cycle_px": 0.25}
    assert rows.labels == ("flow", "tracks", "mono_depth", "world_from_cam", "intrinsics", "points")
    assert rows.having(("flow",)).tolist() == [0, 1] and rows.having(("flow", "mono_depth")).tolist() == [0]
    assert rows.having(()).tolist() == [0, 1, 2] and rows.views().tolist() == [2, 2, 2]
    assert [read_clip(folder, row).file for row in rows] == [row.file for row in rows]
    with pytest.raises(IndexError):
        rows[3]


def test_an_index_is_the_same_bytes_for_the_same_rows(folder, tmp_path):
    rows = tuple(read_index(folder / INDEX))
    for name in ("a", "b"):
        write_index(tmp_path / name, iter(rows))
        assert (tmp_path / name).read_bytes() == (folder / INDEX).read_bytes()
    write_index(tmp_path / "none", ())
    assert len(read_index(tmp_path / "none")) == 0 and read_index(tmp_path / "none").labels == ()
    write_index(tmp_path / "run=3" / INDEX, reversed(rows))  # readers of Parquet make a column of such a folder
    assert tuple(read_index(tmp_path / "run=3" / INDEX)) == rows[::-1]


def test_many_rows_go_in_parts(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("unproject.io.shard_index._ROWS_AT_A_TIME", 3)
    first = read_index(folder / INDEX)[0]
    many = [replace(first, key=f"0-0-{n}", sha256=sha256(str(n).encode()).hexdigest()) for n in range(10)]
    write_index(tmp_path / "many", many)
    assert tuple(read_index(tmp_path / "many")) == tuple(many)
    assert pyarrow.parquet.ParquetFile(tmp_path / "many").metadata.num_row_groups == 4


def test_without_pyarrow_the_remedy_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r'pip install "unproject\[labels\]"'):
        read_index(folder / INDEX)


def test_an_index_that_is_none_is_told(folder, tmp_path):
    with pytest.raises(InputError, match="is missing"):
        read_index(tmp_path / INDEX)
    path = tmp_path / INDEX
    path.write_bytes(b"no table")
    with pytest.raises(InputError, match="damaged"):
        read_index(path)
    table = pyarrow.parquet.read_table(folder / INDEX)
    for other in (table.drop_columns(["key"]), table.append_column("more", [[1, 2, 3]]), table.rename_columns(
        ["name", *table.column_names[1:]]
    )):  # fmt: skip
        pyarrow.parquet.write_table(other, path)
        with pytest.raises(InputError, match="not the columns"):
            read_index(path)


def test_an_index_that_claims_more_than_it_has_is_not_read(folder, tmp_path):
    """A thousand times the same row packs to nothing; a million could not be held."""
    table = pyarrow.parquet.read_table(folder / INDEX)
    pyarrow.parquet.write_table(pyarrow.concat_tables([table.slice(0, 1)] * 1000), tmp_path / INDEX, compression="zstd")
    with pytest.raises(InputError, match="claims 1000 rows"):
        read_index(tmp_path / INDEX)


def test_a_row_that_cannot_be_is_told_when_it_is_read(folder, tmp_path):
    table = pyarrow.parquet.read_table(folder / INDEX)
    field = table.schema.field("shard")
    names = pyarrow.array(["../../a.tar"] * 3)
    pyarrow.parquet.write_table(table.set_column(table.column_names.index("shard"), field, names), tmp_path / INDEX)
    with pytest.raises(InputError, match=r"row 1: 'shard' of a row cannot be '\.\./\.\./a\.tar'"):
        read_index(tmp_path / INDEX)[1]


@given(where=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=3))
def test_any_changed_index_is_read_or_told(folder, where):
    data = bytearray((folder / INDEX).read_bytes())
    for place, value in where:
        data[place % len(data)] = value
    path = folder / "changed.parquet"
    path.write_bytes(data)
    try:
        rows = read_index(path)
        assert len(tuple(rows)) == len(rows)
    except InputError as error:
        assert "\n" not in str(error)


def test_a_unit_comes_back_in_the_same_bytes(folder, tmp_path):
    unit = read_unit(folder / "units" / "000000.json")
    assert unit.rejections == (Rejection(file="videos/torn.mp4", where="", reason="no frame can be decoded"),)
    write_unit(tmp_path / "a.json", unit)
    assert (tmp_path / "a.json").read_bytes() == (folder / "units" / "000000.json").read_bytes()
    assert read_unit(tmp_path / "a.json") == unit
    assert Unit.of(folder / "shards" / "000000.tar", unit.rows, unit.rejections) == unit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", 2), ("shard", 3), ("shard", "000007.tar"), ("length", 5), ("length", None), ("sha256", None),
        ("rows", None), ("rows", [3]), ("rejections", {}), ("rejections", [{"file": "a"}]),
        ("rejections", [{"file": "a", "where": "", "reason": 3}]),
    ],
)  # fmt: skip
def test_a_unit_that_contradicts_itself_is_told(folder, tmp_path, name, value):
    document = json.loads((folder / "units" / "000000.json").read_text())
    path = tmp_path / "000000.json"
    path.write_text(json.dumps({**document, name: value}))
    with pytest.raises(InputError, match=r"000000\.json"):
        read_unit(path)
    path.write_text(json.dumps({**document, "rows": document["rows"][1:]}))
    with pytest.raises(InputError, match="does not follow"):
        read_unit(path)
    path.unlink()
    with pytest.raises(InputError, match="missing"):
        read_unit(path)


def test_a_whole_folder_has_nothing_wrong(folder):
    assert verify(folder) == []


def test_units_come_in_the_order_of_their_numbers_however_long_these_are(folder, tmp_path):
    """As text, a million comes before its predecessor."""
    clips = [only(labelled_clip(number, **SIZE), "mono_depth") for number in range(2)]
    rows = ()
    for number, clip in zip((999_999, 1_000_000), clips, strict=True):
        shard = tmp_path / "shards" / f"{number:06}.tar"
        of_unit = write_shard(shard, [(f"{number:06}-0-0", clip)])
        write_unit(tmp_path / "units" / f"{number:06}.json", Unit.of(shard, of_unit, ()))
        rows += of_unit
    write_index(tmp_path / INDEX, rows)
    assert verify(tmp_path) == []


def flip(path, place: int = -3000) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def reorder(folder) -> None:
    write_index(folder / INDEX, tuple(read_index(folder / INDEX))[::-1])


def forget(folder) -> None:
    write_index(folder / INDEX, tuple(read_index(folder / INDEX))[:2])


def misname(folder) -> None:
    """A unit whose clip has another digest than its bytes, as has the index."""
    path = folder / "units" / "000001.json"
    unit = read_unit(path)
    row = replace(unit.rows[0], sha256="0" * 64)
    write_unit(path, replace(unit, rows=(row,)))
    write_index(folder / INDEX, [*tuple(read_index(folder / INDEX))[:2], row])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: flip(folder / "shards" / "000001.tar"), ["000001.tar: it is not the file"]),
        (lambda folder: (folder / "shards" / "000000.tar").unlink(), ["000000.tar: the shard is missing"]),
        (lambda folder: (folder / INDEX).unlink(), ["is missing"]),
        (lambda folder: (folder / "units" / "000001.json").write_text("{"), ["damaged", "has 3 rows", "no finished"]),
        (
            lambda folder: (folder / "shards" / "000005.tar").write_bytes(b""),
            ["000005.tar belongs to no finished unit"],
        ),
        (reorder, ["row 0 is not that of clip", "row 2 is not that of clip"]),
        (forget, ["row 2 is not", "has 2 rows and the units have 3"]),
        (misname, ["its bytes are not those that were written"]),
    ],
)
def test_what_is_wrong_with_a_folder_is_told_in_a_line_each(copy, damage, words):
    damage(copy)
    wrong = verify(copy)
    assert len(wrong) == len(words), wrong
    for line, part in zip(wrong, words, strict=True):
        assert part in line and "\n" not in line


def test_numbers_keep_their_bits(folder, tmp_path):
    first = read_index(folder / INDEX)[0]
    odd = replace(first, times_s=(0.1 + 0.2, np.nextafter(1.0, 2.0).item()), quality={"a": 1e-300, "b": -0.0})
    write_index(tmp_path / INDEX, [odd])
    assert read_index(tmp_path / INDEX)[0] == odd
