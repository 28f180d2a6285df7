import cv2
import pytest

from unproject.data import synthetic


@pytest.fixture(scope="session")
def walk() -> tuple[list, synthetic.ClipData]:
    """Over a second in a room with parallax and movers: grey frames, and the truth."""
    made = synthetic.handheld_clip(1, frames=40)
    return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in made.images], made
