"""The measured process of COLMAP: maps WORK/images, writes WORK/answer.json. Imports nothing that adds to its memory.

Default options with SIFT on the CPU, one SIMPLE_RADIAL camera for all images, all cores; the largest model counts.
"""

import json
import sys
import time
from pathlib import Path

import pycolmap


def solve(work: Path, matching: str) -> dict:
    """Poses of the largest model by image name, seconds per stage, views of every model."""
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR
    database, images, models = work / "database.db", work / "images", work / "models"
    models.mkdir()
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
    match = {"sequential": pycolmap.match_sequential, "exhaustive": pycolmap.match_exhaustive}[matching]
    match(database, device=pycolmap.Device.cpu)
    lap("matching")
    found = sorted(pycolmap.incremental_mapping(database, images, models).values(), key=lambda m: -m.num_reg_images())
    lap("mapping")
    registered = [image for image in found[0].images.values() if image.has_pose] if found else []
    return {
        "world_from_cam": {image.name: image.cam_from_world().inverse().matrix().tolist() for image in registered},
        "stages_s": stages_s,
        "model_sizes": [model.num_reg_images() for model in found],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "answer.json").write_text(json.dumps(solve(folder, sys.argv[2])))
