"""Flow4R's recipes against the numbers of its paper (tables 4 and 5)."""

import pytest
import torch
from tiny_training import TinyPairs

from unproject.errors import UsageError
from unproject.losses.motion import MotionLoss
from unproject.models.build import from_config
from unproject.recipes import RECIPES, named
from unproject.recipes.flow4r import stage_one, stage_two
from unproject.training.door import check_numbers
from unproject.training.optimiser import learning_rate
from unproject.training.recipe import Source

SOURCES = (Source(name="tiny", dataset=TinyPairs(), losses=(MotionLoss(),)),)


@pytest.mark.parametrize(
    ("stage", "steps", "batch", "warmup", "epochs", "pairs"),
    [(stage_one, 352_000, 256, 10, 100, 900_000), (stage_two, 131_000, 64, 20, 100, 84_000)],
)
def test_the_schedule_is_that_of_the_paper(stage, steps, batch, warmup, epochs, pairs):
    schedule = stage(SOURCES).schedule
    assert schedule.steps == pytest.approx(steps, rel=2e-3) and schedule.batch == batch
    assert abs(schedule.steps * batch - epochs * pairs) < batch
    assert abs(schedule.warmup_steps * batch - warmup * pairs) < batch
    assert (schedule.learning_rate, schedule.last_learning_rate, schedule.clip_norm) == (1e-4, 1e-6, 10)
    assert (schedule.betas, schedule.weight_decay) == ((0.9, 0.95), 0.05)
    assert not schedule.clip_parts and schedule.ema_decay is None
    assert learning_rate(schedule, schedule.warmup_steps) == pytest.approx(1e-4)
    assert learning_rate(schedule, schedule.steps - 1) == pytest.approx(1e-6)


def test_sizes_and_heads_are_those_of_the_paper():
    one, two = stage_one(SOURCES), stage_two(SOURCES)
    assert one.clip.sizes == ((224, 224),)
    aspects = {(512, short) for short in (384, 336, 288, 256, 160)}
    assert set(two.clip.sizes) == aspects | {(short, long) for long, short in aspects}
    assert all(side % 16 == 0 for size in two.clip.sizes for side in size)
    with torch.device("meta"):
        counts = [sum(p.numel() for p in from_config(recipe.model).parameters()) for recipe in (one, two)]
    assert counts == [418_902_272, 436_349_384]


def test_both_stages_show_both_directions_and_no_intrinsics():
    for stage in (stage_one, stage_two):
        recipe = stage(SOURCES, passes=4)
        check_numbers(recipe)
        assert recipe.clip.pairs == ((0, 1), (1, 0)) and not recipe.clip.intrinsics
        assert recipe.sources == SOURCES and recipe.schedule.passes == 4


def test_the_losses_weigh_as_in_the_paper():
    loss = MotionLoss()
    weights = (loss.points, loss.scene_flow, loss.optical_flow, loss.pose_weight, loss.camera_flow)
    assert weights == (1, 0.5, 0.3, 0.5, 0.5) and loss.sureness == 0.2


def test_a_name_that_is_none_lists_those_that_are(monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", lambda: stage_one(SOURCES))
    assert named("tiny").name == "flow4r-stage-one"
    with pytest.raises(UsageError, match=r"'tinny'.*tiny"):
        named("tinny")
