"""How each noun lies on disk: `cameras.json` (a contract other programs read) and the arrays of the .npz files.

Reading trusts nothing: what does not fit is an `InputError` that names the file and the entry.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unproject.errors import InputError
from unproject.io.spool import Spool
from unproject.types import Cameras, FlowMaps, FrameInfo, FrameMaps, MovingTracks, Points3D, Scale, Tracks

DEPTH_BITS = 14
"""Bits of mantissa kept in depth and scene flow: rounded by at most 2^-15 (0.003 %) of the value."""
LEVELS = 256
"""Confidence, motion and flow are rounded to multiples of 1/256 (of a pixel)."""


def round_mantissa(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Nearest float32 with `DEPTH_BITS` bits of mantissa (ties away from zero): the rest is noise, and hard to pack."""
    dropped = 23 - DEPTH_BITS
    bits = value.float().contiguous().view(torch.int32)
    rounded = ((bits + (1 << (dropped - 1))) & -(1 << dropped)).view(torch.float32)
    return torch.where(torch.isfinite(rounded), rounded, value.float())


def rounded(maps: FrameMaps) -> FrameMaps:
    """The maps as the disk gives them back; rounding them again changes nothing."""
    return replace(
        maps,
        depth=round_mantissa(maps.depth),
        confidence=_levels(maps.confidence),
        motion=_levels(maps.motion),
        to_original=maps.to_original.double(),
        scene_flow=None if maps.scene_flow is None else round_mantissa(maps.scene_flow),
    )


def rounded_flow(maps: FlowMaps) -> FlowMaps:
    """The same for the flow of a pair."""
    return replace(maps, flow=_levels(maps.flow), motion=_levels(maps.motion))


def maps_to_arrays(maps: FrameMaps) -> dict[str, np.ndarray]:
    """The arrays of `arrays/NNNNNN.npz`, rounded as this module says."""
    whole = rounded(maps)
    tensors = {name: getattr(whole, name) for name in MAP_ARRAYS}
    return {name: value.detach().cpu().numpy() for name, value in tensors.items() if value is not None}


def flow_to_arrays(maps: FlowMaps) -> dict[str, np.ndarray]:
    """The arrays of `flow/SSSSSS_TTTTTT.npz`, rounded as this module says."""
    whole = rounded_flow(maps)
    return {name: getattr(whole, name).detach().cpu().numpy() for name in FLOW_ARRAYS}


def _levels(value: Tensor) -> Tensor:
    return (value.float() * LEVELS).round() / LEVELS


MAP_ARRAYS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "depth": ("float32", ("H", "W")),
    "valid": ("bool", ("H", "W")),
    "confidence": ("float32", ("H", "W")),
    "motion": ("float32", ("H", "W")),
    "to_original": ("float64", (3, 3)),
    "rgb": ("uint8", ("H", "W", 3)),
    "scene_flow": ("float32", ("H", "W", 3)),
}
FLOW_ARRAYS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "flow": ("float32", ("H", "W", 2)),
    "covisible": ("bool", ("H", "W")),
    "motion": ("float32", ("H", "W")),
}
_TRACK_ARRAYS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "tracks_xyz": ("float", ("N", "K", 3)),
    "tracks_uv": ("float", ("N", "K", 2)),
    "tracks_visible": ("bool", ("N", "K")),
    "tracks_confidence": ("float", ("N", "K")),
    "tracks_moving": ("bool", ("K",)),
}
_POINT_ARRAYS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "xyz": ("float", ("T", 3)),
    "rgb": ("uint8", ("T", 3)),
    "view": ("int", ("O",)),
    "track": ("int", ("O",)),
    "uv": ("float", ("O", 2)),
    "weight": ("float", ("O",)),
}


def maps_from_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> FrameMaps:
    """Inverse of `maps_to_arrays`; ``path`` is for the error."""
    tensors = _checked(arrays, MAP_ARRAYS, path, optional=("rgb", "scene_flow"))
    return FrameMaps(**tensors)


def flow_from_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> FlowMaps:
    """Inverse of `flow_to_arrays`; ``path`` is for the error."""
    return FlowMaps(**_checked(arrays, FLOW_ARRAYS, path))


def track_arrays(fields: Mapping[str, Spool]) -> dict[str, Spool]:
    """The arrays of `tracks.npz`, given the fields of `MovingTracks`."""
    return {name: fields[name.removeprefix("tracks_")] for name in _TRACK_ARRAYS}


def tracks_to_arrays(tracks: MovingTracks) -> dict[str, np.ndarray]:
    """The arrays of `tracks.npz`."""
    return {name: getattr(tracks, name.removeprefix("tracks_")).cpu().numpy() for name in _TRACK_ARRAYS}


def tracks_from_arrays(arrays: Mapping[str, np.ndarray], frames: int, path: Path) -> MovingTracks:
    """Inverse of `tracks_to_arrays`, for a result of so many frames."""
    tensors = _checked(arrays, _TRACK_ARRAYS, path, sizes={"N": frames})
    return MovingTracks(**{name.removeprefix("tracks_"): value for name, value in tensors.items()})


def points_to_arrays(points: Points3D) -> dict[str, np.ndarray]:
    """The arrays of `points.npz`: one row of ``view, track, uv, weight`` per observation."""
    observed = {name: getattr(points.tracks, name) for name in ("view", "track", "uv", "weight")}
    return {name: value.cpu().numpy() for name, value in {"xyz": points.xyz, "rgb": points.rgb, **observed}.items()}


def points_from_arrays(arrays: Mapping[str, np.ndarray], frames: int, path: Path) -> Points3D:
    """Inverse of `points_to_arrays`, for a result of so many frames."""
    tensors = _checked(arrays, _POINT_ARRAYS, path)
    view, track, xyz = tensors["view"], tensors["track"], tensors["xyz"]
    for name, index, count in (("view", view, frames), ("track", track, len(xyz))):
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < count:
            raise InputError(f"{path}: '{name}' points outside 0..{count - 1}; make the result again")
    tracks = Tracks(view=view, track=track, uv=tensors["uv"], weight=tensors["weight"])
    return Points3D(xyz=xyz, rgb=tensors["rgb"], tracks=tracks)


def _checked(
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[str, tuple[int | str, ...]]],
    path: Path,
    optional: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Tensors of the wanted arrays after comparing type and shape; a letter stands for one size throughout the file."""
    bound, tensors = dict(sizes or {}), {}
    for name, (dtype, shape) in wanted.items():
        if name not in arrays:
            if name in optional:
                continue
            raise InputError(f"{path}: the array '{name}' is missing; make the result again")
        array = arrays[name]
        expected = tuple(bound.setdefault(size, actual) if isinstance(size, str) else size
                         for size, actual in zip(shape, array.shape, strict=False))  # fmt: skip
        if not array.dtype.name.startswith(dtype) or array.ndim != len(shape) or array.shape != expected:
            raise InputError(
                f"{path}: '{name}' is {array.dtype} {list(array.shape)}, expected {dtype} "
                f"[{', '.join(str(bound.get(str(size), size)) for size in shape)}]; make the result again"
            )
        tensors[name] = torch.from_numpy(array)
    return tensors


def cameras_to_json(frames: Sequence[FrameInfo], cameras: Cameras, scale: Scale) -> dict[str, Any]:
    """The document `cameras.json`: one entry per frame that was asked for, in order."""
    return {
        "convention": "opencv",
        "pixel_origin": "corner",
        "scale": scale,
        "frames": [_frame_to_json(index, info, cameras) for index, info in enumerate(frames)],
    }


def _frame_to_json(index: int, info: FrameInfo, cameras: Cameras) -> dict[str, Any]:
    found = bool(cameras.found[index])
    return {
        "file": info.file,
        "frame_index": info.index,
        "time_s": info.time_s,
        "width": info.width,
        "height": info.height,
        "intrinsics": _rows(cameras.intrinsics[index]),
        "distortion": _rows(cameras.distortion[index]),
        "world_from_cam": _rows(cameras.world_from_cam[index]) if found else None,
        "component": int(cameras.component[index]) if found else -1,
        "quality": _rows(cameras.quality[index]),
        "camera": info.camera,
        "focal_prior_px": info.focal_prior_px,
    }


def _rows(value: Tensor) -> Any:
    """Nested lists of exact doubles; null where a number is not finite."""
    return value.double().tolist() if bool(torch.isfinite(value).all()) else None


def cameras_from_json(document: Any, path: Path) -> tuple[tuple[FrameInfo, ...], Cameras, Scale]:
    """Inverse of `cameras_to_json`. Keys beyond the contract (component, quality, camera) may be absent."""
    if not isinstance(document, dict) or not isinstance(document.get("frames"), list):
        raise InputError(f"{path}: has no list 'frames'; make the result again")
    for key, allowed in (("convention", ("opencv",)), ("pixel_origin", ("corner",)), ("scale", get_args(Scale))):
        if document.get(key) not in allowed:
            raise InputError(f"{path}: '{key}' must be {' or '.join(allowed)}, not {document.get(key)!r}")
    entries = [_Entry(entry, f"{path}: frame {index}") for index, entry in enumerate(document["frames"])]
    frames = tuple(entry.info() for entry in entries)
    poses = [entry.matrix("world_from_cam", (4, 4)) for entry in entries]
    found = [pose is not None for pose in poses]
    pairs = list(zip(entries, found, strict=True))
    cameras = Cameras(
        world_from_cam=_stack(poses, (4, 4)),
        intrinsics=_stack([entry.matrix("intrinsics", (3, 3)) for entry in entries], (3, 3)),
        distortion=_stack([entry.matrix("distortion", (5,)) for entry in entries], (5,)),
        found=torch.tensor(found, dtype=torch.bool),
        component=torch.tensor([entry.component(seen) for entry, seen in pairs]).long(),
        quality=torch.tensor([entry.quality(seen) for entry, seen in pairs], dtype=torch.float64),
    )  # fmt: skip
    return frames, cameras, document["scale"]


def _stack(matrices: Sequence[Tensor | None], shape: tuple[int, ...]) -> Tensor:
    unknown = torch.full(shape, math.nan, dtype=torch.float64)
    filled = [unknown if matrix is None else matrix for matrix in matrices]
    return torch.stack(filled) if filled else unknown.new_zeros(0, *shape)


class _Entry:
    """One frame's entry, read with an error that says which frame and which key."""

    def __init__(self, entry: Any, where: str) -> None:
        self.where = where
        if not isinstance(entry, dict):
            raise InputError(f"{where} is not an object; make the result again")
        self.entry = entry

    def number(self, key: str, default: float | None = None) -> float:
        value = self.entry.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise InputError(f"{self.where}: '{key}' must be a finite number, not {value!r}")
        return float(value)

    def whole(self, key: str, default: int | None = None, least: int = 0) -> int:
        value = self.number(key, default)
        if value != int(value) or value < least:
            raise InputError(f"{self.where}: '{key}' must be a whole number from {least}, not {value!r}")
        return int(value)

    def component(self, found: bool) -> int:
        return self.whole("component", 0) if found else -1

    def quality(self, found: bool) -> float:
        unknown = self.entry.get("quality", found) is None
        return math.nan if unknown else self.number("quality", float(found))

    def matrix(self, key: str, shape: tuple[int, ...]) -> Tensor | None:
        value = self.entry.get(key)
        if value is None and key in self.entry:
            return None
        try:
            matrix = torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            matrix = torch.empty(0)
        if matrix.shape != shape or not bool(torch.isfinite(matrix).all()):
            raise InputError(f"{self.where}: '{key}' must be {'x'.join(map(str, shape))} finite numbers")
        return matrix

    def info(self) -> FrameInfo:
        if not isinstance(self.entry.get("file"), str):
            raise InputError(f"{self.where}: 'file' must be a text")
        prior = None if self.entry.get("focal_prior_px") is None else self.number("focal_prior_px")
        return FrameInfo(
            file=self.entry["file"],
            index=self.whole("frame_index"),
            time_s=self.number("time_s"),
            width=self.whole("width", least=1),
            height=self.whole("height", least=1),
            focal_prior_px=prior,
            camera=self.whole("camera", 0),
        )
