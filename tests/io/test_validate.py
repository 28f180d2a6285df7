import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from unproject.errors import InputError
from unproject.io import disk
from unproject.io.result import array_path
from unproject.io.validate import validate


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a good result, to be spoilt."""
    shutil.copytree(saved, tmp_path / "out")
    return tmp_path / "out"


def frames_changed(change):
    def spoil(folder):
        document = json.loads((folder / "cameras.json").read_text())
        change(document["frames"])
        (folder / "cameras.json").write_text(json.dumps(document))

    return spoil


def pose_changed(change):
    def spoil(frames):
        pose = np.array(frames[2]["world_from_cam"])
        frames[2]["world_from_cam"] = change(pose).tolist()

    return frames_changed(spoil)


def arrays_changed(file, **changes):
    def spoil(folder):
        arrays = disk.read_npz(folder / file)
        disk.write_npz(folder / file, arrays | {name: change(arrays[name]) for name, change in changes.items()})

    return spoil


def at(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


def times(factor):
    return lambda array: (array * factor).astype(array.dtype)


def every_map(name, change):
    def spoil(folder):
        for index in range(8):
            arrays_changed(f"arrays/{index:06d}.npz", **{name: change})(folder)

    return spoil


def principal_point(frames):
    frames[4]["intrinsics"][0][2] = 321.0


def focal(frames):
    frames[4]["intrinsics"][1][1] = -260.0


def no_intrinsics(frames):
    frames[4]["intrinsics"] = None


def quality(frames):
    frames[4]["quality"] = 1.5


def long_focal(frames):
    for frame in frames:
        frame["intrinsics"][0][0] = frame["intrinsics"][1][1] = 300.0


def invert_all(frames):
    for frame in frames:
        frame["world_from_cam"] = np.linalg.inv(frame["world_from_cam"]).tolist()


MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])
MAP = "arrays/000005.npz"
FAULTS = {
    "record is a list": ("run.json", lambda folder: (folder / "run.json").write_text("[]")),
    "record is missing": ("run.json", lambda folder: (folder / "run.json").unlink()),
    "no time": ("cameras.json", frames_changed(lambda frames: frames[0].pop("time_s"))),
    "not JSON": ("cameras.json", lambda folder: (folder / "cameras.json").write_text("{")),
    "points cut": ("points.npz", lambda folder: (folder / "points.npz").write_bytes(b"PK")),
    "points without views": ("points.npz", arrays_changed("points.npz", view=lambda view: view + 5)),
    "tracks of other length": ("tracks.npz", arrays_changed("tracks.npz", tracks_uv=lambda uv: uv[:-1])),
    "two frames swapped": ("frames", frames_changed(lambda frames: frames.insert(1, frames.pop(4)))),
    "a frame twice": ("frames", frames_changed(lambda frames: frames.__setitem__(3, frames[2]))),
    "quality above one": ("frames", frames_changed(quality)),
    "pose mirrored": ("rotations", pose_changed(lambda pose: pose @ MIRROR)),
    "pose scaled": ("rotations", pose_changed(lambda pose: pose @ np.diag([1.01, 1.01, 1.01, 1.0]))),
    "pose with a last row": ("rotations", pose_changed(lambda pose: pose + np.eye(4)[:, [3, 0, 1, 2]] * 0.5)),
    "principal point outside": ("intrinsics", frames_changed(principal_point)),
    "negative focal length": ("intrinsics", frames_changed(focal)),
    "pose without intrinsics": ("intrinsics", frames_changed(no_intrinsics)),
    "a map missing": ("arrays", lambda folder: array_path(folder, 5).unlink()),
    "a map too many": ("arrays", lambda folder: shutil.copy(array_path(folder, 5), array_path(folder, 8))),
    "a map of integers": ("arrays", arrays_changed(MAP, depth=lambda depth: depth.astype(np.int32))),
    "a map of another size": ("arrays", arrays_changed(MAP, valid=lambda valid: valid[:-1])),
    "depth with NaN": ("arrays", arrays_changed(MAP, depth=at((3, 3), np.nan))),
    "depth negative where valid": ("arrays", arrays_changed(MAP, depth=at((60, 60), -1.0))),
    "confidence above one": ("arrays", arrays_changed(MAP, confidence=at((3, 3), 1.5))),
    "motion below zero": ("arrays", arrays_changed(MAP, motion=at((3, 3), -0.5))),
    "scene flow infinite": ("arrays", arrays_changed(MAP, scene_flow=at((3, 3, 0), np.inf))),
    "map of another scale": ("to_original", arrays_changed(MAP, to_original=at((0, 0), 2.1))),
    "map shifted by a pixel": ("to_original", arrays_changed(MAP, to_original=at((1, 2), 1.0))),
    "depth of another scale": ("depth against points", every_map("depth", times(1.2))),
    "points of another scale": ("reprojection", arrays_changed("points.npz", xyz=lambda xyz: xyz * [1.2, 1.2, 1.0])),
    "poses inverted": ("reprojection", frames_changed(invert_all)),
    "focal length changed": ("reprojection", frames_changed(long_focal)),
    "an observation outside its image": ("points", arrays_changed("points.npz", uv=at((3, 0), -1.0))),
    "an observation twice": ("points", arrays_changed("points.npz", view=lambda view: np.zeros_like(view))),
    "a weight of zero": ("points", arrays_changed("points.npz", weight=at(3, 0.0))),
    "a point at infinity": ("points", arrays_changed("points.npz", xyz=at((3, 0), np.inf))),
    "tracks of another scale": ("tracks", arrays_changed("tracks.npz", tracks_xyz=times(np.float32([1.3, 1.3, 1.0])))),
    "a seen track with NaN": ("tracks", arrays_changed("tracks.npz", tracks_xyz=times(np.nan))),
    "track confidence above one": ("tracks", arrays_changed("tracks.npz", tracks_confidence=times(2.0))),
}  # fmt: skip


def test_a_good_result_passes(saved, perfect):
    report = validate(saved)
    assert report.passed, report.text()
    names = [check.name for check in report.checks]
    assert len(names) == len(set(names)) and {name for name, _ in FAULTS.values()} == set(names)
    reprojection = next(check for check in report.checks if check.name == "reprojection")
    assert reprojection.value < 0.01 and "median 0.00 px" in reprojection.detail
    assert report.text().endswith("out: valid")
    assert json.loads(json.dumps(report.json()))["passed"] is True


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_found(folder, fault):
    check, spoil = FAULTS[fault]
    spoil(folder)
    report = validate(folder)
    assert not report.passed
    failed = [answer.name for answer in report.checks if not answer.passed]
    assert check in failed, report.text()
    assert "FAIL" in report.text() and "failed" in report.text().splitlines()[-1]
    assert json.loads(json.dumps(report.json()))["passed"] is False


def test_results_without_maps_points_or_tracks_pass(perfect, tmp_path):
    replace(perfect, maps=(), sparse=None, tracks=None).save(tmp_path / "out")
    report = validate(tmp_path / "out")
    assert report.passed and "cameras only" in report.text()


def test_frames_without_cameras_pass(perfect, tmp_path):
    found = torch.zeros(8, dtype=torch.bool)
    poses = torch.full((8, 4, 4), torch.nan, dtype=torch.float64)
    cameras = replace(perfect.cameras, found=found, world_from_cam=poses, component=torch.full((8,), -1))
    replace(perfect, cameras=cameras).save(tmp_path / "out")
    report = validate(tmp_path / "out")
    assert report.passed, report.text()


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        validate(tmp_path / "nowhere")
