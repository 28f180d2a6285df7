"""Reliev3R's stages: what each sees and learns from, and that small ones learn."""

import json
from dataclasses import replace

import pytest
import torch
from labelled import labelled_clip, write_library

from unproject.data.base import Chosen
from unproject.data.clips import SyntheticClips
from unproject.data.labels import LabelShards
from unproject.data.weak import Weakened
from unproject.data.zoomed import Zoomed
from unproject.errors import UsageError
from unproject.io.shards import LabelledClip
from unproject.losses.weak import WeakLoss
from unproject.models.multiview import SIZES, MultiViewShape
from unproject.nn.vit import VitShape
from unproject.recipes import named
from unproject.recipes import weak_designs as small_ones
from unproject.recipes.flow3r import unlabelled
from unproject.recipes.reliev3r import finetuned, labelled_source, supervised, warm_up, weak, weak_source
from unproject.recipes.weak_designs import HELD_OUT, SUPERVISED, SYNTHETIC, VIDEOS, WEAK, weak_designs
from unproject.training.door import check_numbers
from unproject.training.log import last_measured
from unproject.training.loop import train
from unproject.training.recipe import Recipe

ROOMS = Chosen(dataset=SyntheticClips(seed=5, moving=False, augmentation=None), numbers=tuple(range(4)))
RAW = Weakened(dataset=ROOMS, tracks=128)
SHAPE = MultiViewShape(
    encoder=VitShape(dim=32, depth=1, heads=2, grid=3), depth=2, task_depth=1, layer_scale=1.0, registers=2
)


def small(recipe: Recipe, steps: int) -> Recipe:
    return replace(
        recipe,
        model=replace(recipe.model, shape=SHAPE, task_width=None),
        clip=replace(recipe.clip, sizes=((42, 56),), views=3),
        schedule=replace(
            recipe.schedule, steps=steps, batch=4, passes=1, warmup_steps=2, learning_rate=3e-3, last_learning_rate=1e-4
        ),
    )


def without(clips: list[LabelledClip], label: str) -> list[LabelledClip]:
    return [replace(clip, labels=replace(clip.labels, **{label: None})) for clip in clips]


def losses(folder) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


def test_the_papers_numbers():
    raw = (weak_source("video", RAW),)
    stages = [weak(raw), supervised((labelled_source("rooms", ROOMS),)), warm_up((labelled_source("rooms", ROOMS),))]
    stages.append(finetuned(raw))
    for recipe in stages:
        check_numbers(recipe)
        assert (
            recipe.clip.views == 8 and recipe.schedule.learning_rate == 1e-4 and recipe.model.shape.encoder.dim == 768
        )
    assert [recipe.schedule.steps for recipe in stages] == [60_000, 30_000, 20_000, 20_000]
    assert [recipe.model.rays for recipe in stages] == ["given", "given", "found", "found"]
    assert [recipe.clip.intrinsics for recipe in stages] == [True, True, False, False]
    (loss,) = stages[0].sources[0].losses
    assert (loss.depth, loss.registration, loss.ambiguity, loss.view_angle) == (1.0, 0.5, 1.0, 0.0)
    assert stages[3].sources[0].losses[0] == replace(loss, view_angle=1.0, registers_rays=False)
    assert weak(raw, rays="found").sources[0].losses == (loss,)  # no field of view is told: tracks find it


def test_a_finetuned_network_learns_from_weak_sources_alone():
    with pytest.raises(TypeError, match="FlowLoss"):
        finetuned((unlabelled("video", RAW),))


@pytest.mark.parametrize("rays", ["given", "hinted", "found"])
def test_weak_training_lowers_every_loss(tmp_path, rays):
    recipe = small(weak((weak_source("video", RAW, WeakLoss(least_shared=8)),), rays=rays), 30)
    train(recipe, tmp_path / "run", workers=0, log_every=1)
    lines = losses(tmp_path / "run")
    for name in ("video/WeakLoss.depth", "video/WeakLoss.registration"):
        first, last = (sum(line[name] for line in some) / 5 for some in (lines[:5], lines[-5:]))
        assert last < first - 0.1 * abs(first), name


@pytest.mark.slow
def test_weak_training_is_ahead_of_none_and_of_depth_alone_on_clips_it_has_not_seen(tmp_path):
    """Ten minutes: poses come late, after 300 steps there are none. `docs/ablations.md` has three seeds."""

    def measured(name: str, loss: WeakLoss, **choices: int) -> dict[str, float | None]:
        (recipe,) = weak_designs((loss,), **choices)
        train(recipe, tmp_path / name, workers=0)
        return last_measured(tmp_path / name)

    weakly, depth_alone = measured("weak", WEAK), measured("depth", replace(WEAK, registration=0.0))
    untrained = measured("none", WEAK, steps=1)
    for other in (untrained, depth_alone):
        assert weakly["ate"] < 0.8 * other["ate"] and weakly["auc30"] > other["auc30"] + 0.05
        assert weakly["point_relative"] < 0.9 * other["point_relative"]
    assert weakly["depth_relative"] < 0.5 * untrained["depth_relative"]


def test_footage_that_was_labelled_tells_its_rays_if_they_are_needed(tmp_path):
    write_library(tmp_path / "labels", [[labelled_clip(0)]])
    blind, told = (
        LabelShards(folder=str(tmp_path / "labels"), needs=("mono_depth", "tracks", *more))
        for more in ((), ("intrinsics",))
    )
    with pytest.raises(UsageError, match=r"give Views\.intrinsics"):
        train(small(weak((weak_source("video", blind),)), 1), tmp_path / "blind", workers=0)
    train(small(weak((weak_source("video", told, WeakLoss(least_shared=8)),)), 1), tmp_path / "run", workers=0)
    assert losses(tmp_path / "run")[0]["video/WeakLoss.registration"] > 0


def test_labels_of_refine_alone_are_enough(tmp_path):
    """Nobody says relative depth: it is that of the points."""
    clips = [labelled_clip(number, views=5) for number in range(3)]
    write_library(tmp_path / "refined", [without(clips, "mono_depth")])
    recipe = named("reliev3r", tmp_path / "refined", "tiny")
    assert recipe.clip.views == 5 and recipe.model.shape == SIZES["tiny"] and recipe.schedule.steps == 60_000
    train(small(recipe, 2), tmp_path / "run", workers=0, log_every=1)
    said = losses(tmp_path / "run")[0]
    assert said["videos/WeakLoss.depth"] > 0 and said["videos/WeakLoss.gauge"] > 0
    write_library(tmp_path / "whole", [clips])
    assert named("reliev3r", tmp_path / "whole").sources[0].dataset.needs[0] == "mono_depth"
    write_library(tmp_path / "none", [without(clips, "intrinsics")])
    with pytest.raises(UsageError, match="has no clip with mono_depth and tracks and intrinsics"):
        named("reliev3r", tmp_path / "none")


def test_a_warm_start_goes_on_with_footage_of_cropped_views(tmp_path):
    first = train(small(warm_up((labelled_source("rooms", ROOMS),)), 4), tmp_path / "one", workers=0, log_every=1)
    assert {"rooms/MultiViewLoss.points", "rooms/WeakLoss.view_angle"} <= set(losses(tmp_path / "one")[0])
    raw = weak_source("video", Zoomed(dataset=RAW), WeakLoss(least_shared=8))
    train(small(finetuned((raw,)), 4), tmp_path / "two", start=first.weights, workers=0, log_every=1)
    lines = losses(tmp_path / "two")
    assert all(torch.tensor(list(line.values())).isfinite().all() for line in lines)
    assert "video/WeakLoss.view_angle" in lines[0]


def test_small_comparisons_measure_what_was_never_trained_on_and_differ_in_one_thing():
    assert len({domain.seed for domain in (VIDEOS, HELD_OUT, SYNTHETIC)}) == 3
    assert replace(HELD_OUT, seed=VIDEOS.seed) == VIDEOS and SYNTHETIC.textures != VIDEOS.textures
    (taught,), (blind,) = weak_designs((SUPERVISED,), seed=2), weak_designs(seed=2)
    assert blind.sources[0].dataset == Weakened(dataset=taught.sources[0].dataset)
    sources = replace(blind.sources[0], dataset=taught.sources[0].dataset, losses=(SUPERVISED,))
    assert taught == replace(blind, sources=(sources,))
    warm = weak_designs(rays="found", warm=True)
    assert [recipe.sources[0].name for recipe in warm] == ["warm-up", "footage"]
    assert (
        all(not recipe.clip.intrinsics for recipe in warm) and warm[0] == weak_designs((), rays="found", warm=True)[0]
    )


@pytest.mark.parametrize("rays", ["given", "found"])
def test_every_stage_of_a_small_comparison_takes_a_step(tmp_path, monkeypatch, rays):
    monkeypatch.setattr(small_ones, "CLIPS", 16)
    start = None
    for number, recipe in enumerate(weak_designs((WEAK,), rays=rays, warm=True, steps=1)):
        recipe = replace(recipe, validation=replace(recipe.validation, numbers=(0, 1)))
        start = train(recipe, tmp_path / str(number), start=start, workers=0).weights
        lines = map(json.loads, (tmp_path / str(number) / "log.jsonl").read_text().splitlines())
        measured = [line["validation"] for line in lines if "validation" in line]
        assert {"point_relative", "auc30", "ate", "depth_inliers"} <= set(measured[-1])
