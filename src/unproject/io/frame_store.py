"""Small images of a long clip, on disk while the run lasts: random access without memory that grows with the clip."""

import os
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import overload

import numpy as np

from unproject.errors import UnprojectError


class FrameStore(Sequence[np.ndarray]):
    """Append uint8 images of any size, then read them as often as you like; gone when closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="unproject-frames-", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self._places: list[tuple[int, tuple[int, ...]]] = []

    def append(self, image: np.ndarray) -> None:
        """Add one image (uint8)."""
        self._places.append((self._file.tell(), image.shape))
        data = np.ascontiguousarray(image, dtype=np.uint8).data
        try:
            written = self._file.write(data)
        except OSError:
            written = 0
        if written != data.nbytes:  # the last write before a disk is full comes back short, without an error
            raise UnprojectError(
                f"no space left in {tempfile.gettempdir()} for small frames: set TMPDIR to a larger disk"
            )

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        start, shape = self._places[index]
        # pread: several threads read at once, and none may move the place where another reads.
        return np.frombuffer(os.pread(self._file.fileno(), int(np.prod(shape)), start), np.uint8).reshape(shape)

    def __enter__(self) -> "FrameStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._file.close()
