"""A reconstruction in the formats of other programs.

| format | file | convention |
|---|---|---|
| ply | points.ply | world as in `Reconstruction` (OpenCV: y down), float32, points at rest |
| glb | scene.glb | glTF: y up, z backward (y and z negated); points at rest, movers of the middle frame, cameras |
| colmap, colmap-text | colmap/sparse/0 (1 ... for parts solved apart), images/ | camera-from-world, centres at +0.5 |
| nerfstudio | nerfstudio/transforms.json, images/, points.ply | OpenGL camera-to-world, the world's axes unchanged |
| tum | trajectory_tum.txt | camera-to-world, ``time x y z qx qy qz qw``, found frames only |
| tracks | tracks.npz | TAPVid-3D: tracks in each frame's camera, world-to-camera extrinsics |

Formats with one world take the largest part that was solved together.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from unproject.errors import UnprojectError, UsageError
from unproject.io.export_clouds import write_glb, write_ply
from unproject.io.export_colmap import write_colmap
from unproject.io.export_images import ImageFolder
from unproject.io.export_poses import write_nerfstudio, write_tracks, write_tum
from unproject.io.result import Reconstruction

_Writer = Callable[[Reconstruction, Path, ImageFolder | None], Path]

FORMATS: dict[str, _Writer] = {
    "ply": lambda part, folder, _: write_ply(part, folder / "points.ply"),
    "glb": lambda part, folder, _: write_glb(part, folder / "scene.glb"),
    "colmap": lambda part, folder, images: write_colmap(part, folder / "colmap", images, text=False),
    "colmap-text": lambda part, folder, images: write_colmap(part, folder / "colmap", images, text=True),
    "nerfstudio": lambda part, folder, images: write_nerfstudio(part, folder / "nerfstudio", images),
    "tum": lambda part, folder, _: write_tum(part, folder / "trajectory_tum.txt"),
    "tracks": lambda part, folder, _: write_tracks(part, folder / "tracks.npz"),
}


def export(
    reconstruction: Reconstruction, folder: str | Path, formats: Sequence[str], *, images: bool = True
) -> dict[str, Path]:
    """Write each format into ``folder``; returns what was written, by format.

    Args:
        reconstruction: as `reconstruct` or `Reconstruction.load` gave it.
        folder: made where it does not exist; files of the same name are replaced, others are left alone.
        formats: keys of `FORMATS`.
        images: also put the upright originals (video frames decoded anew) where COLMAP and nerfstudio expect them.

    Raises:
        UsageError: a format that is not known.
        InputError: the original files are not where they were (pass ``images=False`` to do without them).
        UnprojectError: the result has nothing for a format (no camera, no track), or the disk refuses.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise UsageError(f"no export format '{unknown[0]}'; choose from {', '.join(FORMATS)}")
    if not reconstruction.components:
        raise UnprojectError("no camera was found in this result, there is nothing to export; its run.json says why")
    placed = ImageFolder(reconstruction.frames) if images else None
    largest = reconstruction.only(reconstruction.components[0])
    written = {}
    for name in dict.fromkeys(formats):
        part = reconstruction if name.startswith("colmap") else largest
        written[name] = FORMATS[name](part, Path(folder), placed)
    return written
