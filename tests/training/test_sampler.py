"""Draws: each source's share, every clip once an epoch, and the same from any position on."""

from dataclasses import replace
from itertools import islice

import pytest
from tiny_training import TinyPairs, simple_recipe, tiny_recipe

from unproject.errors import UsageError
from unproject.training.door import _framings, check_numbers
from unproject.training.recipe import Source
from unproject.training.sampler import Draw, Sampler


def with_sources(recipe, *shares: float, clips: int | None = None):
    losses = recipe.sources[0].losses
    sources = tuple(
        Source(name=str(number), dataset=TinyPairs(clips=clips), losses=losses, share=share)
        for number, share in enumerate(shares)
    )
    return replace(recipe, sources=sources)


def draws(recipe, position: int = 0, count: int | None = None) -> list[Draw]:
    return list(islice(Sampler(recipe, position), count))


@pytest.mark.parametrize("position", [0, 1, 7, 39])
def test_any_position_goes_on_with_the_same_draws(position):
    recipe = tiny_recipe(20)
    assert draws(recipe, position) == draws(recipe)[position:]


def test_a_run_ends_with_its_last_pass():
    assert len(draws(tiny_recipe(20))) == 40


def test_sources_get_their_shares_of_any_stretch():
    recipe = with_sources(simple_recipe(1000), 5, 3, 2)
    taken = [draw.source for draw in draws(recipe)]
    for first in range(0, 1000, 100):
        stretch = taken[first : first + 100]
        assert all(abs(stretch.count(number) - want) <= 2 for number, want in enumerate((50, 30, 20)))


def test_a_finite_dataset_is_seen_once_an_epoch_in_a_new_order():
    recipe = with_sources(simple_recipe(50, batch=4), 1, 1, clips=10)
    for source in (0, 1):
        numbers = [number for draw in draws(recipe) if draw.source == source for number in draw.numbers]
        epochs = [numbers[first : first + 10] for first in range(0, len(numbers) - 9, 10)]
        assert len(epochs) > 5 and all(sorted(epoch) == list(range(10)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_an_endless_dataset_is_run_through():
    numbers = [number for draw in draws(simple_recipe(5)) for number in draw.numbers]
    assert numbers == list(range(10))


def test_sizes_and_orders_are_drawn_by_the_seed():
    recipe = tiny_recipe(60)
    taken, other = draws(recipe), draws(replace(recipe, seed=1))
    widths = [draw.framing.width for draw in taken]
    assert 30 < widths.count(16) < 90
    assert widths != [draw.framing.width for draw in other]
    assert [d.numbers for d in taken if d.source == 1] != [d.numbers for d in other if d.source == 1]


def to_the_first(views: int) -> tuple[tuple[int, int], ...]:
    return tuple((view, 0) for view in range(1, views))


def several(recipe):
    return replace(recipe, clip=replace(recipe.clip, fewest_views=2, views=5, pairs=to_the_first))


@pytest.mark.parametrize("position", [0, 3, 39])
def test_numbers_of_views_are_drawn_and_any_position_goes_on_with_them(position):
    recipe = several(tiny_recipe(20))
    assert draws(recipe, position) == draws(recipe)[position:]
    assert [d.numbers for d in draws(recipe)] == [d.numbers for d in draws(tiny_recipe(20))]
    assert [d.framing.width for d in draws(recipe)] == [d.framing.width for d in draws(tiny_recipe(20))]


def test_every_number_of_views_comes_as_often_in_every_size():
    framings = [draw.framing for draw in draws(several(tiny_recipe(1000)))]
    for views in (2, 3, 4, 5):
        own = [framing for framing in framings if framing.views == views]
        assert abs(len(own) - 500) < 70 and abs(sum(f.width == 16 for f in own) - 250) < 60
        assert {framing.pairs for framing in own} == {to_the_first(views)}


def test_before_step_0_the_most_views_are_tried_in_every_size_and_the_fewest_once():
    tried = _framings(several(tiny_recipe()).clip, 7)
    assert [(f.views, f.width, clips) for f, clips in tried] == [(5, 16, 1), (5, 32, 7), (2, 16, 1)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fewest_views": 6, "pairs": to_the_first}, "clips of 6 to 5 views cannot be"),
        ({"fewest_views": 0, "pairs": to_the_first}, "clips of 0 to 5 views cannot be"),
        ({"pairs": ((0, 1),)}, "need pairs for each"),
    ],
)
def test_numbers_of_views_that_cannot_be_are_refused(change, said):
    recipe = several(tiny_recipe())
    check_numbers(recipe)
    with pytest.raises(UsageError, match=said):
        check_numbers(replace(recipe, clip=replace(recipe.clip, **change)))
