"""The clips that the benchmark runs on and what is known of each, in our conventions.

The data lies beside the checkout (`../shared/data`) or where UNPROJECT_DATA points; it is never part of the project.
Its camera files put pixel centres at integers; everything returned here has them at +0.5. Poses are world_from_cam.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from unproject.geometry.camera import corner_from_center, project, unproject
from unproject.geometry.rigid import transform

Reader = Callable[[int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip: what a solver is given, and what is known of it."""

    name: str
    files: tuple[Path, ...]
    """Image files in order, or one video."""
    ordered: bool
    """A video: COLMAP matches neighbours. Photos are matched all to all."""
    unit: str = "scene"
    """What one unit of the true poses is: "m", or "scene" where the truth has no scale."""
    world_from_cam: Tensor | None = None
    """[N, 4, 4] float64."""
    intrinsics: Tensor | None = None
    """[N, 3, 3] float64, corner-origin pixels of the files."""
    distortion: Tensor | None = None
    """[N, 5] float64, OpenCV order; None means none."""
    depth: Reader | None = None
    """Frame number -> z [H, W] in the pixels of the file, 0 where unknown."""
    moving: Reader | None = None
    """Frame number -> bool [H, W], true where something moves."""
    joints: "Joints | None" = None

    @property
    def is_video(self) -> bool:
        """Whether the clip is one video file and not image files."""
        return len(self.files) == 1 and self.files[0].suffix == ".mp4"


@dataclass(frozen=True)
class Joints:
    """Points on a body marked by hand in some frames."""

    frames: Tensor
    """[T] int64."""
    uv: Tensor
    """[T, J, 2] corner-origin pixels."""
    visible: Tensor
    """[T, J] bool."""


class MissingClip(Exception):
    """The clip's data is not on this machine."""


def data_root() -> Path:
    """Where the clips lie: UNPROJECT_DATA, or `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("UNPROJECT_DATA", default))


def register_depth(depth: Tensor, intrinsics: Tensor, target_intrinsics: Tensor, target_from_source: Tensor) -> Tensor:
    """The depth map [H, W] as another camera of the same image size sees it; the nearest surface wins.

    0 where nothing lands. A pixel is moved as a whole, so the target must not be finer than the source (Kinect: colour
    f 525, depth 585).
    """
    height, width = depth.shape
    seen = unproject(depth, intrinsics)[depth > 0]
    points = transform(target_from_source, seen)
    column, row = torch.floor(project(points, target_intrinsics)).long().unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    nearest = torch.full((height * width,), torch.inf, dtype=depth.dtype)
    nearest.scatter_reduce_(0, (row * width + column)[inside], points[inside, 2], "amin")
    return torch.where(nearest.isinf(), 0.0, nearest).reshape(height, width)


def _raw(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise MissingClip(f"{path} is missing or unreadable")
    return image


def _cameras(folder: str) -> dict:
    path = data_root() / folder / "cameras.json"
    if not path.exists():
        raise MissingClip(f"{path} is not there; set UNPROJECT_DATA to the folder that holds {folder}/")
    return json.loads(path.read_text())


def _folder(folder: str, pattern: str) -> tuple[Path, ...]:
    files = tuple(sorted((data_root() / folder).glob(pattern)))
    if not files:
        raise MissingClip(
            f"{data_root() / folder}/{pattern} matches nothing; set UNPROJECT_DATA to the folder that holds {folder}/"
        )
    return files


def _posed(
    name: str,
    folder: str,
    *,
    ordered: bool,
    keep: slice = slice(None),
    depth: Callable[[dict, list[dict]], Reader] | None = None,
) -> Clip:
    """A clip whose truth is in `cameras.json`; `depth` makes its depth reader from that file and the frames kept."""
    cameras = _cameras(folder)
    frames = cameras["frames"][keep]
    root = data_root() / folder

    def per_frame(key: str, default: object) -> Tensor:
        return torch.tensor([frame.get(key, cameras.get(key, default)) for frame in frames], dtype=torch.float64)

    return Clip(
        name=name,
        files=tuple(root / frame["image"] for frame in frames),
        ordered=ordered,
        unit="m" if cameras["units"] == "metre" else "scene",
        world_from_cam=per_frame("c2w", None),
        intrinsics=corner_from_center(per_frame("K", None)),
        distortion=per_frame("dist", [0.0] * 5),
        depth=depth(cameras, frames) if depth else None,
    )


def _kitchen_depth(cameras: dict, frames: list[dict]) -> Reader:
    """Kinect depth, registered to the colour camera."""
    source, target = (corner_from_center(torch.tensor(cameras[key], dtype=torch.float64)) for key in ("K_depth", "K"))
    color_from_depth = torch.tensor(cameras["T_color_depth"], dtype=torch.float64)

    def read(index: int) -> Tensor:
        raw = _raw(data_root() / "7scenes_redkitchen" / frames[index]["depth"])
        known = ~np.isin(raw, cameras["depth_invalid"])
        depth_m = torch.from_numpy(np.where(known, raw / cameras["depth_scale"], 0.0))
        return register_depth(depth_m, source, target, color_from_depth)

    return read


GRIPPER_BELOW_M = 0.2
"""The gripper is fixed in the image at 0.05..0.15 m and the shelf begins at 0.2 m (measured)."""


def _shelf_depth(cameras: dict, frames: list[dict]) -> Reader:
    """RealSense depth, already registered; the 16 bits are rotated by three."""

    def read(index: int) -> Tensor:
        raw = _raw(data_root() / "apc_shelf" / frames[index]["depth"])
        depth_m = torch.from_numpy(((raw >> 3) | (raw << 13)).astype(np.float64) / cameras["depth_scale"])
        return torch.where(depth_m < GRIPPER_BELOW_M, 0.0, depth_m)

    return read


def _kitchen() -> Clip:
    return _posed("7scenes_redkitchen", "7scenes_redkitchen", ordered=True, keep=slice(0, 120), depth=_kitchen_depth)


def _kitchen_every4() -> Clip:
    """The 30 keyframes that the solver's published numbers are on; still a video, so matched with neighbours."""
    return _posed(
        "7scenes_redkitchen_every4", "7scenes_redkitchen", ordered=True, keep=slice(0, 120, 4), depth=_kitchen_depth
    )


def kitchen_whole() -> Clip:
    """All 208 frames: the first 120, then every tenth of a thousand."""
    return _posed("7scenes_redkitchen_whole", "7scenes_redkitchen", ordered=True, depth=_kitchen_depth)


def _fox() -> Clip:
    return _posed("ingp_fox", "ingp_fox", ordered=False)


def _fox_every4() -> Clip:
    return _posed("ingp_fox_every4", "ingp_fox", ordered=False, keep=slice(0, None, 4))


def _fountain() -> Clip:
    return _posed("strecha_fountain_p11", "strecha_fountain_p11", ordered=False)


def _door() -> Clip:
    return _posed("lund_door", "lund_door", ordered=False)


def _shelf() -> Clip:
    return _posed("apc_shelf", "apc_shelf", ordered=False, depth=_shelf_depth)


def _street() -> Clip:
    return _posed("kitti06_stereo", "kitti06_stereo", ordered=True)


def _tennis() -> Clip:
    masks = _folder("davis_tennis_masks", "masks/*.png")
    return Clip(
        name="davis_tennis",
        files=_folder("davis_tennis_masks", "frames/*.png"),
        ordered=True,
        moving=lambda index: torch.from_numpy(_raw(masks[index]) > 127),
    )


def _dog() -> Clip:
    files = _folder("badja_dog", "frames/*.jpg")
    with np.load(data_root() / "badja_dog" / "tracks_480p.npz") as known:
        joints = Joints(
            frames=torch.from_numpy(known["frames"]),
            uv=torch.from_numpy(known["xy"]) + 0.5,
            visible=torch.from_numpy(known["visible"]),
        )
    return Clip(name="badja_dog", files=files, ordered=True, joints=joints)


UNLABELLED = (
    "bobot_juice_gray",
    "cotracker_apple",
    "cotracker_pillow",
    "cotracker_teddy",
    "davis_lady-running",
    "davis_paragliding",
    "davis_rollercoaster",
    "sam2_bedroom",
    "sam2_coffee",
    "sam2_cups",
    "sam2_dog",
    "vipe_dog_park",
)


def _unlabelled(name: str) -> Clip:
    return Clip(name=name, files=_folder("clips", f"{name}.mp4"), ordered=True)


READERS: dict[str, Callable[[], Clip]] = {
    "7scenes_redkitchen": _kitchen,
    "7scenes_redkitchen_every4": _kitchen_every4,
    "ingp_fox": _fox,
    "ingp_fox_every4": _fox_every4,
    "strecha_fountain_p11": _fountain,
    "lund_door": _door,
    "apc_shelf": _shelf,
    "kitti06_stereo": _street,
    "davis_tennis": _tennis,
    "badja_dog": _dog,
    **{name: lambda name=name: _unlabelled(name) for name in UNLABELLED},
}
