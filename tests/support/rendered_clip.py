"""Rendered clips as if the solver had solved them exactly, for dense depth."""

import torch
from flat_world import sparse_points
from solved_world import all_found

from unproject.data.synthetic import ClipData
from unproject.inference.dense import CameraMotion, DenseClip


def dense_clip(
    clip: ClipData, *, ordered: bool = True, camera_motion: CameraMotion = "full", step: int = 1
) -> DenseClip:
    """A rendered clip with its true cameras, and sparse points on what is at rest."""
    images = list(clip.images[::step])
    count = len(images)
    rest = (clip.valid & ~clip.motion)[::step].numpy()
    return DenseClip(
        images=images,
        cameras=all_found(clip.world_from_cam[::step].double(), clip.intrinsics[::step].double()),
        sparse=[sparse_points(depth, keep, 150) for depth, keep in zip(clip.depth[::step].numpy(), rest, strict=True)],
        to_original=[torch.eye(3)] * count,
        ordered=ordered,
        camera_motion=[camera_motion],
    )
