"""Batches fetched ahead: the same as without other processes, and failures that say what failed."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from tiny_training import TinyPairs, simple_recipe, tiny_recipe

from unproject.data.base import Framing, Sample
from unproject.errors import InputError, UnprojectError
from unproject.training.loader import Fetched, batches, on_device
from unproject.training.loop import train
from unproject.training.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Broken(TinyPairs):
    """Fails, or ends its process, at a number."""

    failure: str
    at: int = 5

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        if self.at in numbers:
            if self.failure == "dies":
                time.sleep(
                    1.0
                )  # until the parent waits for it: told in the middle of a shape check, it would be that check's error
                os._exit(3)
            raise InputError("shard 7 is torn; fetch it again") if self.failure == "ours" else KeyError("depth")
        return super().__call__(numbers, framing)


def broken(failure: str, at: int = 5):
    recipe = simple_recipe(4)
    return replace(recipe, sources=(replace(recipe.sources[0], dataset=Broken(failure=failure, at=at)),))


def fetched(recipe, workers: int) -> list[Fetched]:
    return list(batches(recipe.sources, Sampler(recipe), workers))


def test_other_processes_change_nothing():
    alone, helped = (fetched(tiny_recipe(4), workers) for workers in (0, 2))
    assert [one.draw for one in alone] == [one.draw for one in helped]
    for one, other in zip(alone, helped, strict=True):
        assert one.clips.names == other.clips.names
        assert torch.equal(one.clips.views.images, other.clips.views.images)
        assert torch.equal(one.clips.labels.target_points.value, other.clips.labels.target_points.value)


def test_fetching_takes_none_of_the_runs_random_numbers():
    before = torch.get_rng_state()
    fetched(simple_recipe(1), 0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [("ours", InputError, "shard 7 is torn"), ("foreign", UnprojectError, "KeyError: 'depth'")],
)
def test_a_failure_comes_through_with_its_words(tmp_path, workers, failure, kind, text):
    with pytest.raises(kind, match=f"source 'moving' failed at clips 4, 5: .*{text}") as caught:
        train(broken(failure), tmp_path, workers=workers)
    assert "Traceback" in caught.value.__notes__[0]
    assert '"state": "failed"' in (tmp_path / "run.json").read_text()


def test_a_process_that_dies_is_told(tmp_path):
    with pytest.raises(UnprojectError, match="a process that makes batches died"):
        train(broken("dies"), tmp_path, workers=1)


def test_all_tensors_move():
    sample = fetched(simple_recipe(1), 0)[0].clips
    moved = on_device(sample, torch.device("meta"))
    assert moved.names == sample.names and moved.labels.mono_depth is None
    tensors = (moved.views.images, moved.labels.points.value, moved.labels.flow.weight)
    assert all(tensor.device.type == "meta" for tensor in tensors)
