"""What every loss is: its own configuration, called with a prediction, labels and views, answering with named terms."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.tensors import map_tensors
from unproject.types import Known, Labels, Prediction, Views

Value = TypeVar("Value", Prediction, Labels, Views)


@dataclass(frozen=True)
class Term:
    """One summand of a loss: what is logged under its name, and what it counts for."""

    name: str
    value: Float[Tensor, ""]
    """Before its weight; carries the gradient, so log it detached."""
    weight: float


@dataclass(frozen=True)
class LossValue:
    """What a loss says of one batch."""

    terms: tuple[Term, ...]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of all terms times their weights: the number to descend on."""
        return torch.stack([term.weight * term.value for term in self.terms]).sum()


class Loss(ABC):
    """A frozen dataclass whose fields are its configuration; subclasses say their `terms`.

    Computed in the prediction's type, but at least float32, with autocast off: confidences and distances near zero do
    not survive bf16.
    """

    def __call__(self, prediction: Prediction, labels: Labels, views: Views) -> LossValue:
        """The loss of one batch; `ValueError` with the field's name where a label or prediction is missing."""
        with torch.autocast(prediction.points.device.type, enabled=False):
            wide = torch.promote_types(prediction.points.dtype, torch.float32)
            terms = self.terms(_as(wide, prediction), _as(wide, labels), _as(wide, views))
        if not terms:
            raise ValueError(f"{type(self).__name__}: every weight is 0; give one a value, or leave the loss out")
        return LossValue(terms)

    @abstractmethod
    def terms(self, prediction: Prediction, labels: Labels, views: Views) -> tuple[Term, ...]:
        """Every term of which the weight is not zero."""


def weighed(makers: Iterable[tuple[str, float, Callable[[], Float[Tensor, ""]]]]) -> tuple[Term, ...]:
    """The terms of (name, weight, maker); one of weight 0 is not computed, and needs no label."""
    return tuple(Term(name, maker(), weight) for name, weight, maker in makers if weight)


def _as(dtype: torch.dtype, value: Value) -> Value:
    """The value with all its floating-point tensors of one type."""
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, value)


def read(known: Known) -> Tensor:
    """The label's value, 0 where it is unknown: what stands there, NaN included, reaches no gradient."""
    weight = known.weight.reshape(known.weight.shape + (1,) * (known.value.ndim - known.weight.ndim))
    return torch.where(weight > 0, known.value, 0)


def mean_per_image(value: Float[Tensor, "B P H W"], weight: Float[Tensor, "B P H W"]) -> Float[Tensor, ""]:
    """Weighted mean over the pixels of each image, then over the images that have any weight.

    Without any weight it is 0, with a gradient of 0.
    """
    weighed = torch.where(weight > 0, value * weight, 0).sum((-2, -1))
    total = weight.sum((-2, -1))
    some = total > 0
    means = weighed / torch.where(some, total, 1)
    return means.sum() / some.sum().clamp(min=1)


def mean_per_clip(value: Float[Tensor, "B *rest"], weight: Float[Tensor, "B *rest"]) -> Float[Tensor, ""]:
    """Weighted mean over all that a clip has, then over the clips that have any weight; 0 without any."""
    return mean_per_image(value.flatten(1)[:, None, None], weight.flatten(1)[:, None, None])
