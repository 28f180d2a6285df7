"""The compact network's stages: what each learns from, and that the second begins where the first ended."""

from dataclasses import replace

from unproject.data.base import Chosen
from unproject.data.pairs import SyntheticPairs
from unproject.models import checkpoints
from unproject.models.compact import config
from unproject.recipes import compact, named
from unproject.recipes.motion_variants import VARIANTS, motion_variant
from unproject.training.loop import train


def small(recipe, **model):
    """The same with the tiny network, two small clips and one step."""
    data = Chosen(dataset=SyntheticPairs(), numbers=(0, 1))
    return replace(
        recipe,
        model=replace(config("tiny"), **model),
        sources=tuple(replace(source, dataset=data) for source in recipe.sources),
        clip=replace(recipe.clip, sizes=((32, 48),)),
        schedule=replace(recipe.schedule, steps=1, batch=2),
        validation=replace(recipe.validation, dataset=data, numbers=(0,)),
    )


def test_the_second_stage_begins_with_the_matcher_of_the_first(tmp_path):
    first = train(small(compact.matching(), blocks=0), tmp_path / "a", workers=0)
    second = train(small(compact.geometry()), tmp_path / "b", start=first.weights, workers=0)
    assert {"pose_auc30", "depth_relative", "flow_px"} <= second.validation.keys()
    matcher, whole = (checkpoints.load(run.weights).state_dict() for run in (first, second))
    assert all(name.startswith("matcher.") for name in matcher)
    moved = max((whole[name] - matcher[name]).abs().max().item() for name in matcher)
    # One step of warm-up: had it begun afresh, its weights would be others altogether.
    assert moved < 1e-3
    assert any(name.startswith("geometry.") for name in whole)


def test_no_world_is_seen_twice_and_none_that_is_measured():
    matching, geometry, larger = (named(name) for name in ("compact-matching", "compact", "compact-larger"))
    seeds = [r.sources[0].dataset.seed for r in (matching, geometry, larger)] + [matching.validation.dataset.seed]
    assert len(set(seeds)) == 4 and larger.validation == geometry.validation == matching.validation
    assert larger.model == geometry.model and larger.schedule.clip_parts
    assert geometry.schedule.clip_parts and not matching.schedule.clip_parts
    assert matching.model == replace(geometry.model, blocks=0)


def test_the_rows_of_table_3_differ_in_motion_alone():
    rows = [motion_variant(name, seed=1, pairs=4, steps=2) for name in VARIANTS]
    assert [(r.model.motion, r.sources[0].losses[0].compare_flow) for r in rows] == [
        ("target_points", False),
        ("scene_flow", False),
        ("scene_flow", True),
    ]
    first = rows[0]
    for row in rows[1:]:
        assert (row.seed, row.schedule, row.clip) == (first.seed, first.schedule, first.clip)
        assert row.sources[0].dataset == first.sources[0].dataset
