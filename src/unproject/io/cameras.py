"""Cameras that the user already has, given to the frames that they belong to: honoured or refused, never dropped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePath

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unproject.errors import InputError
from unproject.io.camera_files import KnownCamera, checked, read_colmap, read_json, read_tum
from unproject.io.images import IMAGE_SUFFIXES
from unproject.types import FrameInfo, Scale

_STAMP_TOLERANCE_S = 0.02  # as the tools of the TUM data set associate


@dataclass(frozen=True, kw_only=True)
class MatchedCameras:
    """Known cameras of N frames, for the pixels of those frames; NaN where nothing is known."""

    intrinsics: Float[Tensor, "N 3 3"]
    distortion: Float[Tensor, "N 5"]
    world_from_cam: Float[Tensor, "N 4 4"]
    has_intrinsics: Bool[Tensor, " N"]
    has_pose: Bool[Tensor, " N"]
    scale: Scale
    """Of the poses: ``metric`` where the file says so, else ``aligned`` to the file's own unit."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class KnownCameras:
    """All cameras of a file, checked."""

    path: str
    cameras: tuple[KnownCamera, ...]
    scale: Scale
    notes: tuple[str, ...] = ()

    def match(self, infos: Sequence[FrameInfo]) -> MatchedCameras:
        """One row per frame, found by file name and frame number or by time; intrinsics scaled to the frame's size.

        Distortion is zero where intrinsics came without. Raises `InputError` where no frame is named, a pose fits two
        frames, or the intrinsics are for another shape of image.
        """
        if self.cameras[0].name is not None:
            rows, how = _rows_by_name(self, infos)
        elif self.cameras[0].time_s is not None:
            rows, how = _rows_by_time(self, infos)
        else:
            rows, how = [0] * len(infos), "one lens for all"
        found = [self.cameras[row] if row is not None else KnownCamera() for row in rows]
        lenses = [_for_size(camera, info, self.path) for camera, info in zip(found, infos, strict=True)]
        intrinsics = _stack([lens and lens[0] for lens in lenses], (3, 3))
        poses = _stack([camera.world_from_cam for camera in found], (4, 4))
        has_intrinsics, has_pose = ~intrinsics.isnan().any(-1).any(-1), ~poses.isnan().any(-1).any(-1)
        counts = f"intrinsics of {int(has_intrinsics.sum())} and poses of {int(has_pose.sum())} of {len(infos)} frames"
        scaled = sum(
            camera.intrinsics is not None and camera.size not in (None, (info.width, info.height))
            for camera, info in zip(found, infos, strict=True)
        )
        more = (f"intrinsics of {scaled} frames scaled to the size of the frames",) if scaled else ()
        return MatchedCameras(
            intrinsics=intrinsics,
            distortion=_stack([lens and lens[1] for lens in lenses], (5,)),
            world_from_cam=poses,
            has_intrinsics=has_intrinsics,
            has_pose=has_pose,
            scale=self.scale,
            notes=(f"{self.path}: {counts}, matched by {how}", *more, *self.notes),
        )


def read_cameras(path: str | Path) -> KnownCameras:
    """Read our `cameras.json` (or a result folder), a COLMAP model folder, nerfstudio's `transforms.json` or TUM poses.

    A JSON file with ``intrinsics`` and without ``frames`` states one lens for every frame.
    Raises `InputError`: missing or damaged file, numbers that are not finite, a singular K, a pose that is no rigid
    motion, two different cameras for one frame.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist: check --cameras")
    if path.is_dir() and (path / "cameras.json").exists():
        path = path / "cameras.json"
    scale: Scale = "aligned"
    notes: tuple[str, ...] = ()
    if path.is_dir():
        cameras = read_colmap(path)
    elif path.suffix.lower() == ".json":
        cameras, scale, notes = read_json(path)
    else:
        cameras = read_tum(path)
    if not cameras:
        raise InputError(f"{path} holds no camera: check --cameras")
    if len({camera.name is None for camera in cameras}) > 1 or (cameras[0].label == "the lens" and len(cameras) > 1):
        raise InputError(f"{path}: every frame needs its 'file': mend the file")
    once = _without_repeats([checked(camera, path) for camera in cameras], path)
    return KnownCameras(path=str(path), cameras=once, scale=scale, notes=notes)


def _without_repeats(cameras: list[KnownCamera], path: Path) -> tuple[KnownCamera, ...]:
    first: dict[tuple, KnownCamera] = {}
    for camera in cameras:
        before = first.setdefault((camera.name, camera.frame_index, camera.time_s), camera)
        for field in ("intrinsics", "distortion", "world_from_cam"):
            one, other = getattr(before, field), getattr(camera, field)
            if (one is None) != (other is None) or (one is not None and not torch.allclose(one, other, atol=1e-6)):
                raise InputError(f"{path}: {camera.label} has two different {field}: leave one of them out")
    return tuple(first.values())


def _stem(name: str) -> str:
    file = PurePath(name.replace("\\", "/"))
    return file.stem if file.suffix.lower() in IMAGE_SUFFIXES else file.name


def _agreement(name: str, other: str) -> int:
    """How many folders two paths share, from the innermost on."""
    pairs = zip(*(PurePath(path.replace("\\", "/")).parts[-2::-1] for path in (name, other)), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _rows_by_name(known: KnownCameras, infos: Sequence[FrameInfo]) -> tuple[list[int | None], str]:
    """The camera with the frame's file name and number; among namesakes the one whose folders agree for longest."""
    namesakes: dict[str, list[int]] = {}
    for row, camera in enumerate(known.cameras):
        namesakes.setdefault(_stem(camera.name or ""), []).append(row)
    rows = [_nearest_namesake(known, namesakes.get(_stem(info.file), []), info) for info in infos]
    posed = [row for row in rows if row is not None and known.cameras[row].world_from_cam is not None]
    if len(posed) > len(set(posed)):
        twice = next(known.cameras[row].label for row in posed if posed.count(row) > 1)
        raise InputError(f"{known.path}: the pose of {twice} fits more than one frame: give folders or 'frame_index'")
    if any(row is not None for row in rows):
        return rows, "file name"
    is_video = len(infos) > 1 and len({info.file for info in infos}) == 1
    if is_video and len(known.cameras) == len(infos):
        return list(range(len(infos))), "order (other names, the same number of frames)"
    example = f"it names {known.cameras[0].label}, the input {PurePath(infos[0].file).name}"
    count = f" and has {len(known.cameras)} cameras for {len(infos)} frames" if is_video else ""
    raise InputError(f"{known.path} has no camera for any frame: {example}{count}: check --cameras")


def _nearest_namesake(known: KnownCameras, rows: list[int], info: FrameInfo) -> int | None:
    rows = [row for row in rows if known.cameras[row].frame_index in (None, info.index)]
    agreement = [_agreement(known.cameras[row].name or "", info.file) for row in rows]
    best = [row for row, length in zip(rows, agreement, strict=True) if length == max(agreement)]
    if len(best) > 1:
        raise InputError(f"{known.path}: {info.file} could be any of {len(best)} cameras: give their folders")
    return best[0] if best else None


def _rows_by_time(known: KnownCameras, infos: Sequence[FrameInfo]) -> tuple[list[int | None], str]:
    """The pose nearest in time, by the reading of the clock that gives most frames a pose."""
    stamps = np.array([camera.time_s for camera in known.cameras])
    order = np.argsort(stamps)
    middles = (stamps[order][1:] + stamps[order][:-1]) / 2
    times = np.array([info.time_s for info in infos])
    readings = {
        "time stamps in the file names": np.array([_stamp(_stem(info.file)) for info in infos]),
        "time": times,
        "time since the first pose": times + stamps.min(),
    }
    best: list[int | None] = [None] * len(infos)
    best_how = ""
    for how, clock in readings.items():
        nearest = order[np.searchsorted(middles, clock)]
        close = np.abs(stamps[nearest] - clock) <= _STAMP_TOLERANCE_S
        if close.sum() > sum(row is not None for row in best):
            best, best_how = [int(row) if near else None for row, near in zip(nearest, close, strict=True)], how
    if not best_how:
        span = f"its stamps go from {stamps.min():.3f} to {stamps.max():.3f}"
        raise InputError(f"{known.path} has no pose within {_STAMP_TOLERANCE_S} s of any frame: {span}, check them")
    return best, best_how


def _stamp(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return math.nan


def _for_size(camera: KnownCamera, info: FrameInfo, path: str) -> tuple[Tensor, Tensor] | None:
    """Intrinsics and distortion for the frame's own pixels. A corner origin makes that a plain scaling per axis."""
    lens = camera.intrinsics
    if lens is None:
        return None
    where, (width, height) = f"{path}: {camera.label}", camera.size or (info.width, info.height)
    scale_x, scale_y = info.width / width, info.height / height
    # Sizes are whole numbers: the smaller image may be off by one of its pixels.
    if abs(height * scale_x - info.height) > max(1.0, scale_x, scale_y):
        turned = ", turned" if (width > height) != (info.width > info.height) else ""
        sizes = f"{width}x{height}, {info.file} is {info.width}x{info.height}"
        raise InputError(f"{where}: its intrinsics are for {sizes}{turned}: mend the file")
    if not (0.05 < float(lens[0, 0]) / width < 100 and 0 < lens[0, 2] < width and 0 < lens[1, 2] < height):
        raise InputError(f"{where}: the intrinsics do not fit a {width}x{height} image: give them in its pixels")
    bend = torch.zeros(5, dtype=torch.float64) if camera.distortion is None else camera.distortion
    return torch.tensor([scale_x, scale_y, 1.0], dtype=torch.float64)[:, None] * lens, bend


def _stack(values: Sequence[Tensor | None], shape: tuple[int, ...]) -> Tensor:
    unknown = torch.full(shape, math.nan, dtype=torch.float64)
    return torch.stack([unknown if value is None else value for value in values])
