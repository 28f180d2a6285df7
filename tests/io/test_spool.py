"""An array on disk is the array that would have been held."""

import gc
import io
import os
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from unproject.errors import UnprojectError
from unproject.io import disk, spool
from unproject.io.spool import Spool


@pytest.mark.parametrize(("kind", "row"), [(np.float32, (5, 3)), (np.bool_, ()), (np.int64, ()), (np.float32, (0, 2))])
def test_all_ways_to_read_it_agree(kind, row, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "PIECE", 100)
    whole = (np.random.default_rng(0).normal(size=(37, *row)) * 9).astype(kind)
    written = Spool(kind, row, tmp_path)
    for part in np.array_split(whole, [1, 1, 9, 20]):
        written.extend(part)
    assert written.shape == whole.shape and not list(tmp_path.iterdir())
    pieces = list(written.pieces())
    assert np.array_equal(np.concatenate(pieces), whole)
    assert len(pieces) > 1 or 0 in whole.shape or kind is np.bool_
    assert np.array_equal(written.read(5, 9), whole[5:9]) and len(written.read(30, 99)) == 7
    assert np.array_equal(written.mapped(), whole) and written.mapped().dtype == whole.dtype
    saved, streamed = io.BytesIO(), io.BytesIO()
    np.save(saved, whole)
    written.write_npy(streamed)
    assert saved.getvalue() == streamed.getvalue()
    disk.write_npz(tmp_path / "held.npz", {"a": whole})
    disk.write_npz(tmp_path / "spooled.npz", {"a": written})
    assert (tmp_path / "held.npz").read_bytes() == (tmp_path / "spooled.npz").read_bytes()
    assert zipfile.is_zipfile(tmp_path / "spooled.npz")


def test_what_is_changed_in_a_map_stays_there_and_it_outlives_its_file():
    written = Spool(np.float32)
    written.extend(np.arange(4))
    changed, other = written.mapped(), written.mapped()
    changed[0] = 7
    descriptor = written._file.fileno()
    del written
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
    assert changed.tolist() == [7, 1, 2, 3] and other.tolist() == [0, 1, 2, 3]


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="expected"):
        Spool(np.float32, (2,)).extend(np.zeros((1, 3)))
    with pytest.raises(UnprojectError, match="choose another output folder"):
        Spool(np.float32, folder=tmp_path / "none")


@pytest.mark.parametrize("full", [lambda data: len(data) // 2, lambda data: (_ for _ in ()).throw(OSError("no space"))])
def test_a_full_disk_is_said_with_its_folder(monkeypatch, full):
    written = Spool(np.float32)
    monkeypatch.setattr(written, "_file", SimpleNamespace(write=full))
    with pytest.raises(UnprojectError, match=r"no space left in .*TMPDIR"):
        written.extend(np.zeros(4))
