"""A guess is used where it clearly helps on points that were held out, and nowhere else."""

from dataclasses import replace

import pytest
from oracle_depth import Oracle
from rendered_clip import dense_clip

from unproject.data.synthetic import ClipData, handheld_clip
from unproject.inference.dense import DenseClip, dense_maps
from unproject.inference.held_out import Trial, try_guess


@pytest.fixture(scope="module")
def rendered() -> ClipData:
    return handheld_clip(3, frames=12, height=96, width=128, moving=False)


@pytest.fixture(scope="module")
def clip(rendered: ClipData) -> DenseClip:
    return dense_clip(rendered)


def test_the_truth_helps_and_its_size_does_not_matter(rendered: ClipData, clip: DenseClip) -> None:
    oracle = Oracle(rendered)
    trial = try_guess(clip, oracle, range(12))
    assert trial.helps and trial.with_guess < 0.8 * trial.without and trial.points > 60
    assert len(oracle.asked) == 3
    tenfold = try_guess(clip, lambda view, others: 10 * oracle(view, others), range(12))
    assert tenfold.with_guess == pytest.approx(trial.with_guess, rel=0.02)


def test_nonsense_does_not(rendered: ClipData, clip: DenseClip) -> None:
    trial = try_guess(clip, Oracle(rendered, bend=0.7), range(12))
    assert not trial.helps and trial.with_guess > trial.without


def test_where_nothing_can_be_tried_nothing_is_used(rendered: ClipData, clip: DenseClip) -> None:
    bare = replace(clip, sparse=[replace(one, uv=one.uv[:3], depth=one.depth[:3]) for one in clip.sparse])
    trial = try_guess(bare, Oracle(rendered), range(12))
    assert trial == Trial(0.0, 0.0, 0) and not trial.helps
    assert trial.facts() == {"used": False, "held_out_points": 0, "error_without": 0.0, "error_with": 0.0}


@pytest.mark.parametrize(("with_guess", "helps"), [(0.09, True), (0.0951, False), (0.2, False)])
def test_a_help_must_be_clear(with_guess: float, helps: bool) -> None:
    assert Trial(0.1, with_guess, 10).helps == helps


def test_depth_that_is_not_measured_follows_the_guess(rendered: ClipData, clip: DenseClip) -> None:
    """All pixels of a clip, measured or not, with and without the truth as a guess."""
    errors = []
    for guess in (None, Oracle(rendered)):
        maps = list(dense_maps(replace(clip, guess=guess), frames=[5]))
        valid = rendered.valid[5]
        errors.append((maps[0].depth / rendered.depth[5] - 1).abs()[valid & ~maps[0].valid].median().item())
    assert errors[1] < 0.85 * errors[0]
