"""Shards that strangers made, with digests that fit: each is a clip or an InputError, for little memory."""

import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import labelled_clip
from PIL import Image

from unproject.errors import InputError
from unproject.io import bounded
from unproject.io.shards import LabelledClip, Row, read_clip, write_shard

KEY = "000000-000000-0000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(scope="module")
def row(folder) -> Row:
    clip = labelled_clip(0, views=2, height=24, width=32)
    (row,) = write_shard(folder / "shards" / "000000.tar", [(KEY, clip)])
    return row


@pytest.fixture(scope="module")
def data(folder, row) -> bytes:
    return (folder / "shards" / "000000.tar").read_bytes()[: row.length]


def forged(folder: Path, row: Row, data: bytes) -> LabelledClip:
    """What is read of these bytes in place of a clip's, under a digest that is theirs."""
    (folder / "shards" / "000001.tar").write_bytes(data)
    return read_clip(folder, replace(row, shard="000001.tar", length=len(data), sha256=sha256(data).hexdigest()))


def changed(data: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """The TAR with other files in it."""
    members = {f"{KEY}.{name}": bytes_ for name, bytes_ in bounded.tar_members(data, KEY, 99).items()}
    change(members)
    return bounded.tar_bytes(members)


def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda members: members.__setitem__(f"{KEY}.{name}", content)


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def flow_arrays(**change) -> dict[str, np.ndarray]:
    return {"steps": np.zeros((2, 2, 24, 32), "<i2"), "covisible": np.zeros((2, 24, 32), np.uint8), **change}


def test_the_forger_makes_good_clips_too(folder, row, data):
    whole = read_clip(folder, row)
    again = forged(folder, row, changed(data, put("flow.npz", npz(**flow_arrays()))))
    assert (again.images == whole.images).all() and not again.labels.flow.weight.any()


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_no_pickle_is_opened(folder, row, data, tmp_path):
    trap = tmp_path / "opened"
    steps = np.empty(1, dtype=object)
    steps[0] = Payload(trap)
    with pytest.raises(InputError, match="'steps' is not"):
        forged(folder, row, changed(data, put("flow.npz", npz(**flow_arrays(steps=steps)))))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("steps.npy", pickle.dumps(Payload(trap)))
        archive.writestr("covisible.npy", b"")
    for content in (file.getvalue(), pickle.dumps(Payload(trap))):
        with pytest.raises(InputError):
            forged(folder, row, changed(data, put("flow.npz", content)))
    assert not trap.exists()
    pickle.loads(pickle.dumps(Payload(trap)))
    assert trap.exists(), "the trap works"


def nan(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.ones(shape, kind)
    array.flat[0] = np.nan
    return array


MAP = (2, 24, 32)
ONES = np.ones(2)
WRONG_ARRAYS = {
    "shape": ("flow", flow_arrays(steps=np.zeros((2, 2, 24, 31), "<i2"))),
    "axes": ("flow", flow_arrays(steps=np.zeros((2, 2, 24 * 32), "<i2"))),
    "pairs": ("flow", flow_arrays(steps=np.zeros((9, 2, 24, 32), "<i2"))),
    "type": ("flow", flow_arrays(steps=np.zeros((2, 2, 24, 32), "<i4"))),
    "byte order": ("flow", flow_arrays(steps=np.zeros((2, 2, 24, 32), ">i2"))),
    "column order": ("flow", flow_arrays(steps=np.asfortranarray(np.zeros((2, 2, 24, 32), "<i2")))),
    "one array too many": ("flow", flow_arrays(more=np.zeros(1))),
    "one array too few": ("flow", {"steps": np.zeros((2, 2, 24, 32), "<i2")}),
    "depth NaN": ("depth", {"depth": nan("<f2", MAP), "median": ONES, "weight": np.ones(MAP, np.uint8)}),
    "depth 0": ("depth", {"depth": np.zeros(MAP, "<f2"), "median": ONES, "weight": np.ones(MAP, np.uint8)}),
    "median inf": ("depth", {"depth": np.ones(MAP, "<f2"), "median": ONES * np.inf, "weight": np.ones(MAP, np.uint8)}),
    "points NaN": ("points", {"points": nan("<f4", (*MAP, 3)), "weight": np.ones(MAP, np.uint8)}),
    "pose NaN": ("cameras", {"world_from_cam": nan("<f8", (2, 4, 4)), "world_from_cam_weight": ONES}),
    "pose huge": ("cameras", {"world_from_cam": np.full((2, 4, 4), 1e300), "world_from_cam_weight": ONES}),
    "pose alone": ("cameras", {"world_from_cam": np.ones((2, 4, 4))}),
    "weight 2": ("cameras", {"world_from_cam": np.ones((2, 4, 4)), "world_from_cam_weight": 2 * ONES}),
    "no intrinsics": ("cameras", {"world_from_cam": np.ones((2, 4, 4)), "world_from_cam_weight": ONES}),
}


def track_arrays(view, track, weight=1, uv=0.0) -> dict[str, np.ndarray]:
    many = len(view)
    return {
        "view": np.array(view, "<i2"),
        "track": np.array(track, "<i4"),
        "uv": np.full((many, 2), uv, "<f4"),
        "weight": np.full(many, weight, np.uint8),
    }


WRONG_TRACKS = {
    "view": track_arrays([0, 2], [0, 0]),
    "negative view": track_arrays([-1, 1], [0, 0]),
    "twice in a view": track_arrays([0, 0], [0, 0]),
    "order": track_arrays([1, 0], [0, 0]),
    "gap": track_arrays([0, 1], [0, 2]),
    "begin": track_arrays([0, 1], [1, 1]),
    "no trust": track_arrays([0, 1], [0, 0], weight=0),
    "place": track_arrays([0, 1], [0, 0], uv=np.nan),
    "lengths": {**track_arrays([0, 1], [0, 0]), "uv": np.zeros((3, 2), "<f4")},
}


@pytest.mark.parametrize(
    ("name", "arrays"), [*WRONG_ARRAYS.values(), *(("tracks", arrays) for arrays in WRONG_TRACKS.values())],
    ids=[*WRONG_ARRAYS, *WRONG_TRACKS],
)  # fmt: skip
def test_arrays_that_cannot_be_are_refused(folder, row, data, name, arrays):
    with pytest.raises(InputError, match=rf"clip {KEY} of shard 000001\.tar: "):
        forged(folder, row, changed(data, put(f"{name}.npz", npz(**arrays))))


def npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def bomb(kind: str, shape: tuple[int, ...], content: int) -> bytes:
    """A small archive whose first array claims a shape and has so many bytes, all zero."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("steps.npy", "w") as entry:
            entry.write(npy_header(kind, shape))
            for _ in range(content >> 20):
                entry.write(bytes(1 << 20))
        archive.writestr("covisible.npy", b"")
    return file.getvalue()


def long_directory() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(3000):
            archive.writestr(f"{number}", b"")
    return file.getvalue()


BOMBS = {
    "true shape, more bytes": bomb("<i2", (2, 2, 24, 32), 64 << 20),
    "claims more": bomb("<i2", (1 << 20, 1 << 20), 1 << 20),
    "has more": bomb("<i2", (32, 1 << 20), 64 << 20),
    "many entries": long_directory(),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_what_unpacks_to_much_is_refused_for_little(folder, row, data, content):
    forgery = changed(data, put("flow.npz", content))
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            forged(folder, row, forgery)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(forgery) + (2 << 20)
    finally:
        tracemalloc.stop()


def picture(width: int, height: int, kind: str = "JPEG", mode: str = "RGB", **choices) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind, **choices)
    return file.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A JPEG whose header is changed to another size."""
    content = bytearray(picture(32, 24))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


PICTURES = {
    "other size": picture(33, 24),
    "claims 65500 pixels a side": claiming(65500, 65500),
    "progressive": picture(32, 24, progressive=True),
    "grey": picture(32, 24, mode="L"),
    "PNG": picture(32, 24, "PNG"),
    "cut short": picture(32, 24)[:-30],
    "long": picture(32, 24)[:-2] + bytes(40_000) + b"\xff\xd9",
    "nothing": b"",
}


@pytest.mark.parametrize("content", PICTURES.values(), ids=PICTURES)
def test_pictures_that_cannot_be_are_refused(folder, row, data, content):
    with pytest.raises(InputError, match=KEY):
        forged(folder, row, changed(data, put("001.jpg", content)))


JSONS = [
    b"", b"[]", b"null", b"{", b'{"format": 1}', b"[" * 100_000, b'{"format": 2}', b"\xff\xfe", b"1" * 5000,
    b" " * (2 << 20), b'{"format": 1, "format": 1}',
]  # fmt: skip


@pytest.mark.parametrize("content", JSONS, ids=range(len(JSONS)))
def test_documents_that_cannot_be_are_refused(folder, row, data, content):
    with pytest.raises(InputError, match=KEY):
        forged(folder, row, changed(data, put("json", content)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"width": 32', b'"width": 16'),
        (b'"width": 32', b'"width": 1e9'),
        (b'"pairs": [[0, 1]', b'"pairs": [[0, 7]'),
        (b'"pairs": [[0, 1]', b'"pairs": [[0, 0]'),
        (b'"pairs": [[0, 1]', b'"pairs": [[0, 1.5]'),
        (b'"pairs": [[0, 1]', b'"pairs": [[[], 1]'),
        (b'"frames": [5, ', b'"frames": [6, '),
        (b"videos/", b"../../"),
        (b'"flow", ', b""),
        (b"0.75", b"NaN"),
    ],
)
def test_a_document_that_says_other_than_its_row_is_refused(folder, row, data, old, new):
    said = bounded.tar_members(data, KEY, 99)["json"]
    assert old in said
    with pytest.raises(InputError, match=KEY):
        forged(folder, row, changed(data, put("json", said.replace(old, new))))


def entry(name: str, content: bytes = b"", **fields) -> bytes:
    """One member of a TAR, whatever it is."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


ENTRIES = {
    "up": entry("../../etc/passwd", b"x"),
    "up after the key": entry(f"{KEY}./../../x", b"x"),
    "absolute": entry("/etc/passwd", b"x"),
    "another key": entry("000000-000000-0001.json", b"x"),
    "no key": entry("readme", b"x"),
    "symlink": entry(f"{KEY}.more", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": entry(f"{KEY}.more", type=tarfile.LNKTYPE, linkname=f"{KEY}.json"),
    "device": entry(f"{KEY}.more", type=tarfile.CHRTYPE),
    "pipe": entry(f"{KEY}.more", type=tarfile.FIFOTYPE),
    "folder": entry(f"{KEY}.more", type=tarfile.DIRTYPE),
    "long name": entry(f"{KEY}.more", b"x", type=tarfile.GNUTYPE_LONGNAME),
    "sparse": entry(f"{KEY}.more", type=tarfile.GNUTYPE_SPARSE),
    "extended": entry(f"{KEY}.more", b"20 size=9999999999\n", type=tarfile.XHDTYPE),
    "link by name": entry(f"{KEY}.more", linkname="/etc/passwd"),
    "twice": entry(f"{KEY}.json", b"{}"),
    "one too many": entry(f"{KEY}.002.jpg", b"x"),
    "unknown": entry(f"{KEY}.pkl", b"x"),
    "end of the archive": bytes(1024),
    "half a header": entry(f"{KEY}.more")[:100],
}


@pytest.mark.parametrize("extra", ENTRIES.values(), ids=ENTRIES)
def test_members_that_have_no_place_in_a_clip_are_refused(folder, row, data, extra):
    with pytest.raises(InputError, match=KEY):
        forged(folder, row, data + extra)
    with pytest.raises(InputError, match=KEY):
        forged(folder, row, extra + data)


@pytest.mark.parametrize("size", [1 << 33, 1 << 62, -1, 513])
def test_members_that_claim_more_than_there_is_are_refused(folder, row, data, size):
    header = bytearray(entry(f"{KEY}.more"))
    header[124:136] = (size & ((1 << 96) - 1)).to_bytes(12, "big")
    header[124] |= 0x80  # base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    with pytest.raises(InputError, match=KEY):
        forged(folder, row, data + bytes(header))


def test_no_path_leaves_the_folder(folder, row, tmp_path):
    outside = tmp_path / "000009.tar"
    outside.write_bytes((folder / "shards" / "000000.tar").read_bytes())
    for name in ("../../000009.tar", str(outside), "000009.tar/", ""):
        with pytest.raises(InputError, match="outside"):
            read_clip(folder, replace(row, shard=name))
    (folder / "shards" / "000009.tar").symlink_to(outside)
    with pytest.raises(InputError, match="outside"):
        read_clip(folder, replace(row, shard="000009.tar"))
    os.mkfifo(folder / "shards" / "000010.tar")
    with pytest.raises(InputError, match="missing"):
        read_clip(folder, replace(row, shard="000010.tar"))
    (tmp_path / "shards").mkdir()
    outside.rename(tmp_path / "shards" / "000009.tar")
    assert read_clip(tmp_path, replace(row, shard="000009.tar")).file == row.file


@settings(max_examples=150)
@given(
    where=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.integers(1, 1 << 30)),
    mended=st.booleans(),
)
def test_any_changed_bytes_are_a_clip_or_told(folder, row, data, where, cut, mended):
    """In the TAR, or (``mended``) in a file of it, so that the changes come past the checks of the TAR itself."""
    if mended:
        members = bounded.tar_members(data, KEY, 99)
        name = sorted(members)[where[0][0] % len(members)]
        forgery = changed(data, put(name, mutated(members[name], where, cut)))
    else:
        forgery = mutated(data, where, cut)
    try:
        clip = forged(folder, row, forgery)
    except InputError as error:
        assert "\n" not in str(error) and row.key in str(error)
    else:
        assert clip.images.shape == (2, 24, 32, 3) and clip.labels.points.value.isfinite().all()


def mutated(data: bytes, where: list[tuple[int, int]], cut: int | None) -> bytes:
    changed = bytearray(data)
    for place, value in where:
        changed[place % len(changed)] = value
    return bytes(changed if cut is None else changed[: cut % len(changed) + 1])


@settings(max_examples=100)
@given(place=st.integers(0, 1 << 30), value=st.integers(0, 255))
def test_any_changed_array_is_a_clip_or_told(folder, row, data, place, value):
    """Bytes of an array that is packed anew, with a check sum that fits."""
    members = bounded.tar_members(data, KEY, 99)
    names = [name for name in sorted(members) if name.endswith("npz")]
    name = names[place % len(names)]
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(members[name])) as packed, zipfile.ZipFile(file, "w") as archive:
        for number, item in enumerate(packed.infolist()):
            content = packed.read(item)
            archive.writestr(
                item.filename, mutated(content, [(place, value)], None) if number == place % 2 else content
            )
    try:
        labels = forged(folder, row, changed(data, put(name, file.getvalue()))).labels
    except InputError as error:
        assert name in str(error)
    else:
        for known in (labels.points, labels.mono_depth, labels.world_from_cam, labels.flow):
            assert bool(known.value.isfinite().all()) and bool(known.weight.isfinite().all())
