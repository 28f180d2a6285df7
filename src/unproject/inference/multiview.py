"""A multi-view network's answer: windows of views, each run once, brought together and written view by view.

Memory is that of one window. What a window says waits on disk until all are stitched, since only then their units are
known: in the result's folder, from where an interrupted run takes it, or in a temporary one.
"""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unproject.inference import view_windows
from unproject.inference.anchored import MaskOf
from unproject.inference.checkpoint import from_arrays, to_arrays
from unproject.inference.network_input import NetworkInput, window_length
from unproject.inference.network_result import Answer, MapsSink
from unproject.inference.stitched import Stitched, stitched, written
from unproject.inference.view_maps import Asked, DenseView, Flows, SeenWindow, read
from unproject.inference.view_windows import Window
from unproject.io import disk
from unproject.io.frame_store import FrameStore
from unproject.models.base import MultiViewNetwork, Reconstructor, trunk_in
from unproject.progress import Progress
from unproject.teachers.matches import FEW_VIEWS
from unproject.teachers.tracks import follow_each_other
from unproject.types import FlowMaps, Views

OVERLAP = 8
"""Views that a window shares with those before it, where it is three times as long."""


@runtime_checkable
class Shelf(Protocol):
    """Where arrays wait for the end of a run."""

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Put aside."""
        ...

    def kept(self, name: str) -> dict[str, np.ndarray] | None:
        """What was put aside under this name."""
        ...


@dataclass(frozen=True)
class Drawer:
    """A folder for as long as a run lasts that writes no result."""

    folder: Path

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Put aside."""
        disk.write_npz(self.folder / f"{name}.npz", arrays, stored=tuple(arrays))

    def kept(self, name: str) -> dict[str, np.ndarray] | None:
        """What was put aside under this name."""
        path = self.folder / f"{name}.npz"
        return disk.read_npz(path) if path.is_file() else None


def seen_in_windows(
    network: Reconstructor,
    given: NetworkInput,
    usable: MaskOf,
    long_side: int,
    flow: bool,
    precision: torch.dtype | None,
    sink: MapsSink,
    progress: Progress,
) -> Answer:
    """All views of a source, windows of them at a time; of a video also windows where it comes back to a place.

    With ``flow``, also that of neighbours in the windows.
    """
    count = len(given.sizes)
    with ExitStack() as stack:
        shown = stack.enter_context(FrameStore())
        shelf: Shelf | None = sink.writer
        if shelf is None:
            shelf = Drawer(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unproject-windows-"))))
        ordered, marks = _looked_at(given, shown, progress)
        length = window_length(network, given.source, long_side, ordered, flow)
        overlap = max(1, min(OVERLAP, length // 3))
        if ordered:
            planned = view_windows.in_time(count, length, overlap)
            loops = view_windows.loops(marks, planned, length)
        else:
            planned, loops = view_windows.by_likeness(marks @ marks.T, length, overlap), []
        home = view_windows.homes(planned, count)
        pair_home = view_windows.pair_homes(planned, home, ring=not ordered) if flow else {}
        runner = _Runner(network, given, usable, precision, shown, shelf, ordered, home, pair_home)
        windows = [*planned, *loops]
        seen = [runner.window(number, window, length) for number, window in enumerate(progress(windows, "network"))]
        whole = stitched(seen, windows, home, sink.infos, given.sizes, shared_camera=ordered)
        tracks, sparse = written(whole, sink, shown, lambda view: runner.dense(view, length), progress)
        for source, target in pair_home:
            sink.put_flow(source, target, runner.flow(source, target, length))
    return Answer(
        cameras=whole.cameras,
        maps=sink.maps,
        tracks=tracks,
        sparse=sparse,
        notes=_notes(network, ordered, whole, len(planned), len(loops)),
        record={
            "windows": planned,
            "loops": loops,
            "patch_pattern": round(float(np.mean([one.pattern for one in seen])), 5),
            "parts": whole.parts,
        },
    )


def _looked_at(given: NetworkInput, shown: FrameStore, progress: Progress) -> tuple[bool, np.ndarray]:
    """Reads all frames; whether they follow each other in time, and a thumbnail of each."""
    marks = []
    with FrameStore() as greys:
        for picture in progress(given.pictures(), "read", len(given.sizes)):
            shown.append(picture)
            marks.append(view_windows.thumbnail(picture))
            if given.source.kind == "images":
                greys.append(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
        ordered = given.source.kind == "video" or (len(greys) > FEW_VIEWS and follow_each_other(greys))
    return ordered, np.stack(marks)


@dataclass(frozen=True)
class _Runner:
    network: Reconstructor
    given: NetworkInput
    usable: MaskOf
    precision: torch.dtype | None
    shown: FrameStore
    shelf: Shelf
    ordered: bool
    home: list[int]
    pair_home: dict[tuple[int, int], int]
    """Of the pairs whose flow is wanted."""

    def window(self, number: int, window: Window, length: int) -> SeenWindow:
        """Run it, or take what an interrupted run has of it; windows of another length are others."""
        name = f"window_{length}_{number}"
        arrays = self.shelf.kept(name)
        if arrays is None:
            seen, dense, flows = self._run(window)
            for view, maps in zip(window, dense, strict=True):
                if self.home[view] == number:
                    self.shelf.keep(f"view_{length}_{view}", to_arrays(maps))
            for source, target, maps in flows if self.pair_home else ():
                if self.pair_home.get((source, target)) == number:
                    self.shelf.keep(f"flow_{length}_{source}_{target}", to_arrays(maps))
            arrays = to_arrays(seen)
            self.shelf.keep(name, arrays)
        return from_arrays(SeenWindow, arrays)

    def dense(self, view: int, length: int) -> DenseView:
        """The maps of a view, of the window that it is at home in."""
        return from_arrays(DenseView, self.shelf.kept(f"view_{length}_{view}") or {})

    def flow(self, source: int, target: int, length: int) -> FlowMaps:
        """That of a pair, of the window that it is taken from."""
        return from_arrays(FlowMaps, self.shelf.kept(f"flow_{length}_{source}_{target}") or {})

    @torch.no_grad()
    def _run(self, window: Window) -> tuple[SeenWindow, list[DenseView], Flows]:
        images = self.given.canvas(self.shown, window)
        pairs = self._pairs(len(window)).to(images.device)
        times = [self.given.source.infos[view].time_s for view in window]
        views = Views(images=images[None], times=torch.tensor(times, device=images.device)[None], pairs=pairs[None])
        with trunk_in(self.precision or self.network.precision, images.device):
            said = self.network.forward(views)
        asked = Asked(
            window=window,
            pairs=pairs,
            in_time=self.ordered,
            boxes=[self.given.box(view) for view in window],
            usable=[self.usable(view) for view in window],
        )
        return read(said, asked, self.given.patch)

    def _pairs(self, count: int) -> Int[Tensor, "P 2"]:
        """Neighbours, both ways round, of a network that tells flow: in time, or of photos if that is wanted."""
        tells = isinstance(self.network, MultiViewNetwork) and self.network.tells_flow
        wanted = tells and (self.ordered or bool(self.pair_home))
        asked = view_windows.neighbours(count, ring=not self.ordered) if wanted else []
        return torch.tensor(asked, dtype=torch.long).view(-1, 2)


def _notes(network: Reconstructor, ordered: bool, whole: Stitched, windows: int, loops: int) -> list[str]:
    notes = []
    if windows > 1:
        closed = f", {loops} more where the video comes back to a place" if loops else ""
        notes.append(f"{windows} windows of views, stitched by the views they share{closed}")
    if len(whole.parts) > 1:
        sizes = ", ".join(str(part["frames"]) for part in whole.parts)
        notes.append(f"{len(whole.parts)} parts that nothing links ({sizes} frames): no common scale")
    if not ordered:
        notes.append("the images are no video: what moves is not told")
    elif isinstance(network, MultiViewNetwork) and not network.tells_flow:
        notes.append("the network has no flow: what moves is not told")
    return notes
