"""A network's answer as a result folder: exact where the network is, refused where it cannot be had."""

import json
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from oracle import Oracle, clip
from torch import nn

import unproject
from unproject import cli
from unproject.errors import InputError, MemoryLimitError, UsageError, WeightsError
from unproject.geometry import rigid
from unproject.inference import network_input
from unproject.inference.network_input import fitted
from unproject.inference.reconstruct import plan, reconstruct
from unproject.io.result import Reconstruction
from unproject.io.validate import validate
from unproject.models import build, checkpoints
from unproject.models.base import Reconstructor

FRAMES = 9


@dataclass(frozen=True)
class Nothing:
    """The configuration of a network without any."""


class OracleModel(Oracle, Reconstructor):
    """The network that knows the truth, with a weight as every network has."""

    def __init__(self, made) -> None:
        nn.Module.__init__(self)
        self.config, self.weight = Nothing(), nn.Parameter(torch.zeros(1))
        Oracle.__init__(self, made)

    def forward(self, views):
        raise AssertionError("a network that can be split is not run whole")


@pytest.fixture(scope="module")
def made():
    return clip(frames=FRAMES, height=48, width=64)


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    """Its frames at twice the network's size."""
    place = tmp_path_factory.mktemp("frames")
    for number, image in enumerate((made.images[0] * 255).round().byte().movedim(1, -1).numpy()):
        large = cv2.resize(image, (128, 96), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(place / f"{number:06d}.png"), np.ascontiguousarray(large[..., ::-1]))
    return place


@pytest.fixture(scope="module")
def result(made, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("result") / "out"
    oracle = OracleModel(made)
    return reconstruct(folder, model=oracle, output=out, long_side=64), oracle.scales[0][2], out


def true_poses(made):
    return rigid.inverse(made.world_from_cam[0, 0]) @ made.world_from_cam[0]


def test_cameras_and_depth_are_those_of_the_network(made, result):
    found, scale, _ = result
    poses = found.cameras.world_from_cam
    assert torch.allclose(poses[:, :3, :3], true_poses(made)[:, :3, :3], atol=1e-6)
    assert torch.allclose(poses[:, :3, 3] / scale, true_poses(made)[:, :3, 3], atol=1e-6)
    assert torch.allclose(found.cameras.intrinsics[:, :2], 2 * made.intrinsics[0, :, :2], rtol=1e-5)
    assert torch.allclose(found.depth / scale, made.depth[0].float(), rtol=1e-3)
    assert found.cameras.found.all() and found.provenance["state"] == "full"


def test_what_moves_is_marked(made, result):
    found, _, _ = result
    moving = made.motion[0]
    said = found.motion[1:] > 0.5
    assert (said & ~moving[1:]).sum() < 0.02 * (~moving[1:]).sum()
    assert (said[3:] & moving[4:]).sum() > 0.5 * moving[4:].sum()
    assert (found.motion[0] > 0.5)[moving[0]].float().mean() > 0.4


def test_the_folder_is_a_whole_result(result):
    _, _, out = result
    report = validate(out)
    assert report.passed, report.text()
    again = Reconstruction.load(out)
    assert again.tracks.moving.any() and not again.tracks.moving.all()
    assert len(again.sparse.xyz) > 100
    record = json.loads((out / "run.json").read_text())
    assert record["weights"]["model"] == "oraclemodel" and len(record["weights"]["sha256"]) == 64
    assert record["config"]["long_side"] == 64 and record["anchors"] == [0]
    assert (out / "preview" / "index.html").is_file()


def test_held_in_memory_it_is_the_same(made, folder, result):
    found = reconstruct(folder, model=OracleModel(made), long_side=64)
    for held, written in zip(found.maps, result[0].maps, strict=True):
        assert torch.equal(held.depth, written.depth) and torch.equal(held.motion, written.motion)


def test_an_interrupted_run_ends_in_the_same_maps(made, folder, result, tmp_path):
    def stop(items, stage, total=None):
        for number, item in enumerate(items):
            if number == 5:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        reconstruct(folder, model=OracleModel(made), long_side=64, output=tmp_path / "out", progress=stop)
    assert len(list((tmp_path / "out.partial" / "arrays").iterdir())) == 4
    reconstruct(folder, model=OracleModel(made), long_side=64, output=tmp_path / "out", resume=True)
    for path in (tmp_path / "out" / "arrays").iterdir():
        assert path.read_bytes() == (result[2] / "arrays" / path.name).read_bytes()


def test_relative_to_a_body(made, folder, tmp_path):
    """A mask of the first frame alone, and one for each."""
    body = made.world.surface_body()[made.surface[0]]
    body[~made.valid[0]] = -1
    chosen = max(torch.unique(body[made.motion[0]]).tolist(), key=lambda n: int((body == n).sum((-2, -1)).min()))
    pose = made.world.bodies.world_from_body(made.times)[0][:, chosen]
    body_from_cam = torch.linalg.inv(pose) @ made.world_from_cam[0]
    truth = torch.linalg.inv(body_from_cam[0]) @ body_from_cam
    for number in range(FRAMES):
        mask = (body[number] == chosen).byte().numpy() * 255
        cv2.imwrite(str(tmp_path / f"{number:06d}.png"), cv2.resize(mask, (128, 96), interpolation=cv2.INTER_NEAREST))
    for given in (tmp_path, tmp_path / "000000.png"):
        oracle = OracleModel(made)
        found = reconstruct(folder, model=oracle, long_side=64, reference_mask=given)
        assert torch.allclose(found.cameras.world_from_cam[:, :3, :3], truth[:, :3, :3], atol=1e-5)
        shift = found.cameras.world_from_cam[:, :3, 3] / oracle.scales[0][2]
        assert torch.allclose(shift, truth[:, :3, 3], atol=1e-5)


def test_masks_reach_pose_and_maps(made, folder, tmp_path):
    for number in range(FRAMES):
        mask = np.full((96, 128), 255, np.uint8)
        mask[:48] = 0
        cv2.imwrite(str(tmp_path / f"{number:06d}.png"), mask)
    oracle = OracleModel(made)
    found = reconstruct(folder, model=oracle, long_side=64, masks=tmp_path)
    assert not found.valid[:, :24].any() and found.valid[:, 24:].any()
    poses = found.cameras.world_from_cam
    assert torch.allclose(poses[:, :3, 3] / oracle.scales[0][2], true_poses(made)[:, :3, 3], atol=1e-5)


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (50, 50), (17, 300)])
def test_any_aspect_with_a_real_network(tmp_path, size):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.random.randint(0, 255, (*size, 3), np.uint8))
    found = reconstruct(tmp_path, model=build("flow4r", "tiny").eval(), long_side=48)
    height, width = size
    assert found.depth.shape[1] % 16 == found.depth.shape[2] % 16 == 0 and max(found.depth.shape[1:]) == 48
    corner = found.to_original[0] @ torch.tensor([*reversed(found.depth.shape[1:]), 1.0])
    assert torch.allclose(corner, torch.tensor([width, height, 1.0]))
    assert torch.allclose(found.cameras.intrinsics[:, :2, 2], torch.tensor([width / 2, height / 2]).double())
    assert (found.cameras.intrinsics[:, [0, 1], [0, 1]] > 0).all()


def test_sizes_are_whole_patches():
    assert fitted(1920, 1080, 512) == (512, 288) and fitted(1080, 1920, 512) == (288, 512)
    assert fitted(640, 480, 512) == (512, 384) and fitted(3000, 10, 512) == (512, 16)
    assert fitted(100, 100, 224) == (224, 224)
    with pytest.raises(UsageError, match="--long-side 8"):
        fitted(640, 480, 8)


def test_from_the_command_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("UNPROJECT_CACHE", str(tmp_path / "cache"))
    made = build("flow4r", "tiny", head="linear")
    made.made_from, made.notes = "tiny.pth, sha256 0", ("it knows nothing",)
    checkpoints.save(made, tmp_path / "tiny.safetensors")
    flags = ["--model", str(tmp_path / "tiny.safetensors"), "--long-side", "64", "--dtype", "bfloat16"]
    assert cli.main(["reconstruct", str(folder), *flags, "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["network_size"] == "64x48" and 0.5 < said["memory_gib"] < 1
    assert cli.main(["reconstruct", str(folder), *flags, "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["depth_maps"] == FRAMES
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (
        record["weights"]["file"] == str(tmp_path / "tiny.safetensors") and "bfloat16" in record["config"]["precision"]
    )
    assert cli.main(["reconstruct", str(folder), "--model", "flow4r", "-o", str(tmp_path / "other")]) == 4
    assert record["weights"]["made_from"] == "tiny.pth, sha256 0" and "it knows nothing" in record["notes"]
    assert "give the path of a file" in capsys.readouterr().err


def test_a_larger_network_takes_more_memory(folder):
    small = plan(folder, model=build("flow4r", "tiny"), long_side=64)
    large = plan(folder, model=build("flow4r", "tiny"), long_side=512)
    assert large.memory_gib > small.memory_gib + 0.5 and large.network_size == "512x384"


def test_too_little_memory_says_what_fits(folder, monkeypatch):
    monkeypatch.setattr(network_input, "there_gib", lambda device: 1.2)
    with pytest.raises(MemoryLimitError, match=r"--long-side \d+ fits") as caught:
        reconstruct(folder, model=build("flow4r", "tiny"), long_side=1024)
    side = int(str(caught.value).split("--long-side ")[1].split()[0])
    assert side % 16 == 0 and 128 < side < 1024


def test_a_full_device_says_what_would_fit(folder, monkeypatch):
    model = build("flow4r", "tiny").eval()

    def full(images):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(model, "encode", full)
    with pytest.raises(MemoryLimitError, match=r"--long-side \d+ fits|smaller network") as caught:
        reconstruct(folder, model=model, long_side=512)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("wish", "error", "says"),
    [
        ({"reference_mask": "x.png"}, UsageError, "give --model"),
        ({"long_side": 224}, UsageError, "give --model"),
        ({"model": "tiny", "cameras": "k.json"}, UsageError, "cannot be told cameras"),
        ({"model": "tiny", "refine": True}, UsageError, "--refine"),
        ({"model": "flow4r"}, WeightsError, "no weights of flow4r"),
        ({"model": "nowhere.pth"}, WeightsError, "no weights at nowhere.pth"),
        ({"model": "tiny", "device": "tpu"}, UsageError, "--device tpu"),
    ],
)
def test_what_cannot_be_had(folder, wish, error, says):
    with pytest.raises(error, match=says):
        unproject.reconstruct(folder, **wish)


@pytest.mark.parametrize(
    ("size", "value", "says"), [((96, 128), 0, "marks nothing"), ((10, 10), 255, "10x10, its frame 128x96")]
)
def test_reference_masks_that_are_none(folder, tmp_path, size, value, says):
    cv2.imwrite(str(tmp_path / "mask.png"), np.full(size, value, np.uint8))
    model = build("flow4r", "tiny")
    with pytest.raises(InputError, match=says):
        reconstruct(folder, model=model, long_side=64, reference_mask=tmp_path / "mask.png")
    with pytest.raises(InputError, match="holds no mask of the first frame"):
        reconstruct(folder, model=model, long_side=64, reference_mask=tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        reconstruct(folder, model=model, long_side=64, reference_mask=tmp_path / "none.png")
