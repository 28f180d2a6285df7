"""`unproject label` from the outside: what it prints, what it leaves, and the code it leaves with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_library import digests, write_library

from unproject import cli
from unproject.labelling import run

FLAGS = ["--teacher", "tracks", "--views", "2", "--long-side", "96"]


@pytest.fixture(scope="module")
def library(tmp_path_factory, write_video) -> Path:
    return write_library(tmp_path_factory.mktemp("videos") / "library", write_video, ["grey", "grey"])


@pytest.fixture(scope="module")
def labels(library, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "out"
    assert cli.main(["label", str(library), "-o", str(folder), *FLAGS, "--workers", "0"]) == 0
    return folder


def test_facts_are_printed_and_a_second_run_has_nothing_to_do(library, labels, capsys):
    arguments = ["label", str(library), "-o", str(labels), *FLAGS]
    assert cli.main([*arguments, "--workers", "0", "--resume", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["videos"], facts["videos_per_s"]) == (2, 0.0) and facts["clips"] > 0 and facts["bytes"] > 10_000
    assert cli.main([*arguments, "--workers", "0", "--resume"]) == 0
    said = capsys.readouterr().out
    assert f"clips         {facts['clips']}\n" in said and said.startswith("output ")
    assert cli.main(arguments) == 2 and "--resume" in capsys.readouterr().err


def test_a_folder_of_labels_is_validated(labels, tmp_path, capsys):
    import shutil

    assert cli.main(["validate", str(labels)]) == 0
    assert "passed  True" in capsys.readouterr().out
    shutil.copytree(labels, tmp_path / "labels")
    with (tmp_path / "labels" / "shards" / "000001.tar").open("r+b") as shard:
        shard.seek(700)
        shard.write(b"!")
    assert cli.main(["validate", str(tmp_path / "labels"), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert not said["passed"] and "000001" in said["wrong"][0]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(library, tmp_path, capsys):
    assert cli.main(["label", str(library), "--dry-run", "--teacher", "flow,tracks", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "videos           2" in said and "DisTeacher: licence Apache-2.0" in said
    assert not (tmp_path / "out").exists()


def test_nothing_that_could_be_labelled_leaves_with_6_and_says_why(tmp_path, capsys):
    (tmp_path / "words.mp4").write_text("words")
    arguments = ["label", str(tmp_path / "words.mp4"), "-o", str(tmp_path / "out"), *FLAGS, "--workers", "0"]
    assert cli.main(arguments) == 6
    assert "1 cannot be read as video" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give the folder of the labels with -o"),
        (["-o", "OUT", "--teacher", "oracle"], 2, "oracle"),
        (["-o", "OUT", "--views", "1"], 2, "views"),
        (["-o", "OUT", "--workers", "-1"], 2, "workers is -1"),
        (["-o", "OUT", "--plan", "--nodes", "0"], 3, "no log"),
    ],
)
def test_what_cannot_be_done_is_one_line(library, tmp_path, capsys, arguments, code, words):
    given = [] if "--plan" in arguments else [str(library)]
    filled = [str(tmp_path / "out") if part == "OUT" else part for part in arguments]
    assert cli.main(["label", *given, *filled]) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_without_pyarrow_nothing_is_begun_so_that_the_same_command_runs_once_it_is_there(
    library, tmp_path, capsys, monkeypatch
):
    arguments = ["label", str(library / "0.mp4"), "-o", str(tmp_path / "out"), *FLAGS, "--workers", "0"]
    with monkeypatch.context() as plain:
        for module in ("pyarrow", "pyarrow.parquet"):
            plain.setitem(sys.modules, module, None)
        assert cli.main(arguments) == 2
    assert 'pip install "unproject[labels]"' in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert cli.main(arguments) == 0


def test_stdout_holds_the_facts_alone_whatever_a_cluster_says(library, tmp_path, capsys, monkeypatch):
    honest = run.label

    def noisy(*given, **named):
        print("(raylet) A worker died or was killed while executing a task")
        return honest(*given, **named)

    monkeypatch.setattr(run, "label", noisy)
    arguments = ["label", str(library / "0.mp4"), "-o", str(tmp_path / "out"), *FLAGS, "--workers", "0", "--json"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["videos"] == 1 and "(raylet)" in said.err


def test_a_plan_is_made_from_the_log(labels, capsys):
    before = digests(labels)
    plan = ["label", "--plan", "-o", str(labels), "--nodes", "100", "--cores", "32", "--price", "0.02"]
    assert cli.main(plan) == 0
    said = capsys.readouterr().out
    assert "videos measured  2" in said and "| 100,000,000 | 2,000,000 | 1.000 |" in said
    shown = dict(re.findall(r"^(.* (?:s|per video))  +(\S+)$", said, re.MULTILINE))
    assert cli.main([*plan, "--lost", "0.2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"video s", "unit s", "start s", "clips per video"} < set(shown)
    for name, value in shown.items():
        assert len(value.replace(".", "").strip("0")) <= 4, "digits that nobody measured"
        assert float(value) == pytest.approx(facts[name.replace(" ", "_")], rel=1e-3)
    assert [one["tries"] for one in facts["forecasts"]] == [1.25] * 3
    assert facts["forecasts"][0]["cost"] == pytest.approx(0.02 * facts["forecasts"][0]["core_hours"])
    assert digests(labels) == before


def test_a_plan_is_made_from_some_videos(library, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["label", str(library), "--plan", *FLAGS]) == 0
    assert "videos measured  2" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_no_plan_is_made_of_videos_that_give_no_clip(tmp_path, capsys):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text("words")
    for arguments in ([str(tmp_path), "--plan"], [str(tmp_path), "-o", str(tmp_path / "out")]):
        code = cli.main(["label", *arguments, *FLAGS, "--workers", "0"])
        assert code == (3 if "--plan" in arguments else 6)
    assert cli.main(["label", "--plan", "-o", str(tmp_path / "out")]) == 3
    said = capsys.readouterr()
    told = "none of the 2 videos that were measured gave a clip (2 cannot be read as video): give others"
    assert said.err.count(told) == 2 and "|" not in said.out


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_leaves_with_130_and_can_be_gone_on_with(library, tmp_path, capsys):
    arguments = ["label", str(library), "-o", str(tmp_path / "out"), *FLAGS]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    command = [sys.executable, "-m", "unproject.cli", *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 180
        while not (tmp_path / "out" / "library.json").exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "unproject: interrupted; --resume goes on with what is done\n"
    assert cli.main([*arguments, "--workers", "0", "--resume"]) == 0
    assert cli.main(["validate", str(tmp_path / "out")]) == 0
