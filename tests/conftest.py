"""What every test stands on: shapes checked at run time, one thread, the same random numbers, and real clips."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

# Before anything imports the package: the hook checks every annotated shape and type at every call.
install_import_hook("unproject", "shape_checks.check")

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("house")
torch.set_num_threads(1)
cv2.setNumThreads(1)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    cv2.setRNGSeed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real clips; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("UNPROJECT_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}; set UNPROJECT_DATA to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of reference outputs of public implementations; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "parity"
    folder = Path(os.environ.get("UNPROJECT_PARITY", beside))
    if not (folder / "fill.py").is_file():
        pytest.skip(f"no reference outputs at {folder}; set UNPROJECT_PARITY to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Writes frames (uint8 RGB [H, W, 3]) as a video file, with any codec, pixel format, time stamps and rotation."""

    def write(
        path: Path,
        frames: Sequence[np.ndarray],
        *,
        codec: str = "libx264",
        pixels: str = "yuv420p",
        pts: Sequence[int] | None = None,
        time_base: Fraction = Fraction(1, 30),
        rotation: int = 0,
        aspect: Fraction | None = None,
        options: dict[str, str] | None = None,
        **container: object,
    ) -> Path:
        with av.open(str(path), "w", **container) as file:
            stream = file.add_stream(codec, rate=30, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pixels
            stream.time_base = stream.codec_context.time_base = time_base
            if rotation:
                stream.set_display_rotation(rotation)
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            for stamp, image in zip(pts or range(len(frames)), frames, strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = stamp, time_base
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path

    return write
