"""Flow of pairs on disk: it comes back, lazily, is checked, and goes with a result wherever that goes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from unproject.errors import InputError, UnprojectError
from unproject.geometry import rigid
from unproject.geometry.flow import covisible, induced_flow
from unproject.io import disk, schema
from unproject.io.flows import LazyFlows, flow_path, flows_on_disk
from unproject.io.full_size import flow_at_size
from unproject.io.result import Reconstruction
from unproject.io.validate import validate
from unproject.types import FlowMaps

PAIRS = [(0, 1), (1, 0), (6, 7)]


def flow_of(scene: Reconstruction, source: int, target: int) -> FlowMaps:
    """By depth and cameras."""
    ours, theirs = scene.maps[source], scene.maps[target]
    matrices = [scene.map_intrinsics(view, scene.maps[view]).float() for view in (source, target)]
    step = rigid.inverse(scene.cameras.world_from_cam[target]) @ scene.cameras.world_from_cam[source]
    flow, _ = induced_flow(ours.depth, *matrices, step.float())
    return FlowMaps(
        flow=flow, covisible=covisible(ours.depth, theirs.depth, *matrices, step.float()), motion=ours.motion
    )


@pytest.fixture(scope="module")
def flowing(perfect) -> Reconstruction:
    return replace(perfect, flows={pair: flow_of(perfect, *pair) for pair in PAIRS})


@pytest.fixture
def folder(flowing, tmp_path):
    flowing.save(tmp_path / "out")
    return tmp_path / "out"


def test_flow_comes_back_and_is_read_when_it_is_asked_for(flowing, folder):
    loaded = Reconstruction.load(folder)
    assert loaded.flow_pairs == PAIRS
    for pair in PAIRS:
        found, truth = loaded.flow(*pair), flowing.flow(*pair)
        assert torch.equal(found.covisible, truth.covisible) and torch.equal(found.motion, truth.motion)
        assert (found.flow - truth.flow).abs().max() <= 0.5 / schema.LEVELS
        assert torch.equal(found.flow, schema.rounded_flow(found).flow)
    with np.load(flow_path(folder, 6, 7)) as stored:
        kinds = {name: stored[name].dtype.name for name in stored}
    assert kinds == {"flow": "float32", "covisible": "bool", "motion": "float32"}
    flow_path(folder, 0, 1).write_bytes(b"torn")
    assert Reconstruction.load(folder).flow_pairs == PAIRS
    with pytest.raises(InputError, match=r"000000_000001\.npz"):
        loaded.flow(0, 1)


def test_a_pair_that_nobody_asked_for_is_an_error_with_its_remedy(flowing, perfect):
    for result in (flowing, perfect):
        with pytest.raises(UnprojectError, match=r"no flow from frame 1 to frame 2.*flow_pairs.*flow=True"):
            result.flow(1, 2)
    made = []
    lazy = LazyFlows(((0, 1),), lambda source, target: made.append((source, target)))
    assert (0, 1) in lazy and (1, 0) not in lazy and len(lazy) == 1 and not made
    with pytest.raises(KeyError):
        lazy[1, 0]


def test_saving_what_was_loaded_writes_the_same_bytes(folder, tmp_path):
    Reconstruction.load(folder).save(tmp_path / "again")
    for path in (folder / "flow").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / "flow" / path.name).read_bytes()
    assert len(list((tmp_path / "again" / "flow").iterdir())) == len(PAIRS)


def test_overwriting_removes_our_flow_and_nothing_else(perfect, folder):
    (folder / "flow" / "mine.npz").write_text("mine")
    assert len(flows_on_disk(folder)) == len(PAIRS)
    perfect.save(folder, overwrite=True)
    assert [path.name for path in (folder / "flow").iterdir()] == ["mine.npz"]
    assert not Reconstruction.load(folder).flow_pairs


def test_at_the_size_of_the_originals_flow_is_in_their_pixels(flowing, scene):
    large, truth = flowing.at_original_size(), scene(shrink=1)
    for pair in PAIRS:
        found, exact = large.flow(*pair), flow_of(truth, *pair)
        assert found.flow.shape == (240, 320, 2)
        assert (found.covisible == exact.covisible).float().mean() > 0.97
        assert (found.flow - exact.flow)[found.covisible].norm(dim=-1).quantile(0.9) < 0.05


def test_flow_between_images_of_two_sizes_lands_in_the_target_file():
    """Maps of 4x6, files of 8x12 and 40x60 pixels: a flow that goes nowhere in the maps."""
    still = FlowMaps(flow=torch.zeros(4, 6, 2), covisible=torch.ones(4, 6) > 0, motion=torch.zeros(4, 6))
    large = flow_at_size(still, 12, 8, torch.diag(torch.tensor([10.0, 10.0, 1.0])))
    inside = large.flow[1:-1, 1:-1]
    torch.testing.assert_close(
        inside[0, 0], torch.tensor([6.0, 6.0])
    )  # pixel (1.5, 1.5) of the file lands at (7.5, 7.5)
    assert large.flow.shape == (8, 12, 2) and large.covisible.all() and not large.motion.any()


def changed(**arrays):
    def spoil(folder):
        path = flow_path(folder, 0, 1)
        disk.write_npz(path, disk.read_npz(path) | arrays)

    return spoil


FAULTS = {
    "of another size": changed(
        flow=np.zeros((3, 4, 2), np.float32), covisible=np.ones((3, 4), bool), motion=np.zeros((3, 4), np.float32)
    ),
    "shapes that differ": changed(covisible=np.ones((3, 4), bool)),
    "not finite": changed(flow=np.full((120, 160, 2), np.nan, np.float32)),
    "motion above one": changed(motion=np.full((120, 160), 2, np.float32)),
    "damaged": lambda folder: flow_path(folder, 0, 1).write_bytes(b"torn"),
    "of no frame": lambda folder: shutil.copy(flow_path(folder, 0, 1), flow_path(folder, 0, 8)),
    "to itself": lambda folder: shutil.copy(flow_path(folder, 0, 1), flow_path(folder, 3, 3)),
}


def test_a_good_result_with_flow_passes(folder):
    report = validate(folder)
    assert report.passed, report.text()
    assert "3 pairs of frames" in next(check.detail for check in report.checks if check.name == "flow")


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_found(folder, fault):
    FAULTS[fault](folder)
    report = validate(folder)
    assert [check.name for check in report.checks if not check.passed] == ["flow"]
    assert json.loads(json.dumps(report.json()))["passed"] is False
