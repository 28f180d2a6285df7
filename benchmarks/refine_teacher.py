"""How good the labels of the `refine` teacher are, on rendered hand-held clips that nothing but their images tells of.

Errors of its cameras over all pairs of views and of its depth after one scale per clip, where its weight exceeds 0.5;
processor time of one clip, on one thread.

    python -m benchmarks.refine_teacher --seeds 0 1 2
"""

import argparse
import time

import cv2
import numpy as np
import torch

from benchmarks.table import head, line
from unproject.data.synthetic import handheld_clip
from unproject.errors import InputError
from unproject.evaluation.metrics import depth_error, pair_errors
from unproject.recipes.refine import RefineTeacher
from unproject.teachers.base import Shot

EVERY = 2
"""Frames of 1/30 s."""


def row(seed: int, frames: int, views: int, width: int) -> str:
    """What is measured of one clip."""
    clip = handheld_clip(seed, frames=EVERY * frames, height=3 * width // 4, width=width)
    chosen = np.linspace(0, frames - 1, views).round().astype(int).tolist()
    began = time.process_time()
    try:
        labels = RefineTeacher().label(Shot(images=list(clip.images[::EVERY]), views=tuple(chosen), pairs=()))
    except InputError as error:
        return line(str(seed), str(error), *["-"] * 6)
    seconds = time.process_time() - began
    assert labels.world_from_cam is not None and labels.intrinsics is not None and labels.points is not None
    pose, true_pose = labels.world_from_cam.value[0], clip.world_from_cam[::EVERY][chosen]
    cameras = pair_errors(pose, true_pose)
    truth = torch.where(clip.valid, clip.depth, torch.nan)[::EVERY][chosen]
    depth = depth_error(labels.points.value[0, ..., 2], truth, labels.points.weight[0] > 0.5)
    focal = labels.intrinsics.value[0, 0, 0, 0] / clip.intrinsics[0, 0, 0] - 1
    return line(
        str(seed),
        f"{cameras.rotation_deg.median():.3f}",
        f"{cameras.translation_deg.median():.2f}",
        f"{100 * cameras.auc(30):.1f}",
        f"{focal:+.1%}",
        f"{depth.rel:.4f}",
        f"{depth.coverage:.2f}",
        f"{seconds:.0f}",
    )


def main() -> None:
    """One row per clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(head("seed", "rotation [deg]", "translation [deg]", "AUC@30", "focal", "depth rel", "coverage", "time [s]"))
    for seed in options.seeds:
        print(row(seed, options.frames, options.views, options.width), flush=True)


if __name__ == "__main__":
    main()
