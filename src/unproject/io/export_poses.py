"""Cameras and tracks for other programs: nerfstudio's transforms.json, TUM trajectories, TAPVid-3D tracks."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from unproject.errors import UnprojectError
from unproject.geometry import camera, rigid
from unproject.io import disk
from unproject.io.export_clouds import has_points, write_ply
from unproject.io.export_images import ImageFolder, image_names
from unproject.io.result import Reconstruction


def write_nerfstudio(part: Reconstruction, folder: Path, images: ImageFolder | None) -> Path:
    """``folder/transforms.json`` with intrinsics per frame, images beside it, and points.ply to start splats from.

    Camera axes become OpenGL's; the world stays, so points and poses agree (nerfstudio turns it upright by itself).
    """
    names = image_names(part.frames)
    poses = camera.opengl_from_opencv(part.cameras.world_from_cam.double())
    frames = [
        {"file_path": f"images/{names[index]}", **_lens(part, index), "transform_matrix": poses[index].tolist()}
        for index in part.cameras.found.nonzero()[:, 0].tolist()
    ]
    document: dict[str, Any] = {"camera_model": "OPENCV", "frames": frames}
    if has_points(part):
        write_ply(part, folder / "points.ply", max_points=300_000)
        document["ply_file_path"] = "points.ply"
    if images is not None:
        images.place(folder / "images")
    disk.write_json(folder / "transforms.json", document)
    return folder / "transforms.json"


def _lens(part: Reconstruction, index: int) -> dict[str, float | int]:
    matrix, info = part.cameras.intrinsics[index].double(), part.frames[index]
    k1, k2, p1, p2, k3 = part.cameras.distortion[index].double().tolist()
    entries = {"fl_x": (0, 0), "fl_y": (1, 1), "cx": (0, 2), "cy": (1, 2)}
    numbers = {name: float(matrix[at]) for name, at in entries.items()}
    return {**numbers, "w": info.width, "h": info.height, "k1": k1, "k2": k2, "k3": k3, "p1": p1, "p2": p2}


def write_tum(part: Reconstruction, path: Path) -> Path:
    """One line ``time x y z qx qy qz qw`` per frame whose camera was found."""
    found = part.cameras.found
    poses, times = part.cameras.world_from_cam.double()[found], part.times[found]
    real, imaginary = rigid.quaternion_from_rotation(poses[:, :3, :3]).split([1, 3], dim=-1)
    rows = torch.cat([times[:, None], poses[:, :3, 3], imaginary, real], dim=-1)
    disk.write_text(path, "".join(" ".join(f"{value:.12g}" for value in row) + "\n" for row in rows.tolist()))
    return path


def write_tracks(part: Reconstruction, path: Path) -> Path:
    """TAPVid-3D's arrays for N frames and K tracks; NaN where a frame has no camera.

    ``tracks_XYZ`` [N, K, 3] in each frame's camera, ``visibility`` [N, K], ``fx_fy_cx_cy`` [4] (median over frames),
    ``extrinsics_w2c`` [N, 4, 4]; beyond TAPVid-3D ``intrinsics`` [N, 3, 3] of every frame, ``tracks_uv`` [N, K, 2].
    """
    if part.tracks is None:
        raise UnprojectError("this result holds no 3D tracks; its run.json says why, choose another format")
    cam_from_world = rigid.inverse(part.cameras.world_from_cam.double())
    intrinsics = part.cameras.intrinsics.double().numpy()
    arrays = {
        "tracks_XYZ": rigid.transform(cam_from_world, part.tracks.xyz.double()).float().numpy(),
        "visibility": (part.tracks.visible & part.cameras.found[:, None]).numpy(),
        "fx_fy_cx_cy": np.nanmedian(intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]], axis=0),
        "extrinsics_w2c": cam_from_world.numpy(),
        "intrinsics": intrinsics,
        "tracks_uv": part.tracks.uv.numpy(),
    }
    disk.write_npz(path, arrays)
    return path
