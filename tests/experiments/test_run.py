"""Experiments: stages that rows share are trained once, several at a time, and a run that is stopped goes on."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from tiny_training import tiny_recipe

from unproject.errors import UnprojectError, UsageError
from unproject.experiments import EXPERIMENTS, named, report
from unproject.experiments import run as run_module
from unproject.experiments.experiment import Experiment, Stage
from unproject.experiments.run import planned, run
from unproject.io import disk
from unproject.training.loop import train
from unproject.training.stop import Stop

COLUMNS = {"error": "error [m]"}


def rows(steps: int, *names: str):
    """Two stages each; the first is the same for all, the last differs in its rate."""

    def made(number: int, seed: int):
        first = replace(tiny_recipe(steps), seed=seed, name="first")
        rate = 1e-3 * (number + 1)
        return first, replace(first, name="last", schedule=replace(first.schedule, learning_rate=rate))

    return {name: partial(made, number) for number, name in enumerate(names)}


def experiment(steps: int = 2, *names: str) -> Experiment:
    return Experiment(name="tiny", title="tiny", rows=rows(steps, *(names or ("slow", "fast"))), columns=COLUMNS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """An experiment from nothing to its table, after a first run that had no time."""
    folder = tmp_path_factory.mktemp("experiment") / "tiny"
    stopped = run(experiment(), folder, seeds=1, time_limit_s=0.0)
    assert (stopped.state, stopped.reason, stopped.results) == ("stopped", "time limit", {})
    heard = []

    def progress(items, stage, total=None):
        heard.append((stage, total))
        yield from items

    done = run(experiment(), folder, seeds=1, jobs=2, resume=True, progress=progress)
    assert (done.state, done.reason) == ("done", "") and heard == [("train", 3)]
    return folder


def test_a_row_is_its_stages_one_after_the_other(trained, tmp_path):
    """Against the obvious: the same recipes by hand."""
    results = json.loads((trained / "tiny.json").read_text())["results"]
    for name, made in rows(2, "slow", "fast").items():
        first, last = made(0)
        start = train(first, tmp_path / name / "first", workers=0).weights
        measured = train(last, tmp_path / name / "last", start=start, workers=0).validation
        (said,) = results[name]
        assert said.pop("seconds") > 0
        assert said == pytest.approx(measured, rel=1e-4)
    assert results["slow"] != results["fast"]


def test_what_rows_share_is_trained_once_and_nothing_is_trained_again(trained):
    places = sorted((trained / "stages").iterdir())
    assert [place.name.split("-")[0] for place in places] == ["first", "last", "last"]
    before = {place: (place / "weights.safetensors").stat().st_mtime_ns for place in places}
    again = run(experiment(), trained, seeds=1, resume=True)
    assert set(again.results) == {"slow", "fast"}
    assert {place: (place / "weights.safetensors").stat().st_mtime_ns for place in places} == before


def test_the_table_and_the_plot_are_beside_the_runs(trained):
    table = (trained / "tiny.md").read_text()
    measured = json.loads((trained / "tiny.json").read_text())["results"]["slow"][0]["error"]
    assert table.splitlines()[0] == "|  | error [m] | minutes |" and f"| slow | {measured:.3f} |" in table
    assert (trained / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_with_something_in_it_is_refused(trained):
    with pytest.raises(UsageError, match=r"not empty.*--resume.*--overwrite"):
        run(experiment(), trained, seeds=1)
    for wrong in ({"seeds": 0}, {"jobs": 0}, {"time_limit_s": -1.0}):
        with pytest.raises(UsageError, match=r"give [01] or more"):
            run(experiment(), trained, resume=True, **wrong)


@pytest.mark.skipif(disk.fcntl is None, reason="no locks on this system")
def test_two_runs_in_one_folder_are_kept_apart(trained):
    with disk.alone(trained), pytest.raises(UsageError, match=f"another run works in {trained}"):
        run(experiment(), trained, seeds=1, resume=True)
    stage = next((trained / "stages").glob("first*"))
    with disk.alone(stage), pytest.raises(UsageError, match=f"another run works in {stage}"):
        train(rows(2, "slow")["slow"](0)[0], stage, resume=True)


def test_stages_of_another_version_are_named(trained, tmp_path, capsys):
    def made() -> dict[str, int]:
        return json.loads((folder / "tiny.json").read_text())["stages_by_version"]

    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    run(experiment(), folder, seeds=1, resume=True)
    assert made() == {version("unproject"): 3} and "another version" not in capsys.readouterr().err
    path = next((folder / "stages").glob("first*")) / "run.json"
    path.write_text(path.read_text().replace(f'"unproject": "{version("unproject")}"', '"unproject": "0.0.9"'))
    run(experiment(), folder, seeds=1, resume=True)
    assert made() == {"0.0.9": 1, version("unproject"): 2}
    assert "another version trained are kept (1 by 0.0.9)" in capsys.readouterr().err


def test_a_stage_with_a_lambda_has_no_name():
    first, last = rows(2, "slow")["slow"](0)
    nameless = replace(first, validation=replace(first.validation, measure=lambda prediction, sample: {}))
    with pytest.raises(UsageError, match=r"'first' holds a lambda.*give a function"):
        Stage(nameless, None).place  # noqa: B018
    with pytest.raises(UsageError, match="'last' holds a lambda"):
        Stage(replace(nameless, name="last"), Stage(last, None)).place  # noqa: B018


def test_a_stage_that_fails_ends_the_experiment_with_its_name(tmp_path):
    """Without its labels the loss cannot be computed; the stages that need it never begin."""
    (first, last) = rows(2, "slow")["slow"](0)
    broken = replace(first, trained=("no_such_part",))
    failing = Experiment(name="tiny", title="tiny", rows={"slow": lambda seed: (broken, last)}, columns=COLUMNS)
    with pytest.raises(UnprojectError, match=r"stages/first-0-\w+ failed: UsageError: .*no_such_part"):
        run(failing, tmp_path / "out", seeds=1)
    assert not list((tmp_path / "out" / "stages").glob("last*"))


def slowly(prediction, sample) -> dict[str, float]:
    """A measure during which the experiment is stopped."""
    if len(prediction.points) > 1:  # one clip is tried before the first step
        Path(os.environ["MEASURING"]).touch()
        time.sleep(3)
    return {"error": 1.0}


class StoppedWhileMeasuring(Stop):
    def why(self, step: int) -> str | None:
        return "time limit" if Path(os.environ["MEASURING"]).exists() else None


def test_a_stop_while_the_last_step_is_measured_ends_too(tmp_path, monkeypatch):
    """The stage ends as done, having heard the signal, and its process must not wait for another stage."""

    def made(seed: int):
        recipe = replace(tiny_recipe(1), seed=seed)
        return (replace(recipe, validation=replace(recipe.validation, measure=slowly, every=1)),)

    monkeypatch.setenv("MEASURING", str(tmp_path / "measuring"))
    monkeypatch.setattr(run_module, "Stop", StoppedWhileMeasuring)
    slow = Experiment(name="tiny", title="tiny", rows={"slow": made}, columns=COLUMNS)
    heard = []
    thread = threading.Thread(target=lambda: heard.append(run(slow, tmp_path / "out", seeds=1)), daemon=True)
    thread.start()
    thread.join(timeout=60)
    left = multiprocessing.active_children()
    for child in left:
        child.kill()
    assert not left and heard[0].reason == "time limit" and len(heard[0].results["slow"]) == 1


def test_what_is_made_again_and_stopped_tells_nothing_of_what_was(tmp_path):
    folder = tmp_path / "out"
    one = Experiment(name="tiny", title="tiny", rows=rows(1, "slow"), columns=COLUMNS)
    assert set(run(one, folder, seeds=1).results) == {"slow"}
    stopped = run(one, folder, seeds=1, overwrite=True, time_limit_s=0.0)
    assert stopped.results == {} and not list((folder / "stages").glob("*/weights.safetensors"))
    assert json.loads((folder / "tiny.json").read_text())["results"] == {}


SCRIPT = """
import sys
from test_run import experiment
from unproject.experiments.run import run
if __name__ == "__main__":
    print(run(experiment(100_000), sys.argv[1], seeds=1, jobs=1).reason)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_stops_the_stages_too_and_their_states_are_kept(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = [Path(__file__).parent, Path(__file__).parents[1] / "support", Path(__file__).parents[2] / "src"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, str(script), str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not list((tmp_path / "out").glob("stages/*/log.jsonl")) and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=60)
    assert said.strip() == "SIGINT"
    (stage,) = (tmp_path / "out" / "stages").iterdir()
    ended = json.loads((stage / "run.json").read_text())
    assert ended["state"] == "stopped" and ended["step"] > 0


SHARED = ": beginning", ": head", ": all", ": warm-up"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_rows_differ_and_share_what_they_can(name):
    chosen = named(name, steps=8)
    lasts = [last for of_seeds in chosen.stages(2).values() for last in of_seeds]
    assert len(set(lasts)) == len(lasts) == 2 * len(chosen.rows)
    stages = chosen.distinct(2)
    assert len({stage.place for stage in stages}) == len(stages), "a folder has one recipe"
    assert all(stage.after is None or stages.index(stage.after) < at for at, stage in enumerate(stages))
    kinds = [sum(kind in stage.recipe.name for stage in stages) for kind in SHARED]
    # A beginning once per seed; a head once per design and seed, whatever teaches it later; one synthetic start.
    assert (
        kinds
        == {
            "flow3r-designs": [2, 4, 14, 0],
            "flow3r-scaling": [2, 2, 18, 0],
            "flow4r-motion": [0, 0, 0, 0],
            "reliev3r-losses": [0, 0, 0, 0],
            "reliev3r-rays": [0, 0, 0, 2],
            "reliev3r-guesses": [0, 0, 0, 2],
        }[name]
    )
    assert planned(chosen, 2)["rows"] == list(chosen.rows)
    assert all(stage.recipe.validation is not None for stage in lasts)


def test_an_unknown_name_lists_all():
    with pytest.raises(UsageError, match="flow3r-designs, flow3r-scaling, flow4r-motion"):
        named("table-1")
    with pytest.raises(UsageError, match="steps is 0"):
        named("flow4r-motion", steps=0)


def test_a_table_has_mean_and_deviation_and_a_dash_for_what_nobody_measured(tmp_path, monkeypatch):
    results = {"none": [{"rta30": 0.2, "seconds": 60.0}, {"rta30": 0.4, "seconds": 120.0}]}
    columns = {"rta30": "RTA@30", "flow_px": "flow"}
    assert "| none | 0.300 ± 0.141 | - | 2 |" in report.table(results, columns)
    results["none"].append({"rta30": None, "seconds": 90.0})
    assert "| none | 0.300 ± 0.141 | - | 2 |" in report.table(results, columns)
    assert report.plot(results, columns, "tiny", tmp_path / "with.png")
    (tmp_path / "with.png").unlink()
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    assert not report.plot(results, columns, "tiny", tmp_path / "plot.png") and not list(tmp_path.iterdir())
