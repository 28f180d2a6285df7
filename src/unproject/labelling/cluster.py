"""Units on a Ray cluster, whose machines see the same files under the same paths."""

import os
import socket
from collections.abc import Sequence
from typing import Any

from unproject.errors import UnprojectError, UsageError
from unproject.labelling.folder import Asked, Library, Unit
from unproject.labelling.local import Died, Events
from unproject.labelling.unit import UnitDone, one_thread, watched_unit

_AHEAD = 2
"""Units that are handed out per core: one is worked on, and one waits there."""
_ANSWER_S = 10.0
"""So long a cluster may take to answer."""


def on_ray(library: Library, units: Sequence[Unit], asked: Asked, address: str) -> Events:
    """A task per unit, one core each; a unit whose worker or machine dies is begun again.

    Files lie on a disk that all machines share: what a task gives back are facts, and who runs this may be killed and
    begin again. Tasks whose run is gone are ended by Ray.

    Args:
        library: the folder, under the same path everywhere.
        units: what is to be done.
        asked: with every teacher that the machines have.
        address: of a cluster that runs, or ``auto`` for the one that this machine belongs to.

    Raises:
        UsageError: Ray is not installed, or no cluster is there.
        UnprojectError: what a task raised that must end the run.
    """
    ray = installed_ray()
    begun = not ray.is_initialized()
    if begun:
        _connect(ray, address)
    try:
        yield from _handed_out(ray, library, units, asked)
    finally:
        if begun:
            ray.shutdown()


def installed_ray() -> Any:
    """The package; UsageError where it is not here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers over the net
    try:
        import ray
    except ImportError as error:
        raise UsageError('--ray needs Ray: pip install "unproject[cluster]"') from error
    return ray


def _connect(ray: Any, address: str) -> None:
    try:
        if address != "auto" and "://" not in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()  # Ray itself tries for minutes
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"no Ray cluster at {address} ({reason}): `ray start --head` begins one") from error


def _handed_out(ray: Any, library: Library, units: Sequence[Unit], asked: Asked) -> Events:
    """At most `_AHEAD` units per core at a time: a million would fill the memory of who hands them out."""
    task = ray.remote(num_cpus=1, max_retries=0)(_task)  # who dies on what is counted here
    asked_there = ray.put(asked)
    waiting, flying = list(reversed(units)), dict[Any, Unit]()
    while waiting or flying:
        room = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))  # a cluster may grow
        while waiting and len(flying) < room:
            unit = waiting.pop()
            flying[task.remote(library, unit, asked_there)] = unit
        for ended in ray.wait(list(flying))[0]:
            unit = flying.pop(ended)
            said = _said(ray, ended, unit)
            yield said
            if isinstance(said, Died):
                waiting.append(unit)


def _said(ray: Any, ended: Any, unit: Unit) -> UnitDone | Died:
    try:
        return ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UnprojectError):
            raise error.cause from None
        reason = f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}"
        raise UnprojectError(f"unit {unit.number} failed: {reason}") from error
    except ray.exceptions.RayError as error:
        return Died(unit.number, type(error).__name__)


def _task(library: Library, unit: Unit, asked: Asked) -> UnitDone:
    one_thread()
    return watched_unit(library, unit, asked, lambda clips: None)
