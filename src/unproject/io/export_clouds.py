"""Point clouds for viewers and modelling programs: PLY and GLB, through trimesh."""

from pathlib import Path

import numpy as np
import trimesh
from trimesh.path.entities import Line
from trimesh.path.path import Path3D

from unproject.errors import UnprojectError
from unproject.io import disk
from unproject.io.result import Reconstruction
from unproject.types import require

MAX_POINTS = 1_000_000
GLTF_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
"""glTF worlds have y up and z towards the viewer."""


def write_ply(part: Reconstruction, path: Path, max_points: int = MAX_POINTS) -> Path:
    """Points at rest in the world's own axes, as a binary PLY with 8-bit colours."""
    xyz, rgb = points_at_rest(part, max_points)
    with disk.written_whole(path) as beside:
        _cloud(xyz, rgb).export(str(beside))
    return path


def write_glb(part: Reconstruction, path: Path) -> Path:
    """Three nodes: ``points`` (at rest), ``moving`` (what moves, in the middle frame) and ``cameras`` (frusta)."""
    scene = trimesh.Scene()
    nodes = {"points": points_at_rest(part, MAX_POINTS), "moving": _moving_in_the_middle(part)}
    for name, (xyz, rgb) in nodes.items():
        if len(xyz):
            scene.add_geometry(_cloud(xyz @ GLTF_FROM_OPENCV, rgb), geom_name=name, node_name=name)
    scene.add_geometry(_frusta(part), geom_name="cameras", node_name="cameras")
    with disk.written_whole(path) as beside:
        beside.write_bytes(scene.export(file_type="glb"))
    return path


def points_at_rest(part: Reconstruction, max_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Dense points of confidence 0.5 and more, or the sparse ones where there is no such point."""
    if len(part.maps):
        xyz, rgb = part.points(max_points=max_points)
        if len(xyz):
            return xyz.numpy(), rgb.numpy()
    if part.sparse is None or not len(part.sparse.xyz):
        raise UnprojectError(
            "this result has no point to export (none of confidence 0.5); export the cameras: tum, colmap, nerfstudio"
        )
    return part.sparse.xyz.numpy(), part.sparse.rgb.numpy()


def has_points(part: Reconstruction) -> bool:
    """Whether there is anything that `points_at_rest` could give: a camera that only turns has none."""
    dense = len(part.maps) > 0 and len(part.points(max_points=1)[0]) > 0
    return dense or (part.sparse is not None and len(part.sparse.xyz) > 0)


def _moving_in_the_middle(part: Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """Surfaces that move, at one moment: all moments together would smear them."""
    if not len(part.maps):
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    found = part.cameras.found.nonzero()[:, 0].tolist()
    index = found[len(found) // 2]
    maps = part.maps[index]
    pixels = (maps.valid & (maps.confidence > 0) & (maps.motion >= 0.5)).flatten().nonzero()[:, 0]
    return part.world_points(index, maps, pixels).numpy(), require(maps, "rgb").flatten(0, 1)[pixels].numpy()


def _cloud(xyz: np.ndarray, rgb: np.ndarray) -> trimesh.PointCloud:
    alpha = np.full((len(rgb), 1), 255, np.uint8)
    return trimesh.PointCloud(xyz, colors=np.concatenate([rgb, alpha], axis=-1))


def _frusta(part: Reconstruction) -> Path3D:
    """A pyramid of lines per camera, a twentieth of the path's extent deep."""
    found = part.cameras.found.numpy()
    poses = part.cameras.world_from_cam.double().numpy()[found]
    matrices = part.cameras.intrinsics.double().numpy()[found]
    sizes = np.array([(info.width, info.height) for info, seen in zip(part.frames, found, strict=True) if seen], float)
    focal, middle = matrices[:, [0, 1], [0, 1]], matrices[:, :2, 2]
    extent = np.linalg.norm(np.ptp(poses[:, :3, 3], axis=0))
    depth = extent / 20 if extent > 0 else 0.1
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    corners = np.pad(
        (square * sizes[:, None] - middle[:, None]) / focal[:, None], ((0, 0), (0, 0), (0, 1)), constant_values=1
    )
    corners = np.concatenate([np.zeros((len(poses), 1, 3)), corners * depth], axis=1)
    world = corners @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3]
    edges = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)])
    lines = (edges[None] + 5 * np.arange(len(poses))[:, None, None]).reshape(-1, 2)
    entities = [Line(line, color=np.array([64, 224, 208, 255], np.uint8)) for line in lines]
    return Path3D(entities=entities, vertices=world.reshape(-1, 3) @ GLTF_FROM_OPENCV, process=False)
