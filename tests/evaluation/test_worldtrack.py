"""The protocol against reference numbers and planted faults, and files that nobody should trust."""

import io
import math
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from unproject.errors import InputError
from unproject.evaluation.protocols import worldtrack
from unproject.evaluation.protocols.worldtrack import Answer
from unproject.evaluation.protocols.worldtrack_files import Sequence, read_sequence, write_sequence
from unproject.evaluation.protocols.worldtrack_synthetic import SyntheticSequence, synthetic_sequence, write_synthetic
from unproject.geometry import rigid

DOUBLE = torch.float64
HEIGHT, WIDTH, FRAMES = 36, 64, 5


@pytest.fixture(scope="module")
def made() -> SyntheticSequence:
    return synthetic_sequence(4, frames=FRAMES, height=HEIGHT, width=WIDTH, every=4)


def as_file(path: Path, **changes: np.ndarray | None) -> Path:
    """A file of the benchmark's format with some arrays replaced, or left out."""
    jpegs = np.empty(3, dtype=object)
    for number in range(3):
        file = io.BytesIO()
        Image.fromarray(np.full((6, 8, 3), 40 * number, np.uint8)).save(file, format="JPEG")
        jpegs[number] = file.getvalue()
    arrays = {
        "images_jpeg_bytes": jpegs,
        "tracks_XYZ": np.random.default_rng(0).random((3, 5, 3)) + 1,
        "visibility": np.ones((3, 5), bool),
        "fx_fy_cx_cy": np.array([10.0, 10, 4, 3]),
        "extrinsics_w2c": np.tile(np.eye(4), (3, 1, 1)),
        "depth_map": np.ones((3, 6, 8), np.float32),
    }
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})
    return path


@pytest.mark.parametrize("alignment", ["global", "per_traj", "sim3_closed"])
def test_scores_agree_with_the_reference_outputs(parity, alignment):
    file = np.load(parity / "worldtrack.npz", allow_pickle=False)
    ours = {"global": "global", "per_traj": "per_track", "sim3_closed": "similarity"}[alignment]
    points, truth = torch.from_numpy(file["pred"]), torch.from_numpy(file["gt"])
    found = worldtrack.score(points, truth, ours)
    assert found.apd == pytest.approx(file[f"{alignment}_apd"].item(), rel=0, abs=1e-12)
    assert found.epe == pytest.approx(file[f"{alignment}_epe"].item(), rel=0, abs=1e-12)
    assert found.within == pytest.approx(file[f"{alignment}_fractions"].tolist(), rel=0, abs=1e-12)
    aligned = torch.from_numpy(file[f"{alignment}_aligned"])
    torch.testing.assert_close(worldtrack.align(points, truth, ours), aligned, rtol=0, atol=1e-12)


def test_dynamic_scores_agree_with_the_reference_outputs(parity):
    file = np.load(parity / "worldtrack.npz", allow_pickle=False)
    points, truth = torch.from_numpy(file["pred"]), torch.from_numpy(file["gt"])
    moving = worldtrack.dynamic(truth)
    assert moving.tolist() == file["dyn_mask"].tolist()
    found = worldtrack.score(points[:, moving], truth[:, moving])
    assert found.apd == pytest.approx(file["dyn_global_apd"].item(), rel=0, abs=1e-12)
    assert found.epe == pytest.approx(file["dyn_global_epe"].item(), rel=0, abs=1e-12)


def test_a_distance_at_the_threshold_is_within():
    truth = torch.tensor([[[0.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]]], dtype=DOUBLE)
    points = truth.clone()
    points[0, 0, 0], points[0, 1, 0] = 0.5, 1.0  # median distance stays 1
    assert worldtrack.score(points, truth).within == pytest.approx([0.6, 0.6, 0.8, 1.0])
    # Even counts: the middle of the two in the middle, not the lower.
    far = torch.tensor([[[0.0, 0, 1], [0, 0, 3]]], dtype=DOUBLE)
    torch.testing.assert_close(worldtrack.align(far, torch.ones_like(far), "global"), far * 3**0.5 / 2)


def test_a_perfect_method_scores_perfectly_in_any_scale(made):
    for scale in (1.0, 0.3, 7.0):
        found = worldtrack.score_tracking(scale * made.places, made.sequence)
        assert found.everything.apd == found.dynamic.apd == 1
        assert max(found.everything.epe, found.dynamic.epe) < 1e-5
        assert worldtrack.score_reconstruction(scale * made.points, made.sequence).epe < 1e-5


def test_tracks_are_read_at_their_pixels_and_moving_ones_apart(made):
    index, row, column = worldtrack.queries(made.sequence, HEIGHT, WIDTH)
    assert len(index) == len(row) == made.sequence.tracks.shape[1] > 100
    assert set(row.tolist()) <= set(range(2, HEIGHT, 4)) and set(column.tolist()) <= set(range(2, WIDTH, 4))
    moving = worldtrack.dynamic(made.sequence.tracks)
    assert 0 < moving.sum() < len(moving)
    # Half the size: the pixel that holds the place.
    _, small_row, small_column = worldtrack.queries(made.sequence, HEIGHT // 2, WIDTH // 2)
    assert small_row.equal(row // 2) and small_column.equal(column // 2)
    hidden = made.sequence.visible.clone()
    hidden[0, :7] = False
    index, _, _ = worldtrack.queries(replace(made.sequence, visible=hidden), HEIGHT, WIDTH)
    assert index[0] == 7


def test_planted_faults_lower_the_score_as_they_should(made):
    truth = made.sequence.tracks
    perfect = made.places.double()
    # A constant offset of 0.2 m fails the first threshold alone: 0.75 (its scale is near 1 as scenes are metres deep).
    offset = worldtrack.score_tracking(perfect + torch.tensor([0.2, 0, 0], dtype=DOUBLE), made.sequence)
    assert offset.everything.apd == pytest.approx(0.75, abs=0.02)
    assert offset.everything.epe == pytest.approx(0.2, abs=0.02)
    assert (
        worldtrack.score_tracking(
            perfect + torch.tensor([0.2, 0, 0], dtype=DOUBLE), made.sequence, "similarity"
        ).everything.epe
        < 1e-4
    )
    # Standing still costs what moves, and nothing else.
    still = worldtrack.score_tracking(perfect[:1].expand_as(perfect), made.sequence)
    moving = worldtrack.dynamic(truth)
    path = (truth - truth[:1])[:, moving].norm(dim=-1)
    assert still.dynamic.epe == pytest.approx(path.mean().item(), rel=0.2)
    assert still.everything.epe == pytest.approx(path.sum().item() / truth[..., 0].numel(), rel=0.2)
    # Another gauge is not forgiven: the prediction must live in camera 0.
    turned = perfect @ rigid.so3_exp(torch.tensor([0, 0.3, 0], dtype=DOUBLE)).mT
    assert worldtrack.score_tracking(turned, made.sequence).everything.apd < 0.7
    # Maps of the wrong camera: tracks that follow the camera instead of the world.
    own = rigid.transform(made.sequence.cam_from_world, perfect.flatten(1, 2)).view_as(perfect)
    assert worldtrack.score_tracking(own, made.sequence).everything.epe > 5e-3


def test_reconstruction_looks_at_near_depth_alone_and_enlarges(made):
    points = made.points.double()
    far = made.sequence.depth >= worldtrack.FARTHEST_M
    unknown = made.sequence.depth <= worldtrack.NEAREST_M
    wild = torch.where((far | unknown)[..., None], 1e3, points)
    assert worldtrack.score_reconstruction(wild, made.sequence).apd == 1
    small = worldtrack.score_reconstruction(points[:, ::2, ::2], made.sequence)
    assert 0.5 < small.apd < 1
    assert worldtrack.score_reconstruction(points + 0.2, made.sequence).apd < 0.8
    with pytest.raises(ValueError, match="4 maps for 5 frames"):
        worldtrack.score_reconstruction(points[1:], made.sequence)
    with pytest.raises(ValueError, match="4 maps for 5 frames"):
        worldtrack.score_tracking(points[1:], made.sequence)


def test_sequences_without_points_do_not_count():
    nothing = worldtrack.score(torch.zeros(4, 0, 3), torch.zeros(4, 0, 3))
    assert math.isnan(nothing.apd) and math.isnan(nothing.epe)
    one = worldtrack.Score(0.5, 0.2, (0.2, 0.4, 0.6, 0.8))
    two = worldtrack.Score(0.7, 0.4, (0.4, 0.6, 0.8, 1.0))
    mean = worldtrack.mean_score([one, nothing, two])
    assert (mean.apd, mean.epe) == (pytest.approx(0.6), pytest.approx(0.3))
    assert mean.within == pytest.approx((0.3, 0.5, 0.7, 0.9))
    assert math.isnan(worldtrack.mean_score([nothing]).apd) and math.isnan(worldtrack.mean_score([]).apd)
    unknown = torch.ones(2, 3, 3)
    unknown[0, 0] = torch.nan
    assert math.isnan(worldtrack.score(torch.ones(2, 3, 3), unknown).apd)


@pytest.mark.parametrize("alignment", ["global", "per_track", "similarity"])
def test_a_method_that_fails_is_not_excused(alignment):
    truth = torch.rand(4, 3, 3) + 1
    lost = truth.clone()
    lost[:, 0] = torch.nan
    found = worldtrack.score(lost, truth, alignment)
    assert (found.apd, found.epe) == (pytest.approx(2 / 3), math.inf)
    assert worldtrack.score(torch.full_like(truth, torch.nan), truth, alignment).apd == 0
    collapsed = worldtrack.score(torch.zeros_like(truth), truth, alignment)
    assert collapsed.apd < 1 and math.isfinite(collapsed.epe)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((360, 640), (288, 512)),
        ((540, 960), (288, 512)),
        ((720, 1280), (288, 512)),
        ((480, 640), (384, 512)),
        ((640, 360), (512, 288)),
        ((100, 170), (288, 512)),
    ],
)
def test_network_sizes_are_those_of_the_benchmark(size, expected):
    assert worldtrack.network_size(*size) == expected


def test_a_folder_is_scored_from_images_to_numbers(tmp_path, made):
    write_synthetic(tmp_path, range(4, 5), frames=FRAMES, height=HEIGHT, width=WIDTH, every=4)
    write_sequence(tmp_path / "synthetic_10.npz", made.sequence)
    seen = []

    def perfect(images: Tensor) -> Answer:
        seen.append((images.shape, images.dtype))
        assert images.min() >= 0 and 0.5 < images.max() <= 1
        places, points = (
            interpolate(maps.movedim(-1, 1), size=images.shape[2:], mode="nearest").movedim(1, -1)
            for maps in (made.places, made.points)
        )
        return Answer(places=places, points=points)

    scores = list(worldtrack.score_folder(tmp_path, perfect, ("tracking", "reconstruction")))
    assert [one.name for one in scores] == ["synthetic_4", "synthetic_10"]  # natural order
    assert all(one.tracking.everything.apd == one.tracking.dynamic.apd == 1 for one in scores)
    # Enlarged pixel by pixel and shrunk between pixels: not quite what it was.
    assert all(one.reconstruction.apd > 0.95 for one in scores)
    assert seen == [((FRAMES, 3, 288, 512), torch.float32)] * 2
    only = next(worldtrack.score_folder(tmp_path, lambda images: Answer(places=perfect(images).places)))
    assert only.tracking == scores[0].tracking and only.reconstruction is None
    with pytest.raises(ValueError, match=r"Answer\.points is needed"):
        next(worldtrack.score_folder(tmp_path, lambda images: Answer(), ["reconstruction"]))
    with pytest.raises(InputError, match=r"no \.npz files"):
        next(worldtrack.score_folder(tmp_path / "none", perfect))


@pytest.mark.parametrize(
    ("lacks", "task", "other"),
    [("tracks_XYZ", "tracking", "reconstruction"), ("depth_map", "reconstruction", "tracking")],
)
def test_a_file_without_the_truth_of_a_task_is_named_before_any_work(tmp_path, lacks, task, other):
    path = as_file(tmp_path / "set_1.npz", **{lacks: None})
    asked = []

    def method(images: Tensor) -> Answer:
        asked.append(images)
        ones = torch.ones(len(images), *images.shape[2:], 3)
        return Answer(places=ones, points=ones)

    with pytest.raises(InputError, match=rf"no {lacks}, so there is no {task} to score") as caught:
        next(worldtrack.score_folder(tmp_path, method, [other, task]))
    assert str(path) in str(caught.value) and not asked
    assert getattr(next(worldtrack.score_folder(tmp_path, method, [other])), task) is None


def test_a_sequence_comes_back_from_its_file(tmp_path, made):
    write_sequence(tmp_path / "synthetic_4.npz", made.sequence)
    found = read_sequence(tmp_path / "synthetic_4.npz")
    assert (found.name, found.size, found.jpegs) == ("synthetic_4", (HEIGHT, WIDTH), made.sequence.jpegs)
    for name in ("tracks", "visible", "cam_from_world", "intrinsics", "depth"):
        # The renderer's poses are float32.
        torch.testing.assert_close(getattr(found, name), getattr(made.sequence, name), rtol=1e-5, atol=1e-6)
    assert [frame.size for frame in found.frames()] == [(WIDTH, HEIGHT)] * FRAMES
    # As other programs read it.
    with np.load(tmp_path / "synthetic_4.npz", allow_pickle=True) as file:
        assert file["images_jpeg_bytes"].tolist() == list(made.sequence.jpegs)
        cam = torch.from_numpy(file["extrinsics_w2c"])
        world = rigid.transform(rigid.inverse(cam), torch.from_numpy(file["tracks_XYZ"]))
    torch.testing.assert_close(world, made.sequence.tracks, rtol=1e-5, atol=1e-6)
    assert len(read_sequence(tmp_path / "synthetic_4.npz", frames=2).tracks) == 2


def test_the_world_is_the_first_camera(tmp_path):
    poses = rigid.from_rt(rigid.so3_exp(torch.randn(3, 3, dtype=DOUBLE)), torch.randn(3, 3, dtype=DOUBLE))
    world = torch.randn(5, 3, dtype=DOUBLE).expand(3, 5, 3)
    path = as_file(tmp_path / "a.npz", extrinsics_w2c=poses.numpy(), tracks_XYZ=rigid.transform(poses, world).numpy())
    found = read_sequence(path)
    torch.testing.assert_close(found.cam_from_world[0], torch.eye(4, dtype=DOUBLE))
    torch.testing.assert_close(found.tracks, rigid.transform(poses[:1], world))
    assert not worldtrack.dynamic(found.tracks).any()
    # Without poses the camera stands, as in Panoptic Studio.
    fixed = read_sequence(as_file(tmp_path / "b.npz", extrinsics_w2c=None))
    assert fixed.cam_from_world.equal(torch.eye(4, dtype=DOUBLE).expand(3, 4, 4))


def test_a_depth_set_has_no_tracks(tmp_path):
    path = as_file(tmp_path / "tum.npz", tracks_XYZ=None, visibility=np.ones((3, 6, 8), bool))
    found = read_sequence(path)
    assert found.tracks is None and found.visible is None
    with pytest.raises(ValueError, match=r"Sequence\.tracks is needed"):
        worldtrack.score_tracking(torch.zeros(3, 6, 8, 3), found)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tracks_XYZ": np.zeros((3, 5, 2))}, "tracks_XYZ has shape"),
        ({"tracks_XYZ": np.zeros((2, 5, 3))}, "tracks_XYZ has shape"),
        ({"tracks_XYZ": np.zeros(3)}, "tracks_XYZ has shape"),
        ({"visibility": np.ones((3, 4), bool)}, "visibility has shape"),
        ({"visibility": None}, "visibility"),
        ({"fx_fy_cx_cy": None}, "fx_fy_cx_cy"),
        ({"fx_fy_cx_cy": np.zeros(4)}, "no focal length"),
        ({"extrinsics_w2c": np.full((3, 4, 4), np.nan)}, "not finite"),
        ({"extrinsics_w2c": np.zeros((3, 4, 4))}, "singular"),
        ({"depth_map": np.ones((3, 7, 8), np.float32)}, "depth_map has shape"),
        ({"depth_map": np.array([["x"]])}, "no array of numbers"),
        ({"images_jpeg_bytes": None}, "images_jpeg_bytes"),
        ({"images_jpeg_bytes": np.array([b"a", b"b", b"c"], dtype=object)}, "holds 0 JPEGs"),
        ({"images_jpeg_bytes": np.ones(3)}, "no list of images"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(tmp_path, changes, reason):
    path = as_file(tmp_path / "bad.npz", **changes)
    with pytest.raises(InputError, match=reason) as caught:
        read_sequence(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


class Bomb:
    """Leaves a trace if unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_ever_run(tmp_path):
    trace = tmp_path / "trace"
    bombs = np.array([Bomb(trace)], dtype=object)
    for name in ("tracks_XYZ", "depth_map", "images_jpeg_bytes", "fx_fy_cx_cy"):
        with pytest.raises(InputError):
            read_sequence(as_file(tmp_path / "bomb.npz", **{name: bombs}))
    # Also beside true images, and the check itself works.
    good = np.load(as_file(tmp_path / "good.npz"), allow_pickle=True)["images_jpeg_bytes"]
    mixed = np.array([*good, Bomb(trace)], dtype=object)
    with pytest.raises(InputError, match="holds 3 JPEGs and should hold 4"):
        read_sequence(as_file(tmp_path / "mixed.npz", images_jpeg_bytes=mixed))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()


def test_damaged_files_are_refused_in_one_line(tmp_path):
    whole = as_file(tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "damaged.npz"
    random = np.random.default_rng(0)
    refused = 0
    for number in range(120):
        data = bytearray(whole)
        if number % 3 == 0:
            data = data[: random.integers(0, len(whole))]
        else:
            for place in random.integers(0, len(whole), 8):
                data[place] = random.integers(256)
        path.write_bytes(bytes(data))
        try:
            list(read_sequence(path).frames())
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 80
    for text in (b"", b"no zip"):
        path.write_bytes(text)
        with pytest.raises(InputError, match="damaged"):
            read_sequence(path)
    with pytest.raises(InputError, match="missing"):
        read_sequence(tmp_path / "missing.npz")


def test_an_array_that_claims_more_than_it_has_is_not_allocated(tmp_path):
    path = as_file(tmp_path / "liar.npz", depth_map=None)
    header = io.BytesIO()
    shape = (10**6, 10**6, 10**3)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("depth_map.npy", header.getvalue() + bytes(80))
    with pytest.raises(InputError, match="depth_map is no array of numbers of its length"):
        read_sequence(path)


def test_an_image_that_is_damaged_is_named(made):
    broken = replace(made.sequence, jpegs=(made.sequence.jpegs[0], made.sequence.jpegs[1][:200]))
    assert isinstance(broken, Sequence)
    with pytest.raises(InputError, match="synthetic_4: image 1 is damaged"):
        list(broken.frames())
