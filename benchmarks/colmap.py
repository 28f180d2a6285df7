"""COLMAP (pycolmap, incremental mapping) on the very images the package is given, in a process of its own.

Default options with SIFT on the CPU, one SIMPLE_RADIAL camera for all images, all cores. Ordered clips are matched with
neighbours (overlap 10 and its powers of two, the default), photos all to all. The largest model counts.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.clips import Clip
from benchmarks.measure import measured
from benchmarks.solved import Solved


def solve(clip: Clip) -> Solved:
    """COLMAP's cameras of a clip of image files. Raises RunFailed."""
    with tempfile.TemporaryDirectory(prefix="colmap-") as folder:
        work = Path(folder)
        images = work / "images"
        images.mkdir()
        for index, file in enumerate(clip.files):
            (images / f"{index:06d}{file.suffix.lower()}").symlink_to(file)
        matching = "sequential" if clip.ordered else "exhaustive"
        command = [sys.executable, "-m", "benchmarks.colmap", str(work), "--matching", matching]
        peak_mib = measured(command, work / "usage.json")
        answer = json.loads((work / "answer.json").read_text())
    poses = torch.eye(4, dtype=torch.float64).repeat(len(clip.files), 1, 1)
    found = torch.zeros(len(clip.files), dtype=torch.bool)
    for name, pose in answer["world_from_cam"].items():
        index = int(Path(name).stem)
        poses[index], found[index] = torch.tensor(pose, dtype=torch.float64), True
    return Solved(world_from_cam=poses, found=found, stages_s=answer["stages_s"], peak_mib=peak_mib)


def _map(work: Path, matching: str) -> dict:
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.ERROR
    database, images = work / "database.db", work / "images"
    stages_s, began = {}, time.perf_counter()

    def lap(stage: str) -> None:
        stages_s[stage] = time.perf_counter() - began - sum(stages_s.values())

    pycolmap.extract_features(
        database,
        images,
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL"),
        device=pycolmap.Device.cpu,
    )
    lap("features")
    match = pycolmap.match_sequential if matching == "sequential" else pycolmap.match_exhaustive
    match(database, device=pycolmap.Device.cpu)
    lap("matching")
    models = pycolmap.incremental_mapping(database, images, work / "models")
    lap("mapping")
    best = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
    poses = {}
    for image in best.images.values() if best else ():
        if image.has_pose:
            top = image.cam_from_world().inverse().matrix().tolist()
            poses[image.name] = [*top, [0.0, 0.0, 0.0, 1.0]]
    return {"world_from_cam": poses, "stages_s": stages_s, "models": len(models)}


def _main() -> None:
    parser = argparse.ArgumentParser(description="the measured process: maps WORK/images, writes WORK/answer.json")
    parser.add_argument("work", type=Path)
    parser.add_argument("--matching", choices=("sequential", "exhaustive"), required=True)
    arguments = parser.parse_args()
    (arguments.work / "models").mkdir()
    answer = _map(arguments.work, arguments.matching)
    (arguments.work / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    _main()
