"""A library is labelled to the same bytes by anybody, whoever dies on the way; what cannot be labelled is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_library import WISHES, Chatty, Deadly, Faulty, Flat, Stuck, digests, write_library

from unproject.errors import MemoryLimitError, UnprojectError, UsageError
from unproject.io import disk
from unproject.io.shard_index import read_index, verify
from unproject.labelling import run as run_module
from unproject.labelling.folder import Asked, Library, log_lines
from unproject.labelling.run import label, planned
from unproject.labelling.tries import Tries

COLOURS = ("grey", "red", "grey", "green", "grey")


@pytest.fixture(scope="module")
def library(tmp_path_factory, write_video) -> Path:
    return write_library(tmp_path_factory.mktemp("videos") / "library", write_video, COLOURS)


@pytest.fixture(scope="module")
def labelled(library, tmp_path_factory) -> Path:
    """By this process, one video after the other."""
    folder = tmp_path_factory.mktemp("labels") / "plain"
    label([library], folder, [Flat()], WISHES, workers=0)
    return folder


@pytest.fixture
def two_per_unit(monkeypatch) -> None:
    monkeypatch.setattr(run_module, "videos_per_unit", lambda count: 2)


@pytest.fixture
def deaths(tmp_path, monkeypatch) -> Path:
    """A file with a line for each time that `Deadly` still kills."""
    path = tmp_path / "deaths.txt"
    path.write_text("")
    monkeypatch.setenv("DEATHS", str(path))
    return path


def events(folder: Path, kind: str) -> list[dict]:
    return [line[kind] for line in log_lines(folder) if kind in line]


def rejected(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def test_what_is_in_the_folder(labelled):
    assert not verify(labelled)
    rows = list(read_index(labelled / "index.parquet"))
    assert [row.key for row in rows] == sorted(row.key for row in rows) and {row.shard for row in rows} <= {
        f"{number:06}.tar" for number in range(len(COLOURS))
    }
    assert {row.file for row in rows} == {f"{number}.mp4" for number in range(len(COLOURS))}
    assert (labelled / "videos.txt").read_text().split() == [f"{number}.mp4" for number in range(len(COLOURS))]
    settings = json.loads((labelled / "library.json").read_text())
    assert settings["teachers"][0]["name"] == "Flat" and settings["wishes"]["views"] == 2
    assert not (labelled / "work").exists() and not list(labelled.rglob("*.try"))


def test_two_workers_write_what_one_writes(library, labelled, tmp_path):
    said = []

    def progress(items, stage, total=None):
        assert (stage, total) == ("label", len(COLOURS))
        for item in items:
            said.append(item)
            yield item

    outcome = label([library], tmp_path / "two", [Flat()], WISHES, workers=2, progress=progress)
    assert digests(tmp_path / "two") == digests(labelled)
    assert len(said) == len(COLOURS) and said == sorted(said) and said[-1] == outcome.clips > 0
    assert outcome.frames == 2 * outcome.clips and outcome.videos == len(COLOURS)
    assert outcome.bytes == sum(path.stat().st_size for path in (tmp_path / "two" / "shards").iterdir())
    assert len(events(tmp_path / "two", "ready")) == 2 and len(events(tmp_path / "two", "done")) == len(COLOURS)


def test_what_is_done_is_not_done_again_and_what_is_damaged_is(library, labelled, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(labelled, folder)
    (folder / "units" / "000001.json").unlink()
    with (folder / "shards" / "000002.tar").open("r+b") as shard:
        shard.truncate(1000)
    (folder / "shards" / "000003.tar").unlink()
    (folder / "units" / "000004.json").write_text("{}")
    for left in ("units/000001.tmp.json", "work/elsewhere-1/000001.tmp.tar", "work/elsewhere-2/000002.tar"):
        (folder / left).parent.mkdir(parents=True, exist_ok=True)
        (folder / left).write_text("of the dead")
    label([library], folder, [Flat()], WISHES, workers=0, resume=True)
    assert digests(folder) == digests(labelled)
    assert sorted(unit["unit"] for unit in events(folder, "done")) == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_worker_that_is_killed_loses_its_unit_and_nothing_else(library, labelled, tmp_path, deaths):
    deaths.write_text("once\n")
    folder = tmp_path / "killed"
    outcome = label([library], folder, [Deadly()], WISHES, workers=1)
    (death,) = events(folder, "died")
    assert death == {"unit": 1, "video": 0, "how": "exit code -9"} and not outcome.rejected.get("its worker died")
    alike = {name: digest for name, digest in digests(labelled).items() if name != "library.json"}
    assert {name: digests(folder)[name] for name in alike} == alike


def test_a_video_that_kills_twice_is_given_up_and_the_rest_of_its_unit_is_labelled(
    library, tmp_path, deaths, two_per_unit
):
    deaths.write_text("once\ntwice\nthrice\n")
    folder = tmp_path / "given-up"
    outcome = label([library], folder, [Deadly()], WISHES, workers=1)
    assert [death["video"] for death in events(folder, "died")] == [1, 1]
    gone = {"file": "1.mp4", "where": "", "reason": "its worker died twice on it"}
    assert [line for line in rejected(folder) if line["file"] == "1.mp4"] == [gone]
    assert {row.file for row in read_index(folder / "index.parquet")} == {"0.mp4", "2.mp4", "3.mp4", "4.mp4"}
    assert outcome.rejected["its worker died twice on it"] == 1 and not verify(folder)


def test_a_video_at_which_workers_hang_is_given_up(library, tmp_path, two_per_unit, capfd, monkeypatch):
    """Anything may take seconds on a busy machine, so that more may die than hang; not twice at one video."""
    folder = tmp_path / "stuck"
    monkeypatch.setattr(run_module, "Asked", partial(Asked, patience_s=5.0))
    label([library], folder, [Stuck()], WISHES, workers=1)
    assert [death["how"] for death in events(folder, "died")].count("exit code 1") >= 2
    gone = {"file": "1.mp4", "where": "", "reason": "its worker died twice on it"}
    assert [line for line in rejected(folder) if line["file"] == "1.mp4"] == [gone] and not verify(folder)
    assert {row.file for row in read_index(folder / "index.parquet")} == {"0.mp4", "2.mp4", "3.mp4", "4.mp4"}
    assert "in label" in capfd.readouterr().err, "where it hung"


@pytest.mark.parametrize(
    ("what", "code"),
    [("watch.alive()", 1), ("watch.alive(); watch.end()", 0), ("watch = Watch(); watch.alive()", 0)],
)
def test_a_watch_ends_what_hangs_and_not_what_rests(what, code):
    script = f"from unproject.labelling.patience import Watch; watch = Watch(0.3); {what}; import time; time.sleep(1.5)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == code


def test_what_packages_of_teachers_print_is_no_fact(library, tmp_path, capfd):
    label([library / "0.mp4"], tmp_path / "out", [Chatty()], WISHES, workers=1)
    said = capfd.readouterr()
    assert not said.out and "a progress bar" in said.err


def test_deaths_are_remembered_by_who_goes_on(tmp_path):
    path = tmp_path / "000000.try"
    Tries(path).begin(3)
    assert Tries(path).died() == 3 and Tries(path).died() is None
    for at in (4, 3):
        Tries(path).begin(at)
    assert not Tries(path).given_up(3), "who begins is not dead yet"
    Tries(path).died()
    assert Tries(path).given_up(3) and not Tries(path).given_up(4)
    Tries(path).end()
    assert not path.exists() and not Tries(path).given_up(3)
    for text in ("", "[]", '{"at": 1}', '{"at": 1, "deaths": 3}'):
        path.write_text(text)
        assert not Tries(path).given_up(1)


def test_what_a_teacher_cannot_bear_is_a_line_with_its_words(library, tmp_path, two_per_unit):
    """Red videos make it raise; labels of green ones fit no shard, so their unit is written without them."""
    folder = tmp_path / "faulty"
    label([library], folder, [Faulty()], WISHES, workers=0)
    red, green = (next(line for line in rejected(folder) if line["file"] == name) for name in ("1.mp4", "3.mp4"))
    assert red == {"file": "1.mp4", "where": "", "reason": "RuntimeError: no idea what this is"}
    assert green["where"] == "" and green["reason"].startswith("ValueError: ")
    assert {row.file for row in read_index(folder / "index.parquet")} == {"0.mp4", "2.mp4", "4.mp4"}
    assert not verify(folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_teacher_that_cannot_work_ends_the_run(write_video, tmp_path, workers):
    videos = write_library(tmp_path / "blue", write_video, ("blue", "grey"))
    with pytest.raises(UsageError, match="without its package: pip install it"):
        label([videos], tmp_path / "out", [Faulty()], WISHES, workers=workers)


def test_entries_of_a_list_that_are_no_videos_are_a_line_each(library, tmp_path):
    for name, data in {
        "text.mp4": b"words",
        "empty.mp4": b"",
        "cut.mp4": (library / "0.mp4").read_bytes()[:900],
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    names = [
        "text.mp4",
        "empty.mp4",
        "cut.mp4",
        "folder.mp4",
        "pipe.mp4",
        "gone.mp4",
        "http://127.0.0.1:9/a.mp4",
        "/dev/zero",
    ]
    (tmp_path / "list.txt").write_text("\n".join([*names, str(library / "0.mp4"), "bell\a.mp4"]))
    outcome = label([tmp_path / "list.txt"], tmp_path / "out", [Flat()], WISHES, workers=0)
    lines = {line["file"]: line["reason"] for line in rejected(tmp_path / "out")}
    assert {*names, r"bell\x07.mp4"} <= set(lines) and outcome.clips > 0
    assert all(str(tmp_path) not in reason and "\n" not in reason for reason in lines.values()), lines
    assert lines["pipe.mp4"] == lines["gone.mp4"] == lines["/dev/zero"] == "no such file"
    assert outcome.rejected["no such file"] == 6


def test_no_video_that_gives_a_clip_is_no_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"words")
    outcome = label([tmp_path], tmp_path / "out", [Flat()], WISHES, workers=0)
    assert (outcome.clips, outcome.frames, len(outcome.rejected)) == (0, 0, 1)
    assert not verify(tmp_path / "out") and len(read_index(tmp_path / "out" / "index.parquet")) == 0


def test_a_folder_of_other_settings_is_refused_with_the_difference(library, labelled):
    before = digests(labelled)
    with pytest.raises(UsageError, match=r"not empty.*--resume"):
        label([library], labelled, [Flat()], WISHES)
    wishes = type(WISHES)(**{**vars(WISHES), "views": 3})
    with pytest.raises(UsageError, match=r"other settings: wishes.views \(2, now 3\); give the same"):
        label([library], labelled, [Flat()], wishes, resume=True)
    with pytest.raises(UsageError, match=r"teachers\[0\].name \(Flat, now Deadly\)"):
        label([library], labelled, [Deadly()], WISHES, resume=True)
    with pytest.raises(UsageError, match=r"teachers\[1\] \(None, now {'name': 'Deadly'"):
        label([library], labelled, [Flat(), Deadly()], WISHES, resume=True)
    with pytest.raises(UsageError, match=r"videos \(5, now 1\)"):
        label([library / "0.mp4"], labelled, [Flat()], WISHES, resume=True)
    assert digests(labelled) == before


def test_overwriting_removes_what_labelling_made_and_nothing_else(library, labelled, tmp_path):
    folder = tmp_path / "over"
    shutil.copytree(labelled, folder)
    (folder / "mine.txt").write_text("kept")
    (folder / "shards" / "mine.tar").write_text("kept")
    label([library / "0.mp4"], folder, [Flat()], WISHES, workers=0, overwrite=True)
    kept = {"mine.txt", "shards/mine.tar"}
    assert kept <= set(digests(folder)) and sorted(path.name for path in (folder / "units").iterdir()) == [
        "000000.json"
    ]
    assert len(events(folder, "session")) == 1


@pytest.mark.parametrize("name", ["videos.txt", "index.parquet", "rejected.jsonl", "log.jsonl"])
def test_files_of_others_are_not_written_over(library, tmp_path, name):
    """A list of videos may lie where its labels shall lie; a run of training has a log too."""
    folder = tmp_path / "others"
    folder.mkdir()
    (folder / name).write_text(f"{library / '0.mp4'}\n")
    for how in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match=f"has {name} and no library.json, so it is no folder of labels"):
            label([library], folder, [Flat()], WISHES, workers=0, **how)
        assert (folder / name).read_text() == f"{library / '0.mp4'}\n"
        assert [path.name for path in folder.iterdir()] == [name]


def test_a_death_at_the_door_can_be_gone_on_with(library, labelled, tmp_path):
    folder = tmp_path / "early"
    folder.mkdir()
    shutil.copy(labelled / "library.json", folder)
    label([library], folder, [Flat()], WISHES, workers=0, resume=True)
    assert digests(folder) == digests(labelled)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"teachers": []}, "at least one"),
        ({"workers": -1}, "give 0 or more"),
        ({"workers": 1, "ray": "auto"}, "one of the two"),
        ({"overwrite": True, "resume": True}, "exclude"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(library, tmp_path, wrong, words):
    arguments = {"teachers": [Flat()], **wrong}
    with pytest.raises(UsageError, match=words):
        label([library], tmp_path / "out", arguments.pop("teachers"), WISHES, **arguments)
    assert not (tmp_path / "out").exists()


def test_a_death_while_overwriting_leaves_no_unit_of_other_settings(labelled, tmp_path, monkeypatch):
    folder = tmp_path / "over"
    shutil.copytree(labelled, folder)
    there = []
    unlink = Path.unlink

    def watched(path, missing_ok=False):
        there.append(((folder / "library.json").exists(), len(list(folder.glob("units/*.json")))))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    with Library(folder).held():
        Library(folder).begin([], {}, overwrite=True)
    assert there and all(known or not units for known, units in there)


def test_nobody_else_labels_into_the_folder_meanwhile(library, tmp_path):
    folder = tmp_path / "held"
    with Library(folder).held(), pytest.raises(UsageError, match="another run works in"):
        label([library], folder, [Flat()], WISHES, workers=0, resume=True)
    label([library], folder, [Flat()], WISHES, workers=0, resume=True)


def test_a_full_gpu_is_no_fault_of_a_video(library, tmp_path, monkeypatch):
    def full(teacher, shot):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Flat, "label", full)
    with pytest.raises(MemoryLimitError, match=r"memory of the GPU is full at 0\.mp4: give fewer --workers"):
        label([library], tmp_path / "out", [Flat()], WISHES, workers=0)


def test_a_full_disk_is_no_fault_of_a_video(library, tmp_path, monkeypatch):
    def full(path, clips):
        list(clips)
        raise UnprojectError(f"cannot write {path}: no space left")

    monkeypatch.setattr("unproject.labelling.unit.write_shard", full)
    with pytest.raises(UnprojectError, match="no space left"):
        label([library], tmp_path / "out", [Flat()], WISHES, workers=0)


def test_a_plan_says_what_would_be_done(library, tmp_path):
    (tmp_path / "list.txt").write_text(f"{library / '0.mp4'}\ngone.mp4\n")
    said = planned([tmp_path / "list.txt"], [Flat()])
    assert (said["videos"], said["absent"], said["units"]) == (2, 1, 2)
    assert said["teachers"] == ["Flat: licence Apache-2.0"]


SCRIPT = """
import sys
from tiny_library import WISHES, Flat, Slow
from unproject.labelling.run import label
if __name__ == "__main__":
    label([sys.argv[1]], sys.argv[2], [Slow()], WISHES, workers=2, resume=True)
"""


def begun(library: Path, folder: Path, slowly: str) -> subprocess.Popen:
    """A run in a process of its own; what it says is in a file beside the folder."""
    folder.with_suffix(".py").write_text(SCRIPT)
    paths = [Path(__file__).parents[1] / "support", Path(__file__).parents[2] / "src"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "SLOWLY": slowly}
    command = [sys.executable, str(folder.with_suffix(".py")), str(library), str(folder)]
    with folder.with_suffix(".err").open("w") as words:
        return subprocess.Popen(command, env=environment, stderr=words, start_new_session=True)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 180
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    assert true()


def writers(folder: Path) -> list[int]:
    """Processes that live and write there."""
    found = [int(path.name.rpartition("-")[2]) for path in folder.glob("work/*")]
    return [number for number in found if Path(f"/proc/{number}").exists()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_whoever_runs_it_may_be_killed_and_goes_on(library, labelled, tmp_path, how):
    folder = tmp_path / "run"
    process = begun(library, folder, "0.5")
    wait_until(lambda: len(list(folder.glob("units/*.json"))) > 0)
    workers = writers(folder)
    process.send_signal(how)
    assert process.wait(180) != 0 and workers
    assert how == signal.SIGKILL or "KeyboardInterrupt" in folder.with_suffix(".err").read_text()
    wait_until(lambda: not any(Path(f"/proc/{number}").exists() for number in workers))
    done = {path: path.stat().st_mtime_ns for path in folder.glob("units/*.json")}
    assert 0 < len(done) < len(COLOURS)
    assert begun(library, folder, "0").wait(180) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was done is kept"
    alike = {name: digest for name, digest in digests(labelled).items() if name != "library.json"}
    assert {name: digests(folder)[name] for name in alike} == alike and not events(folder, "died")
    assert disk.read_json(folder / "library.json")["teachers"][0]["name"] == "Slow"
