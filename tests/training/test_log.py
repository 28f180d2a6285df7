"""What a run says of itself beside its log: curves for TensorBoard, and a line on a terminal."""

import ast
import json
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from tiny_training import tiny_recipe

from unproject.training.loop import train


class Writer:
    """Stands for `torch.utils.tensorboard.SummaryWriter`, which cannot be imported without TensorBoard."""

    made: ClassVar[list["Writer"]] = []

    def __init__(self, log_dir=None, comment="", purge_step=None, max_queue=10, flush_secs=120, filename_suffix=""):
        self.log_dir, self.purge_step = log_dir, purge_step
        self.scalars, self.closed = [], False
        self.made.append(self)

    def add_scalar(
        self, tag, scalar_value, global_step=None, walltime=None, new_style=False, double_precision=False
    ) -> None:
        assert not self.closed
        self.scalars.append((tag, global_step, scalar_value))

    def close(self) -> None:
        self.closed = True


def takes(tree: ast.AST) -> dict[str, list[str]]:
    """Names of what the methods of a writer take, in order."""
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "add_scalar", "close")
    }


def class_in(path: Path, name: str) -> ast.AST:
    nodes = ast.walk(ast.parse(path.read_text()))
    return next(node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name)


@pytest.fixture
def writers(monkeypatch) -> list[Writer]:
    """Those that are made, as if TensorBoard were installed."""
    there, its_writer = ModuleType("tensorboard"), ModuleType("torch.utils.tensorboard")
    there.__spec__ = ModuleSpec("tensorboard", None)
    its_writer.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, there.__name__, there)
    monkeypatch.setitem(sys.modules, its_writer.__name__, its_writer)
    monkeypatch.setattr(Writer, "made", [])
    return Writer.made


def test_the_writer_of_these_tests_takes_what_torchs_takes():
    theirs = Path(torch.__file__).parent / "utils" / "tensorboard" / "writer.py"
    assert takes(class_in(Path(__file__), "Writer")) == takes(class_in(theirs, "SummaryWriter"))


def numbers(line: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}/")
        elif name != "step":
            yield f"{prefix}{name}", value


def test_curves_are_the_numbers_of_the_log(writers, tmp_path):
    train(tiny_recipe(4), tmp_path, workers=0, log_every=2, steps=2)
    kept = (tmp_path / "log.jsonl").read_text().splitlines()
    train(tiny_recipe(4), tmp_path, workers=0, log_every=2, resume=True)
    first, second = writers
    assert first.closed and second.closed
    assert {writer.log_dir for writer in writers} == {str(tmp_path / "tensorboard")}
    # What a run that goes on says again is dropped by whoever reads the curves: steps from there on.
    assert (first.purge_step, second.purge_step) == (1, 3)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert second.scalars == [
        (name, line["step"], value) for line in lines if line["step"] > 2 for name, value in numbers(line)
    ]
    assert first.scalars == [
        (name, line["step"], value) for line in map(json.loads, kept) for name, value in numbers(line)
    ]
    names = {name for name, _, _ in second.scalars}
    assert {"losses/still/total", "gradient_norms/whole", "learning_rate", "validation/error"} <= names
    assert {step for name, step, _ in second.scalars if name == "validation/error"} == {3, 4}


def test_without_tensorboard_there_are_no_curves(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    train(tiny_recipe(1), tmp_path, workers=0)
    assert (tmp_path / "log.jsonl").is_file() and not (tmp_path / "tensorboard").exists()


def test_a_live_line_says_where_a_run_stands(tmp_path, capsys):
    train(tiny_recipe(4), tmp_path, workers=0, steps=3, live=True)
    said = capsys.readouterr()
    begun = said.err.replace("\r", "\n").splitlines()
    assert "train:" in begun[-1] and "3/4" in begun[-1] and "loss=" in begun[-1] and not said.out
    train(tiny_recipe(4), tmp_path, workers=0, resume=True, live=True)
    went_on = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line]
    assert "3/4" in went_on[0] and "4/4" in went_on[-1]
    train(tiny_recipe(1), tmp_path / "quiet", workers=0)
    assert not capsys.readouterr().err
