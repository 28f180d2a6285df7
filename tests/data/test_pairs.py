"""Endless pairs: each a pure function of its number."""

from dataclasses import fields, replace

import pytest
import torch

from unproject.data.augment import Augmentation, augment
from unproject.data.base import Framing
from unproject.data.clips import GROUP
from unproject.data.pairs import SyntheticPairs
from unproject.types import Known

SMALL = Framing(views=2, pairs=((0, 1), (1, 0)), height=24, width=32)


def test_a_pair_is_the_same_in_any_company():
    data = SyntheticPairs(seed=3)
    alone, among = data([GROUP + 2], SMALL), data([5, GROUP + 1, GROUP + 2, 4 * GROUP], SMALL)
    assert torch.equal(alone.views.images[0], among.views.images[2])
    assert torch.equal(alone.views.times[0], among.views.times[2])
    assert alone.names[0] == among.names[2] == "synthetic pair 18 of seed 3"
    for field in fields(alone.labels):
        known, other = getattr(alone.labels, field.name), getattr(among.labels, field.name)
        assert (known is None) == (other is None)
        if isinstance(known, Known):
            assert torch.equal(known.value[0], other.value[2]) and torch.equal(known.weight[0], other.weight[2])


def test_numbers_and_seeds_differ():
    first, second = SyntheticPairs(seed=0), SyntheticPairs(seed=1)
    a, b = first([0, 1], SMALL), second([0], SMALL)
    assert not torch.allclose(a.views.images[0], a.views.images[1])
    assert not torch.allclose(a.views.images[0], b.views.images[0])
    assert first.count is None


def test_augmentation_changes_colours_and_nothing_else():
    plain = replace(SyntheticPairs(), augmentation=None)([7], SMALL)
    changed = SyntheticPairs()([7], SMALL)
    assert not torch.allclose(plain.views.images, changed.views.images)
    assert torch.equal(plain.labels.flow.value, changed.labels.flow.value)
    assert changed.views.images.min() >= 0 and changed.views.images.max() <= 1
    nothing = Augmentation(gain=0.0, gamma=0.0, noise=0.0, blur=0.0)
    image = 0.01 + 0.9 * torch.rand(1, 2, 3, 8, 8)
    assert torch.allclose(augment(image, nothing, torch.Generator().manual_seed(0)), image)


def test_gaps_and_fields_of_view_are_those_asked_for():
    sample = SyntheticPairs(gap_s=(0.5, 1.0), field_of_view_deg=(50.0, 60.0))(range(GROUP), SMALL)
    gap = (sample.views.times[:, 1] - sample.views.times[:, 0]).abs()
    assert gap.min() >= 0.5 - 1e-5 and gap.max() <= 1 + 1e-5
    angle = torch.rad2deg(2 * torch.atan(16 / sample.views.intrinsics[:, 0, 0, 0]))
    assert angle.min() >= 50 - 1e-3 and angle.max() <= 60 + 1e-3
    assert (sample.views.times[:, 1] < sample.views.times[:, 0]).any()


def test_other_than_two_views_are_refused():
    with pytest.raises(ValueError, match="2 views, and 3"):
        SyntheticPairs()([0], replace(SMALL, views=3))
