"""COLMAP models, text or binary, with real multi-view tracks at the resolution of the original files."""

from pathlib import Path

import numpy as np
import pycolmap
import torch
from torch import Tensor

from unproject.geometry import rigid
from unproject.io import disk
from unproject.io.export_images import ImageFolder, image_names
from unproject.io.result import Reconstruction


def write_colmap(reconstruction: Reconstruction, folder: Path, images: ImageFolder | None, *, text: bool) -> Path:
    """``folder/sparse/K`` for every part K that was solved together (the largest is 0) and ``folder/images``.

    Points are the result's sparse points with all their observations; where the result has none, the model has cameras
    only. Frames without a camera are images without a model.
    """
    for number, component in enumerate(reconstruction.components):
        place = folder / "sparse" / str(number)
        model = colmap_model(reconstruction.only(component))
        with disk.explained(place):
            place.mkdir(parents=True, exist_ok=True)
            (model.write_text if text else model.write_binary)(str(place))
    if images is not None:
        images.place(folder / "images")
    return folder


def colmap_model(part: Reconstruction) -> pycolmap.Reconstruction:
    """The frames with a camera, and the sparse points that at least two of them see."""
    model = pycolmap.Reconstruction()
    camera_ids = _add_cameras(model, part)
    names = image_names(part.frames)
    observed = _observations(part)
    track, view, uv = observed
    rows = _rows_by_view(view, len(part.frames))
    for index in part.cameras.found.nonzero()[:, 0].tolist():
        image = pycolmap.Image(
            name=names[index],
            keypoints=uv[rows[index]].double().numpy(),
            camera_id=camera_ids[index],
            image_id=index + 1,
        )
        cam_from_world = rigid.inverse(part.cameras.world_from_cam[index].double())
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(cam_from_world[:3].numpy()))
    _add_points(model, part, track, view, rows)
    return model


def _add_cameras(model: pycolmap.Reconstruction, part: Reconstruction) -> list[int]:
    """One COLMAP camera for all frames that share the physical camera and its numbers; its id for each frame."""
    known: dict[tuple, int] = {}
    ids = []
    for index, info in enumerate(part.frames):
        name, parameters = colmap_parameters(part.cameras.intrinsics[index], part.cameras.distortion[index])
        key = (info.camera, info.width, info.height, name, *parameters)
        if key not in known and bool(part.cameras.found[index]):
            known[key] = len(known) + 1
            camera = pycolmap.Camera(
                camera_id=known[key], model=name, width=info.width, height=info.height, params=parameters
            )
            model.add_camera_with_trivial_rig(camera)
        ids.append(known.get(key, 0))
    return ids


def colmap_parameters(intrinsics: Tensor, distortion: Tensor) -> tuple[str, list[float]]:
    """The smallest COLMAP camera model that holds these numbers without loss, and its parameters."""
    matrix, (k1, k2, p1, p2, k3) = intrinsics.double(), distortion.double().tolist()
    fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    if k3:
        return "FULL_OPENCV", [fx, fy, cx, cy, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0]
    if k2 or p1 or p2 or (k1 and fx != fy):
        return "OPENCV", [fx, fy, cx, cy, k1, k2, p1, p2]
    return ("SIMPLE_RADIAL", [fx, cx, cy, k1]) if k1 else ("PINHOLE", [fx, fy, cx, cy])


def _observations(part: Reconstruction) -> tuple[Tensor, Tensor, Tensor]:
    """Track, view and pixel of the observations in this part whose point two or more of its views see."""
    if part.sparse is None:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0, 2)
    tracks = part.sparse.tracks
    keep = part.cameras.found[tracks.view] & torch.isfinite(part.sparse.xyz).all(-1)[tracks.track]
    seen = torch.bincount(tracks.track[keep], minlength=len(part.sparse.xyz))
    keep &= seen[tracks.track] >= 2
    return tracks.track[keep].long(), tracks.view[keep].long(), tracks.uv[keep]


def _rows_by_view(view: Tensor, views: int) -> list[Tensor]:
    """Observations of each view, in their order."""
    return list(view.argsort(stable=True).split(torch.bincount(view, minlength=views).tolist()))


def _add_points(
    model: pycolmap.Reconstruction, part: Reconstruction, track: Tensor, view: Tensor, rows: list[Tensor]
) -> None:
    if part.sparse is None:
        return
    place = torch.empty_like(view)
    for row in rows:
        place[row] = torch.arange(len(row))
    elements: dict[int, list[pycolmap.TrackElement]] = {}
    for number, image, position in zip(track.tolist(), view.tolist(), place.tolist(), strict=True):
        elements.setdefault(number, []).append(pycolmap.TrackElement(image + 1, position))
    xyz, rgb = part.sparse.xyz.double().numpy(), part.sparse.rgb.numpy().astype(np.uint8)
    for number, seen in elements.items():
        model.add_point3D(xyz[number], pycolmap.Track(seen), rgb[number])
    model.update_point_3d_errors()
