"""The command that scores a network on WorldTrack sets: its table, and what it says of files that do not fit."""

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import worldtrack
from unproject.evaluation.protocols.worldtrack import network_images, score_folder
from unproject.evaluation.protocols.worldtrack_files import read_sequence, write_sequence
from unproject.evaluation.protocols.worldtrack_synthetic import write_synthetic
from unproject.inference.anchored import track_first
from unproject.models import build, checkpoints
from unproject.models.loading import load

SMALL = {"frames": 3, "height": 36, "width": 64, "every": 4}


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "tiny.safetensors"
    checkpoints.save(build("flow4r", "tiny", head="linear"), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_synthetic(folder, range(4, 6), **SMALL)
    return folder


def rows(text: str) -> dict[str, list[float]]:
    """Numbers of the table's rows by their names; NaN for a dash."""
    found = re.findall(r"^\| (synthetic_\d|mean|mean of a flat wall) \|(.*)\|$", text, re.MULTILINE)
    return {name: [float(cell.replace(" - ", "nan")) for cell in cells.split("|")] for name, cells in found}


def test_a_folder_becomes_a_table(network, folder, capsys):
    assert worldtrack.main([str(folder), "--model", str(network), "--tasks", "reconstruction", "tracking"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1].count("APD [%]") == 3 and "| reconstruction: EPE [m] |" in said.splitlines()[1]
    both = rows(said)
    assert list(both) == ["synthetic_4", "synthetic_5", "mean", "mean of a flat wall"]
    # In one of them nothing moves in three frames: it says so, and takes no part in that mean.
    assert sum(math.isnan(both[name][2]) for name in ("synthetic_4", "synthetic_5")) == 1
    assert both["mean"] == pytest.approx(np.nanmean([both["synthetic_4"], both["synthetic_5"]], axis=0), abs=0.1)
    # A network with random weights has not beaten the wall.
    assert both["mean"][0] < both["mean of a flat wall"][0] < 100
    # The same as the pieces by themselves: images, network, scores.
    model = load(network, "cpu")
    tasks = ("tracking", "reconstruction")
    scores = worldtrack.scores_of(next(score_folder(folder, partial(worldtrack.answer, model, tasks), tasks)))
    expected = [number for one in scores for number in (100 * one.apd, one.epe)]
    assert both["synthetic_4"] == pytest.approx(expected, abs=0.06, nan_ok=True)
    # Only tracks: half of the head's work, and the same answer for them.
    images = network_images(read_sequence(folder / "synthetic_4.npz"))
    half = worldtrack.answer(model, ["tracking"], images)
    assert half.points is None
    torch.testing.assert_close(half.places, track_first(model, images, torch.empty(3, 288, 512, 3)))


def test_rendered_sequences_need_no_folder(network, capsys, monkeypatch):
    monkeypatch.setattr(worldtrack, "write_synthetic", partial(write_synthetic, **SMALL))
    assert worldtrack.main(["--synthetic", "1", "--model", str(network)]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found) == ["synthetic_0", "mean", "mean of a flat wall"] and len(found["mean"]) == 4


@pytest.mark.parametrize(("lacks", "task"), [("tracks", "tracking"), ("depth", "reconstruction")])
def test_a_set_without_the_truth_of_a_task_is_told_by_its_file(network, folder, tmp_path, capsys, lacks, task):
    whole = read_sequence(folder / "synthetic_4.npz")
    write_sequence(tmp_path / "scene_7.npz", replace(whole, **{lacks: None}))
    assert worldtrack.main([str(tmp_path), "--model", str(network), "--tasks", task]) == 3
    said = capsys.readouterr().err
    assert str(tmp_path / "scene_7.npz") in said and f"no {task} to score" in said and said.count("\n") == 1


def test_what_is_neither_a_folder_nor_rendered(network, tmp_path, capsys):
    for wish in ([], [str(tmp_path), "--synthetic", "2"]):
        with pytest.raises(SystemExit) as caught:
            worldtrack.main(wish)
        assert caught.value.code == 2
    assert worldtrack.main([str(tmp_path), "--model", str(network)]) == 3
    assert "no .npz files" in capsys.readouterr().err
