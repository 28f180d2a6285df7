"""Tracks of a network: the same numbers as if all had been held, in memory that does not grow with the video."""

import gc
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from oracle import Oracle, clip
from wall import PACE, Wall

from unproject.inference import network_tracks, tracks3d
from unproject.inference.anchored import Sequencing, anchored
from unproject.inference.follow import Follower
from unproject.inference.network_tracks import TrackGrid
from unproject.inference.reconstruct import reconstruct
from unproject.io import spool, writer
from unproject.io.preview import render
from unproject.io.result import Reconstruction
from unproject.io.spool import Spool
from unproject.types import Tracks

SIDE = 32
STILL = torch.zeros(SIDE, SIDE)


def wall_frames(count):
    return list(anchored(Wall(), torch.rand(count, 3, SIDE, SIDE), Sequencing(batch=4)))


def followed(frames, motion_of, shown):
    grid = TrackGrid(torch.device("cpu"), len(frames), None)
    for frame in frames:
        grid.add(frame, motion_of(frame), shown, torch.diag(torch.tensor([2.0, 2.0, 1.0])))
    return grid


# --- Against all in memory.


def all_held(grid):
    """The dense tables of the tracks that are kept, from every row of every track, one track after the other."""
    rows, frame = np.concatenate(list(grid._rows.pieces())), np.repeat(np.arange(grid.frames), grid._counts)
    order = np.lexsort((frame, rows["track"]))
    rows, frame = rows[order], frame[order]
    seen = rows["visible"]
    observed = Tracks(
        view=torch.as_tensor(frame[seen]),
        track=torch.as_tensor(rows["track"][seen]),
        uv=torch.as_tensor(rows["uv"][seen]),
        weight=torch.ones(int(seen.sum())),
    )
    with np.errstate(invalid="ignore"):
        names = tracks3d.longest(observed, grid.frames)
    tables = {name: [] for name in ("xyz", "uv", "visible", "confidence", "moving")}
    for name in names:
        own = slice(*np.searchsorted(rows["track"], [name, name + 1]))
        mine, when = rows[own], frame[own]
        xyz, uv = np.full((grid.frames, 1, 3), np.nan, np.float32), np.full((grid.frames, 1, 2), np.nan, np.float32)
        visible, confidence = np.zeros(grid.frames, bool), np.zeros(grid.frames, np.float32)
        xyz[when, 0], uv[when, 0] = mine["xyz"], mine["uv"]
        visible[when], confidence[when] = mine["visible"], mine["confidence"] * mine["visible"]
        moving = mine["motion"][mine["visible"]].sum() > 0.5 * mine["visible"].sum()
        if not moving:
            xyz[:] = np.average(mine["xyz"], axis=0, weights=np.maximum(confidence[when], 1e-6))
        for values in (xyz, uv):
            tracks3d.fill_gaps(values)
        for key, value in (("xyz", xyz[:, 0]), ("uv", uv[:, 0]), ("visible", visible), ("confidence", confidence)):
            tables[key].append(value)
        tables["moving"].append(moving)
    moving = np.array(tables.pop("moving"))
    return {key: np.stack(value, 1) for key, value in tables.items()} | {"moving": moving}


@pytest.mark.parametrize("most", [300, 20])
@pytest.mark.parametrize("moving", [True, False])
def test_the_same_as_if_all_were_held(moving, most, monkeypatch):
    """With so few kept that most tracks are let go on the way; at rest and among movers."""
    monkeypatch.setattr(tracks3d, "MOST", most)
    monkeypatch.setattr(network_tracks, "MOST", most)
    monkeypatch.setattr(network_tracks, "PIECE", 100)
    if moving:
        made = clip(frames=8, duration_s=4.0)
        frames = list(anchored(Oracle(made), made.images[0], Sequencing(batch=3, every=2, least_overlap=0.0)))
        grid = followed(frames, lambda frame: made.motion[0, frame.anchor].double(), np.zeros((32, 48, 3), np.uint8))
    else:
        grid = followed(wall_frames(24), lambda frame: STILL, np.zeros((SIDE, SIDE, 3), np.uint8))
    held, (tracks, sparse) = all_held(grid), grid.finish()
    assert tracks.xyz.shape[1] == min(most, held["xyz"].shape[1])
    for name, wanted in held.items():
        assert np.allclose(getattr(tracks, name), wanted, atol=1e-6), name
    assert bool(tracks.moving.any()) == moving
    view, track = sparse.tracks.view, sparse.tracks.track
    still = (~tracks.moving & ((tracks.confidence > 0).sum(0) >= 2)).nonzero()[:, 0]
    assert torch.equal(torch.stack([track, view]), (tracks.confidence[:, still] > 0).T.nonzero().T)
    assert torch.equal(sparse.tracks.uv, tracks.uv[view, still[track]])
    assert torch.equal(sparse.xyz, tracks.xyz[-1, still])


def test_points_that_leave_change_nothing_for_those_that_stay():
    holds, lets_go = (Follower(torch.rand(200, 2) * SIDE) for _ in range(2))
    lets_go.uv = lets_go._landed = holds.uv
    most = 0
    for frame in wall_frames(40):
        if holds.go_to(frame.anchor):
            lets_go.go_to(frame.anchor)
            lets_go.let_go()
            new = torch.rand(100, 2) * SIDE
            holds.start(new)
            lets_go.start(new)
        everything, left = holds.add(frame), lets_go.add(frame)
        mine = lets_go.number
        assert lets_go.alive.all() and torch.equal(mine, holds.alive.nonzero()[:, 0])
        for name in ("xyz", "uv", "visible", "confidence"):
            assert torch.equal(getattr(left, name), getattr(everything, name)[mine])
        most = max(most, len(mine))
    assert len(holds.uv) > 900 and most < 400


def test_the_wall_is_where_it_is():
    grid = followed(wall_frames(12), lambda frame: STILL, np.full((SIDE, SIDE, 3), 9, np.uint8))
    tracks, sparse = grid.finish()
    assert (sparse.xyz[:, 2] - 1).abs().max() < 1e-5 and (sparse.rgb == 9).all()
    assert sparse.xyz[:, 0].max() > 8 * PACE and tracks.visible.any(1).all()


# --- What a user runs.


@pytest.fixture
def run(tmp_path):
    def result(count, output, **flags):
        folder = tmp_path / str(count)
        folder.mkdir(exist_ok=True)
        for number in range(count):
            cv2.imwrite(str(folder / f"{number:06d}.png"), np.full((SIDE, SIDE, 3), number, np.uint8))
        return reconstruct(folder, model=Wall(), output=output, long_side=SIDE, **flags)

    return result


def test_returned_written_and_held_in_memory_are_the_same(run, tmp_path):
    (tmp_path / "there").mkdir()
    returned = run(12, tmp_path / "there")
    assert not (tmp_path / "there" / ".partial").exists()
    for other in (Reconstruction.load(tmp_path / "there"), run(12, None)):
        for name in ("xyz", "uv", "visible", "confidence", "moving"):
            assert torch.equal(getattr(other.tracks, name), getattr(returned.tracks, name))
        for name in ("view", "track", "uv", "weight"):
            assert torch.equal(getattr(other.sparse.tracks, name), getattr(returned.sparse.tracks, name))
        assert torch.equal(other.sparse.xyz, returned.sparse.xyz) and torch.equal(other.sparse.rgb, returned.sparse.rgb)


FIRST = 8
"""The frame from which on memory is looked at."""


def tensor_bytes():
    gc.collect()
    storages = [tensor.untyped_storage() for tensor in gc.get_objects() if type(tensor) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def taken(run, output, frames, monkeypatch):
    """Bytes that each frame leaves behind, tensors and others, and those held at once while tracks are written."""
    marks = []

    def watched(items, stage, total):
        for number, item in enumerate(items):
            yield item
            if number == FIRST:
                marks.append(tensor_bytes())
                tracemalloc.start()
        marks[0] = tensor_bytes() - marks[0]
        marks.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.reset_peak()

    def drawn(result):
        marks.append(tracemalloc.get_traced_memory()[1] - marks[1])
        tracemalloc.stop()
        return render(result)

    monkeypatch.setattr(writer, "render", drawn)
    record = run(frames, output, progress=watched).provenance
    assert len(record["anchors"]) > frames / 6
    tensors, arrays, written = marks
    return tensors / (frames - FIRST), arrays / (frames - FIRST), written


def test_memory_does_not_grow_with_the_video(run, tmp_path, monkeypatch):
    """A frame shows 1024 tracks, whose rows take 37 kB; what stays is its camera. All tables would take 1.2 MB."""
    monkeypatch.setattr(spool, "PIECE", 1 << 14)
    monkeypatch.setattr(network_tracks, "PIECE", 1 << 12)
    monkeypatch.setattr(network_tracks, "MOST", 64)  # so few frames begin fewer tracks than may be remembered
    monkeypatch.setattr(tracks3d, "MOST", 1024)
    tensors, arrays, written = taken(run, tmp_path / "out", 48, monkeypatch)
    assert tensors < 1000 and arrays < 8000 and written < 800_000
    held, plain = [], Spool.extend
    monkeypatch.setattr(Spool, "extend", lambda self, rows: (held.append(rows.copy()), plain(self, rows))[1])
    assert taken(run, tmp_path / "held", 18, monkeypatch)[1] > 30_000
