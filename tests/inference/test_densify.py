"""What a whole reconstruction does with the network that comes with the package: its trial on the clip decides."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from oracle_depth import Oracle
from PIL import Image

from unproject.data.synthetic import ClipData, handheld_clip, standing_clip
from unproject.inference import densify
from unproject.inference.held_out import CLEARLY, FRAMES
from unproject.inference.reconstruct import reconstruct
from unproject.io.result import Reconstruction
from unproject.models.loading import fingerprint, shipped

PICTURES = 8


@pytest.fixture(scope="module")
def rendered() -> ClipData:
    """A second of a hand's way through a room, so that there is parallax."""
    return handheld_clip(3, frames=PICTURES, fps=8, height=96, width=128, moving=False)


@dataclass(frozen=True)
class Run:
    guess: Oracle
    record: dict
    """The network's part in `run.json`."""
    result: Reconstruction

    def error_where_nothing_is_measured(self, rendered: ClipData) -> float:
        """Mean over frames of the median relative error of depth that was carried on, in the scale of the measured."""
        total = 0.0
        for maps, depth, known in zip(self.result.maps, rendered.depth, rendered.valid, strict=True):
            ratio = maps.depth / depth
            off = ratio / ratio[maps.valid & known].median() - 1
            total += off[known & ~maps.valid].abs().median().item()
        return total / PICTURES


def run(rendered: ClipData, guess: Oracle, folder: Path) -> Run:
    """A reconstruction from files to files, in which the network sees what the guess says."""
    folder.mkdir()
    for number, image in enumerate(rendered.images):
        Image.fromarray(image).save(folder / f"{number}.png")
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(densify, "LearnedGuess", lambda network: guess)
        reconstruct(folder, output=out)
    record = json.loads((out / "run.json").read_text())["learned_depth"]
    return Run(guess, record, Reconstruction.load(out))


@pytest.fixture(scope="module")
def helpful(rendered: ClipData, tmp_path_factory) -> Run:
    return run(rendered, Oracle(rendered), tmp_path_factory.mktemp("helpful") / "clip")


@pytest.fixture(scope="module")
def harmful(rendered: ClipData, tmp_path_factory) -> Run:
    return run(rendered, Oracle(rendered, bend=0.7), tmp_path_factory.mktemp("harmful") / "clip")


def test_the_record_says_whose_guess_it_was_and_how_the_trial_went(helpful: Run, harmful: Run) -> None:
    for one in (helpful, harmful):
        assert set(one.record) == {"model", "sha256", "used", "held_out_points", "error_without", "error_with"}
        assert one.record["model"] == "compact" and one.record["sha256"] == fingerprint(shipped("compact"))
        assert one.record["held_out_points"] > 60
    assert helpful.record["used"] is True and harmful.record["used"] is False
    # Without a guess both are one clip.
    assert helpful.record["error_without"] == harmful.record["error_without"]
    assert helpful.record["error_with"] < CLEARLY * helpful.record["error_without"]
    assert harmful.record["error_with"] > harmful.record["error_without"]


def test_a_guess_that_helps_makes_the_maps_and_one_that_does_not_is_never_asked_again(
    rendered: ClipData, helpful: Run, harmful: Run
) -> None:
    assert len(harmful.guess.asked) == FRAMES
    assert helpful.guess.asked[:FRAMES] == harmful.guess.asked
    assert sorted(helpful.guess.asked[FRAMES:]) == list(range(PICTURES))
    errors = [one.error_where_nothing_is_measured(rendered) for one in (helpful, harmful)]
    assert errors[0] < 0.9 * errors[1] < 0.1


def test_where_there_is_no_depth_nothing_is_tried(tmp_path) -> None:
    clip = standing_clip(3, frames=4, height=48, width=64)
    found = run(clip, Oracle(clip), tmp_path / "clip")
    assert found.record is None and not found.guess.asked
    assert not any(maps.valid.any() for maps in found.result.maps)
