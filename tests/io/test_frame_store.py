from types import SimpleNamespace

import numpy as np
import pytest

from unproject.errors import UnprojectError
from unproject.io.frame_store import FrameStore


def test_images_come_back_in_any_order() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, 7, 3), dtype=np.uint8) for height in (4, 9, 5)]
    with FrameStore() as store:
        for image in images:
            store.append(image)
        for index in (2, 0, 1, -1):
            np.testing.assert_array_equal(store[index], images[index])
        assert len(store) == 3 and len(store[1:]) == 2
        store.append(images[0][:, ::2])  # not contiguous, and after reading
        np.testing.assert_array_equal(store[3], images[0][:, ::2])


def test_closed_store_refuses() -> None:
    with FrameStore() as store:
        store.append(np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="closed"):
        store[0]


@pytest.mark.parametrize("full", [lambda data: len(data) // 2, lambda data: (_ for _ in ()).throw(OSError("no space"))])
def test_a_full_disk_is_said_with_its_folder(monkeypatch, full):
    with FrameStore() as store:
        place = store._file
        monkeypatch.setattr(store, "_file", SimpleNamespace(tell=place.tell, write=full, close=place.close))
        with pytest.raises(UnprojectError, match=r"no space left in .*TMPDIR"):
            store.append(np.zeros((4, 4), np.uint8))
