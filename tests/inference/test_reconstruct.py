"""What the main job adds to its stages: masks reach the maps, and a folder that is not there keeps nothing."""

import numpy as np
import pytest
import torch

from unproject.errors import UsageError
from unproject.inference.reconstruct import reconstruct
from unproject.inference.run import unclaimed
from unproject.types import FrameMaps


def test_nothing_is_claimed_on_black_pixels() -> None:
    """Maps of half the size: a pixel that touches a black one is not claimed."""
    everywhere = torch.ones(4, 6)
    maps = FrameMaps(
        depth=2 * everywhere,
        valid=everywhere > 0,
        confidence=everywhere,
        motion=everywhere,
        to_original=torch.diag(torch.tensor([2.0, 2.0, 1.0])),
    )
    mask = np.ones((8, 12), bool)
    mask[2:4, 5] = False
    found = unclaimed(maps, mask)
    claimed = np.ones((4, 6), bool)
    claimed[1, 2] = False
    for values in (found.valid, found.confidence, found.motion):
        np.testing.assert_array_equal(values > 0, claimed)
    assert (found.depth == 2).all()
    assert unclaimed(maps, None) is maps


@pytest.mark.parametrize("wish", ["overwrite", "resume"])
def test_without_a_folder_there_is_nothing_to_resume_or_overwrite(tmp_path, write_video, wish: str) -> None:
    clip = write_video(tmp_path / "clip.mp4", [np.zeros((48, 64, 3), np.uint8)] * 3)
    with pytest.raises(UsageError, match="need an output folder"):
        reconstruct(clip, **{wish: True})
