"""Arrays that grow on disk while a run lasts: memory does not grow with them."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike

from unproject.errors import UnprojectError

PIECE = 1 << 20
"""Bytes that are read at a time."""


class Spool:
    """An array whose rows come one after the other, in a file without a name: it is gone when nobody holds it any more.

    Args:
        dtype: of the array.
        row: its shape, but for the first axis.
        folder: on whose disk it lies; None is the system's place for such files.

    Raises:
        UnprojectError: no permission, no space.
    """

    def __init__(self, dtype: DTypeLike, row: tuple[int, ...] = (), folder: Path | None = None) -> None:
        self.dtype, self.row = np.dtype(dtype), row
        self.length = 0
        self.folder = folder
        try:
            file = tempfile.TemporaryFile(prefix="unproject-", dir=folder, buffering=0)  # noqa: SIM115 (closed below)
        except OSError as error:
            raise self._refused() from error
        weakref.finalize(self, file.close)
        self._file = file

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return (self.length, *self.row)

    def extend(self, rows: np.ndarray) -> None:
        """Add rows; their type is made the array's."""
        data = np.ascontiguousarray(rows, self.dtype)
        if data.shape[1:] != self.row:
            raise ValueError(f"rows of shape {data.shape[1:]}, expected {self.row}")
        try:
            written = self._file.write(data.data)
        except OSError:
            written = 0
        if written != data.nbytes:  # the last write before a disk is full comes back short, without an error
            raise self._refused()
        self.length += len(data)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows from ``start`` up to ``stop``."""
        count = max(0, min(stop, self.length) - start)
        size = self.dtype.itemsize * int(np.prod(self.row))
        data = os.pread(self._file.fileno(), count * size, start * size)
        return np.frombuffer(data, self.dtype).reshape(count, *self.row)

    def pieces(self) -> Iterator[np.ndarray]:
        """All rows, a few at a time."""
        step = max(1, PIECE // max(1, self.dtype.itemsize * int(np.prod(self.row))))
        for start in range(0, self.length, step):
            yield self.read(start, start + step)

    def write_npy(self, file: IO[bytes] | BufferedIOBase) -> None:
        """The same bytes as `numpy.save` writes for the whole array."""
        kind = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": self.shape})
        for piece in self.pieces():
            file.write(piece.data)

    def mapped(self) -> np.ndarray:
        """The whole array, read where it is looked at; what is changed in it stays in memory."""
        if 0 in self.shape:  # nothing cannot be mapped
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self._file, self.dtype, "c", shape=self.shape)

    def _refused(self) -> UnprojectError:
        place = self.folder or tempfile.gettempdir()
        remedy = "choose another output folder" if self.folder else "set TMPDIR to a larger disk"
        return UnprojectError(f"no space left in {place}, or no permission: {remedy}")
