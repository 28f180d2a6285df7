"""A run that is killed at any moment ends, when it goes on, as one that was not: in the same bits and the same log."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny_recipe

from unproject.training import checkpoint, loop
from unproject.training.loop import train
from unproject.training.sampler import Sampler

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
from tiny_training import tiny_recipe
from unproject.training import optimiser
from unproject.training.loop import train
rate = optimiser.learning_rate
def slowly(schedule, step):
    time.sleep(0.05)
    return rate(schedule, step)
optimiser.learning_rate = slowly
train(tiny_recipe(int(sys.argv[2])), sys.argv[1], save_every=3, log_every=2, workers=int(sys.argv[3]))
"""


def log_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def assert_same_run(first: Path, second: Path) -> None:
    ours, theirs = load_file(first / "weights.safetensors"), load_file(second / "weights.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in {*ours, *theirs})
    assert log_of(first) == log_of(second)
    states = [checkpoint.read(folder / "state.pt") for folder in (first, second)]
    for part in ("model", "average"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_recipe(STEPS), folder, workers=0, log_every=2)
    return folder


def go_on(folder: Path, **choices) -> loop.TrainResult:
    return train(tiny_recipe(STEPS), folder, workers=0, log_every=2, resume=True, **choices)


def started(folder: Path, workers: int = 0) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests' / 'support'}"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(STEPS), str(workers)], env=environment)


def wait_for_lines(folder: Path, count: int) -> None:
    until = time.monotonic() + 60
    while not (folder / "log.jsonl").exists() or len((folder / "log.jsonl").read_bytes().splitlines()) < count:
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize(("lines", "workers"), [(1, 0), (4, 1)])
def test_a_killed_run_goes_on_bit_by_bit(whole, tmp_path, lines, workers):
    """Killed before its first state but that of step 0, and after the state of step 3 with more lines than it knows."""
    process = started(tmp_path / "run", workers)
    wait_for_lines(tmp_path / "run", lines)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.read(tmp_path / "run" / "state.pt")["step"] < STEPS
    assert go_on(tmp_path / "run").state == "done"
    assert_same_run(tmp_path / "run", whole)


def test_a_terminated_run_saves_the_step_it_is_at(whole, tmp_path):
    process = started(tmp_path / "run", 1)
    wait_for_lines(tmp_path / "run", 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["reason"] == "SIGTERM"
    assert checkpoint.read(tmp_path / "run" / "state.pt")["step"] not in (0, 3, 6)
    go_on(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_a_run_of_some_steps_goes_on_bit_by_bit(whole, tmp_path, step):
    stopped = train(tiny_recipe(STEPS), tmp_path, workers=0, log_every=2, steps=step)
    assert (stopped.state, stopped.reason, stopped.step) == ("stopped", "steps", step)
    assert stopped.validation is not None and stopped.losses
    assert go_on(tmp_path).step == STEPS
    assert_same_run(tmp_path, whole)


def test_a_finished_run_stays_as_it_is(whole):
    before = (whole / "log.jsonl").read_bytes()
    again = go_on(whole)
    assert again.state == "done" and again.validation is not None
    assert (whole / "log.jsonl").read_bytes() == before


def forget_the_position(monkeypatch):
    monkeypatch.setattr(loop, "Sampler", lambda recipe, position: Sampler(recipe, 0))


def forget_the_average(monkeypatch):
    restore = checkpoint.restore

    def forgetful(state, kept, device):
        restore(state, {**kept, "average": kept["model"]}, device)

    monkeypatch.setattr(checkpoint, "restore", forgetful)


def forget_the_optimiser(monkeypatch):
    restore = checkpoint.restore

    def forgetful(state, kept, device):
        fresh = {**kept["optimiser"], "state": {}}
        restore(state, {**kept, "optimiser": fresh}, device)

    monkeypatch.setattr(checkpoint, "restore", forgetful)


def forget_to_cut_the_log(monkeypatch):
    log = loop.Log

    def forgetful(folder, keep_bytes, *rest):
        return log(folder, (folder / "log.jsonl").stat().st_size if keep_bytes else 0, *rest)

    monkeypatch.setattr(loop, "Log", forgetful)


@pytest.mark.parametrize(
    "fault", [forget_the_position, forget_the_average, forget_the_optimiser, forget_to_cut_the_log]
)
def test_a_planted_fault_is_seen(whole, tmp_path, fault, monkeypatch):
    train(tiny_recipe(STEPS), tmp_path, workers=0, log_every=2, steps=5)
    fault(monkeypatch)
    go_on(tmp_path)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path, whole)


def test_random_numbers_of_all_kinds_go_on():
    import random

    import numpy as np

    device = torch.device("cpu")
    np.random.standard_normal()  # the second of a pair of normals waits inside
    before = checkpoint.random_state(device)
    first = random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()
    checkpoint.set_random_state(before, device)
    assert first == (random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist())
