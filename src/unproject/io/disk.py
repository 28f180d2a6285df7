"""Files that appear whole or not at all, and plain-word errors for what a disk can do to us.

Everything here is written beside its place and renamed, so a kill or a full disk never leaves half a file under a name
that a reader trusts.
"""

import errno
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from unproject.errors import InputError, UnprojectError, UsageError
from unproject.io.spool import Spool

_REMEDIES = {
    errno.ENOSPC: "no space left on the disk; free some or choose another output folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another output folder",
    errno.EACCES: "no permission to write there; choose another output folder",
    errno.EPERM: "no permission to write there; choose another output folder",
    errno.EROFS: "the disk is read-only; choose another output folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another output folder",
    errno.EEXIST: "a file of this name is in the way; choose another output folder",
    errno.ENAMETOOLONG: "the name is too long for this disk; choose a shorter one",
}
_DAMAGED = (
    OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an `OSError` raised inside, while writing ``path``, into one line with the remedy."""
    try:
        yield
    except OSError as error:
        reason = _REMEDIES.get(error.errno or 0, f"{error.strerror or error}; choose another output folder")
        raise UnprojectError(f"cannot write {path}: {reason}") from error


def claimed(folder: str | Path, *, overwrite: bool, resume: bool) -> Path:
    """The absolute path of a folder that may be written to; nothing is made or removed yet.

    Raises:
        UsageError: it is a file, or it is not empty and neither was asked for; or both were.
    """
    path = Path(folder).expanduser().absolute()
    check_wishes(path, overwrite=overwrite, resume=resume)
    if path.is_dir() and any(path.iterdir()) and not (overwrite or resume):
        raise UsageError(f"{path} is not empty; choose another output folder, --resume what is in it or --overwrite it")
    return path


def check_wishes(path: Path, *, overwrite: bool, resume: bool) -> None:
    """UsageError where this is no place for a folder, or both were asked for."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; choose another output folder")
    if overwrite and resume:
        raise UsageError("overwrite and resume exclude each other; give one of them")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` (folders are made); it takes the name when the block ends well, else it goes."""
    beside = path.with_name(f"{path.stem}.tmp{path.suffix}")  # the suffix stays: writers choose their format by it
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray | Spool], stored: tuple[str, ...] = ()) -> None:
    """An archive for plain `numpy.load`; see `pack_npz`."""
    with written_whole(path) as beside:
        pack_npz(beside, arrays, stored)


def pack_npz(file: Path | BytesIO, arrays: Mapping[str, np.ndarray | Spool], stored: tuple[str, ...] = ()) -> None:
    """An archive for plain `numpy.load`, the same bytes for the same arrays; a `Spool` is never held as a whole.

    Fastest deflate: `numpy.savez_compressed` takes 7 times as long for a tenth less (512x384 depth, measured). Arrays
    named in ``stored`` are not deflated at all.
    """
    with zipfile.ZipFile(file, "w", compresslevel=1) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, as numpy does: no clock in the bytes
            entry.compress_type = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as written:
                if isinstance(array, Spool):
                    array.write_npy(written)
                else:
                    np.lib.format.write_array(written, np.ascontiguousarray(array), allow_pickle=False)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an archive; `InputError` that names the file where it is missing, cut short or not ours."""
    try:
        # Opened here: numpy.load leaves a file open that it cannot read.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            return {name: archive[name] for name in archive.files}
    except _DAMAGED as error:
        raise InputError(f"{path}: {_complaint(error)}; make the result again") from error


def write_json(path: Path, value: Any) -> None:
    """Strict JSON (no NaN): a number that is not finite becomes null, paths and NumPy scalars their plain value."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 text with plain line ends on every system."""
    with written_whole(path) as beside:
        beside.write_bytes(text.encode("utf-8"))


def read_json(path: Path) -> Any:
    """The parsed file; `InputError` that names it where it is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {_complaint(error)}; make the result again") from error


def _complaint(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, MemoryError):
        return "claims arrays larger than the memory"
    return "damaged or not a file of this package (" + " ".join(str(error).split())[:120] + ")"


def plain(value: Any) -> Any:
    """The value as JSON can say it; see `write_json`."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
