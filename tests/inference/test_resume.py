"""A run that was interrupted goes on where it stopped, and ends in the bytes of one that was not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from unproject.errors import UsageError
from unproject.inference import dense
from unproject.inference import reconstruct as work
from unproject.inference.reconstruct import reconstruct
from unproject.io import writer
from unproject.io.images import resize
from unproject.io.result import is_result
from unproject.io.source import open_source
from unproject.teachers import matches
from unproject.teachers.tracks import KltTracker

FRAMES = 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_video):
    """The sample clip, smaller, every ninth frame; lossless, since the encoder does not make the same file twice."""
    sample = open_source(str(files("unproject") / "assets" / "sample.mp4"), every=9)
    frames = [resize(frame.image, 256, 144) for frame in sample]
    assert len(frames) == FRAMES
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames, options={"crf": "0"})


@pytest.fixture(scope="module")
def whole(clip, tmp_path_factory):
    """Bytes of the result of a run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = reconstruct(clip, output=out)
    assert done.provenance["state"] == "full" and not done.provenance["resumed"]
    return tree(out)


def tree(folder):
    """All that a run computes; run.json and the preview that shows it say how long it took."""
    names = [*sorted(folder.glob("arrays/*.npz")), *(folder / name for name in ("points.npz", "tracks.npz"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in [*names, folder / "cameras.json"]}


def stopping(stage, number):
    """A progress that is interrupted before it passes on an item of a stage."""

    def progress(items, name, total=None):
        for count, item in enumerate(items):
            if (name, count) == (stage, number):
                raise KeyboardInterrupt
            yield item

    return progress


def interrupted(source, out, stage, number, **options):
    with pytest.raises(KeyboardInterrupt):
        reconstruct(source, output=out, progress=stopping(stage, number), **options)
    assert not is_result(out)


@pytest.fixture
def forbid(monkeypatch):
    """Makes work fail from now on."""

    def refuse(*args, **keywords):
        raise AssertionError("this was done before the interruption")

    def forbid(*work):
        for owner, name in work:
            monkeypatch.setattr(owner, name, refuse)

    return forbid


@pytest.fixture
def made(monkeypatch):
    """Numbers of the frames whose maps are made from now on."""
    numbers, make = [], dense._Densifier._frame
    monkeypatch.setattr(dense._Densifier, "_frame", lambda *given: numbers.append(given[1]) or make(*given))
    return numbers


TRACKING, SOLVING = (KltTracker, "feed"), (work, "solve_component")
MEASURING = (dense, "measure")


@pytest.mark.parametrize(
    ("stage", "number", "done", "frames"),
    [
        ("read, track", 5, (), 0),
        ("solve", 0, (TRACKING,), 0),
        ("depth", 0, (TRACKING, SOLVING), 1),
        ("depth", 4, (TRACKING, SOLVING), 5),
        ("depth", FRAMES - 1, (TRACKING, SOLVING, MEASURING), FRAMES),
    ],
)
def test_what_was_done_is_not_done_again(clip, whole, tmp_path, forbid, made, stage, number, done, frames):
    interrupted(clip, tmp_path / "out", stage, number)
    forbid(*done)
    made.clear()
    resumed = reconstruct(clip, output=tmp_path / "out", resume=True)
    assert tree(tmp_path / "out") == whole
    assert sorted(made) == list(range(frames, FRAMES))
    assert resumed.provenance["resumed"] == bool(done)
    assert os.listdir(tmp_path) == ["out"] and not list((tmp_path / "out").glob("kept_*"))


def test_torn_files_are_made_again(clip, whole, tmp_path, made):
    interrupted(clip, tmp_path / "out", "depth", 6)
    partial = tmp_path / "out.partial"
    for path in (partial / "kept_evidence.npz", partial / "arrays" / "000003.npz"):
        path.write_bytes(path.read_bytes()[:-50])
    made.clear()
    reconstruct(clip, output=tmp_path / "out", resume=True)
    assert tree(tmp_path / "out") == whole
    assert sorted(made) == [3, *range(7, FRAMES)]


def test_depth_does_not_hang_on_what_the_cache_holds(clip, whole, tmp_path, monkeypatch):
    """Two threads that ask for a view at once may get two objects; here every question gets one of its own."""
    monkeypatch.setattr(dense, "VIEWS_HELD", 0)
    reconstruct(clip, output=tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_photos_go_on_as_well(clip, tmp_path, forbid, made):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, frame in enumerate(open_source(clip, every=2)):
        Image.fromarray(frame.image).save(photos / f"{number}.png")
    reconstruct(photos, output=tmp_path / "whole")
    interrupted(photos, tmp_path / "out", "depth", 2)
    forbid((matches, "match_all"), SOLVING)
    made.clear()
    reconstruct(photos, output=tmp_path / "out", resume=True)
    assert sorted(made) == [3, 4]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_other_inputs_or_another_version_are_refused(clip, tmp_path, monkeypatch):
    lens, masks = tmp_path / "lens.json", tmp_path / "masks"
    lens.write_text('{"intrinsics": [[150.0, 0, 96], [0, 150, 54], [0, 0, 1]]}')
    masks.mkdir()
    shutil.copy(write_mask(masks / "000000.png"), tmp_path / "before.png")
    given = {"cameras": lens, "masks": masks}
    interrupted(clip, tmp_path / "out", "solve", 0, **given)

    def resume():
        reconstruct(clip, output=tmp_path / "out", resume=True, progress=stopping("solve", 0), **given)

    write_mask(masks / "000000.png", dark=20)
    with pytest.raises(UsageError, match="other inputs"):
        resume()
    shutil.copy(tmp_path / "before.png", masks / "000000.png")
    (masks / "000000.png").rename(masks / "000001.png")
    with pytest.raises(UsageError, match="other inputs"):
        resume()
    (masks / "000001.png").rename(masks / "000000.png")
    lens.write_text(lens.read_text().replace("150.0", "151.0"))
    with pytest.raises(UsageError, match="other inputs"):
        resume()
    lens.write_text(lens.read_text().replace("151.0", "150.0"))
    with pytest.raises(KeyboardInterrupt):
        resume()
    monkeypatch.setattr(writer, "version", lambda package: "99")
    with pytest.raises(UsageError, match=r"begun by version .* this is 99"):
        resume()


def write_mask(path, dark=10):
    mask = np.full((144, 256), 255, np.uint8)
    mask[:dark] = 0
    Image.fromarray(mask).save(path)
    return path


COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
from unproject.cli import main
sys.exit(main(["reconstruct", *sys.argv[1:]]))
"""


def command(*arguments):
    return [sys.executable, "-c", COMMAND, *map(str, arguments)]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_process_that_is_stopped_goes_on(clip, whole, tmp_path, sent, code):
    out = tmp_path / "out"
    run = subprocess.Popen(command(clip, "-o", out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out.partial" / "arrays" / "000004.npz").exists():
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.01)
    run.send_signal(sent)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == code
    assert said == ("unproject: interrupted; --resume goes on with what is done\n" if code == 130 else "")
    assert not is_result(out)
    again = subprocess.run(command(clip, "-o", out, "--resume"), capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert tree(out) == whole
