"""Readers of camera files: ours, COLMAP's, nerfstudio's and TUM's. Their conventions end here."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unproject.errors import InputError
from unproject.geometry.camera import opengl_from_opencv
from unproject.geometry.rigid import from_rt, nearest_rotation, rotation_from_quaternion
from unproject.types import Scale

# Where a COLMAP model keeps fx, fy, cx, cy, and then k1, k2, p1, p2 (the order of OpenCV) as far as it has them.
_COLMAP_MODELS = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), ()),
    "PINHOLE": ((0, 1, 2, 3), ()),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), (3,)),
    "RADIAL": ((0, 0, 1, 2), (3, 4)),
    "OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7)),
}
_NERFSTUDIO_MODELS = (None, "OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")


@dataclass(frozen=True, kw_only=True)
class KnownCamera:
    """What a file says of one frame, in our conventions; None where it says nothing."""

    name: str | None = None
    """Image file as it is called there; None where only the time is known, or for a lens that all frames share."""
    frame_index: int | None = None
    time_s: float | None = None
    size: tuple[int, int] | None = None
    """Width and height that the intrinsics are for."""
    intrinsics: Float[Tensor, "3 3"] | None = None
    distortion: Float[Tensor, " 5"] | None = None
    world_from_cam: Float[Tensor, "4 4"] | None = None

    @property
    def label(self) -> str:
        """How an error calls this frame."""
        if self.name is None:
            return "the lens" if self.time_s is None else f"time {self.time_s:.6f}"
        return f"{self.name} frame {self.frame_index}" if self.frame_index else self.name


def read_json(path: Path) -> tuple[list[KnownCamera], Scale, tuple[str, ...]]:
    """Our `cameras.json` or nerfstudio's `transforms.json`: cameras, scale of the poses, and what was assumed."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({' '.join(str(error).split())}): check --cameras") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is no camera file: it must be an object with 'frames' or 'intrinsics'")
    entries = document.get("frames", [document])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: 'frames' must be a list of objects: mend the file")
    if any("transform_matrix" in entry for entry in entries):
        return [_from_nerfstudio(document | entry, path) for entry in entries], "aligned", ()
    if not any(key in entry for entry in entries for key in ("intrinsics", "world_from_cam")):
        raise InputError(f"{path} is no camera file: no entry has 'intrinsics', 'world_from_cam' or 'transform_matrix'")
    for key, ours in (("convention", "opencv"), ("pixel_origin", "corner")):
        if document.get(key, ours) != ours:
            raise InputError(f"{path}: '{key}' is {document[key]!r}, only {ours!r} is read: convert the file")
    unsaid = [key for key in ("convention", "pixel_origin") if key not in document]
    notes = (f"{path} does not state {' and '.join(unsaid)}: taken as ours (opencv, corner)",) if unsaid else ()
    scale = "metric" if document.get("scale") == "metric" else "aligned"
    return [_from_ours(entry, f"{path}: frame {number}") for number, entry in enumerate(entries)], scale, notes


def _from_ours(entry: dict[str, Any], where: str) -> KnownCamera:
    distortion = _numbers(entry, "distortion", where, None)
    if distortion is not None:
        if len(distortion) > 5:
            raise InputError(f"{where}: 'distortion' has more than k1 k2 p1 p2 k3: undistort the images first")
        distortion = torch.cat([distortion, distortion.new_zeros(5 - len(distortion))])
    frame_index = _numbers(entry, "frame_index", where, ())
    return KnownCamera(
        name=None if entry.get("file") is None else str(entry["file"]),
        frame_index=None if frame_index is None else int(frame_index),
        size=_size(_numbers(entry, "width", where, ()), _numbers(entry, "height", where, ())),
        intrinsics=_numbers(entry, "intrinsics", where, (3, 3)),
        distortion=distortion,
        world_from_cam=_numbers(entry, "world_from_cam", where, (4, 4)),
    )


def _from_nerfstudio(entry: dict[str, Any], path: Path) -> KnownCamera:
    """Global values with those of the frame over them. Poses have OpenGL axes; pixels have a corner origin as ours."""
    name = entry.get("file_path")
    where = f"{path}: {name}"
    if entry.get("camera_model") not in _NERFSTUDIO_MODELS or entry.get("k4"):
        raise InputError(f"{where}: camera model {entry.get('camera_model')} is not read: undistort the images first")
    lens = {key: _numbers(entry, key, where, ()) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x")}
    size, focal = _size(lens["w"], lens["h"]), lens["fl_x"]
    if focal is None and lens["w"] is not None and lens["camera_angle_x"] is not None:
        focal = lens["w"] / 2 / torch.tan(lens["camera_angle_x"] / 2)
    intrinsics = None
    if focal is not None:
        if size is None:
            raise InputError(f"{where}: a focal length without 'w' and 'h' says nothing: add the image size")
        middle = [size[axis] / 2 if lens[key] is None else lens[key] for axis, key in enumerate(("cx", "cy"))]
        intrinsics = _matrix(focal, focal if lens["fl_y"] is None else lens["fl_y"], *middle)
    bends = [_numbers(entry, key, where, ()) for key in ("k1", "k2", "p1", "p2", "k3")]
    pose = _numbers(entry, "transform_matrix", where, (4, 4))
    return KnownCamera(
        name=None if name is None else str(name),
        size=size,
        intrinsics=intrinsics,
        distortion=torch.tensor([0.0 if bend is None else float(bend) for bend in bends], dtype=torch.float64),
        world_from_cam=None if pose is None else opengl_from_opencv(pose),
    )


def read_colmap(path: Path) -> list[KnownCamera]:
    """A COLMAP model, text or binary, in the folder itself or where COLMAP puts it below. Its pixels are as ours."""
    import pycolmap  # half a second that only this needs

    folders = [path, path / "sparse" / "0", path / "sparse", path / "0"]
    model = next((f for f in folders if (f / "images.bin").exists() or (f / "images.txt").exists()), None)
    if model is None:
        raise InputError(f"{path} is no camera file: neither cameras.json nor a COLMAP model (images.bin) lies there")
    try:
        images = pycolmap.Reconstruction(model).images
    except (ValueError, RuntimeError, IndexError, MemoryError) as error:
        raise InputError(f"{model} is damaged ({' '.join(str(error).split())}): export the model again") from error
    return [_from_colmap(image, model) for _, image in sorted(images.items())]


def _from_colmap(image: Any, path: Path) -> KnownCamera:
    model, parameters = image.camera.model.name, image.camera.params
    if model not in _COLMAP_MODELS:
        raise InputError(f"{path}: camera model {model} is not read: run `colmap image_undistorter` first")
    straight, bent = _COLMAP_MODELS[model]
    pose = None
    if image.has_pose:
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = torch.from_numpy(np.array(image.cam_from_world().inverse().matrix()))
    return KnownCamera(
        name=image.name,
        size=(image.camera.width, image.camera.height),
        intrinsics=_matrix(*(parameters[place] for place in straight)),
        distortion=torch.tensor([*(parameters[place] for place in bent), 0, 0, 0, 0, 0][:5], dtype=torch.float64),
        world_from_cam=pose,
    )


def read_tum(path: Path) -> list[KnownCamera]:
    """Lines of ``time x y z qx qy qz qw``, camera to world."""
    try:
        lines = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [[float(word) for word in line] for line in lines if line and not line[0].startswith("#")]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no camera file: neither JSON, a COLMAP folder nor lines of 8 numbers") from error
    if any(len(row) != 8 for row in rows):
        raise InputError(f"{path} is no TUM trajectory: each line must be time x y z qx qy qz qw")
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 8)
    if not bool(torch.isfinite(table).all()):
        raise InputError(f"{path} holds a number that is not finite: mend the file")
    for number, length in enumerate(table[:, 4:].norm(dim=-1).tolist()):
        if not abs(length - 1) < 0.01:
            raise InputError(f"{path}: pose {number} has a quaternion of length {length:.3g}, not 1: mend the file")
    poses = from_rt(rotation_from_quaternion(table[:, [7, 4, 5, 6]]), table[:, 1:4])
    return [KnownCamera(time_s=float(row[0]), world_from_cam=pose) for row, pose in zip(rows, poses, strict=True)]


def checked(camera: KnownCamera, path: Path) -> KnownCamera:
    """The camera with its rotation made exact; `InputError` where it is none."""
    where, lens, pose = f"{path}: {camera.label}", camera.intrinsics, camera.world_from_cam
    for name, value in (("intrinsics", lens), ("distortion", camera.distortion), ("world_from_cam", pose)):
        if value is not None and not bool(torch.isfinite(value).all()):
            raise InputError(f"{where}: {name} holds a number that is not finite: mend the file")
    if lens is not None:
        if not (lens[0, 0] > 0 and lens[1, 1] > 0 and torch.linalg.det(lens) != 0):
            raise InputError(f"{where}: the intrinsics are singular, focal lengths must be positive: mend the file")
        if not torch.allclose(lens, _matrix(lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]), rtol=0, atol=1e-9):
            raise InputError(f"{where}: the intrinsics must be fx 0 cx, 0 fy cy, 0 0 1: undistort the images first")
    if pose is None:
        return camera
    rotation, last = pose[:3, :3], pose.new_tensor([0, 0, 0, 1])
    error = float((rotation.T @ rotation - torch.eye(3, dtype=pose.dtype)).abs().max())
    if error > 1e-3 or not torch.allclose(pose[3], last, rtol=0, atol=1e-9):
        raise InputError(f"{where}: the pose is no rigid motion (rotation off by {error:.2g}): mend the file")
    if torch.linalg.det(rotation) < 0:
        raise InputError(f"{where}: the pose is mirrored: it must be camera to world with OpenCV axes")
    return replace(camera, world_from_cam=from_rt(nearest_rotation(rotation), pose[:3, 3]))


def _matrix(fx: Any, fy: Any, cx: Any, cy: Any) -> Tensor:
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def _size(width: Tensor | None, height: Tensor | None) -> tuple[int, int] | None:
    return (int(width), int(height)) if width is not None and height is not None else None


def _numbers(entry: dict[str, Any], key: str, where: str, shape: tuple[int, ...] | None) -> Tensor | None:
    """Numbers of the given shape, of any length where ``shape`` is None; None where the entry has no such key."""
    value = entry.get(key)
    if value is None:
        return None
    try:
        numbers = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0, 0)
    if numbers.ndim != 1 if shape is None else numbers.shape != shape:
        wanted = "a list of" if shape is None else "x".join(map(str, shape)) or "plain"
        raise InputError(f"{where}: '{key}' must be {wanted} numbers: mend the file")
    if shape == () and not bool(torch.isfinite(numbers)):
        raise InputError(f"{where}: '{key}' is not finite: mend the file")
    return numbers
