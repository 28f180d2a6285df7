"""A container's limit is what there is, wherever its files lie."""

import pytest
import torch

from unproject.cli.machine import offers
from unproject.inference import network_input
from unproject.io import memory

GIB = 2**30


def files(place, said):
    for name, text in said.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place / "cgroup", place / "sys"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, []),
        ({"cgroup": "0::/\n", "sys/memory.max": "max\n"}, []),
        ({"cgroup": "0::/\n", "sys/memory.max": "2147483648\n"}, [2 * GIB]),
        # The slice that holds a job has less than the job itself.
        (
            {
                "cgroup": "0::/slice/job\n",
                "sys/slice/job/memory.max": f"{8 * GIB}\n",
                "sys/slice/memory.max": f"{3 * GIB}\n",
            },
            [8 * GIB, 3 * GIB],
        ),
        # Version 1, as a container sees it: the path is the host's, its own limit lies at the top.
        (
            {
                "cgroup": "11:cpu,cpuacct:/docker/ab\n5:memory:/docker/ab\n",
                "sys/memory/memory.limit_in_bytes": f"{GIB}\n",
            },
            [GIB],
        ),
        # Both at once: the unified tree has no memory controller.
        (
            {
                "cgroup": "3:memory:/a:b\n0::/x\n",
                "sys/memory/a:b/memory.limit_in_bytes": f"{GIB}\n",
                "sys/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            [GIB, 9223372036854771712],
        ),
        ({"cgroup": "0::/\n", "sys/memory.max": "what\n"}, []),
    ],
)
def test_limits_of_control_groups(tmp_path, said, found):
    assert list(memory.limits(*files(tmp_path, said))) == found


def test_plans_and_the_doctor_know_the_limit(tmp_path, monkeypatch):
    free = memory.machine_gib()
    membership, mount = files(tmp_path, {"cgroup": "0::/\n", "sys/memory.max": f"{GIB // 4}\n"})
    monkeypatch.setattr(memory, "MEMBERSHIP", membership)
    monkeypatch.setattr(memory, "MOUNT", mount)
    assert free > memory.machine_gib() == 0.25
    assert network_input.there_gib(torch.device("cpu")) == 0.25
    assert offers()["memory_gib"] == 0.2
    (mount / "memory.max").write_text("9223372036854771712\n")
    assert memory.machine_gib() >= free
