"""Files of the WorldTrack benchmark, read and written.

A file is an npz with `images_jpeg_bytes` [T] (objects), `tracks_XYZ` [T, K, 3] in each frame's own camera, `visibility`
[T, K], `fx_fy_cx_cy`, and perhaps `extrinsics_w2c` [T, 4, 4] and `depth_map` [T, H, W], all in metres. Files come from
strangers: arrays of numbers are read without pickle, and the one pickled array is searched for its JPEGs, never run.
"""

import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from unproject.errors import InputError
from unproject.geometry.rigid import transform
from unproject.io.disk import written_whole

FRAMES = 64
"""How many frames of a file the benchmark looks at."""
MOST_BYTES = 1 << 32
"""No array of the benchmark is nearly as large; one that claims to be is refused."""

# What zipfile, zlib, NumPy's header parser and pickletools raise on files that are cut short, altered or made up.
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    ArithmeticError,
    MemoryError,
    SyntaxError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """One sequence; the world is its first camera."""

    name: str
    jpegs: tuple[bytes, ...]
    size: tuple[int, int]
    """Height and width of the images."""
    intrinsics: Float[Tensor, "3 3"]
    """As the file has them: whether pixel centres lie at +0.5 depends on its source, and the protocol does not ask."""
    cam_from_world: Float[Tensor, "T 4 4"]
    tracks: Float[Tensor, "T K 3"] | None
    visible: Bool[Tensor, "T K"] | None
    depth: Float[Tensor, "T H W"] | None

    def frames(self) -> Iterator[Image.Image]:
        """Decoded images, RGB."""
        for number, jpeg in enumerate(self.jpegs):
            try:
                yield Image.open(BytesIO(jpeg), formats=["JPEG"]).convert("RGB")
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise InputError(f"{self.name}: image {number} is damaged ({error}); download the file anew") from error


def read_sequence(path: Path, frames: int = FRAMES) -> Sequence:
    """The first frames of a file; `InputError` with its name where it is not what the benchmark has."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                name: _numbers(archive, name)[: None if name == "fx_fy_cx_cy" else frames]
                for name in ("fx_fy_cx_cy", "tracks_XYZ", "visibility", "extrinsics_w2c", "depth_map")
                if f"{name}.npy" in archive.namelist()
            }
            jpegs = _jpegs(archive, "images_jpeg_bytes")[:frames]
        return _sequence(path.stem, arrays, jpegs)
    except _DAMAGED as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:160]
        raise InputError(f"{path}: no WorldTrack sequence ({reason}); download the file anew") from error


def _sequence(name: str, arrays: dict[str, np.ndarray], jpegs: tuple[bytes, ...]) -> Sequence:
    count = len(jpegs)
    fx, fy, cx, cy = _checked(arrays, "fx_fy_cx_cy", (4,)).tolist()
    eye = torch.eye(4, dtype=torch.float64)
    cam_from_world = eye.repeat(count, 1, 1)
    if "extrinsics_w2c" in arrays:
        given = _checked(arrays, "extrinsics_w2c", (count, 4, 4))
        cam_from_world = given @ torch.linalg.inv(given[0])
    if not (fx > 0 and fy > 0 and bool(cam_from_world.isfinite().all())):
        raise ValueError("its cameras are not finite, or have no focal length")
    width, height = Image.open(BytesIO(jpegs[0]), formats=["JPEG"]).size
    tracks = visible = None
    if "tracks_XYZ" in arrays:
        many = arrays["tracks_XYZ"].shape[1] if arrays["tracks_XYZ"].ndim == 3 else 0
        world_from_cam = torch.linalg.inv(cam_from_world)
        tracks = transform(world_from_cam, _checked(arrays, "tracks_XYZ", (count, many, 3)))
        visible = _checked(arrays, "visibility", (count, many)) > 0
    return Sequence(
        name=name,
        jpegs=jpegs,
        size=(height, width),
        intrinsics=torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64),
        cam_from_world=cam_from_world,
        tracks=tracks,
        visible=visible,
        depth=_checked(arrays, "depth_map", (count, height, width)) if "depth_map" in arrays else None,
    )


def _checked(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    if arrays[name].shape != shape:
        raise ValueError(f"{name} has shape {arrays[name].shape} and not {shape}")
    return torch.from_numpy(arrays[name].astype(np.float64))


def _array(archive: zipfile.ZipFile, name: str) -> tuple[BytesIO, tuple[int, ...], bool, np.dtype]:
    """What follows the header of an array, and what that says: shape, columns first or not, type."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > MOST_BYTES:
        raise ValueError(f"{name} claims {entry.file_size} bytes")
    file = BytesIO(archive.read(entry))
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return file, *header(file)


def _numbers(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of numbers, if its header says what its length says."""
    file, shape, columns_first, dtype = _array(archive, name)
    content = file.getbuffer()[file.tell() :]
    if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{name} is no array of numbers of its length")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if columns_first else "C")


def _jpegs(archive: zipfile.ZipFile, name: str) -> tuple[bytes, ...]:
    """The JPEGs among the byte strings of a pickled array: its tokens are read and none is carried out."""
    file, shape, _, dtype = _array(archive, name)
    if dtype.kind != "O" or len(shape) != 1:
        raise ValueError(f"{name} is no list of images")
    tokens = pickletools.genops(file)
    found = tuple(value for _, value, _ in tokens if isinstance(value, bytes) and value[:2] == b"\xff\xd8")
    if len(found) != shape[0] or not found:
        raise ValueError(f"{name} holds {len(found)} JPEGs and should hold {shape[0]}")
    return found


def write_sequence(path: Path, sequence: Sequence) -> None:
    """The sequence as a file of the benchmark's format."""
    jpegs = np.empty(len(sequence.jpegs), dtype=object)
    jpegs[:] = sequence.jpegs
    k = sequence.intrinsics
    arrays = {
        "images_jpeg_bytes": jpegs,
        "fx_fy_cx_cy": np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]),
        "extrinsics_w2c": sequence.cam_from_world.numpy(),
    }
    if sequence.tracks is not None and sequence.visible is not None:
        arrays["tracks_XYZ"] = transform(sequence.cam_from_world, sequence.tracks).numpy()
        arrays["visibility"] = sequence.visible.numpy()
    if sequence.depth is not None:
        arrays["depth_map"] = sequence.depth.numpy()
    with written_whole(path) as beside:
        np.savez_compressed(beside, **arrays)
