"""Archives and pictures that strangers made: a size is known, and allowed, before memory is taken for it.

What is read here was written here too, so whatever is not as we write it is refused with a ValueError, a `TarError` or
what the decoders raise (`DAMAGE`); nothing in the bytes is ever run.
"""

import io
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import IO

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unproject.io import disk

DAMAGE = (
    OSError, ValueError, LookupError, EOFError, MemoryError, RuntimeError, ArithmeticError, SyntaxError, TypeError,
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, cv2.error, Image.DecompressionBombError,
)  # fmt: skip
"""Everything that damaged or hostile bytes make the readers raise."""
BLOCK = tarfile.BLOCKSIZE
JPEG_QUALITY = 95
JPEG_BYTES_PER_PIXEL = 6
"""More than a picture needs, and little enough that decoding is soon over."""
ROWS = "rows"
"""In a shape: as many as there are."""
MOST_ROWS = 1 << 22
_PLAIN_BYTES = 4096
"""Of a JPEG without pixels."""
_HEADER_BYTES = 1024
_DIRECTORY_BYTES = 4096
_ZIP_END, _ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x06\x07"

Kind = tuple[str, tuple[int | str, ...]]
"""A type with its byte order (``<i2``) and a shape, in which a word stands for one size throughout an archive."""


def tar_bytes(members: Mapping[str, bytes]) -> bytes:
    """Files of a TAR without its end: the same bytes for the same members, at any time and by anybody."""
    parts = []
    for name, data in members.items():
        info = tarfile.TarInfo(name)  # owner, group and time are zero
        info.size = len(data)
        parts += [info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"), data, bytes(-len(data) % BLOCK)]
    return b"".join(parts)


def tar_members(data: bytes, stem: str, most: int) -> dict[str, bytes]:
    """Inverse of `tar_bytes`, for members that are called ``stem.SOMETHING``: the bytes of each SOMETHING."""
    members: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        info = tarfile.TarInfo.frombuf(data[at : at + BLOCK], "ascii", "strict")
        if info.type != tarfile.REGTYPE or info.linkname:
            raise ValueError(f"member {info.name[:80]!r} is no plain file")
        name = info.name.removeprefix(f"{stem}.")
        if name == info.name or name in members or len(members) == most:
            raise ValueError(f"member {info.name[:80]!r} has no place in a clip")
        at += BLOCK
        end = at + info.size
        if info.size < 0 or end + -end % BLOCK > len(data):
            raise ValueError(f"member {name[:80]!r} claims {info.size} bytes, more than there are")
        members[name] = data[at:end]
        at = end + -end % BLOCK
    return members


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An archive for plain `numpy.load`."""
    file = io.BytesIO()
    disk.pack_npz(file, arrays)
    return file.getvalue()


def npz_arrays(
    data: bytes, kinds: Mapping[str, Kind], sizes: Mapping[str, int], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Inverse of `npz_bytes`, for arrays of these kinds and no others; read-only.

    ``sizes`` are those of the words in shapes; `ROWS` has none, and takes that of the first array it stands in.
    """
    _check_directory(data)
    known, arrays = dict(sizes), {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        listed = archive.infolist()
        entries = {entry.filename: entry for entry in listed}
        if len(entries) < len(listed) or set(entries) - {f"{name}.npy" for name in kinds}:
            raise ValueError("an array is there twice, or has no place there")
        for name, (kind, shape) in kinds.items():
            entry = entries.get(f"{name}.npy")
            if entry is None and name in optional:
                continue
            if entry is None:
                raise ValueError(f"the array '{name}' is missing")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"'{name}' is packed in an unknown way")
            with archive.open(entry) as file:
                arrays[name] = _array(file, name, np.dtype(kind), shape, known, entry.file_size)
    return arrays


def _check_directory(data: bytes) -> None:
    """Refuse a list of contents that is long: `zipfile` would make an object of each of millions."""
    end = data[-22:]
    if len(end) < 22 or end[:4] != _ZIP_END or end[20:] != b"\0\0" or data[-42:-38] == _ZIP64_LOCATOR:
        raise ValueError("not an archive of arrays")
    (size,) = struct.unpack_from("<I", end, 12)
    if size > _DIRECTORY_BYTES:
        raise ValueError("an archive with too long a list of contents")


def _array(
    file: IO[bytes] | io.BufferedIOBase,
    name: str,
    kind: np.dtype,
    shape: tuple[int | str, ...],
    known: dict[str, int],
    size: int,
) -> np.ndarray:
    """One array, of so many bytes as the archive claims, if its header is the one that it must have.

    The header is compared and not parsed, so that nothing can be smuggled in it.
    """
    head = file.read(10)
    length = int.from_bytes(head[8:], "little")
    if head[:8] != b"\x93NUMPY\x01\x00" or length > _HEADER_BYTES:
        raise ValueError(f"'{name}' is not an array")
    header = file.read(length).rstrip(b" \n")
    if ROWS in shape and ROWS not in known:
        row = math.prod(known.get(axis, 1) if isinstance(axis, str) else axis for axis in shape)
        known[ROWS] = min((size - len(head) - length) // (kind.itemsize * row), MOST_ROWS)
    found = tuple(known[axis] if isinstance(axis, str) else axis for axis in shape)
    if header != f"{{'descr': {kind.str!r}, 'fortran_order': False, 'shape': {found!r}, }}".encode():
        raise ValueError(f"'{name}' is not {kind} {list(found)}")
    wanted = kind.itemsize * math.prod(found)
    raw = file.read(wanted)
    if len(raw) != wanted or file.read(1):
        raise ValueError(f"'{name}' has other than the {wanted} bytes of {kind} {list(found)}")
    return np.frombuffer(raw, kind).reshape(found)


def jpeg_bytes(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """An RGB image as JPEG, the same bytes for the same pixels as long as OpenCV is the same."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"an image of {image.shape} cannot be written as JPEG")
    return data.tobytes()


def jpeg_pixels(data: bytes, width: int, height: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Inverse of `jpeg_bytes`, within what JPEG loses, for an image of this size."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:  # reads the header; OpenCV would begin to decode
        plain = image.size == (width, height) and image.mode == "RGB" and "progressive" not in image.info
    # A progressive picture may ask for thousands of passes over its pixels.
    if not plain or not data.endswith(b"\xff\xd9") or len(data) > JPEG_BYTES_PER_PIXEL * width * height + _PLAIN_BYTES:
        raise ValueError(f"a picture is not a whole baseline JPEG of {width}x{height} pixels")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape != (height, width, 3):
        raise ValueError("a picture cannot be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
