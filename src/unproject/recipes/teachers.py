"""Teachers by the names that the command line calls them."""

from collections.abc import Callable
from pathlib import Path

from unproject.errors import UsageError
from unproject.models.loading import device_of
from unproject.recipes.refine import RefineTeacher
from unproject.teachers.base import Teacher
from unproject.teachers.depth import DepthAnythingTeacher, DepthProTeacher, MogeTeacher
from unproject.teachers.flow import DisTeacher
from unproject.teachers.learned import LearnedTeacher
from unproject.teachers.learned_flow import RaftTeacher, UfmTeacher
from unproject.teachers.learned_matches import LightGlueTeacher, RomaTeacher
from unproject.teachers.learned_tracks import CoTrackerTeacher
from unproject.teachers.matches import SiftTeacher
from unproject.teachers.tracks import KltTeacher

OURS: dict[str, Callable[[], Teacher]] = {
    "flow": DisTeacher,
    "tracks": KltTeacher,
    "matches": SiftTeacher,
    "refine": RefineTeacher,
}
"""Teachers that need nothing but this package."""
LEARNED: dict[str, type[LearnedTeacher]] = {
    "flow:ufm": UfmTeacher,
    "flow:raft": RaftTeacher,
    "tracks:cotracker": CoTrackerTeacher,
    "depth:depth-pro": DepthProTeacher,
    "depth:moge2": MogeTeacher,
    "depth:da3": DepthAnythingTeacher,
    "matches:roma": RomaTeacher,
    "matches:lightglue": LightGlueTeacher,
}
"""Teachers that ask somebody else's network."""


def teachers_named(names: str, *, device: str = "auto") -> tuple[Teacher, ...]:
    """Teachers from their names, as ``flow,tracks,depth:moge2``; ``NAME=PATH`` gives a network's weights.

    UsageError for a name that nothing goes by, two teachers of one kind, or none at all. Networks are loaded later.
    """
    given = [name.strip() for name in names.split(",") if name.strip()]
    if not given:
        raise UsageError(f"no teacher is named; choose from {_all_names()}")
    kinds = [name.partition("=")[0].partition(":")[0] for name in given]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice is not None:
        raise UsageError(f"two teachers of {twice} are named in {names!r}; choose one of them")
    return tuple(_made(name, device) for name in given)


def _made(given: str, device: str) -> Teacher:
    name, has_path, path = given.partition("=")
    if name in LEARNED:
        device_of(device)
        return LEARNED[name](device=device, weights=Path(path).expanduser() if has_path else None)
    if name in OURS and not has_path:
        return OURS[name]()
    if name in OURS:
        raise UsageError(f"{name} has no weights to be given: leave out ={path}")
    if name == "depth":
        choice = ", ".join(other for other in LEARNED if other.startswith("depth:"))
        raise UsageError(f"depth of a single view needs a network of others: choose one of {choice}")
    raise UsageError(f"no teacher is called {name!r}; choose from {_all_names()}")


def _all_names() -> str:
    return ", ".join([*OURS, *LEARNED])
