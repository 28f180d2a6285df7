"""Photos, loops, sizes and memory: what a run of many views makes of what it is given."""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from many_views import ManyViews

from benchmarks.measure import measured
from benchmarks.multiview_memory import predicted_and_measured
from unproject.data.synthetic import Rendering, photo_orbit
from unproject.errors import MemoryLimitError, UsageError
from unproject.geometry import rigid
from unproject.inference import network_input, view_windows
from unproject.inference.network_input import NetworkInput, window_length
from unproject.inference.reconstruct import plan, reconstruct
from unproject.inference.stitched import stitched
from unproject.inference.view_maps import Asked, read
from unproject.io.result import Reconstruction
from unproject.io.source import open_source
from unproject.io.validate import validate
from unproject.models import build, checkpoints
from unproject.types import FrameInfo, Prediction, Views

PHOTOS = 12


@pytest.fixture(scope="module")
def made() -> Rendering:
    return photo_orbit(2, photos=PHOTOS, height=64, width=96).rendering


@pytest.fixture(scope="module")
def order() -> list[int]:
    return np.random.default_rng(3).permutation(PHOTOS).tolist()


@pytest.fixture(scope="module")
def photos(made, order, tmp_path_factory):
    """In no order; times are their numbers in the folder."""
    place = tmp_path_factory.mktemp("photos")
    for number, view in enumerate(order):
        image = (made.images[0, view] * 255).round().byte().movedim(0, -1).numpy()
        cv2.imwrite(str(place / f"{number:03d}.png"), np.ascontiguousarray(image[..., ::-1]))
    return place


class Shuffled(ManyViews):
    """Knows photos by their numbers in the folder."""

    def __init__(self, made, order, *, sure: float = 1.0, **wishes) -> None:
        super().__init__(made, flow=False, **wishes)
        self.order, self.sure = torch.tensor(order), sure

    def forward(self, views: Views) -> Prediction:
        frames = self.order[views.times[0].long()]
        said = super().forward(replace(views, times=frames[None].float()))
        return replace(said, confidence=self.sure * said.confidence)


def only_room_for(views: int, monkeypatch) -> None:
    """A network that has room for so many views, and no other limit."""
    monkeypatch.setattr("unproject.inference.multiview.window_length", lambda *given: views)


@pytest.mark.parametrize("room", [PHOTOS, 6])
def test_photos_in_any_order_become_one_world(made, order, photos, monkeypatch, room):
    only_room_for(room, monkeypatch)
    network = Shuffled(made, order)
    found = reconstruct(photos, model=network, long_side=96)
    assert len(network.windows) == (1 if room == PHOTOS else 3) and max(map(len, network.windows)) <= room
    truth = made.world_from_cam[0, order].double()
    truth = rigid.inverse(truth[0]) @ truth
    pose = found.cameras.world_from_cam
    assert rigid.rotation_angle(rigid.inverse(pose)[:, :3, :3] @ truth[:, :3, :3]).max() < 1e-3
    unit = (pose[:, :3, 3].norm(dim=-1) / truth[:, :3, 3].norm(dim=-1).clamp(min=1e-9))[1:]
    torch.testing.assert_close(unit, unit.median().expand_as(unit), rtol=1e-3, atol=0)
    assert found.provenance["state"] == "full" and not found.motion.any()
    assert any("no video" in note for note in found.provenance["notes"])


def test_a_network_that_is_sure_of_nothing_gives_no_full_result(made, order, photos):
    found = reconstruct(photos, model=Shuffled(made, order, sure=0.0), long_side=96)
    assert found.provenance["state"] == "partial"
    assert any(note.startswith("no depth is given") for note in found.provenance["notes"])


def said_of(network: ManyViews, frames: list[int]) -> Prediction:
    times = torch.tensor(frames)[None].float()
    images, pairs = torch.zeros(1, len(frames), 3, 64, 96), torch.zeros(1, 0, 2).long()
    return network(Views(images=images, times=times, pairs=pairs))


def asked_for(window: list[int]) -> Asked:
    box = (slice(0, 64), slice(0, 96))
    pairs = torch.zeros(0, 2).long()
    return Asked(window=window, pairs=pairs, in_time=True, boxes=[box] * len(window), usable=[None] * len(window))


def test_focal_lengths_of_photos_are_their_own(made):
    """Two of them see through another lens than the rest."""
    said, asked = said_of(ManyViews(made, flow=False), list(range(PHOTOS))), asked_for(list(range(PHOTOS)))
    points = said.points.clone()
    points[0, 3:5, ..., :2] *= 0.5
    seen, _, _ = read(replace(said, points=points), asked, 16)
    infos = [FrameInfo(file=f"{n}.png", index=0, time_s=float(n), width=192, height=128) for n in range(PHOTOS)]
    lens = 2 * made.intrinsics[0, 0, 0, 0].double()
    for shared, other in ((False, 2 * lens), (True, lens)):
        whole = stitched([seen], [asked.window], [0] * PHOTOS, infos, [(96, 64)] * PHOTOS, shared_camera=shared)
        focal = whole.cameras.intrinsics[:, 0, 0]
        torch.testing.assert_close(focal[:3], lens.expand(3), rtol=1e-3, atol=0)
        torch.testing.assert_close(focal[3:5], other.expand(2), rtol=1e-3, atol=0)


def test_a_loop_takes_drift_away(made):
    """There and back again; the unit of every window grows by 3 % from its first to its last view."""
    walk = [*range(PHOTOS), *range(PHOTOS - 1, -1, -1)]
    windows = view_windows.in_time(len(walk), 8, 3)
    pictures = (made.images[0] * 255).byte().movedim(1, -1).numpy()
    loops = view_windows.loops(np.stack([view_windows.thumbnail(pictures[n]) for n in walk]), windows, 8)
    assert loops
    infos = [FrameInfo(file="a.mp4", index=n, time_s=float(n), width=96, height=64) for n in range(len(walk))]
    home = view_windows.homes(windows, len(walk))

    def drift(run: list[list[int]]) -> float:
        network = ManyViews(made, flow=False, drift=0.03)
        seen = [read(said_of(network, [walk[view] for view in window]), asked_for(window), 16)[0] for window in run]
        whole = stitched(seen, run, home, infos, [(96, 64)] * len(walk), shared_camera=True)
        first, last = (whole.scale[view] * network.gauges[home[view]].scale for view in (0, len(walk) - 1))
        return float((last / first).log().abs())

    before, after = drift(windows), drift([*windows, *loops])
    assert before > 0.03 and after < 0.6 * before


@pytest.mark.parametrize("sizes", [[(96, 64)] * 3, [(64, 96), (96, 64), (50, 50), (17, 200)]])
def test_photos_of_any_sizes_with_a_real_network(tmp_path, sizes):
    for number, (height, width) in enumerate(sizes):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.random.randint(0, 255, (height, width, 3), np.uint8))
    found = reconstruct(tmp_path, model=build("flow3r", "tiny").eval(), long_side=56)
    said = any(bool(maps.valid.any()) for maps in found.maps)
    assert found.provenance["state"] == ("full" if said else "partial")
    assert any("no depth is given" in note for note in found.provenance["notes"]) != said
    for (height, width), maps in zip(sizes, found.maps, strict=True):
        rows, columns = maps.depth.shape
        assert rows % 14 == columns % 14 == 0 and max(rows, columns) == 56
        corner = maps.to_original @ torch.tensor([columns, rows, 1.0]).double()
        torch.testing.assert_close(corner, torch.tensor([width, height, 1.0]).double())
    assert found.cameras.found.all() and (found.cameras.intrinsics[:, [0, 1], [0, 1]] > 0).all()


def test_images_lie_in_the_middle_of_the_canvas_patch_by_patch(tmp_path):
    for number, (height, width) in enumerate([(64, 128), (128, 64), (90, 90)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((height, width, 3), 255, np.uint8))
    given = NetworkInput(open_source(tmp_path), 56, 14, torch.device("cpu"))
    assert given.sizes == [(56, 28), (28, 56), (56, 56)]
    assert given.box(0) == (slice(14, 42), slice(0, 56)) and given.box(1) == (slice(0, 56), slice(14, 42))
    laid = given.canvas(list(given.pictures()), [0, 1])
    assert laid.shape == (2, 3, 56, 56) and (laid == 1).sum() == 2 * 3 * 28 * 56


def test_reordering_photos_changes_nothing_but_the_gauge(tmp_path):
    images = [np.random.randint(0, 255, (48, 64, 3), np.uint8) for _ in range(3)]
    model, found = build("pi3", "tiny").eval(), []
    for order in ([0, 1, 2], [2, 0, 1]):
        folder = tmp_path / "".join(map(str, order))
        folder.mkdir()
        for number, view in enumerate(order):
            cv2.imwrite(str(folder / f"{number}.png"), images[view])
        result = reconstruct(folder, model=model, long_side=56)
        found.append([result.maps[order.index(view)] for view in range(3)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.depth, other.depth, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.confidence, other.confidence, rtol=0, atol=0.01)


def test_windows_are_as_long_as_memory_allows(photos, monkeypatch):
    source, model = open_source(photos), build("flow3r", "small")
    need = [network_input._window_gib(model, source, 518, views, False) for views in range(1, PHOTOS + 1)]
    assert need == sorted(need)
    for room in (1, 5, PHOTOS):
        monkeypatch.setattr(
            network_input, "there_gib", lambda device, room=room: need[room - 1] / network_input.SPARE + 1e-6
        )
        assert window_length(model, source, 518, False, False) == max(room, 2)
        if room > 1:
            assert plan(photos, model=model, long_side=518).memory_gib == pytest.approx(need[room - 1], abs=0.01)


def test_too_little_memory_says_what_fits(photos, monkeypatch):
    model = build("flow3r", "small")
    room = 0.9 * network_input._window_gib(model, open_source(photos), 1022, 2, False)
    monkeypatch.setattr(network_input, "there_gib", lambda device: room)
    with pytest.raises(MemoryLimitError, match=r"--long-side \d+ fits") as caught:
        reconstruct(photos, model=model, long_side=1022)
    side = int(str(caught.value).split("--long-side ")[1].split()[0])
    assert side % 14 == 0 and 14 <= side < 1022


def test_a_full_device_says_what_would_fit(photos, monkeypatch):
    model = build("pi3", "tiny").eval()

    def full(views):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(MemoryLimitError, match=r"--long-side \d+ fits|smaller network"):
        reconstruct(photos, model=model, long_side=518)


def test_a_reference_mask_is_refused(photos, tmp_path):
    with pytest.raises(UsageError, match="two-view network"):
        reconstruct(photos, model=build("pi3", "tiny"), reference_mask=tmp_path / "mask.png")


RUN = """
import sys
from unproject.inference import network_input
from unproject.inference.reconstruct import reconstruct
source, weights, folder, room, frames = sys.argv[1:]
network_input.there_gib = lambda device: float(room)
reconstruct(source, model=weights, flow=True, long_side=112, output=folder, max_frames=int(frames), device="cpu")
"""
SMALL_ROOM = 12
"""Photos that a window has room for, of the 40."""


def long_input(place: Path, kind: str, write_video) -> Path:
    """300 frames of 128x96 pixels that pass along a wall, or 40 of them as photos in no order."""
    count = 300 if kind == "video" else 40
    canvas = np.random.default_rng(0).integers(0, 255, (96, 1000, 3), np.uint8)
    canvas = cv2.GaussianBlur(canvas, (9, 9), 0)
    starts = np.linspace(0, 870, count).astype(int)
    frames = [np.ascontiguousarray(canvas[:, start : start + 128]) for start in starts]
    if kind == "video":
        return write_video(place / "clip.mp4", frames)
    for number, view in enumerate(np.random.default_rng(1).permutation(count)):
        (place / "photos").mkdir(exist_ok=True)
        cv2.imwrite(str(place / "photos" / f"{number:03d}.png"), frames[view])
    return place / "photos"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["video", "photos"])
def test_a_small_network_on_long_input_in_bounded_memory(tmp_path, write_video, monkeypatch, kind):
    """Shape is tested, not quality. Runs are processes of their own: a peak of this one would hide theirs."""
    source, network = long_input(tmp_path, kind, write_video), build("flow3r", "small").eval()
    checkpoints.save(network, tmp_path / "small.safetensors")
    room = network_input._window_gib(network, open_source(source), 112, SMALL_ROOM, True) / network_input.SPARE + 1e-6
    room = 64.0 if kind == "video" else room
    monkeypatch.setattr(network_input, "there_gib", lambda device: room)

    def peak_gib(frames: int) -> float:
        command = [source, tmp_path / "small.safetensors", tmp_path / f"out{frames}", room, frames]
        return measured([sys.executable, "-c", RUN, *map(str, command)]) / 1024

    count = 300 if kind == "video" else 40
    peak, said = peak_gib(count), plan(source, model=network, long_side=112, flow=True).memory_gib
    assert peak < 1.2 * said
    if kind == "video":
        assert peak < 1.1 * peak_gib(60)  # five times the frames, the same windows
    else:
        whole = network_input._window_gib(network, open_source(source), 112, count, True)
        assert said < network_input.SPARE * room < whole  # not all of them at once
    assert_complete(Reconstruction.load(tmp_path / f"out{count}"), count, kind)
    assert validate(tmp_path / f"out{count}").passed


def assert_complete(found: Reconstruction, count: int, kind: str) -> None:
    """Every output of every frame, at the network's size and at that of the files."""
    windows = found.provenance["windows"]
    assert {view for window in windows for view in window} == set(range(count)) and len(windows) > 1
    assert max(map(len, windows)) == (network_input.IN_TIME if kind == "video" else SMALL_ROOM)
    assert found.world_from_cam.shape == (count, 4, 4) and found.intrinsics.shape == (count, 3, 3)
    assert bool(found.cameras.found.all()) and bool(found.world_from_cam.isfinite().all())
    assert len(found.maps) == len(found.times) == count
    whole = found.at_original_size()
    for number in range(count):
        for maps, size in ((found.maps[number], (84, 112)), (whole.maps[number], (96, 128))):
            assert maps.rgb.shape == (*size, 3)
            for value in (maps.depth, maps.valid, maps.confidence, maps.motion):
                assert value.shape == size and bool(value.isfinite().all())
    pairs = set(found.flow_pairs)
    assert pairs == {(target, source) for source, target in pairs}
    assert pairs >= {(number, number + 1) for number in range(count - 1)} or kind == "photos"
    assert {source for source, _ in pairs} == set(range(count))
    for source, target in pairs:
        for flow, size in ((found.flow(source, target), (84, 112)), (whole.flow(source, target), (96, 128))):
            assert flow.flow.shape == (*size, 2) and bool(flow.flow.isfinite().all())
            assert flow.covisible.shape == flow.motion.shape == size
    assert found.tracks is not None and found.tracks.xyz.shape[0] == found.tracks.uv.shape[0] == count
    assert found.sparse is None or bool(found.sparse.xyz.isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["4x112x112", "8x224x224"])
def test_predicted_memory_is_within_a_fifth_of_measured(case):
    said, found = predicted_and_measured("flow3r", "small", case)
    assert abs(said / found - 1) < 0.2
