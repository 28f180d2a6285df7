"""Writes a result folder frame by frame: beside its place first, then renamed; an interrupted run can be resumed."""

import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from unproject.errors import InputError, UsageError
from unproject.io import disk, schema
from unproject.io.flows import LazyFlows, flow_path, flows_on_disk
from unproject.io.preview import render
from unproject.io.result import LazyMaps, Reconstruction, array_path, is_result, maps_on_disk
from unproject.io.spool import Spool
from unproject.types import FlowMaps, FrameInfo, FrameMaps

_OWN = re.compile(
    r"((run|cameras|resume)(\.tmp)?\.json|(tracks|points|kept_\w+)(\.tmp)?\.npz"
    r"|arrays/\d{6,}(\.tmp)?\.npz|flow/\d{6,}_\d{6,}(\.tmp)?\.npz|preview/index(\.tmp)?\.html"
    r"|exports/(points\.ply|scene\.glb|trajectory_tum\.txt|tracks\.npz|nerfstudio/(transforms\.json|points\.ply))"
    r"|exports/colmap/sparse/\d+/(cameras|images|points3D|rigs|frames)\.(bin|txt))"
)
"""Every file of a result that this package makes, but exported pictures: nothing else is ever removed."""


class ResultWriter:
    """Takes the maps of one frame after the other, then the rest, and puts the finished folder in place.

    While the work lasts it lies in ``<folder>.partial`` (``<folder>/.partial`` where the folder exists already). A run
    that stops leaves it there once a stage or a frame is done, and ``resume`` goes on from it; `kept` gives back the
    stages, `done` tells which frames to skip.

    Args:
        folder: where the result shall lie.
        frames: the frames that were asked for.
        settings: what the frames' maps depend on (inputs, options); resuming under other settings is refused.
        overwrite: replace the result that lies there, and drop interrupted work. Files of others stay untouched.
        resume: go on from interrupted work, if there is any.

    Raises:
        UsageError: the folder is not empty (or interrupted work waits) and neither flag was given; or the interrupted
            work has other settings, or is of another version of this package.
        UnprojectError: no permission, no space; one line with the remedy.
    """

    def __init__(
        self,
        folder: str | Path,
        frames: Sequence[FrameInfo],
        *,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.target = Path(os.path.abspath(Path(folder).expanduser()))
        self.frames = tuple(frames)
        self.partial = _partial_folder(self.target)
        self._finished = False
        self._put: set[str] = set()
        identity = disk.plain(
            {
                "version": version("unproject"),
                "frames": [asdict(info) for info in frames],
                "settings": settings or {},
            }
        )
        waiting = (self.partial / "resume.json").exists() and _worth_keeping(self.partial)
        with disk.explained(self.target):
            _admit(self.target, self.partial, waiting, overwrite=overwrite, resume=resume)
            self.resumed = waiting and resume
            """There was interrupted work to go on from."""
            if self.resumed:
                _check_same_run(self.partial, identity)
            else:
                _remove_own(self.partial)
                disk.write_json(self.partial / "resume.json", identity)
        self.done = {index for index in range(len(self.frames)) if zipfile.is_zipfile(array_path(self.partial, index))}
        """Frames whose maps are written."""

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        if not self._finished and not _worth_keeping(self.partial):
            _remove_own(self.partial)

    def write(self, index: int, maps: FrameMaps) -> None:
        """Write one frame's maps (`schema` says how they are rounded)."""
        # Deflate saves a fifth of a photograph and costs as much time as all other arrays together (measured).
        disk.write_npz(array_path(self.partial, index), schema.maps_to_arrays(maps), stored=("rgb",))
        self.done.add(index)

    def write_flow(self, source: int, target: int, maps: FlowMaps) -> None:
        """Write the flow of one pair of frames, at the source's pixels."""
        disk.write_npz(flow_path(self.partial, source, target), schema.flow_to_arrays(maps))

    def put(self, name: Literal["tracks", "points"], arrays: Mapping[str, np.ndarray | Spool]) -> None:
        """Write one of these files before the end, from arrays that need not fit into memory; `finish` leaves it alone.

        The arrays are named as `schema` names them.
        """
        disk.write_npz(self.partial / f"{name}.npz", arrays)
        self._put.add(name)

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Put the arrays of a finished stage aside (solved cameras, say) for a run that resumes; `finish` drops it."""
        disk.write_npz(self.partial / f"kept_{name}.npz", arrays)

    def kept(self, name: str) -> dict[str, np.ndarray] | None:
        """What `keep` put aside under this name, or None (as where the file is torn: like frames, it is made again)."""
        path = self.partial / f"kept_{name}.npz"
        return disk.read_npz(path) if zipfile.is_zipfile(path) else None

    @property
    def maps(self) -> LazyMaps:
        """The maps written so far, for a `Reconstruction` to hand to `finish`."""
        return maps_on_disk(self.partial, len(self.frames) if self.done else 0)

    @property
    def flows(self) -> LazyFlows:
        """The flow written so far, likewise."""
        return flows_on_disk(self.partial)

    def finish(self, reconstruction: Reconstruction) -> Reconstruction:
        """Write the rest and put the folder in place; returns the reconstruction with its maps where they now lie.

        Args:
            reconstruction: all is taken from it but maps, flow and what was `put`; those are the ones written here.
        """
        missing = set(range(len(self.frames))) - self.done
        if self.done and missing:
            raise ValueError(f"{len(missing)} frames were never written, the first is {min(missing)}")
        written = replace(reconstruction, frames=self.frames, maps=self.maps, flows=self.flows)
        disk.write_json(self.partial / "run.json", written.provenance)
        if written.sparse is not None and "points" not in self._put:
            self.put("points", schema.points_to_arrays(written.sparse))
        if written.tracks is not None and "tracks" not in self._put:
            self.put("tracks", schema.tracks_to_arrays(written.tracks))
        disk.write_text(self.partial / "preview" / "index.html", render(written))
        cameras = schema.cameras_to_json(self.frames, written.cameras, written.scale)
        disk.write_json(self.partial / "cameras.json", cameras)
        with disk.explained(self.target):
            self._put_in_place()
        self._finished = True
        maps, flows = maps_on_disk(self.target, len(written.maps)), flows_on_disk(self.target)
        return replace(written, maps=maps, flows=flows)

    def _put_in_place(self) -> None:
        for path in [self.partial / "resume.json", *self.partial.glob("kept_*.npz")]:
            path.unlink()
        if not self.target.exists():
            os.replace(self.partial, self.target)
            return
        # Into a folder that exists file by file: while cameras.json is away, readers know that the result is not whole.
        (self.target / "cameras.json").unlink(missing_ok=True)
        _remove_own(self.target)
        for path in sorted(_own_files(self.partial), key=lambda path: path.name == "cameras.json"):
            place = self.target / path.relative_to(self.partial)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
        # A network disk shows a file without a name for as long as it is open: its folder stays.
        for path in sorted([self.partial, *self.partial.rglob("*")], reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _partial_folder(target: Path) -> Path:
    """Inside a folder that exists (it may be a mount point of its own), else beside its place."""
    return target / ".partial" if target.is_dir() else target.with_name(f"{target.name}.partial")


def _worth_keeping(partial: Path) -> bool:
    """Whether some stage or frame of interrupted work is done."""
    return any(partial.glob("arrays/*.npz")) or any(partial.glob("kept_*.npz"))


def _admit(target: Path, partial: Path, waiting: bool, *, overwrite: bool, resume: bool) -> None:
    """Refuse what would be lost or overwritten without having been asked to."""
    disk.check_wishes(target, overwrite=overwrite, resume=resume)
    if resume and not waiting and is_result(target):
        raise UsageError(f"{target} is already complete, there is nothing to resume; overwrite makes it again")
    if waiting and not (overwrite or resume):
        raise UsageError(f"{partial} holds an interrupted run; resume goes on from it, overwrite starts again")
    if target.is_dir() and any(path != partial for path in target.iterdir()) and not (overwrite or resume):
        raise UsageError(f"{target} is not empty; choose another output folder, or overwrite the result in it")


def _check_same_run(partial: Path, identity: Any) -> None:
    try:
        before = disk.read_json(partial / "resume.json")
    except InputError as error:
        raise UsageError(f"{partial} is damaged and cannot be resumed; overwrite starts again") from error
    theirs = before.get("version") if isinstance(before, dict) else None
    if theirs != identity["version"]:
        raise UsageError(
            f"{partial} was begun by version {theirs} of unproject, this is {identity['version']}: "
            "resume with that one, or overwrite it"
        )
    if before != identity:
        raise UsageError(f"{partial} was begun with other inputs or settings; give the same ones, or overwrite it")


def _own_files(folder: Path) -> Iterator[Path]:
    inside = (path for part in ("arrays", "flow", "preview", "exports") for path in (folder / part).rglob("*"))
    for path in sorted([*folder.glob("*"), *inside]):
        if path.is_file() and _OWN.fullmatch(path.relative_to(folder).as_posix()):
            yield path


def _remove_own(folder: Path) -> None:
    """Remove the files this package made, then the folders that are empty because of it."""
    owned = list(_own_files(folder))
    for path in owned:
        path.unlink()
    emptied = {parent for path in owned for parent in path.parents if parent.is_relative_to(folder)}
    for parent in sorted(emptied, key=lambda parent: -len(parent.parts)):
        if not any(parent.iterdir()):
            parent.rmdir()
