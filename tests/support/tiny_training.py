"""A network, a dataset and a recipe so small that a step takes milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from unproject.data.base import Dataset, Framing, Sample
from unproject.data.synthetic import handheld, render, sample_world
from unproject.geometry.camera import intrinsics_from_focal
from unproject.losses.motion import MotionLoss
from unproject.models.flow4r import Flow4rConfig
from unproject.nn.croco import TwoViewShape
from unproject.training.recipe import Clip, Recipe, Schedule, Source, Validation
from unproject.types import Prediction

NETWORK = Flow4rConfig(
    shape=TwoViewShape(enc_dim=32, enc_depth=1, enc_heads=2, dec_dim=32, dec_depth=1, dec_heads=2, head="linear")
)


@dataclass(frozen=True, kw_only=True)
class TinyPairs(Dataset):
    """Two views of one world; the number is the time of the first."""

    clips: int | None = None
    moving: bool = True

    @property
    def count(self) -> int | None:
        return self.clips

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        world = sample_world(1, batch=1, moving=self.moving)
        path = handheld(world.stage, 1, duration_s=3.0)
        pairs = torch.tensor(framing.pairs)
        start = torch.tensor([[number % 97 / 50] for number in numbers])
        times = torch.cat([start, start + 0.5], dim=1)
        intrinsics = intrinsics_from_focal(torch.full_like(times, 30.0), framing.width, framing.height)
        made = [
            render(world, path, times[[row]], intrinsics[[row]], framing.height, framing.width)
            for row in range(len(numbers))
        ]
        views, labels = [one.views(pairs) for one in made], [one.labels(pairs) for one in made]
        return Sample(views=joined(views), labels=joined(labels), names=tuple(f"clip {number}" for number in numbers))


def joined(parts):
    """Batches of a dataclass of tensors as one."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    return type(first)(**{name: joined([getattr(part, name) for part in parts]) for name in first.__dataclass_fields__})


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
        clip=Clip(sizes=((32, 32), (16, 32)), intrinsics=False),
        schedule=Schedule(**choices),
        validation=Validation(dataset=TinyPairs(), numbers=(90, 91, 92), measure=mean_error, every=3),
    )


def without_validation(recipe: Recipe) -> Recipe:
    return replace(recipe, validation=None)
