"""A real Ray cluster of two machines (on this one) writes what one process writes, whoever dies on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_library import WISHES, Slow, digests, write_library

from unproject.errors import UsageError
from unproject.io.shard_index import verify
from unproject.labelling.folder import log_lines
from unproject.labelling.run import label
from unproject.labelling.wishes import Wishes
from unproject.teachers.flow import DisTeacher
from unproject.teachers.tracks import KltTeacher

COLOURS = ("grey", "red", "green") * 4
SUPPORT, SOURCE = Path(__file__).parents[1] / "support", Path(__file__).parents[2] / "src"


def test_without_ray_the_remedy_is_named(write_video, tmp_path, monkeypatch):
    videos = write_library(tmp_path / "videos", write_video, ["grey"])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "unproject\[cluster\]"'):
        label([videos], tmp_path / "out", [Slow()], WISHES, ray="auto")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def library(tmp_path_factory, write_video) -> Path:
    return write_library(tmp_path_factory.mktemp("videos") / "library", write_video, COLOURS)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """Of a cluster of two machines with a core each."""
    if find_spec("ray") is None:
        pytest.skip('no Ray here: pip install "unproject[cluster]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (SUPPORT, SOURCE))))
        patch.setenv("RAY_worker_niceness", "0")  # its workers are nice by 15, and starve on a machine that works
        patch.setenv("SLOWLY", "0.3")
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)
            yield cluster.address
        finally:
            cluster.shutdown()


def events(folder: Path, kind: str) -> list[dict]:
    return [line[kind] for line in log_lines(folder) if kind in line]


def kill_a_worker(folder: Path, after: int) -> None:
    """Once so many units are done, whoever is at work then."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if len(list(folder.glob("units/*.json"))) >= after:
            for own in folder.glob("work/*"):
                os.kill(int(own.name.rpartition("-")[2]), signal.SIGKILL)
                return
        time.sleep(0.01)


@pytest.fixture(scope="module")
def labelled(library, tmp_path_factory) -> Path:
    """By one process."""
    folder = tmp_path_factory.mktemp("labels") / "plain"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOWLY", "0")
        label([library], folder, [Slow()], WISHES, workers=0)
    return folder


@pytest.mark.slow
def test_two_machines_write_what_one_process_writes_though_a_worker_is_killed(library, labelled, address, tmp_path):
    folder = tmp_path / "ray"
    killer = threading.Thread(target=kill_a_worker, args=(folder, 3))
    killer.start()
    heard = []

    def progress(items, stage, total=None):
        for item in items:
            heard.append(item)
            yield item

    outcome = label([library], folder, [Slow()], WISHES, ray=address, progress=progress)
    killer.join()
    assert digests(folder) == digests(labelled) and not verify(folder)
    assert len(events(folder, "died")) == 1 and len(events(folder, "done")) == len(COLOURS)
    assert len(heard) == len(COLOURS) and heard[-1] == outcome.clips


@pytest.mark.slow
@pytest.mark.data
def test_real_clips_are_labelled_alike_too(shared_data, address, tmp_path):
    teachers, wishes = [DisTeacher(), KltTeacher()], Wishes(long_side=256, views=4, most_clips=2)
    label([shared_data / "clips"], tmp_path / "plain", teachers, wishes, workers=0)
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "ray", 4))
    killer.start()
    outcome = label([shared_data / "clips"], tmp_path / "ray", teachers, wishes, ray=address)
    killer.join()
    assert digests(tmp_path / "ray") == digests(tmp_path / "plain") and not verify(tmp_path / "ray")
    assert len(events(tmp_path / "ray", "died")) == 1 and outcome.clips > outcome.videos / 2


SCRIPT = """
import sys
from tiny_library import WISHES, Slow
from unproject.labelling.run import label
from unproject.labelling.wishes import Wishes
from unproject.teachers.flow import DisTeacher
from unproject.teachers.tracks import KltTeacher
label([sys.argv[1]], sys.argv[2], [Slow()], WISHES, ray=sys.argv[3], resume=True)
"""


@pytest.mark.slow
def test_who_hands_out_units_may_be_killed_and_goes_on(library, labelled, address, tmp_path):
    folder = tmp_path / "ray"
    command = [sys.executable, "-c", SCRIPT, str(library), str(folder), address]
    first = subprocess.Popen(command)
    until = time.monotonic() + 300
    while len(list(folder.glob("units/*.json"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    first.kill()
    first.wait()
    done = {path: path.stat().st_mtime_ns for path in folder.glob("units/*.json")}
    assert 3 <= len(done) < len(COLOURS)
    subprocess.run(command, check=True, timeout=300)
    assert digests(folder) == digests(labelled)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was done is kept"


def test_a_cluster_that_is_not_there_is_named(write_video, tmp_path):
    if find_spec("ray") is None:
        pytest.skip('no Ray here: pip install "unproject[cluster]"')
    videos = write_library(tmp_path / "videos", write_video, ["grey"])
    for address in ("127.0.0.1:9", "nowhere"):
        with pytest.raises(UsageError, match=f"no Ray cluster at {address} .*: `ray start --head`"):
            label([videos], tmp_path / "out", [Slow()], WISHES, ray=address, resume=True)
