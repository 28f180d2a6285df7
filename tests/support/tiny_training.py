"""A network, a dataset and a recipe so small that a step takes milliseconds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from unproject.data.base import Dataset, Framing, Sample
from unproject.data.synthetic import handheld, render, sample_world
from unproject.geometry.camera import intrinsics_from_focal
from unproject.losses.motion import MotionLoss
from unproject.models.flow4r import Flow4rConfig
from unproject.nn.croco import TwoViewShape
from unproject.training import optimiser
from unproject.training.loop import train
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation
from unproject.types import Known, Labels, Prediction, Views

NETWORK = Flow4rConfig(
    shape=TwoViewShape(enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=32, dec_depth=1, dec_heads=2, head="linear")
)


@dataclass(frozen=True, kw_only=True)
class TinyPairs(Dataset):
    """Two views of one world; few of the clips differ."""

    clips: int | None = None
    moving: bool = True

    @property
    def count(self) -> int | None:
        return self.clips

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        views, labels = zip(*(clip(number % 5, self.moving, framing) for number in numbers), strict=True)
        return Sample(views=joined(views), labels=joined(labels), names=tuple(f"clip {number}" for number in numbers))


@lru_cache
def clip(number: int, moving: bool, framing: Framing) -> tuple[Views, Labels]:
    world = sample_world(1, batch=1, moving=moving)
    path = handheld(world.stage, 1, duration_s=3.0)
    times = torch.tensor([[number / 4, number / 4 + 0.5]])
    intrinsics = intrinsics_from_focal(torch.full_like(times, 20.0), framing.width, framing.height)
    made = render(world, path, times, intrinsics, framing.height, framing.width)
    pairs = torch.tensor(framing.pairs)
    return made.views(pairs), made.labels(pairs)


def joined(parts):
    """Batches of a dataclass of tensors as one."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    return type(first)(**{name: joined([getattr(part, name) for part in parts]) for name in first.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Poisoned(TinyPairs):
    """One clip has a pixel that is not a number, and the same for a true label."""

    what: str
    at: int = 5

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        sample = super().__call__(numbers, framing)
        if self.at not in numbers:
            return sample
        if self.what == "image":
            images = sample.views.images.clone()
            images[0, 0, 0, 0, 0] = torch.nan
            return replace(sample, views=replace(sample.views, images=images))
        points = sample.labels.points.value.clone()
        points[0, 0, 0, 0] = torch.inf
        known = Known(points, torch.ones_like(sample.labels.points.weight))
        return replace(sample, labels=replace(sample.labels, points=known))


def mean_error(prediction: Prediction, sample: Sample) -> dict[str, float]:
    return {"error": (prediction.points - sample.labels.points.value).norm(dim=-1).median().item()}


def tiny_recipe(steps: int = 6, **schedule) -> Recipe:
    """A still and a moving world, two passes a step, two sizes, an average of the weights, and validation."""
    choices = {
        "steps": steps, "batch": 4, "passes": 2, "learning_rate": 1e-3, "last_learning_rate": 1e-5, "warmup_steps": 2,
        "ema_decay": 0.9, **schedule,
    }  # fmt: skip
    return Recipe(
        name="tiny",
        model=NETWORK,
        sources=(
            Source(name="moving", dataset=TinyPairs(), losses=(MotionLoss(),)),
            Source(name="still", dataset=TinyPairs(clips=5, moving=False), losses=(MotionLoss(dynamic=False),)),
        ),
        clip=Clip(sizes=((16, 16), (16, 32)), intrinsics=False),
        schedule=Schedule(**choices),
        validation=Validation(dataset=TinyPairs(), numbers=(90, 91, 92), measure=mean_error, every=3),
    )


def simple_recipe(steps: int = 2, **schedule) -> Recipe:
    """One source, one size, one pass, and nothing but steps."""
    recipe = tiny_recipe(steps, **{"batch": 2, "passes": 1, "ema_decay": None, **schedule})
    clip = replace(recipe.clip, sizes=recipe.clip.sizes[:1])
    return replace(recipe, sources=recipe.sources[:1], clip=clip, validation=None)


def slow_run(folder, steps: int, workers: int) -> None:
    """A run with enough time between its steps to be killed there."""
    rate = optimiser.learning_rate

    def after_a_while(*arguments):
        time.sleep(0.05)
        return rate(*arguments)

    torch.set_num_threads(1)
    optimiser.learning_rate = after_a_while
    train(tiny_recipe(steps), folder, save_every=3, log_every=2, workers=workers)
