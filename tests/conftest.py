"""What every test stands on: shapes checked at run time, one thread, the same random numbers, and real clips."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

# Before anything imports the package: the hook checks every annotated shape and type at every call.
install_import_hook("unproject", "beartype.beartype")

import random
from pathlib import Path

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
