"""Flow3r's two stages: what each learns from, in which sizes, and that small ones learn."""

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file

from unproject.data.base import Chosen, FlowOnly, Remembered
from unproject.data.clips import SyntheticClips
from unproject.losses.flow import FlowLoss, ProjectiveFlowLoss
from unproject.losses.multiview import MultiViewLoss
from unproject.models.flow3r import config
from unproject.models.multiview import MultiViewShape
from unproject.nn.vit import VitShape
from unproject.recipes.flow3r import SIZES, labelled, ring, stage_one, stage_two, unlabelled
from unproject.recipes.flow_designs import BEGINNING, DESIGNS, HELD_OUT, LABELLED, UNLABELLED, designs
from unproject.teachers.flow import DisTeacher
from unproject.training.checkpoint import fresh_state
from unproject.training.device import place
from unproject.training.door import check_numbers
from unproject.training.loop import train
from unproject.training.plan import plan
from unproject.training.sampler import Sampler

ROOMS = Remembered(dataset=Chosen(dataset=SyntheticClips(span_s=(0.8, 1.5), augmentation=None), numbers=(0, 1, 2, 3)))
VIDEO = FlowOnly(dataset=ROOMS)
SOURCES = (labelled("rooms", ROOMS), labelled("sensor", ROOMS, sharp=False), unlabelled("video", VIDEO, share=2.0))
SHAPE = MultiViewShape(
    encoder=VitShape(dim=32, depth=1, heads=2), depth=2, task_depth=4, flow_widths=(8, 8, 16, 16), flow_features=16
)


def test_the_first_stage_is_the_head_alone_on_flow():
    recipe = stage_one(SOURCES[:2])
    check_numbers(recipe)
    assert recipe.trained == ("flow_head",) and recipe.clip.sizes == ((224, 224),)
    assert all(source.losses == (FlowLoss(),) for source in recipe.sources)
    assert recipe.model == config("large")


def test_the_second_stage_is_everything_on_everything():
    recipe = stage_two(SOURCES, passes=4)
    check_numbers(recipe)
    assert recipe.trained is None and recipe.schedule.passes == 4
    assert [source.losses for source in recipe.sources] == [
        (MultiViewLoss(), FlowLoss()), (MultiViewLoss(normals=0.0), FlowLoss()), (FlowLoss(),)
    ]  # fmt: skip
    drawn = [draw.source for draw in islice(Sampler(recipe), 100)]
    assert 48 <= drawn.count(2) <= 52, "half of the passes, as its share says"
    areas = [height * width for height, width in SIZES]
    assert all(side % 14 == 0 for size in SIZES for side in size) and len(set(SIZES)) == len(SIZES)
    assert min(areas) >= 100_000 and max(areas) <= 255_000
    assert all(0.5 <= height / width <= 2 for height, width in SIZES)


def test_the_optimiser_is_that_of_pi3():
    for recipe in (stage_one(SOURCES), stage_two(SOURCES)):
        schedule = recipe.schedule
        assert (schedule.learning_rate, schedule.weight_decay, schedule.betas) == (5e-5, 0.05, (0.9, 0.95))
        assert schedule.clip_norm == 1.0 and schedule.warmup_steps == 0


def test_the_second_stage_spares_memory_and_goes_easy_on_the_encoder():
    first, second = stage_one(SOURCES).schedule, stage_two(SOURCES).schedule
    assert first.recomputed is None, "nothing before the head keeps anything"
    assert second.recomputed == ("encoder", "decoder") and second.part_rates == (("encoder", 0.1),)
    thrifty = small(stage_two(SOURCES[2:]), 2)
    thrifty = replace(thrifty, schedule=replace(thrifty.schedule, batch=4096, passes=1))
    plain = replace(thrifty, schedule=replace(thrifty.schedule, recomputed=None))
    said = plan(thrifty, device="cpu", dtype="float32")
    assert said.memory_gib < plan(plain, device="cpu", dtype="float32").memory_gib
    assert said.learning_rate.endswith("; 0.1 of that for encoder")


def test_pairs_go_round_all_views():
    assert ring(3) == ((0, 1), (1, 2), (2, 0)) and ring(2) == ((0, 1), (1, 0))
    drawn = {draw.framing for draw in islice(Sampler(stage_two(SOURCES)), 2000)}
    assert {framing.views for framing in drawn} == set(range(2, 25))
    assert all(framing.pairs == ring(framing.views) for framing in drawn)


def small(recipe, steps: int):
    """The same with a network and clips that take milliseconds."""
    schedule = replace(recipe.schedule, steps=steps, batch=4, passes=2, learning_rate=4e-3)
    return replace(
        recipe,
        model=replace(recipe.model, shape=SHAPE),
        clip=replace(recipe.clip, sizes=((28, 42),), views=3),
        schedule=schedule,
    )


def test_two_stages_lower_their_losses_and_the_first_moves_the_head_alone(tmp_path):
    """A small network, a dozen steps each: what is held fast keeps its bits, what is learned falls."""
    alone = small(stage_one(SOURCES[:1]), 12)
    first = train(alone, tmp_path / "head", workers=0, log_every=1)
    start, head = fresh_state(alone, place("cpu", "float32")).model.state_dict(), load_file(first.weights)
    moved = {name for name in head if not torch.equal(head[name], start[name])}
    assert moved and all(name.startswith("flow_head.") for name in moved)
    lines = losses(tmp_path / "head")
    assert mean(lines[-3:], "rooms/FlowLoss.flow") < 0.9 * mean(lines[:3], "rooms/FlowLoss.flow")
    second = small(stage_two((SOURCES[0], SOURCES[2])), 12)
    # The encoder knows nothing yet, unlike the paper's; and losses of as many views are compared.
    schedule, clip = replace(second.schedule, part_rates=None), replace(second.clip, fewest_views=None)
    second = replace(second, schedule=schedule, clip=clip)
    whole = train(second, tmp_path / "all", start=first.weights, workers=0, log_every=1)
    lines = losses(tmp_path / "all")
    for name in ("rooms/FlowLoss.flow", "video/FlowLoss.flow", "rooms/MultiViewLoss.points"):
        assert mean(lines[-4:], name) < 0.9 * mean(lines[:4], name), name
    end = load_file(whole.weights)
    parts = {name.split(".")[0] for name in end if not torch.equal(end[name], head[name])}
    assert {"encoder", "decoder", "point_decoder", "camera_decoder", "camera_head", "flow_head", "conf_head"} <= parts


def losses(folder) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


def mean(lines, name: str) -> float:
    values = [line[name] for line in lines if name in line]
    return sum(values) / len(values)


def test_designs_begin_alike_and_differ_in_flow_alone():
    runs = {design: designs(design, seed=3, teacher=DisTeacher(), steps=8) for design in DESIGNS}
    firsts = {run[0] for run in runs.values()}
    assert len(firsts) == 1 and firsts == {*designs(None, seed=3, steps=8)}
    (first,) = firsts
    assert first.model.flow_head == "tracking" and first.schedule.steps == 13
    assert [len(run) for run in runs.values()] == [2, 2, 3, 3]
    for design, run in runs.items():
        for recipe in run:
            check_numbers(recipe)
        last = run[-1]
        assert last.seed == 3 and last.clip == first.clip and last.validation == replace(first.validation, every=8)
        # Labelled clips per step, and steps, are the same: what flow adds comes on top.
        assert last.schedule.batch // last.schedule.passes == first.schedule.batch and last.schedule.steps == 8
        assert last.sources[0].dataset == runs["none"][-1].sources[0].dataset != first.sources[0].dataset
        assert last.sources[0].losses[0] == first.sources[0].losses[0]
        assert [s.name for s in last.sources] == (["labelled"] if design == "none" else ["labelled", "unlabelled"])
        assert last.model.flow == (design in ("tracking", "factored"))
    heads = [runs[design][1] for design in ("tracking", "factored")]
    assert all(recipe.trained == ("flow_head",) and len(recipe.sources) == 1 for recipe in heads)
    assert [recipe.model.flow_head for recipe in heads] == ["tracking", "factored"]
    assert isinstance(runs["projective"][-1].sources[1].losses[0], ProjectiveFlowLoss)


def test_amount_teacher_and_backbone_are_what_is_asked_for():
    none = designs("factored", unlabelled=0)[-1]
    assert [source.name for source in none.sources] == ["labelled"] and len(none.sources[0].losses) == 2
    exact, taught = (designs("factored", unlabelled=5, labelled=7, teacher=who) for who in (None, DisTeacher()))
    assert [source.dataset.count for source in exact[-1].sources] == [7, 5]
    assert exact[:2] == taught[:2] and exact[-1] != taught[-1]
    assert all(recipe.model.backbone == "vggt" for recipe in designs("tracking", backbone="vggt"))


def test_what_is_measured_was_never_trained_on():
    assert len({domain.seed for domain in (BEGINNING, LABELLED, UNLABELLED, HELD_OUT)}) == 4
    assert replace(HELD_OUT, seed=UNLABELLED.seed) == UNLABELLED and LABELLED.textures != UNLABELLED.textures


@pytest.mark.parametrize("design", DESIGNS)
def test_every_design_takes_a_step_of_each_stage(design, tmp_path):
    start = None
    for number, recipe in enumerate(designs(design, labelled=2, unlabelled=2, teacher=DisTeacher(), steps=1)):
        tiny = replace(
            recipe,
            model=replace(recipe.model, shape=SHAPE),
            clip=replace(recipe.clip, sizes=((28, 42),)),
            schedule=replace(recipe.schedule, batch=2 * recipe.schedule.passes),
            validation=replace(recipe.validation, dataset=ROOMS, numbers=(0, 1)),
        )
        result = train(tiny, tmp_path / str(number), start=start, workers=0)
        start = result.weights
    assert {"rra30", "rta30", "auc30", "depth_relative"} <= result.validation.keys()
    assert ("flow_px" in result.validation) == (design in ("tracking", "factored"))
