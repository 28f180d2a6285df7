"""Everything that users give by mistake, through the command line: one line with the remedy, its code, nothing left."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unproject import cli

LENS = [[60.0, 0.0, 48.0], [0.0, 60.0, 32.0], [0.0, 0.0, 1.0]]
POSE = np.eye(4).tolist()
MOVED = [[1.0, 0, 0, 1], *POSE[1:]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_video):
    """Eight frames of a camera that moves along a wall of blots."""
    wall = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(wall).resize((160, 96), Image.Resampling.BICUBIC))
    frames = [np.ascontiguousarray(wide[i : i + 64, 4 * i : 4 * i + 96]) for i in range(8)]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, options={"crf": "12"})


def run(capsys, *arguments):
    """Exit code and the one line on stderr."""
    capsys.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert code in (0, 6) or (said.err.count("\n") == 1 and said.err.startswith("unproject: error: ")), said.err
    return code, said.err


def nothing_in(folder):
    return not folder.exists() and not list(folder.parent.glob(f"{folder.name}*"))


def empty_file(place, clip):
    (place / "in.mp4").touch()
    return place / "in.mp4"


def empty_folder(place, clip):
    (place / "in").mkdir()
    return place / "in"


def junk(place, clip):
    (place / "in.mp4").write_bytes(os.urandom(5000))
    return place / "in.mp4"


def cut_before_its_index(place, clip):
    (place / "in.mp4").write_bytes(clip.read_bytes()[:3000])
    return place / "in.mp4"


def text(place, clip):
    (place / "in.txt").write_text("not a picture\n" * 50)
    return place / "in.txt"


def damaged_picture_among_good_ones(place, clip):
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / f"{number}.jpg")
    whole = (place / "1.jpg").read_bytes()
    (place / "1.jpg").write_bytes(whole[: len(whole) // 2])
    return place / "*.jpg"


def missing(place, clip):
    return place / "none.mp4"


def pattern_without_files(place, clip):
    return place / "*.png"


def unreadable(place, clip):
    path = empty_file(place, clip)
    path.write_bytes(clip.read_bytes())
    path.chmod(0)
    return path


INPUTS = [
    empty_file,
    empty_folder,
    junk,
    cut_before_its_index,
    text,
    damaged_picture_among_good_ones,
    missing,
    pattern_without_files,
    pytest.param(unreadable, marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")),
]


@pytest.mark.parametrize("make", INPUTS)
def test_unreadable_input(tmp_path, clip, capsys, make):
    bad, out = make(tmp_path, clip), tmp_path / "out"
    code, line = run(capsys, "reconstruct", bad, "-o", out)
    assert code == 3
    assert str(bad.parent) in line and ": " in line
    assert nothing_in(out)


def poses(*matrices, file="clip.mp4"):
    return {"frames": [{"file": file, "frame_index": 0, "world_from_cam": matrix} for matrix in matrices]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"intrinsics": [[float("nan"), 0, 48], *LENS[1:]]}, "not finite"),
        ({"intrinsics": [[0, 0, 48], *LENS[1:]]}, "singular"),
        ({"intrinsics": LENS, "width": 64, "height": 96}, "64x96"),
        (poses(POSE, MOVED), "two different"),
        (poses([[2.0, 0, 0, 0], *POSE[1:]]), "no rigid"),
        (poses(POSE, file="other.jpg"), "no camera for any frame"),
        ({}, "no camera file"),
    ],
)
def test_bad_cameras(tmp_path, clip, capsys, document, message):
    path, out = tmp_path / "known.json", tmp_path / "out"
    path.write_text(json.dumps(document))
    code, line = run(capsys, "reconstruct", clip, "-o", out, "--cameras", path)
    assert (code, message in line) == (3, True), line
    assert nothing_in(out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--every", "0"], "--every"),
        (["--fps", "-1"], "--fps"),
        (["--max-frames", "0"], "--max-frames"),
        (["--every", "2", "--fps", "3"], "exclude each other"),
        (["--start", "9"], "no frame from 9"),
        (["--overwrite", "--resume"], "exclude each other"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_flags_that_cannot_be_honoured(tmp_path, clip, capsys, flags, message):
    code, line = run(capsys, "reconstruct", clip, "-o", tmp_path / "out", *flags)
    assert (code, message in line) == (2, True), line
    assert nothing_in(tmp_path / "out")


def test_output_that_is_not_empty_is_left_alone(tmp_path, clip, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    code, line = run(capsys, "reconstruct", clip, "-o", out)
    assert code == 2 and str(out) in line
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    code, _ = run(capsys, "reconstruct", clip, "-o", out / "thesis.txt")
    assert code == 2 and (out / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["below a file", "where nobody may write"])
def test_output_that_cannot_be_made(tmp_path, clip, capsys, place):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out" if place == "below a file" else Path("/sys/unproject-out")
    code, line = run(capsys, "reconstruct", clip, "-o", out)
    assert code == 1 and str(out) in line and "choose another" in line


def test_full_disk(tmp_path, clip, capsys, monkeypatch):
    """Every array fails to be written, as on a full disk."""
    import unproject.io.disk as disk

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.np.lib.format, "write_array", full)
    code, line = run(capsys, "reconstruct", clip, "-o", tmp_path / "out")
    assert code == 1 and "no space left" in line
    assert nothing_in(tmp_path / "out")


def test_masks_that_are_not_there_are_missed_at_the_door(tmp_path, clip, capsys, monkeypatch):
    """Not after the whole video was tracked."""
    import unproject.inference.reconstruct as run_module

    monkeypatch.setattr(run_module, "gather", lambda *_: pytest.fail("the input was read"))
    (tmp_path / "empty").mkdir()
    for name, words in (("nowhere", "check --masks"), ("empty", "no mask for any frame")):
        code, line = run(capsys, "reconstruct", clip, "-o", tmp_path / "out", "--masks", tmp_path / name)
        assert code == 3 and words in line
        assert nothing_in(tmp_path / "out")


def test_single_frames_give_what_can_honestly_be_given(tmp_path, clip, capsys):
    Image.new("RGB", (96, 64), (90, 40, 10)).save(tmp_path / "grey.jpg")
    for number, source in enumerate(([clip, "--max-frames", 1], [tmp_path / "grey.jpg"])):
        code, _ = run(capsys, "reconstruct", *source, "-o", tmp_path / f"out{number}")
        assert code == 6
        assert json.loads((tmp_path / f"out{number}" / "run.json").read_text())["state"] == "partial"


def test_truncated_video_is_read_as_far_as_it_goes(tmp_path, clip, write_video, capsys):
    noise = [np.random.default_rng(i).integers(0, 255, (64, 96, 3), dtype=np.uint8) for i in range(8)]
    path = write_video(tmp_path / "in.mkv", noise, codec="ffv1")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, _ = run(capsys, "reconstruct", path, "-o", tmp_path / "out")
    assert code in (0, 6)
    notes = json.loads((tmp_path / "out" / "run.json").read_text())["notes"]
    assert any("cut short" in note for note in notes)


def test_mixed_sizes_are_no_error(tmp_path, capsys):
    for number, size in enumerate(((96, 64), (64, 96), (48, 32))):
        noise = np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    code, _ = run(capsys, "reconstruct", tmp_path / "*.png", "-o", tmp_path / "out")
    assert code in (0, 6)
    frames = json.loads((tmp_path / "out" / "cameras.json").read_text())["frames"]
    assert [(frame["width"], frame["height"]) for frame in frames] == [(96, 64), (64, 96), (48, 32)]


@pytest.mark.parametrize("verb", [["validate"], ["export", "--to", "ply"]])
def test_what_is_no_result(tmp_path, capsys, verb):
    code, line = run(capsys, verb[0], tmp_path / "none", *verb[1:])
    assert code == 3 and "none" in line
