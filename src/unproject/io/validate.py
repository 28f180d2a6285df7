"""Is a result folder what it says it is? Structure, numbers, and whether its own points land in its own cameras."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.errors import InputError
from unproject.geometry import camera, rigid
from unproject.io import disk, schema
from unproject.io.flows import flow_path
from unproject.io.result import Reconstruction, array_path, maps_on_disk
from unproject.types import FrameInfo, FrameMaps, MovingTracks, Points3D

REPROJECTION = 0.002
"""Largest median error of a sparse point's projection, as a share of the image's longer side."""
DEPTH_DIFFERENCE = 0.1
"""Largest median relative difference between depth maps and the sparse points they show."""
TRACK_ERROR = 0.02
"""Largest median error of a 3D track's projection, as a share of the image's longer side."""


@dataclass(frozen=True)
class Check:
    """One question to the folder and its answer."""

    name: str
    passed: bool
    detail: str
    value: float | None = None
    """The number that decided, where there is one."""


@dataclass(frozen=True)
class Report:
    """All answers."""

    folder: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def text(self) -> str:
        """One line per check, for people."""
        lines = [f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.detail}" for check in self.checks]
        failed = sum(not check.passed for check in self.checks)
        return "\n".join([*lines, f"{self.folder}: {f'{failed} checks failed' if failed else 'valid'}"])

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {"folder": self.folder, "passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def validate(folder: str | Path) -> Report:
    """Check a result folder. What depends on a file that cannot be read is left out: that file's own check failed.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the output folder of a run")
    checks: list[Check] = []
    for name in ("run.json", "cameras.json", "points.npz", "tracks.npz"):
        checks += _loads(folder, name)
    if all(check.passed for check in checks):
        result = Reconstruction.load(folder)
        checks += [_frames(result), _rotations(result), _intrinsics(result), *_maps(result, folder)]
        if result.flows:
            checks.append(_flows(result, folder))
        if result.sparse is not None:
            checks += [_points(result, result.sparse), _reprojection(result, result.sparse)]
        if result.tracks is not None:
            checks.append(_tracks(result, result.tracks))
    return Report(str(folder), tuple(checks))


def _loads(folder: Path, name: str) -> list[Check]:
    """Whether one file of the folder's top level can be read; nothing where an optional one is absent."""
    path = folder / name
    try:
        if name.endswith(".json"):
            document = disk.read_json(path)
            if name == "cameras.json":
                frames, _, scale = schema.cameras_from_json(document, path)
                return [Check(name, True, f"{len(frames)} frames, scale {scale}")]
            return [Check(name, isinstance(document, dict), "the record of the run")]
        if not path.exists():
            return []
        arrays = disk.read_npz(path)
        parse = schema.points_from_arrays if name == "points.npz" else schema.tracks_from_arrays
        parse(arrays, len(schema.cameras_from_json(disk.read_json(folder / "cameras.json"), path)[0]), path)
        return [Check(name, True, f"{len(arrays)} arrays of the right kind and shape")]
    except InputError as error:
        return [Check(name, False, str(error))]


def _answer(name: str, faults: Sequence[str], otherwise: str) -> Check:
    """Passed without faults; else the first one and how many more there are."""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Check(name, not faults, f"{faults[0]}{more}" if faults else otherwise)


def _frames(result: Reconstruction) -> Check:
    faults, before = [], None
    for index, info in enumerate(result.frames):
        where = (info.time_s, info.index if before and before.file == info.file else 0)
        if before is not None and where <= (before.time_s, before.index if before.file == info.file else 0):
            faults.append(f"frame {index} ({info.file}) does not come after the one before it")
        before = info
    cameras = result.cameras
    for index in (cameras.found & ~((cameras.quality >= 0) & (cameras.quality <= 1))).nonzero()[:, 0].tolist():
        faults.append(f"quality of frame {index} is {float(cameras.quality[index])}, not in [0, 1]")
    detail = f"in order; {int(cameras.found.sum())} cameras found, in {len(result.components)} parts"
    return _answer("frames", faults, detail)


def _rotations(result: Reconstruction) -> Check:
    poses = result.cameras.world_from_cam
    rotation = poses[:, :3, :3]
    skewed = (rotation @ rotation.mT - torch.eye(3, dtype=poses.dtype)).abs().amax((-2, -1))
    mirrored = torch.linalg.det(torch.nan_to_num(rotation)) < 0
    last_row = (poses[:, 3] - poses.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(-1)
    wrong = result.cameras.found & ((skewed > 1e-4) | mirrored | (last_row > 0))
    faults = [f"world_from_cam of frame {index} is no rigid transform" for index in wrong.nonzero()[:, 0].tolist()]
    return _answer("rotations", faults, "orthonormal, determinant +1")


def _intrinsics(result: Reconstruction) -> Check:
    faults = []
    for index, (info, matrix) in enumerate(zip(result.frames, result.cameras.intrinsics, strict=True)):
        if not bool(torch.isfinite(matrix).all()):
            if result.cameras.found[index]:
                faults.append(f"frame {index} has a pose but no intrinsics")
            continue
        (fx, skew, cx), (below, fy, cy), last = matrix.tolist()
        if not (fx > 0 and fy > 0 and abs(skew) < fx and below == 0 and last == [0.0, 0.0, 1.0]):
            faults.append(f"intrinsics of frame {index} are no camera matrix with positive focal lengths")
        elif not (0 <= cx <= info.width and 0 <= cy <= info.height):
            faults.append(f"principal point of frame {index} lies outside its image")
    return _answer("intrinsics", faults, "positive focal lengths, principal points inside")


def _maps(result: Reconstruction, folder: Path) -> list[Check]:
    """One pass over the dense maps: what is in them, how they map to the original pixels, and the sparse points."""
    count, present = len(result.frames), sorted((folder / "arrays").glob("*.npz"))
    if not present:
        return [Check("arrays", True, "none: this result holds cameras only")]
    surplus = set(present) - {array_path(folder, index) for index in range(count)}
    arrays = [f"{path.name} belongs to no frame" for path in sorted(surplus)]
    originals: list[str] = []
    differences = []
    for index, info in enumerate(result.frames):
        try:
            maps = maps_on_disk(folder, count)[index]
        except InputError as error:
            arrays.append(str(error))
            continue
        arrays += [f"{array_path(folder, index).name}: {fault}" for fault in _map_faults(maps)]
        originals += [f"{array_path(folder, index).name}: {fault}" for fault in _extent_faults(info, maps)]
        if result.sparse is not None and result.cameras.found[index]:
            differences.append(_depth_differences(result, result.sparse, index, maps))
    checks = [_answer("arrays", arrays, f"{len(present)} frames, finite and in range")]
    checks.append(_answer("to_original", originals, "every map covers its original image"))
    return checks + _depth_agreement(torch.cat([torch.zeros(0), *differences]))


def _map_faults(maps: FrameMaps) -> list[str]:
    values = {"depth": maps.depth, "confidence": maps.confidence, "motion": maps.motion, "scene_flow": maps.scene_flow}
    given = {name: value for name, value in values.items() if value is not None}
    faults = [f"'{name}' is not finite" for name, value in given.items() if not bool(torch.isfinite(value).all())]
    for name in ("confidence", "motion"):
        if bool(((given[name] < 0) | (given[name] > 1)).any()):
            faults.append(f"'{name}' leaves [0, 1]")
    if bool((maps.depth[maps.valid] <= 0).any()):
        faults.append("'depth' is not positive where 'valid'")
    return faults


def _flows(result: Reconstruction, folder: Path) -> Check:
    """Each between two frames, of the size of its source's maps."""
    faults = []
    for source, target in result.flow_pairs:
        name = flow_path(folder, source, target).name
        if source == target or max(source, target) >= len(result.maps):
            faults.append(f"{name} belongs to no two frames with maps")
            continue
        try:
            flow, maps = result.flow(source, target), result.maps[source]
        except InputError as error:
            faults.append(str(error))
            continue
        if flow.covisible.shape != maps.depth.shape:
            faults.append(f"{name} is {list(flow.covisible.shape)}, the maps of its source {list(maps.depth.shape)}")
        if not bool(torch.isfinite(flow.flow).all()):
            faults.append(f"{name}: 'flow' is not finite")
        if not bool(((flow.motion >= 0) & (flow.motion <= 1)).all()):
            faults.append(f"{name}: 'motion' leaves [0, 1]")
    return _answer("flow", faults, f"{len(result.flows)} pairs of frames, finite and of the size of their maps")


def _extent_faults(info: FrameInfo, maps: FrameMaps) -> list[str]:
    height, width = maps.depth.shape
    corners = torch.tensor([[0, 0, 1], [width, height, 1], [width, 0, 1]], dtype=torch.float64) @ maps.to_original.mT
    wanted = torch.tensor([[0, 0], [info.width, info.height], [info.width, 0]], dtype=torch.float64)
    off = (corners[:, :2] / corners[:, 2:] - wanted).abs().max()
    return [] if off <= 0.5 else [f"'to_original' misses the corners of the {info.width}x{info.height} image"]


def _depth_differences(result: Reconstruction, points: Points3D, index: int, maps: FrameMaps) -> Float[Tensor, " P"]:
    """Relative differences between one depth map and the sparse points that its frame sees, where both speak."""
    rows = points.tracks.view == index
    xyz = points.xyz[points.tracks.track[rows]].double()
    z = rigid.transform(rigid.inverse(result.cameras.world_from_cam[index]), xyz)[:, 2]
    original = torch.nn.functional.pad(points.tracks.uv[rows].double(), (0, 1), value=1)
    column, row = (original @ torch.linalg.inv(maps.to_original).mT)[:, :2].long().unbind(-1)
    height, width = maps.depth.shape
    column, row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    both = maps.valid[row, column] & (maps.motion[row, column] < 0.5) & (z > 0)
    return (maps.depth[row, column].double() / z - 1).abs()[both].float()


def _depth_agreement(differences: Float[Tensor, " P"]) -> list[Check]:
    if not len(differences):
        return []
    median = float(differences.median())
    detail = f"median difference {median:.2%} at {len(differences)} places (at most {DEPTH_DIFFERENCE:.0%})"
    return [Check("depth against points", median <= DEPTH_DIFFERENCE, detail, median)]


def _points(result: Reconstruction, points: Points3D) -> Check:
    tracks = points.tracks
    order = tracks.track.long() * len(result.frames) + tracks.view.long()
    sizes = torch.tensor([(info.width, info.height) for info in result.frames]).float()
    outside = ((tracks.uv < 0) | (tracks.uv > sizes[tracks.view.long()])).any(-1)
    faults = [] if bool((order.diff() > 0).all()) else ["observations are not sorted by (track, view) without repeats"]
    faults += [f"{int(outside.sum())} observations lie outside their image"] if bool(outside.any()) else []
    faults += [] if bool(torch.isfinite(points.xyz).all()) else ["a point is not finite"]
    weights = bool(((tracks.weight > 0) & (tracks.weight <= 1)).all())
    faults += [] if weights else ["a weight leaves (0, 1]"]
    detail = f"{len(points.xyz)} points, each seen in {float(tracks.lengths().float().mean()):.1f} views on average"
    return _answer("points", faults, detail if len(points.xyz) else "no points")


def _reprojection(result: Reconstruction, points: Points3D) -> Check:
    tracks, views = points.tracks, points.tracks.view.long()
    error = _projection_error(result, points.xyz[tracks.track.long()], views, tracks.uv)
    error = error[result.cameras.found[views]]
    if not len(error):
        return Check("reprojection", True, "no observation in a found camera")
    longest = max(max(info.width, info.height) for info in result.frames)
    median, allowed = float(error.median()), REPROJECTION * longest
    detail = f"median {median:.2f} px over {len(error)} observations (at most {allowed:.2f})"
    return Check("reprojection", median <= allowed, detail, median)


def _tracks(result: Reconstruction, tracks: MovingTracks) -> Check:
    seen = tracks.visible & result.cameras.found[:, None]
    view, point = seen.nonzero().unbind(-1)
    xyz, uv = tracks.xyz[view, point], tracks.uv[view, point]
    faults = [] if bool(torch.isfinite(xyz).all() & torch.isfinite(uv).all()) else ["a visible point is not finite"]
    if bool(((tracks.confidence < 0) | (tracks.confidence > 1)).any()):
        faults.append("'tracks_confidence' leaves [0, 1]")
    if faults or not len(view):
        return _answer("tracks", faults, f"{tracks.xyz.shape[1]} tracks, none seen in a found camera")
    longest = max(max(info.width, info.height) for info in result.frames)
    median, allowed = float(_projection_error(result, xyz, view, uv).median()), TRACK_ERROR * longest
    detail = f"{tracks.xyz.shape[1]} tracks, median {median:.2f} px from where they are seen (at most {allowed:.2f})"
    return Check("tracks", median <= allowed, detail, median)


def _projection_error(
    result: Reconstruction, xyz: Float[Tensor, "P 3"], view: Tensor, uv: Float[Tensor, "P 2"]
) -> Float[Tensor, " P"]:
    """Pixels between where a world point falls in a view and where it was seen; NaN without a camera."""
    cameras = result.cameras
    in_cam = rigid.transform(rigid.inverse(cameras.world_from_cam)[view], xyz.double()[:, None])
    landed = camera.project(in_cam, cameras.intrinsics[view], cameras.distortion[view])[:, 0]
    return (landed - uv.double()).norm(dim=-1)
