"""The folder of a run: what may be written there, and who ran it when with what."""

import math
import re
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unproject.errors import UsageError
from unproject.io import disk
from unproject.io.description import describe, differences

STATE, WEIGHTS, RECIPE, RUN = "state.pt", "weights.safetensors", "recipe.json", "run.json"
_OWN = re.compile(
    r"(state|weights|recipe|run)(\.tmp)?\.(pt|safetensors|json)|log\.jsonl"
    r"|tensorboard/events\.out\.tfevents\.[^/]+|bad_step_\d+/(state|clips|losses)(\.tmp)?\.(pt|json)"
)
"""Every file that a run makes: nothing else is ever removed."""
_PACKAGES = ("unproject", "torch", "numpy", "safetensors")


class RunFolder:
    """Where a run lies. Nothing is written before `begin`.

    Args:
        path: the folder.
        overwrite: remove the run that lies there; files of others stay.
        resume: go on with the run that lies there, if there is one.

    Raises:
        UsageError: the folder is not empty and neither was asked for.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path = disk.claimed(path, overwrite=overwrite, resume=resume)
        self.resumed = resume and (self.path / STATE).is_file()
        """There is a run to go on with."""
        self._sessions: list[Any] = []

    def begin(self, recipe: Any) -> None:
        """Make place for a new run, and say what it is made from."""
        with disk.explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            remove_run(self.path)
        disk.write_json(self.path / RECIPE, describe(recipe))

    def open_session(self, facts: Mapping[str, Any]) -> None:
        """Note who runs what from now on, beside those before.

        UsageError where those before computed in another type: half of a run in each is like neither.
        """
        if self.resumed and (self.path / RUN).is_file():
            self._sessions = disk.read_json(self.path / RUN)["sessions"]
            before = self._sessions[-1]["dtype"]
            if before != facts["dtype"]:
                raise UsageError(f"{self.path} was begun in {before}: give --dtype {before}, or another output folder")
        versions = {"python": sys.version.split()[0], **{name: version(name) for name in _PACKAGES}}
        session = {"begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "argv": sys.argv, "versions": versions}
        self._sessions.append({**session, **facts})
        self.say("running")

    def say(self, state: str, **facts: Any) -> None:
        """Where the run stands, in `run.json`."""
        disk.write_json(self.path / RUN, {"state": state, **facts, "sessions": self._sessions})


def finished(folder: Path) -> bool:
    """Whether a run lies there whose last step is done."""
    return (folder / RUN).is_file() and disk.read_json(folder / RUN)["state"] == "done"


def versions_of(folder: Path) -> set[str]:
    """Of this package: those that trained the run which lies there, a finished one not again; none without a run."""
    if not (folder / RUN).is_file():
        return set()
    run = disk.read_json(folder / RUN)
    steps = run.get("steps", math.inf)  # said at its end
    return {session["versions"]["unproject"] for session in run["sessions"] if session["from_step"] < steps}


def require_same(folder: Path, recipe: Any) -> None:
    """UsageError that says in which fields a recipe differs from that of the run which lies in the folder."""
    found = list(differences(disk.read_json(folder / RECIPE), disk.plain(describe(recipe))))
    if found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        raise UsageError(
            f"{folder} was begun with another recipe: {'; '.join(found[:3])}{more}; "
            "give the same one, or another output folder"
        )


def remove_run(folder: Path) -> None:
    """The files of a run, then the folders that are empty because of it."""
    owned = [path for path in folder.rglob("*") if _OWN.fullmatch(path.relative_to(folder).as_posix())]
    for path in owned:
        path.unlink()
    for parent in {path.parent for path in owned} - {folder}:
        if not any(parent.iterdir()):
            parent.rmdir()
