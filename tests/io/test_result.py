import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unproject.errors import InputError, UnprojectError, UsageError
from unproject.geometry import camera, rigid
from unproject.io import disk, schema
from unproject.io.result import Reconstruction, array_path, is_result
from unproject.io.validate import validate
from unproject.io.writer import ResultWriter

DEPTH_TOLERANCE = 2.0 ** -(schema.DEPTH_BITS + 1)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def half_written(target, scene, settings=None, frames=3):
    """A run that is killed after some frames."""
    with pytest.raises(KeyboardInterrupt), ResultWriter(target, scene.frames, settings=settings) as writer:
        writer.keep("cameras", {"poses": np.eye(4)})
        for index in range(frames):
            writer.write(index, scene.maps[index])
        raise KeyboardInterrupt


def finish(writer, scene):
    for index in set(range(len(scene.frames))) - writer.done:
        writer.write(index, scene.maps[index])
    return writer.finish(scene)


def test_everything_comes_back(perfect, saved):
    loaded = Reconstruction.load(saved)
    assert loaded.frames == perfect.frames and loaded.scale == perfect.scale and loaded.provenance == perfect.provenance
    for name in ("world_from_cam", "intrinsics", "distortion", "found", "component", "quality"):
        assert torch.equal(getattr(loaded.cameras, name), getattr(perfect.cameras, name))
    for name in ("valid", "motion", "rgb", "to_original", "times", "intrinsics", "world_from_cam"):
        assert torch.equal(getattr(loaded, name), getattr(perfect, name))
    for name in ("depth", "scene_flow"):
        torch.testing.assert_close(getattr(loaded, name), getattr(perfect, name), rtol=DEPTH_TOLERANCE, atol=0)
    assert (loaded.confidence - perfect.confidence).abs().max() <= 0.5 / schema.LEVELS
    for name in ("xyz", "uv", "visible", "confidence", "moving"):
        assert torch.equal(getattr(loaded.tracks, name), getattr(perfect.tracks, name))
    assert torch.equal(loaded.sparse.xyz, perfect.sparse.xyz) and torch.equal(loaded.sparse.rgb, perfect.sparse.rgb)
    for name in ("view", "track", "uv", "weight"):
        assert torch.equal(getattr(loaded.sparse.tracks, name), getattr(perfect.sparse.tracks, name))


def test_saving_what_was_loaded_writes_the_same_bytes(saved, tmp_path):
    Reconstruction.load(saved).save(tmp_path / "again")
    assert tree(tmp_path / "again") == tree(saved)


def test_the_folder_is_the_contract(perfect, saved):
    assert set(os.listdir(saved)) == {
        "run.json", "cameras.json", "arrays", "tracks.npz", "points.npz", "preview",
    }  # fmt: skip
    document = json.loads((saved / "cameras.json").read_text())
    assert (document["convention"], document["pixel_origin"], document["scale"]) == ("opencv", "corner", "up_to_scale")
    frame = document["frames"][3]
    assert (frame["file"], frame["frame_index"], frame["time_s"]) == ("clip <b>&.mp4", 3, 0.3)
    assert (frame["width"], frame["height"]) == (320, 240)
    assert np.array_equal(frame["world_from_cam"], perfect.cameras.world_from_cam[3])
    assert np.shape(frame["intrinsics"]) == (3, 3) and len(frame["distortion"]) == 5
    with np.load(array_path(saved, 3)) as stored:
        assert {name: stored[name].dtype.name for name in stored} == {
            "depth": "float32", "valid": "bool", "confidence": "float32", "motion": "float32",
            "to_original": "float64", "rgb": "uint8", "scene_flow": "float32",
        }  # fmt: skip


@given(arrays(np.float32, 30, elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)))
def test_rounding_is_small_and_happens_once(values):
    rounded = schema.round_mantissa(torch.from_numpy(values))
    torch.testing.assert_close(rounded, torch.from_numpy(values), rtol=DEPTH_TOLERANCE, atol=0)
    assert torch.equal(schema.round_mantissa(rounded), rounded)
    assert not (rounded.view(torch.int32) & ((1 << (23 - schema.DEPTH_BITS)) - 1)).any()


def test_rounded_maps_are_what_the_disk_gives_back(perfect, saved):
    for before, after in zip(perfect.maps, Reconstruction.load(saved).maps, strict=True):
        rounded = schema.rounded(before)
        for name in schema.MAP_ARRAYS:
            assert torch.equal(getattr(rounded, name), getattr(after, name))


def test_rounding_never_makes_a_number_infinite():
    largest = torch.tensor([torch.finfo(torch.float32).max, torch.inf, torch.nan])
    assert torch.equal(schema.round_mantissa(largest)[:2], largest[:2])


def test_frames_without_a_camera(perfect, tmp_path):
    found = torch.tensor([True, False] * 4)
    poses = torch.where(found[:, None, None], perfect.cameras.world_from_cam, torch.nan)
    component = torch.where(found, torch.arange(8) // 4, -1)
    unknown = torch.where(found[:, None], perfect.cameras.distortion, torch.nan)
    quality = torch.where(found, perfect.cameras.quality, torch.nan)
    cameras = replace(
        perfect.cameras, found=found, world_from_cam=poses, component=component, distortion=unknown, quality=quality
    )
    replace(perfect, cameras=cameras).save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "cameras.json").read_text())["frames"][1]["world_from_cam"] is None
    loaded = Reconstruction.load(tmp_path / "out")
    assert torch.equal(loaded.cameras.found, found) and torch.equal(loaded.cameras.component, component)
    assert loaded.world_from_cam[1].isnan().all() and loaded.cam_from_world[1, :3].isnan().all()
    for name in ("distortion", "quality"):
        torch.testing.assert_close(
            getattr(loaded.cameras, name), getattr(cameras, name), rtol=0, atol=0, equal_nan=True
        )
    assert validate(tmp_path / "out").passed
    assert sorted(loaded.components) == [0, 1]
    assert torch.equal(loaded.only(1).cameras.found, component == 1)


def test_only_cameras(perfect, tmp_path):
    replace(perfect, maps=(), sparse=None, tracks=None).save(tmp_path / "out")
    loaded = Reconstruction.load(tmp_path / "out")
    assert len(loaded.maps) == 0 and loaded.sparse is None
    with pytest.raises(UnprojectError, match="cameras only"):
        _ = loaded.depth
    with pytest.raises(UnprojectError, match="cameras only"):
        loaded.points()


def test_mixed_sizes_are_padded_at_right_and_bottom(perfect):
    small = perfect.maps[0]
    crop = {
        name: getattr(small, name)[:50, :60] for name in ("depth", "valid", "confidence", "motion", "rgb", "scene_flow")
    }
    mixed = replace(perfect, maps=[replace(small, **crop), *perfect.maps[1:]])
    assert mixed.depth.shape == perfect.depth.shape
    assert torch.equal(mixed.depth[0, :50, :60], perfect.depth[0, :50, :60])
    assert not mixed.valid[0, 50:].any() and not mixed.valid[0, :, 60:].any()
    assert torch.equal(mixed.intrinsics, perfect.intrinsics)


@pytest.mark.parametrize("lens", [(0.0,) * 5, (-0.12, 0.03, 0.002, -0.001, 0.004)])
def test_world_points_fall_on_their_own_pixels(scene, lens):
    """Acceptance of the conventions: re-projection of the points is the pixel grid."""
    rec = scene(3, lens=lens, shrink=4)
    for index, maps in enumerate(rec.maps):
        in_cam = rigid.transform(rec.cam_from_world[index], rec.world_points(index, maps))
        uv = camera.project(in_cam, rec.intrinsics[index], rec.distortion[index]).view(60, 80, 2)
        assert (uv - camera.pixel_grid(60, 80)).abs().max() < 0.01
        original = camera.project(in_cam, rec.cameras.intrinsics[index].float(), rec.distortion[index]).view(60, 80, 2)
        assert (original - 4 * camera.pixel_grid(60, 80)).abs().max() < 0.04


def test_points_lie_on_the_true_surfaces(perfect):
    xyz, rgb = perfect.points()
    on_floor, on_wall = (xyz[:, 1] - 1).abs() < 1e-3, (xyz[:, 2] - 6).abs() < 1e-3
    on_ball = ((xyz - torch.tensor([0.7, 0.5, 3.6])).norm(dim=-1) - 0.5).abs() < 1e-3
    assert (on_floor | on_wall | on_ball).all() and rgb.shape == xyz.shape
    assert len(xyz) == int((perfect.valid & (perfect.motion < 0.5)).sum())


def test_which_points(perfect):
    still, everything = len(perfect.points()[0]), len(perfect.points(moving=True)[0])
    assert everything - still == int((perfect.valid & (perfect.motion >= 0.5)).sum()) > 0
    assert len(perfect.points(0.95)[0]) == 0
    thinned, again = perfect.points(max_points=800)[0], perfect.points(max_points=800)[0]
    assert len(thinned) == 800 and torch.equal(thinned, again)


def test_scaling_keeps_everything_consistent(perfect, saved, tmp_path):
    """Depth-Anything-3 issue 242: one output in metres, another not."""
    scaled = perfect.scaled(2.5, "metric")
    scaled.save(tmp_path / "out")
    report = validate(tmp_path / "out")
    assert report.passed, report.text()
    assert scaled.scale == "metric" and perfect.scale == "up_to_scale"
    for name in ("depth", "scene_flow"):
        assert torch.equal(getattr(scaled, name), getattr(perfect, name) * 2.5)
    torch.testing.assert_close(scaled.points()[0], perfect.points()[0] * 2.5)
    assert torch.equal(scaled.sparse.xyz, perfect.sparse.xyz * 2.5)
    assert torch.equal(scaled.tracks.xyz, perfect.tracks.xyz * 2.5)
    assert torch.equal(scaled.intrinsics, perfect.intrinsics)
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale factor"):
            perfect.scaled(factor, "metric")


def test_slices_of_lazy_maps(saved):
    maps = Reconstruction.load(saved).maps
    assert len(maps[2:5]) == 3 and torch.equal(maps[2:5][0].depth, maps[2].depth)
    assert torch.equal(maps[-1].depth, maps[7].depth)
    with pytest.raises(IndexError):
        maps[8]


def test_a_folder_that_is_not_empty_is_refused(perfect, saved, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"not empty.*overwrite"):
        perfect.save(target)
    assert os.listdir(target) == ["mine.txt"] and os.listdir(tmp_path) == ["out"]
    with pytest.raises(UsageError, match="is a file"):
        perfect.save(target / "mine.txt")


def test_overwriting_removes_our_files_and_no_others(perfect, scene, saved, tmp_path):
    target = tmp_path / "out"
    shutil.copytree(saved, target)
    mine = ["mine.txt", "arrays/notes.npz", "exports/mine.ply", "preview/mine.html", "arrays.npz"]
    stale = ["exports/points.ply", "exports/colmap/sparse/0/images.bin"]
    for name in mine + stale:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(name)
    scene(3).save(target, overwrite=True)
    assert all((target / name).read_text() == name for name in mine)
    assert not any((target / name).exists() for name in stale)
    assert len(list((target / "arrays").glob("0*.npz"))) == 3 and len(Reconstruction.load(target)) == 3
    assert not (target / ".partial").exists() and os.listdir(tmp_path) == ["out"]


def test_an_empty_folder_is_filled(perfect, saved, tmp_path):
    (tmp_path / "out").mkdir()
    perfect.save(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(saved)


@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_run_resumes_to_the_same_bytes(perfect, saved, tmp_path, exists):
    target = tmp_path / "out"
    if exists:
        target.mkdir()
    half_written(target, perfect, {"seed": 1})
    assert not is_result(target)
    with ResultWriter(target, perfect.frames, settings={"seed": 1}, resume=True) as writer:
        assert writer.done == {0, 1, 2}
        assert np.array_equal(writer.kept("cameras")["poses"], np.eye(4)) and writer.kept("else") is None
        rec = finish(writer, perfect)
    assert tree(target) == tree(saved) and os.listdir(tmp_path) == ["out"]
    torch.testing.assert_close(rec.depth, perfect.depth, rtol=DEPTH_TOLERANCE, atol=0)


def test_a_run_killed_before_its_first_frame_is_nothing_to_keep(perfect, tmp_path):
    writer = ResultWriter(tmp_path / "out", perfect.frames)
    assert writer.partial.exists()  # and here the power goes
    perfect.save(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_a_torn_file_of_an_interrupted_run_is_made_again(perfect, saved, tmp_path):
    half_written(tmp_path / "out", perfect)
    torn = array_path(tmp_path / "out.partial", 1)
    torn.write_bytes(torn.read_bytes()[:-50])
    (tmp_path / "out.partial" / "arrays" / "000003.tmp.npz").write_bytes(b"half")
    with ResultWriter(tmp_path / "out", perfect.frames, resume=True) as writer:
        assert writer.done == {0, 2}
        finish(writer, perfect)
    assert tree(tmp_path / "out") == tree(saved)


def test_a_torn_stage_is_made_again(perfect, tmp_path):
    half_written(tmp_path / "out", perfect)
    torn = tmp_path / "out.partial" / "kept_cameras.npz"
    torn.write_bytes(torn.read_bytes()[:-50])
    with ResultWriter(tmp_path / "out", perfect.frames, resume=True) as writer:
        assert writer.resumed and writer.kept("cameras") is None


def test_work_of_another_version_is_refused(perfect, tmp_path):
    half_written(tmp_path / "out", perfect)
    begun = tmp_path / "out.partial" / "resume.json"
    for version in ("0.0.9", None):
        begun.write_text(json.dumps({**json.loads(begun.read_text()), "version": version}))
        with pytest.raises(UsageError, match=f"begun by version {version} of unproject, this is"):
            ResultWriter(tmp_path / "out", perfect.frames, resume=True)
    assert array_path(tmp_path / "out.partial", 0).exists()


def test_interrupted_work_is_neither_dropped_nor_mixed_silently(perfect, scene, tmp_path):
    target = tmp_path / "out"
    half_written(target, perfect, {"seed": 1})
    with pytest.raises(UsageError, match=r"interrupted.*resume"):
        perfect.save(target)
    with pytest.raises(UsageError, match="other inputs or settings"):
        ResultWriter(target, perfect.frames, settings={"seed": 2}, resume=True)
    with pytest.raises(UsageError, match="other inputs or settings"):
        ResultWriter(target, perfect.frames[:3], settings={"seed": 1}, resume=True)
    (tmp_path / "out.partial" / "resume.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        ResultWriter(target, perfect.frames, settings={"seed": 1}, resume=True)
    perfect.save(target, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


def test_resume_without_anything_to_resume(perfect, saved, tmp_path):
    with ResultWriter(tmp_path / "out", perfect.frames, resume=True) as writer:
        finish(writer, perfect)
    assert is_result(tmp_path / "out")
    with pytest.raises(UsageError, match="already complete"):
        ResultWriter(tmp_path / "out", perfect.frames, resume=True)
    with pytest.raises(UsageError, match="exclude"):
        ResultWriter(tmp_path / "out", perfect.frames, resume=True, overwrite=True)


def test_a_run_that_fails_before_its_first_frame_leaves_nothing(perfect, tmp_path):
    with pytest.raises(RuntimeError, match="boom"), ResultWriter(tmp_path / "out", perfect.frames):
        raise RuntimeError("boom")
    assert os.listdir(tmp_path) == []


def test_frames_that_were_never_written_are_an_error(perfect, tmp_path):
    with pytest.raises(ValueError, match="never written"), ResultWriter(tmp_path / "out", perfect.frames) as writer:
        writer.write(0, perfect.maps[0])
        writer.finish(perfect)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_leaves_no_result(perfect, tmp_path):
    """In a process of its own, whose files may not grow past 60 kB: writing fails as on a full disk."""
    code = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from unproject.errors import UnprojectError
from unproject.io import disk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))
try:
    disk.write_npz(Path(sys.argv[1]), {"noise": np.random.default_rng(0).random(100000)})
except UnprojectError as error:
    print(error)
"""
    path = tmp_path / "arrays" / "000000.npz"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "choose another output folder" in done.stdout
    assert len(done.stdout.splitlines()) == 1 and list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(28, "no space left"), (13, "no permission"), (30, "read-only"), (36, "too long"), (5, "choose")],
)
def test_what_a_disk_can_do_is_said_in_plain_words(number, words, tmp_path, monkeypatch):
    def refuse(*args, **keywords):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UnprojectError, match=words) as caught:
        disk.write_json(tmp_path / "x.json", {})
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_path_through_a_file_is_refused(perfect, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnprojectError, match="cannot write"):
        perfect.save(tmp_path / "file" / "out")


def test_json_is_strict(tmp_path):
    path = tmp_path / "x.json"
    disk.write_json(path, {"a": float("nan"), "b": np.float32(1.5), "c": (tmp_path, {1: np.arange(2)}), "d": True})
    assert disk.read_json(path) == {"a": None, "b": 1.5, "c": [str(tmp_path), {"1": [0, 1]}], "d": True}


DAMAGE = {
    "no cameras": lambda folder: (folder / "cameras.json").unlink(),
    "no run": lambda folder: (folder / "run.json").unlink(),
    "cut run": lambda folder: (folder / "run.json").write_text('{"a":'),
    "deep run": lambda folder: (folder / "run.json").write_text("[" * 100000),
    "not text": lambda folder: (folder / "cameras.json").write_bytes(b"\xff\xfe\x00"),
    "not an object": lambda folder: (folder / "cameras.json").write_text("[1]"),
    "cut points": lambda folder: (folder / "points.npz").write_bytes((folder / "points.npz").read_bytes()[:-400]),
    "empty tracks": lambda folder: (folder / "tracks.npz").write_bytes(b""),
    "array missing": lambda folder: array_path(folder, 4).unlink(),
    "array cut": lambda folder: array_path(folder, 4).write_bytes(array_path(folder, 4).read_bytes()[:3000]),
    "array garbage": lambda folder: array_path(folder, 4).write_bytes(b"PK\x03\x04 nothing of the kind"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_one_line_that_names_the_file(saved, tmp_path, damage):
    folder = tmp_path / "out"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(InputError, match=r"cameras\.json|run\.json|points\.npz|tracks\.npz|000004\.npz") as caught:
        _ = Reconstruction.load(folder).depth
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


WRONG_ENTRIES = {
    "scale": lambda document: document.update(scale="feet"),
    "convention": lambda document: document.update(convention="opengl"),
    "frames": lambda document: document.update(frames={}),
    "frame 2": lambda document: document["frames"].__setitem__(2, 5),
    "file": lambda document: document["frames"][2].update(file=3),
    "width": lambda document: document["frames"][2].update(width=0),
    "time_s": lambda document: document["frames"][2].update(time_s="1"),
    "intrinsics": lambda document: document["frames"][2].update(intrinsics=[[1, 2], [3, 4]]),
    "distortion": lambda document: document["frames"][2].pop("distortion"),
    "world_from_cam": lambda document: document["frames"][2].update(world_from_cam=[["a"] * 4] * 4),
    "quality": lambda document: document["frames"][2].update(quality="high"),
    "height": lambda document: document["frames"][2].update(height=10**400),
}


@pytest.mark.parametrize("key", WRONG_ENTRIES)
def test_a_wrong_entry_is_named(saved, tmp_path, key):
    document = json.loads((saved / "cameras.json").read_text())
    WRONG_ENTRIES[key](document)
    (tmp_path / "cameras.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=key):
        Reconstruction.load(tmp_path)


def test_nan_in_json_is_refused(saved, tmp_path):
    text = (saved / "cameras.json").read_text().replace('"time_s": 0.3', '"time_s": NaN')
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(InputError, match=r"frame 3: 'time_s'"):
        Reconstruction.load(tmp_path)


def test_pickled_arrays_are_never_loaded(saved, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(saved, folder)
    np.savez(array_path(folder, 0), depth=np.array([object()], dtype=object))
    with pytest.raises(InputError, match=r"000000\.npz"):
        _ = Reconstruction.load(folder).maps[0]


@pytest.mark.parametrize("name", ["depth", "valid", "to_original", "rgb"])
def test_arrays_of_the_wrong_shape_are_named(saved, tmp_path, name):
    folder = tmp_path / "out"
    shutil.copytree(saved, folder)
    stored = disk.read_npz(array_path(folder, 0))
    disk.write_npz(array_path(folder, 0), stored | {name: stored[name][:-1]})
    with pytest.raises(InputError, match=rf"000000\.npz: '{'valid' if name == 'depth' else name}'"):
        _ = Reconstruction.load(folder).maps[0]


def test_an_archive_that_claims_more_than_the_memory(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("depth.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InputError, match=r"bomb\.npz"):
        disk.read_npz(tmp_path / "bomb.npz")


def test_counts_must_agree(perfect):
    with pytest.raises(ValueError, match="8 frames, 8 cameras, 3 maps"):
        replace(perfect, maps=perfect.maps[:3])
    assert repr(perfect).startswith("Reconstruction(8 frames, 8 cameras found")
