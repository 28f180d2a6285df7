"""Learning works: Flow4R's own losses teach its network two pairs of views by heart."""

import json
import subprocess
import sys

import torch

from unproject.evaluation.pairs import pair_metrics
from unproject.models import checkpoints
from unproject.recipes.smoke import smoke
from unproject.training.recipe import Recipe


def measured(recipe: Recipe, weights) -> dict[str, float]:
    model = checkpoints.load(weights).eval()
    sample = recipe.sources[0].dataset(range(2), recipe.clip.framing(0))
    with torch.no_grad():
        views = sample.views
        return pair_metrics(model(type(views)(images=views.images, times=views.times, pairs=views.pairs)), sample)


def run(folder, *flags: str) -> None:
    """As a user would: in a process of its own, which no shape checks slow down threefold."""
    command = f"train smoke -o {folder} --workers 0 -q".split()
    subprocess.run([sys.executable, "-m", "unproject.cli", *command, *flags], check=True, capture_output=True)


def test_losses_fall_pose_is_found_and_w_leaves_what_moves(tmp_path):
    recipe, weights = smoke(), tmp_path / "run" / "weights.safetensors"
    run(tmp_path / "run", "--steps", "1")
    before = measured(recipe, weights)
    run(tmp_path / "run", "--resume")
    after = measured(recipe, weights)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    totals = [line["losses"]["synthetic/total"] for line in lines if "losses" in line]
    assert totals[-1] < 0 < 3 < totals[0], "the loss is negative where the network is rightly sure"
    assert before["rotation_deg"] > 20 and after["rotation_deg"] < 1
    assert before["pose_auc30"] < 0.2 and after["pose_auc30"] > 0.7
    assert after["depth_relative"] < 0.02 and after["target_relative"] < 0.04
    assert after["weight_on_movers"] < 0.9 * before["weight_on_movers"]
