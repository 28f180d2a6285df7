"""A run that is killed at any moment ends, when it goes on, as one that was not: in the same bits and the same log."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import slow_run, tiny_recipe

from unproject.training import checkpoint, loop
from unproject.training.loop import train
from unproject.training.sampler import Sampler

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8


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


def forked(folder: Path, workers: int) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=slow_run, args=(folder, STEPS, workers))
    process.start()
    return process


def wait_for_lines(folder: Path, count: int) -> None:
    until = time.monotonic() + 60
    while not (folder / "log.jsonl").exists() or len((folder / "log.jsonl").read_bytes().splitlines()) < count:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_killed_run_goes_on_bit_by_bit(whole, tmp_path):
    """A process of its own, killed after the state of step 3 with more lines in the log than that knows."""
    command = f"from tiny_training import slow_run; slow_run({str(tmp_path / 'run')!r}, {STEPS}, 1)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests' / 'support'}"}
    process = subprocess.Popen([sys.executable, "-c", command], env=environment)
    wait_for_lines(tmp_path / "run", 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.read(tmp_path / "run" / "state.pt")["step"] in (3, 6)
    assert go_on(tmp_path / "run").state == "done"
    assert_same_run(tmp_path / "run", whole)


def test_a_run_killed_before_its_first_state_begins_again(whole, tmp_path):
    process = forked(tmp_path / "run", 0)
    wait_for_lines(tmp_path / "run", 1)
    process.kill()
    process.join()
    assert checkpoint.read(tmp_path / "run" / "state.pt")["step"] == 0
    go_on(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_terminated_run_saves_the_step_it_is_at(whole, tmp_path):
    process = forked(tmp_path / "run", 1)
    wait_for_lines(tmp_path / "run", 3)
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGTERM)  # a scheduler's reaches those that make batches as well
    process.terminate()
    process.join()
    assert process.exitcode == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["reason"] == "SIGTERM"
    assert checkpoint.read(tmp_path / "run" / "state.pt")["step"] not in (0, 3)
    go_on(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [1, 5])
def test_a_run_of_some_steps_goes_on_bit_by_bit(whole, tmp_path, step):
    stopped = train(tiny_recipe(STEPS), tmp_path, workers=0, log_every=2, steps=step)
    assert (stopped.state, stopped.reason, stopped.step) == ("stopped", "steps", step)
    assert stopped.validation is not None and stopped.losses
    assert go_on(tmp_path).step == STEPS
    assert_same_run(tmp_path, whole)


def test_a_run_of_which_only_a_part_learns_goes_on_bit_by_bit(tmp_path):
    recipe = replace(tiny_recipe(4), trained=("head", "encoder.blocks.0.mlp"))
    choices = {"workers": 0, "log_every": 2}
    begun = train(recipe, tmp_path / "a", steps=1, **choices)
    first = load_file(begun.weights)
    train(recipe, tmp_path / "a", resume=True, **choices)
    train(recipe, tmp_path / "b", **choices)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    last = load_file(begun.weights)
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert moved and all(name.startswith(("head.", "encoder.blocks.0.mlp.")) for name in moved), moved
    assert log_of(tmp_path / "a")[0]["gradient_norms"].keys() == {"head", "encoder", "whole"}


def test_a_finished_run_stays_as_it_is(whole):
    before = (whole / "log.jsonl").read_bytes()
    again = go_on(whole)
    assert again.state == "done" and again.validation is not None
    assert (whole / "log.jsonl").read_bytes() == before


def test_the_state_is_written_after_the_weights(tmp_path, monkeypatch):
    """A kill between the two leaves a step to do again, and weights in the end."""
    written = []
    for module, name in ((loop.checkpoints, "save"), (checkpoint, "write")):
        whole_write = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, name=name, whole_write=whole_write: (written.append(name), whole_write(*a))
        )
    go_on(tmp_path / "run")
    assert written[-2:] == ["save", "write"]


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
    device = torch.device("cpu")
    np.random.standard_normal()  # the second of a pair of normals waits inside
    before = checkpoint.random_state(device)
    first = random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()
    checkpoint.set_random_state(before, device)
    assert first == (random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist())
