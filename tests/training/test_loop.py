"""The loop: what it writes, what its numbers mean, and what it refuses."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import NETWORK, Poisoned, TinyPairs, simple_recipe, tiny_recipe
from torch import Tensor

from unproject.data.base import Framing, Sample
from unproject.errors import InputError, UnprojectError, UsageError
from unproject.losses.base import Loss, Term
from unproject.losses.motion import MotionLoss
from unproject.models import checkpoints
from unproject.models.build import from_config
from unproject.training import bad_step
from unproject.training.loop import train
from unproject.training.plan import plan
from unproject.training.replay import replay
from unproject.types import Labels, Prediction, Views, require


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(tiny_recipe(4), folder, workers=0, log_every=2)
    return folder


def test_the_folder_says_what_ran_and_how_it_went(finished):
    # Curves lie there where the extra `train` is installed.
    assert {path.name for path in finished.iterdir()} - {"tensorboard"} == {
        "recipe.json", "run.json", "log.jsonl", "state.pt", "weights.safetensors",
    }  # fmt: skip
    run, recipe = (json.loads((finished / name).read_text()) for name in ("run.json", "recipe.json"))
    assert run["state"] == "done" and run["step"] == 4
    assert run["sessions"][0]["versions"]["torch"] == torch.__version__ and run["sessions"][0]["argv"]
    assert recipe["schedule"]["steps"] == 4
    assert recipe["sources"][1]["dataset"] == {"kind": "tiny_training.TinyPairs", "clips": 5, "moving": False}
    assert recipe["validation"]["measure"] == "tiny_training.mean_error"


def test_a_line_says_every_term_rate_norms_and_waiting(finished):
    steps = [line for line in lines(finished) if "losses" in line]
    assert [line["step"] for line in steps] == [2, 4]
    terms = {name for line in steps for name in line["losses"]}
    assert {"moving/MotionLoss.points", "still/MotionLoss.camera_flow", "still/total"} <= terms
    assert set(steps[0]["gradient_norms"]) == {"encoder", "decoder", "head", "whole"}
    assert set(steps[0]["time"]) == {"run_s", "clips_per_s", "waiting_share"}
    assert 0 < steps[0]["time"]["waiting_share"] <= 1 and steps[1]["clips"] == 16


def test_the_average_is_what_is_validated_and_kept(finished):
    validated = [line for line in lines(finished) if "validation" in line]
    assert [line["step"] for line in validated] == [3, 4]
    kept = torch.load(finished / "state.pt", weights_only=True)
    assert all(torch.equal(weights(finished)[name], kept["average"][name]) for name in kept["average"])
    assert any(not torch.equal(kept["model"][name], kept["average"][name]) for name in kept["average"])
    assert checkpoints.load(finished / "weights.safetensors").config == NETWORK


def test_passes_add_up_to_the_step_of_the_whole_batch(tmp_path):
    for passes in (1, 2):
        train(simple_recipe(1, batch=4, passes=passes, warmup_steps=0), tmp_path / str(passes), workers=0)
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    start = from_seed(0).state_dict()
    moved = torch.cat([(one[name] - start[name]).flatten() for name in one])
    apart = torch.cat([(one[name] - two[name]).flatten() for name in one])
    # Adam's first step is the sign of the gradient: weights with next to none may go either way, 1 to 2 % of them by
    # processor.
    assert (apart.abs() > 0.02 * moved.abs().max()).float().mean() < 0.05
    assert lines(tmp_path / "1")[0]["losses"] == pytest.approx(lines(tmp_path / "2")[0]["losses"], rel=1e-4)


def from_seed(seed: int):
    torch.manual_seed(seed)
    return from_config(NETWORK)


def test_looking_at_the_door_changes_nothing(tmp_path, monkeypatch):
    from unproject.training import loop

    train(simple_recipe(2), tmp_path / "looked", workers=0)
    monkeypatch.setattr(loop, "check_sources", lambda *arguments: None)
    train(simple_recipe(2), tmp_path / "blind", workers=0)
    looked, blind = weights(tmp_path / "looked"), weights(tmp_path / "blind")
    assert all(torch.equal(looked[name], blind[name]) for name in looked)


def test_bfloat16_learns_too(tmp_path):
    result = train(simple_recipe(2), tmp_path, workers=0, dtype="bfloat16")
    exact = train(simple_recipe(2), tmp_path / "exact", workers=0)
    assert result.losses == pytest.approx(exact.losses, rel=0.05) and result.losses != exact.losses


def test_half_of_a_run_in_another_type_is_refused(tmp_path):
    train(simple_recipe(4), tmp_path, workers=0, steps=2)
    with pytest.raises(UsageError, match="was begun in float32: give --dtype float32"):
        train(simple_recipe(4), tmp_path, workers=0, dtype="bfloat16", resume=True)
    assert train(simple_recipe(4), tmp_path, workers=0, resume=True).state == "done"


def test_a_time_limit_ends_after_a_step(tmp_path):
    result = train(simple_recipe(50), tmp_path, workers=0, time_limit_s=0.0)
    assert (result.state, result.reason, result.step) == ("stopped", "time limit", 0)


@dataclass(frozen=True, kw_only=True)
class WithoutFlow(TinyPairs):
    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        sample = super().__call__(numbers, framing)
        return replace(sample, labels=replace(sample.labels, flow=None))


@dataclass(frozen=True, kw_only=True)
class Nothing(Loss):
    """Reaches no weight."""

    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        return (Term("nothing", views.images.mean().requires_grad_(), 1.0),)


class Unmoved(Loss):
    """Has no gradient at all, as one that reaches only what is held fast."""

    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        return (Term("unmoved", prediction.points.detach().mean(), 1.0),)


def asks_for_flow(prediction, sample):
    return {"flow": require(prediction, "flow").mean().item()}


def with_source(recipe, **changes):
    return replace(recipe, sources=(replace(recipe.sources[0], **changes),))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: with_source(r, dataset=WithoutFlow()), "'moving' cannot be learned from: Labels.flow is needed"),
        (lambda r: with_source(r, losses=(Nothing(),)), "no loss reaches a weight"),
        (lambda r: replace(r, trained=("head", "nose")), "no part of this network is called nose"),
        (lambda r: replace(r, trained=()), "no part of this network is called nothing"),
        (lambda r: with_source(r, losses=(Unmoved(),)), "no loss reaches a weight of the network that is trained"),
        (lambda r: with_source(r, losses=()), "needs a loss"),
        (lambda r: with_source(r, dataset=TinyPairs(clips=0)), "needs a loss, clips"),
        (lambda r: replace(r, sources=r.sources * 2), "need names of their own"),
        (lambda r: replace(r, sources=()), "no sources"),
        (lambda r: replace(r, clip=replace(r.clip, sizes=())), "no sizes"),
        (lambda r: replace(r, clip=replace(r.clip, intrinsics=True)), "cannot be told intrinsics"),
        (lambda r: replace(r, schedule=replace(r.schedule, passes=3)), "in 3 passes"),
        (lambda r: replace(r, clip=replace(r.clip, sizes=((32, 48), (24, 24)))), "multiples of 16"),
        (lambda r: replace(r, validation=replace(tiny_recipe().validation, measure=asks_for_flow)), "Prediction.flow"),
        (lambda r: replace(r, validation=replace(tiny_recipe().validation, numbers=())), "Validation needs clips"),
    ],
)
def test_a_recipe_that_cannot_run_fails_before_anything_is_written(tmp_path, change, text):
    with pytest.raises(UsageError, match=text):
        train(change(simple_recipe()), tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "choice",
    [
        {"device": "tpu"},
        {"dtype": "int8"},
        {"overwrite": True, "resume": True},
        {"log_every": 0},
        {"save_every": 0},
        {"steps": -1},
        {"time_limit_s": -5.0},
    ],
)
def test_choices_that_cannot_be_honoured(tmp_path, choice):
    with pytest.raises(UsageError):
        train(simple_recipe(), tmp_path / "run", workers=0, **choice)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_starts_nothing_is_refused(tmp_path, seed):
    with pytest.raises(UsageError, match=f"a seed of {seed}"):
        train(replace(simple_recipe(), seed=seed), tmp_path / "run", workers=0)


def test_the_licence_of_the_start_goes_with_what_comes_of_it(tmp_path):
    parent = from_seed(0)
    parent.licence = "for tests only"
    checkpoints.save(parent, tmp_path / "start.safetensors")
    train(simple_recipe(3), tmp_path / "run", start=tmp_path / "start.safetensors", workers=0, steps=1)
    result = train(simple_recipe(3), tmp_path / "run", workers=0, resume=True)
    assert checkpoints.load(result.weights).licence == "for tests only"
    assert checkpoints.load(train(simple_recipe(1), tmp_path / "own", workers=0).weights).licence is None


def test_a_folder_that_is_not_empty_is_refused_and_files_of_others_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        train(simple_recipe(), tmp_path, workers=0)
    for _ in range(2):
        train(simple_recipe(1), tmp_path, workers=0, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine" and len(lines(tmp_path)) == 1
    with pytest.raises(UsageError, match="is a file"):
        train(simple_recipe(), tmp_path / "notes.txt", workers=0)


def test_another_recipe_is_refused_with_the_field_that_differs(finished):
    recipe = tiny_recipe(4)
    other = replace(recipe, schedule=replace(recipe.schedule, weight_decay=0.1), seed=3)
    with pytest.raises(UsageError, match=r"schedule.weight_decay \(0.05, now 0.1\); seed \(0, now 3\)"):
        train(other, finished, workers=0, resume=True)
    still = with_source(recipe, losses=(MotionLoss(points=2.0),))
    with pytest.raises(UsageError, match="another recipe: sources"):
        train(still, finished, workers=0, resume=True)


def test_a_log_that_lost_lines_is_told(tmp_path):
    train(simple_recipe(2), tmp_path, workers=0, log_every=1, steps=1)
    os.truncate(tmp_path / "log.jsonl", 3)
    with pytest.raises(InputError, match="shorter than the state"):
        train(simple_recipe(2), tmp_path, workers=0, log_every=1, resume=True)


def test_a_damaged_state_is_told(tmp_path):
    train(simple_recipe(1), tmp_path, workers=0)
    (tmp_path / "state.pt").write_bytes(b"torn")
    with pytest.raises(InputError, match="damaged"):
        train(simple_recipe(1), tmp_path, workers=0, resume=True)


@pytest.mark.parametrize("what", ["image", "label"])
def test_a_step_that_is_not_finite_is_put_aside_and_can_be_done_again(tmp_path, what):
    recipe = with_source(simple_recipe(4, batch=4, passes=2), dataset=Poisoned(what=what))
    with pytest.raises(UnprojectError, match=r"step 1: .* is not finite.*--replay .*bad_step_1"):
        train(recipe, tmp_path, workers=0)
    kept = tmp_path / "bad_step_1"
    said = json.loads((kept / "losses.json").read_text())
    assert said["passes"][0]["numbers"] == [4, 5] and said["passes"][0]["names"] == ["clip 4", "clip 5"]
    assert "nan" in said["passes"][0]["losses"].values() or "inf" in said["passes"][0]["losses"].values()
    (_, sample), _ = bad_step.read_clips(kept)
    assert not (sample.views.images.isfinite().all() and sample.labels.points.value.isfinite().all())
    found = replay(recipe, kept)
    assert (found.step, found.bad_pass, found.clips) == (1, 0, ("clip 4", "clip 5"))
    assert found.bad_images == (what == "image")
    assert (found.module is not None) == (what == "image")
    with pytest.raises(UsageError, match="another recipe"):
        replay(simple_recipe(), kept)
    with pytest.raises(InputError, match="bad_step_N"):
        replay(recipe, tmp_path)


def test_the_state_before_a_bad_step_is_the_state_before_it(tmp_path):
    recipe = with_source(simple_recipe(4), dataset=Poisoned(what="image"))
    with pytest.raises(UnprojectError, match="step 2"):
        train(recipe, tmp_path / "bad", workers=0)
    train(recipe, tmp_path / "good", workers=0, steps=2)
    bad, good = (
        torch.load(path, weights_only=True)
        for path in (tmp_path / "bad" / "bad_step_2" / "state.pt", tmp_path / "good" / "state.pt")
    )
    assert all(torch.equal(bad["model"][name], good["model"][name]) for name in bad["model"])
    assert torch.equal(bad["random"]["torch"], good["random"]["torch"]) and bad["step"] == good["step"] == 2


def test_weights_to_begin_from(tmp_path):
    """A head of another kind starts fresh, and both that and what is left of the file are named."""
    checkpoints.save(from_seed(7), tmp_path / "first.safetensors")
    shape = replace(NETWORK.shape, head="dpt", dec_depth=4, dpt_widths=(4, 4, 4, 4), dpt_features=4)
    recipe = replace(simple_recipe(1), model=replace(NETWORK, shape=shape))
    train(recipe, tmp_path / "run", workers=0, start=tmp_path / "first.safetensors", steps=0)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["model"]
    first = from_seed(7).state_dict()
    trunk = [name for name in first if not name.startswith("head.")]
    assert all(torch.equal(state[name], first[name]) for name in trunk)
    start = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][0]["start"]
    assert set(start["only_in_the_file"]) == {"head.map.proj.weight", "head.map.proj.bias"}
    assert "head.map.narrow.weight" in start["only_in_the_network"] and start["loaded"] == len(trunk)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    other = replace(NETWORK, shape=replace(NETWORK.shape, enc_dim=16))
    checkpoints.save(from_config(other), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="wrong shape"):
        train(simple_recipe(), tmp_path / "run", workers=0, start=tmp_path / "other.safetensors")
    assert not (tmp_path / "run").exists()


def test_a_plan_says_what_a_run_comes_to(tmp_path):
    said = plan(tiny_recipe(10))
    assert said.network == "Flow4r" and said.parameters == sum(p.numel() for p in from_seed(0).parameters())
    assert (said.steps, said.clips, said.sizes) == (10, 40, ("16x16", "32x16"))
    assert said.sources[1] == "still (50%): TinyPairs, 5 clips, MotionLoss"
    assert plan(tiny_recipe(10, batch=4000)).memory_gib > said.memory_gib
    held = plan(replace(tiny_recipe(10), trained=("head",)))
    assert held.parameters == said.parameters and held.memory_gib <= said.memory_gib
    with pytest.raises(UsageError, match=r"Labels\.flow"):
        plan(with_source(simple_recipe(), dataset=WithoutFlow()))
