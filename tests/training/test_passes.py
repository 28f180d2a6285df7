"""What is measured between steps."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_training import NETWORK, tiny_recipe

from unproject.data.base import Sample
from unproject.models.build import from_config
from unproject.training.device import place
from unproject.training.passes import validate
from unproject.types import Prediction

CLIPS = (90, 91, 92, 93, 94)
"""In batches of two: the last one has one clip."""
ANSWERS = {"clip 90": 1.0, "clip 92": math.nan, "clip 94": 4.0}
"""By the first clip of a batch."""


def measure(prediction: Prediction, sample: Sample) -> dict[str, float]:
    """One number that each batch has, one that the middle one lacks, one that none has, one that is infinite once."""
    value = ANSWERS[sample.names[0]]
    return {
        "everywhere": float(len(sample.names)),
        "mostly": value,
        "nowhere": math.nan,
        "infinite": math.inf if value == 4 else 0.0,
    }


def test_a_batch_with_nothing_to_measure_takes_no_part_in_a_mean() -> None:
    recipe = tiny_recipe()
    assert recipe.validation is not None
    held_out = replace(recipe.validation, numbers=CLIPS, measure=measure)
    torch.manual_seed(0)
    found = validate(from_config(NETWORK), held_out, recipe.clip, 2, place("cpu", "float32"), workers=0)
    assert found["everywhere"] == pytest.approx((2 * 2 + 2 * 2 + 1) / 5)
    # Two clips that say 1 and one that says 4; the two that say nothing do not count as clips either.
    assert found["mostly"] == pytest.approx((2 * 1 + 1 * 4) / 3)
    assert math.isnan(found["nowhere"]) and found["infinite"] == math.inf
