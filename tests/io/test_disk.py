"""One process at a time in a folder, and none that is dead."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unproject.errors import UsageError
from unproject.io import disk

needs_locks = pytest.mark.skipif(disk.fcntl is None, reason="no locks on this system")
HOLD = """
import sys, time
from unproject.io import disk
with disk.alone(sys.argv[1]):
    print("in", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen:
    """Another process that is in the folder."""
    environment = os.environ | {"PYTHONPATH": str(Path(disk.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "in\n"
    return process


@needs_locks
def test_a_second_process_is_kept_out_until_the_first_one_dies(tmp_path):
    with holder(tmp_path / "run") as process:
        with pytest.raises(UsageError, match=r"another run works in .*/run: wait for its end, or choose another"):
            disk.alone(tmp_path / "run").__enter__()
        os.kill(process.pid, signal.SIGKILL)
    assert (tmp_path / "run" / disk.LOCK).is_file()
    with disk.alone(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


@needs_locks
def test_a_forked_process_does_not_keep_it(tmp_path):
    """As those that make batches: they live a little longer than a parent that is killed."""
    fork = multiprocessing.get_context("fork")
    with disk.alone(tmp_path):
        child = fork.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with disk.alone(tmp_path):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_it_leaves_nothing_behind_but_what_was_written(tmp_path):
    with disk.alone(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with disk.alone(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").write_text("x")
        disk.claimed(tmp_path / "a", overwrite=False, resume=True)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["kept"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        disk.alone(tmp_path / "file").__enter__()


@needs_locks
def test_a_lock_is_no_content(tmp_path):
    with disk.alone(tmp_path):
        assert (tmp_path / disk.LOCK).is_file()
        assert disk.claimed(tmp_path, overwrite=False, resume=False) == tmp_path


def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "fcntl", None)
    with disk.alone(tmp_path), disk.alone(tmp_path):
        assert not list(tmp_path.iterdir())
