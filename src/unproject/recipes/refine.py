"""What the solver finds on one clip, as labels to train a network on many: no structure from motion of others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import cv2
import torch
from jaxtyping import Float
from torch import Tensor

from unproject.errors import InputError
from unproject.geometry import camera
from unproject.inference.reconstruct import from_frames
from unproject.io.full_size import at_size
from unproject.io.result import Reconstruction
from unproject.io.source import in_memory
from unproject.models.loading import fingerprint, shipped
from unproject.teachers.base import Provenance, Shot, Teacher
from unproject.teachers.tracks import follow_each_other, of_views
from unproject.types import Known, Labels, require

LEAST_EXPLAINED = 0.5
"""Share of all observations that the cameras must explain: with less, what they say of the rest is chance."""
MOVES = 0.5
"""Probability from which a surface counts as moving: its depth is then not that of the still scene."""
_NO_DEPTH = {"static": "the camera stands still", "rotation_only": "the camera only turns"}
"""By the motion of a part without depth."""
_WAY_OUT = "try larger pictures where the video has them, or label without refine"


@final
@dataclass(frozen=True)
class RefineTeacher(Teacher):
    """Cameras, points and tracks of a clip by weak supervision on that clip alone (`inference.reconstruct`).

    It sees all images of a shot, and takes them for a video where they follow each other.
    """

    seed: int = 0

    def label(self, shot: Shot) -> Labels:
        """`Labels.world_from_cam`, `intrinsics`, `points` and `tracks`: one world and one unknown scale for the clip.

        A camera weighs the share of its view's observations that it explains, and 0 where none was found. Points weigh
        their confidence, and 0 where depth was not measured or the surface moves. They lie on the rays of the lens as
        it is; ``intrinsics`` are those of a lens without distortion, which sees them where this one would if it had
        none: off the pixel by what the distortion is.

        Raises:
            InputError: nothing is to be learned from it: no camera, no parallax, too little explained.
        """
        images = list(shot.images)
        greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
        kind = "video" if follow_each_other(greys) else "images"
        return labels_of(from_frames(in_memory(images, kind), seed=self.seed, views=shot.views), shot.views)

    def provenance(self) -> Provenance:
        """The weights are those of the network of this package that may carry depth on."""
        return replace(super().provenance(), weights_sha256=fingerprint(shipped("compact")))


def labels_of(found: Reconstruction, views: Sequence[int]) -> Labels:
    """What a result says of some of its frames, all of one size; meaning and errors as `RefineTeacher.label`."""
    chosen = list(views)
    placed = (found.cameras.component == _trusted_part(found, chosen))[chosen]
    points, confidence = zip(*(_points_of(found, view) for view in chosen), strict=True)
    trust = torch.where(placed, found.cameras.quality[chosen], 0.0)
    poses = torch.where(placed[:, None, None], found.world_from_cam[chosen], torch.eye(4))
    return Labels(
        world_from_cam=Known(poses[None], trust[None]),
        intrinsics=Known(found.cameras.intrinsics[chosen].float()[None], trust[None]),
        points=Known(torch.stack(points)[None], (torch.stack(confidence) * placed[:, None, None])[None]),
        tracks=of_views(require(found, "sparse").tracks, chosen),
    )


def _trusted_part(found: Reconstruction, views: list[int]) -> int:
    """Number of the largest part with depth; InputError where there is none, or it tells too little."""
    parts = found.provenance["parts"]
    full = [number for number, part in enumerate(parts) if part["motion"] == "full"]
    if not full:
        reasons = [_NO_DEPTH[part["motion"]] for part in parts] or ["no two images share enough points"]
        size = f"{found.frames[0].width}x{found.frames[0].height}"
        raise InputError(f"refine finds no depth as {reasons[0]}, as far as {size} pixels tell: {_WAY_OUT}")
    number = full[0]
    explained = parts[number]["explained"]
    if explained < LEAST_EXPLAINED:
        said = f"refine finds cameras that explain {explained:.0%} of what was seen, {LEAST_EXPLAINED:.0%} are needed"
        raise InputError(f"{said}: {_WAY_OUT}")
    placed = int((found.cameras.component == number)[views].sum())
    if placed < 2:
        raise InputError(f"refine finds cameras of {placed} of {len(views)} views, 2 are needed: {_WAY_OUT}")
    return number


def _points_of(found: Reconstruction, view: int) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
    """Points in the camera of a view at its image's size, and how far to trust each."""
    info = found.frames[view]
    maps = at_size(found.maps[view], info.width, info.height)
    distortion = found.distortion[view]
    lens = distortion if bool(distortion.any()) else None
    points = camera.unproject(maps.depth, found.cameras.intrinsics[view].float(), lens)
    return points, maps.confidence * (maps.valid & (maps.motion <= MOVES))
