"""Labels of one clip as small archives, and back: how exactly each is kept, and that it is what it claims to be.

| label | kept as | largest error |
|---|---|---|
| `flow` | differences along each row of whole 1/32 px, int16 | 1/64 px; unknown from 1023 px on |
| `mono_depth` | float16, over the median of its view | 1/2048 of the value; unknown outside 1/16384..65504 medians |
| `tracks` | float32 | none |
| `world_from_cam`, `intrinsics` | float64, weights too | none |
| `points` | float32 of 16 bits | 1/131072 of each coordinate: normals bear with it, and not with float16 |
| weights of pixels | uint8 | 1/510, so what is hardly known becomes unknown |
| weights of tracks | uint8, at least 1 | 1/255 |

Where a weight is 0 the value is gone: it is 0, or the identity, when it comes back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unproject.io.bounded import ROWS, Kind, npz_arrays, npz_bytes
from unproject.types import Known, Labels, Tracks

FLOW_STEPS = 32
"""Of a pixel."""
LONGEST_FLOW_PX = 1023.0
_DEPTHS = (2.0**-14, 65504.0)
"""Where float16 is exact to its 11 bits."""
_CUT_BITS = 7
"""Of the 23 of a float32 that coordinates of points do without."""
_LARGEST = 1e15
"""Of any number: its square is still a float32."""

_FILES = {
    "flow": "flow.npz",
    "tracks": "tracks.npz",
    "mono_depth": "depth.npz",
    "world_from_cam": "cameras.npz",
    "intrinsics": "cameras.npz",
    "points": "points.npz",
}
KEPT = tuple(_FILES)
"""Fields of `Labels` that a shard can hold."""

Arrays = dict[str, np.ndarray]
_MAP, _CAMERA = ("N", "H", "W"), ("N",)
_FLOW: dict[str, Kind] = {"steps": ("<i2", ("P", 2, "H", "W")), "covisible": ("|u1", ("P", "H", "W"))}
_TRACKS: dict[str, Kind] = {
    "view": ("<i2", (ROWS,)),
    "track": ("<i4", (ROWS,)),
    "uv": ("<f4", (ROWS, 2)),
    "weight": ("|u1", (ROWS,)),
}
_DEPTH: dict[str, Kind] = {"depth": ("<f2", _MAP), "median": ("<f8", _CAMERA), "weight": ("|u1", _MAP)}
_POSES: dict[str, Kind] = {
    "world_from_cam": ("<f8", ("N", 4, 4)),
    "world_from_cam_weight": ("<f8", _CAMERA),
    "intrinsics": ("<f8", ("N", 3, 3)),
    "intrinsics_weight": ("<f8", _CAMERA),
}
_POINTS: dict[str, Kind] = {"points": ("<f4", ("N", "H", "W", 3)), "weight": ("|u1", _MAP)}


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What decides the shapes of a clip's arrays."""

    views: int
    pairs: int
    height: int
    width: int

    @property
    def sizes(self) -> dict[str, int]:
        """By the letters of the shapes."""
        return {"N": self.views, "P": self.pairs, "H": self.height, "W": self.width}


def names_of(labels: Labels) -> tuple[str, ...]:
    """The fields that are there; ValueError for one that no shard can hold."""
    there = {name for name, value in vars(labels).items() if value is not None}
    if there - set(KEPT):
        raise ValueError(f"shards cannot hold {', '.join(sorted(there - set(KEPT)))}")
    return tuple(name for name in KEPT if name in there)


def files_of(names: tuple[str, ...]) -> set[str]:
    """The files that these labels lie in."""
    return {_FILES[name] for name in names}


def pack(labels: Labels, extent: Extent) -> dict[str, bytes]:
    """The labels of a batch of one as files; ValueError where a shape, weight or known value cannot be kept."""
    arrays = {}
    if labels.flow is not None:
        arrays["flow.npz"] = _pack_flow(_of_one(labels.flow, "flow", ("P", "H", "W"), (2,), extent))
    if labels.tracks is not None:
        arrays["tracks.npz"] = _pack_tracks(labels.tracks, extent)
    if labels.mono_depth is not None:
        arrays["depth.npz"] = _pack_depth(_of_one(labels.mono_depth, "mono_depth", _MAP, (), extent))
    if labels.world_from_cam is not None or labels.intrinsics is not None:
        arrays["cameras.npz"] = _pack_cameras(labels, extent)
    if labels.points is not None:
        arrays["points.npz"] = _pack_points(_of_one(labels.points, "points", _MAP, (3,), extent))
    return {name: npz_bytes(some) for name, some in arrays.items()}


def unpack(files: Mapping[str, bytes], names: tuple[str, ...], extent: Extent) -> Labels:
    """Inverse of `pack` for the labels of these names, from files that are not trusted: see `bounded.npz_arrays`."""
    readers: dict[str, Callable[[bytes, Extent], dict]] = {
        "flow.npz": _unpack_flow,
        "tracks.npz": _unpack_tracks,
        "depth.npz": _unpack_depth,
        "cameras.npz": _unpack_cameras,
        "points.npz": _unpack_points,
    }
    found = {}
    for file in sorted(files_of(names)):
        try:
            found |= readers[file](files[file], extent)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    if set(found) != set(names):
        raise ValueError(f"the labels are {', '.join(sorted(found))}, and not {', '.join(sorted(names))}")
    return Labels(**found)


def _of_one(
    known: Known, name: str, axes: tuple[str, ...], item: tuple[int, ...], extent: Extent
) -> tuple[np.ndarray, np.ndarray]:
    """Value and weight of the only clip, the value 0 where its weight is."""
    value, weight = (part.detach().cpu().numpy() for part in (known.value, known.weight))
    shape = (1, *(extent.sizes[axis] for axis in axes))
    if weight.shape != shape or value.shape != shape + item or 0 in shape:
        raise ValueError(f"{name} is {value.shape} with weights {weight.shape}, and the clip wants {shape + item}")
    if not (weight >= 0).all() or not (weight <= 1).all():
        raise ValueError(f"weights of {name} must lie in [0, 1]")
    known_there = (weight[0] > 0).reshape(shape[1:] + (1,) * len(item))
    value = np.where(known_there, value[0], 0)
    if not _sane(value):
        raise ValueError(f"{name} must be finite where its weight is above 0")
    return value, weight[0]


def _sane(*arrays: np.ndarray) -> bool:
    return all(float(np.abs(array).max(initial=0)) < _LARGEST for array in arrays)  # NaN is the largest, and not less


def _weight_bytes(weight: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    return np.round(weight * np.float32(255)).astype(np.uint8)


def _from_bytes(weight: UInt8[np.ndarray, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.from_numpy(weight / np.float32(255))


def _pack_flow(flow: tuple[np.ndarray, np.ndarray]) -> Arrays:
    """Differences along rows take 0.6 of the space of the flow itself (DIS on the bundled sample, deflated)."""
    value, weight = flow
    near = (np.abs(value[..., 0]) <= LONGEST_FLOW_PX) & (np.abs(value[..., 1]) <= LONGEST_FLOW_PX)
    weight = np.where(near, _weight_bytes(weight), 0).astype(np.uint8)
    whole = np.round(np.where((weight > 0)[..., None], value, 0) * FLOW_STEPS).astype("<i2")
    steps = np.diff(np.moveaxis(whole, -1, 1), axis=-1, prepend=np.int16(0))
    return {"steps": steps, "covisible": weight}


def _unpack_flow(data: bytes, extent: Extent) -> dict[str, Known]:
    arrays = npz_arrays(data, _FLOW, extent.sizes)
    whole = np.cumsum(arrays["steps"], axis=-1, dtype=np.int16)
    value = np.moveaxis(whole, 1, -1) * np.float32(1 / FLOW_STEPS)
    return {"flow": Known(torch.from_numpy(value)[None], _from_bytes(arrays["covisible"])[None])}


def _pack_tracks(tracks: Tracks, extent: Extent) -> Arrays:
    view, track, uv, weight = (
        getattr(tracks, name).detach().cpu().numpy() for name in ("view", "track", "uv", "weight")
    )
    _check_tracks(view, track, extent.views)
    if not _sane(uv) or not (weight > 0).all() or not (weight <= 1).all():
        raise ValueError("places of tracks must be finite and their weights in (0, 1]")
    return {
        "view": view.astype("<i2"),
        "track": track.astype("<i4"),
        "uv": uv.astype("<f4"),
        "weight": _weight_bytes(weight).clip(min=1),
    }


def _unpack_tracks(data: bytes, extent: Extent) -> dict[str, Tracks]:
    arrays = npz_arrays(data, _TRACKS, extent.sizes)
    view, track = (arrays[name].astype(np.int64) for name in ("view", "track"))
    _check_tracks(view, track, extent.views)
    if not _sane(arrays["uv"]) or not arrays["weight"].all():
        raise ValueError("places of tracks must be finite and their weights above 0")
    rows = Tracks(
        view=torch.from_numpy(view),
        track=torch.from_numpy(track),
        uv=torch.from_numpy(arrays["uv"].astype(np.float32)),
        weight=_from_bytes(arrays["weight"]),
    )
    return {"tracks": rows}


def _check_tracks(view: np.ndarray, track: np.ndarray, views: int) -> None:
    if not ((view >= 0) & (view < views)).all():
        raise ValueError(f"tracks speak of views other than 0..{views - 1}")
    ahead = np.diff(track)
    ordered = ((ahead == 1) | ((ahead == 0) & (np.diff(view) > 0))).all()
    if not ordered or (len(track) and track[0] != 0):
        raise ValueError("tracks must be sorted by track and view, numbered without gaps and seen once in a view")


def _pack_depth(depth: tuple[np.ndarray, np.ndarray]) -> Arrays:
    value, weight = depth[0], _weight_bytes(depth[1])
    known = (weight > 0) & (value > 0)
    medians = np.array([np.median(one[some]) if some.any() else 1.0 for one, some in zip(value, known, strict=True)])
    share = value / medians[:, None, None]
    known &= (share >= _DEPTHS[0]) & (share <= _DEPTHS[1])
    return {
        "depth": np.where(known, share, 0).astype("<f2"),
        "median": medians.astype("<f8"),
        "weight": np.where(known, weight, 0).astype(np.uint8),
    }


def _unpack_depth(data: bytes, extent: Extent) -> dict[str, Known]:
    arrays = npz_arrays(data, _DEPTH, extent.sizes)
    depth, median, weight = arrays["depth"], arrays["median"], arrays["weight"]
    if not _sane(depth, median) or not (median > 0).all() or not ((depth > 0) | (weight == 0)).all():
        raise ValueError("depth must be finite, and above 0 where it is known")
    value = depth.astype(np.float32) * median[:, None, None].astype(np.float32)
    return {"mono_depth": Known(torch.from_numpy(value)[None], _from_bytes(weight)[None])}


def _pack_cameras(labels: Labels, extent: Extent) -> Arrays:
    arrays = {}
    for name, size in (("world_from_cam", 4), ("intrinsics", 3)):
        known: Known | None = getattr(labels, name)
        if known is not None:
            value, weight = _of_one(known, name, _CAMERA, (size, size), extent)
            arrays[name] = np.where((weight > 0)[:, None, None], value, np.eye(size)).astype("<f8")
            arrays[f"{name}_weight"] = weight.astype("<f8")
    return arrays


def _unpack_cameras(data: bytes, extent: Extent) -> dict[str, Known]:
    arrays = npz_arrays(data, _POSES, extent.sizes, optional=tuple(_POSES))
    found = {}
    for name in ("world_from_cam", "intrinsics"):
        pair = [arrays[part] for part in (name, f"{name}_weight") if part in arrays]
        if len(pair) == 1 or (pair and not (_sane(*pair) and (pair[1] >= 0).all() and (pair[1] <= 1).all())):
            raise ValueError(f"{name} must be finite and have weights in [0, 1]")
        if pair:
            found[name] = Known(*(torch.from_numpy(part.astype(np.float64))[None] for part in pair))
    return found


def _pack_points(points: tuple[np.ndarray, np.ndarray]) -> Arrays:
    value, weight = points[0], _weight_bytes(points[1])
    value = np.where((weight > 0)[..., None], value, 0).astype("<f4")
    return {"points": _rounded(value), "weight": weight}


def _rounded(value: np.ndarray) -> np.ndarray:
    """Float32 whose last bits are zero, which deflate well, rounded half to even."""
    bits = value.view("<u4")
    half = np.uint32((1 << (_CUT_BITS - 1)) - 1) + ((bits >> _CUT_BITS) & np.uint32(1))
    return ((bits + half) & ~np.uint32((1 << _CUT_BITS) - 1)).view("<f4")


def _unpack_points(data: bytes, extent: Extent) -> dict[str, Known]:
    arrays = npz_arrays(data, _POINTS, extent.sizes)
    if not _sane(arrays["points"]):
        raise ValueError("points must be finite")
    value = torch.from_numpy(arrays["points"].astype(np.float32))
    return {"points": Known(value[None], _from_bytes(arrays["weight"])[None])}
