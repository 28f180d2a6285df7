"""How much memory this process may have: the machine's, or less where a container or a scheduler says so."""

import os
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Where Linux says which control groups a process is in, and what their limits are."""


def machine_gib() -> float:
    """The whole of it, whatever others take of it at the moment: the same run must be planned alike every time."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *limits(MEMBERSHIP, MOUNT)]) / 2**30


def limits(membership: Path, mount: Path) -> Iterator[int]:
    """Bytes that control groups allow, of both their versions: of the process's own group and of all that hold it.

    Inside a container a group's path may be that of the host, of which only the end, or nothing, is mounted.
    """
    for line in _text(membership).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (mount / "memory", "memory.limit_in_bytes") if controllers else (mount, "memory.max")
        inside = Path(group.lstrip("/"))
        for place in (inside, *inside.parents):
            said = _text(top / place / name).strip()
            if said.isdecimal():  # else "max", or no such file
                yield int(said)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
