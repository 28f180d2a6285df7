"""From a folder of videos to a network of one's own, by the commands that the documentation names."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from unproject import cli
from unproject.data.synthetic import handheld_clip
from unproject.errors import UsageError
from unproject.io.result import Reconstruction
from unproject.losses.flow import FlowLoss
from unproject.losses.multiview import MultiViewLoss
from unproject.losses.weak import WeakLoss
from unproject.recipes import named
from unproject.recipes.videos import losses_of

PAGE = Path(__file__).parents[2] / "docs" / "labelling.md"
QUICKER = {
    "label": "--workers 0 --views 4 --long-side 256 --most-clips 1",
    "train": "--size tiny --steps 2",
    "reconstruct": "--max-frames 3 --long-side 112",
}
"""What a test adds to each command so as to take seconds."""


def test_three_commands_make_a_network_of_ones_own(tmp_path, monkeypatch, write_video, capsys):
    clip = handheld_clip(3, frames=24, height=192, width=256, moving=False).rendering
    frames = (clip.images[0] * 255).round().byte().movedim(1, -1).numpy()
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "clip.mp4", list(frames))
    monkeypatch.chdir(tmp_path)
    listed = re.search(r"```\n(pip install .*?)```", PAGE.read_text(), re.DOTALL).group(1).strip()
    install, *commands = listed.splitlines()
    assert install == 'pip install "unproject[labels]"'
    assert [command.split()[1] for command in commands] == list(QUICKER)
    for command in commands:
        verb = command.split()[1]
        code = cli.main([*shlex.split(command)[1:], *shlex.split(QUICKER[verb])])
        assert code == 0 or (verb, code) == ("reconstruct", 6), command  # two steps teach no depth
    made = named("videos", tmp_path / "labels", "tiny")
    assert {type(loss) for loss in made.sources[0].losses} == {MultiViewLoss, WeakLoss, FlowLoss}
    result = Reconstruction.load(tmp_path / "out")
    assert len(result.frames) == 3 and np.isfinite(result.depth.numpy()).all()


def test_losses_are_those_that_the_labels_allow():
    whole = losses_of(("flow", "tracks", "mono_depth", "points", "world_from_cam", "intrinsics"))
    assert [type(loss) for loss in whole] == [MultiViewLoss, WeakLoss, FlowLoss]
    assert whole[0].confidence == 0 and (whole[1].depth, whole[1].registration) == (1.0, 0.5)
    (tracked,) = losses_of(("tracks",))
    assert (tracked.depth, tracked.registration) == (0.0, 0.5)
    assert not tracked.registers_rays  # points may lie anywhere: tracks alone would turn all rays to one direction
    assert [type(loss) for loss in losses_of(("points", "world_from_cam"))] == [MultiViewLoss]
    assert [type(loss) for loss in losses_of(("points", "flow"))] == [
        FlowLoss
    ]  # points of unknown views teach no scene
    with pytest.raises(UsageError, match="label with --teacher"):
        losses_of(("intrinsics",))


def test_recipes_say_what_they_need(tmp_path):
    with pytest.raises(UsageError, match="give their folder with --labels"):
        named("videos")
    with pytest.raises(UsageError, match="leave out --labels"):
        named("smoke", labels=tmp_path)
    with pytest.raises(UsageError, match="smoke, compact-matching, compact, compact-larger, videos"):
        named("nothing")
