"""The compact network: symmetric, honest about what it is given, and exact where its matcher is."""

import json
import re
from dataclasses import replace
from importlib.resources import as_file, files

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from unproject.data.base import Framing
from unproject.data.pairs import SyntheticPairs
from unproject.errors import UsageError
from unproject.geometry.camera import pixel_grid
from unproject.geometry.motion import relative_pose
from unproject.geometry.rigid import inverse, rotation_angle
from unproject.losses.log_geometry import LogGeometryLoss
from unproject.losses.matching import MatchingLoss
from unproject.models import build, checkpoints
from unproject.models.compact import Compact, config
from unproject.models.loading import shipped
from unproject.models.triangulation import explain
from unproject.types import Views

FRAMING = Framing(views=2, pairs=((0, 1), (1, 0)), height=48, width=64)


@pytest.fixture(scope="module")
def sample():
    return SyntheticPairs(gap_s=(0.5, 1.0), moving=False)([0, 1], FRAMING)


@pytest.fixture
def model() -> Compact:
    torch.manual_seed(0)
    made = Compact(config("tiny")).eval()
    torch.nn.init.normal_(made.geometry.leave.weight, std=0.05)
    return made


def test_swapping_the_images_swaps_the_answers(model, sample):
    views = sample.views
    swapped = Views(
        images=views.images.flip(1), times=views.times.flip(1), pairs=views.pairs, intrinsics=views.intrinsics.flip(1)
    )
    with torch.no_grad():
        a, b = model(views), model(swapped)
    assert torch.allclose(a.flow, b.flow.flip(1), atol=0.02)
    # Without training, matching is all but a tie and flow has several explanations of like cost: rounding, which is not
    # the same on all processors, moves flow by thousandths of a pixel and tips the balance of a few pixels.
    for name in ("points", "target_points", "pose_weight"):
        ratio = getattr(a, name) / getattr(b, name).flip(1)
        assert (ratio.log().abs().nan_to_num(1.0) < 1e-2).float().mean() > 0.99, name


def test_each_item_of_a_batch_is_by_itself(model, sample):
    one = Views(
        images=sample.views.images[1:], times=sample.views.times[1:], pairs=sample.views.pairs[1:],
        intrinsics=sample.views.intrinsics[1:],
    )  # fmt: skip
    with torch.no_grad():
        both, alone = model(sample.views), model(one)
    assert torch.allclose(both.points[1:], alone.points, rtol=1e-3, atol=1e-3)
    assert torch.allclose(both.flow[1:], alone.flow, atol=1e-3)


def test_what_it_says_is_of_the_kinds_promised(model, sample):
    with torch.no_grad():
        said = model(sample.views)
    assert said.matching is None and said.flow.shape == (2, 2, 48, 64, 2)
    assert (said.points[..., 2] > 0).all() and (said.target_points[..., 2] > 0).all()
    for confidence in (said.confidence, said.flow_confidence):
        assert confidence.min() >= 0 and confidence.max() <= 1
    assert torch.allclose(said.pose_weight.sum((-2, -1)), torch.ones(2, 2), atol=1e-4)


def test_exact_flow_is_explained_exactly(sample):
    """Solver and triangulation as layers: with true flow they give true pose and depth."""
    labels = sample.labels
    flow = labels.flow.value.movedim(1, 0).flatten(0, 1)
    seen = labels.flow.weight.movedim(1, 0).flatten(0, 1)
    intrinsics = labels.intrinsics.value.movedim(1, 0).flatten(0, 1)
    found = explain(flow, seen, intrinsics, noise_px=0.1)
    poses = labels.world_from_cam.value
    true = torch.cat([inverse(poses[:, 1]) @ poses[:, 0], inverse(poses[:, 0]) @ poses[:, 1]])
    assert torch.rad2deg(rotation_angle(found.target_from_source[:, :3, :3].mT @ true[:, :3, :3])).max() < 0.1
    ratio = labels.points.value[..., 2].movedim(1, 0).flatten(0, 1) * found.inverse_depth
    known = (found.trust > 0.5) & (labels.points.weight.movedim(1, 0).flatten(0, 1) > 0)
    for side in range(4):
        inside = ratio[side][known[side]]
        assert ((inside / inside.median() - 1).abs() < 0.02).float().mean() > 0.9
    shift = true[:, :3, 3].norm(dim=-1) / found.target_from_source[:, :3, 3].norm(dim=-1)
    # One scale for depth and translation.
    medians = torch.stack([ratio[side][known[side]].median() for side in range(4)])
    assert torch.allclose(shift, medians, rtol=0.05)


def test_known_cameras_are_taken_at_their_word(sample):
    """Depth comes in their units, whatever the network would have solved."""
    model, poses = Compact(replace(config("tiny"), blocks=0)).eval(), sample.labels.world_from_cam.value
    double = poses.clone()
    double[..., :3, 3] *= 2
    with torch.no_grad():
        once, twice = model.with_cameras(sample.views, poses), model.with_cameras(sample.views, double)
    assert torch.allclose(2 * once.points, twice.points, rtol=1e-3)
    assert torch.allclose(2 * once.target_points, twice.target_points, rtol=1e-2, atol=1e-2)
    pose = relative_pose(once.points, once.target_points, once.pose_weight)
    assert pose.isfinite().all()


def test_a_fresh_network_says_what_triangulation_says(sample):
    """Corrections start at nothing."""
    torch.manual_seed(0)
    plain = Compact(replace(config("tiny"), blocks=0)).eval()
    full = Compact(config("tiny")).eval()
    full.matcher.load_state_dict(plain.matcher.state_dict())
    with torch.no_grad():
        a, b = plain(sample.views), full(sample.views)
    assert torch.allclose(a.flow, b.flow)
    ratio = (a.points[..., 2] / b.points[..., 2]).log().abs()
    # Only their upsampling differs: bilinear in one, learned and still random in the other.
    assert ratio.median() < 0.1


def test_gradients_of_geometry_stop_before_the_matcher(sample):
    model = Compact(config("tiny")).train()
    torch.nn.init.normal_(model.geometry.leave.weight, std=0.05)
    LogGeometryLoss()(model(sample.views), sample.labels, sample.views).total.backward()
    assert all(parameter.grad is None for parameter in model.matcher.parameters())
    assert all(parameter.grad is not None for parameter in model.geometry.parameters())
    model.zero_grad()
    MatchingLoss()(model(sample.views), sample.labels, sample.views).total.backward()
    assert all(parameter.grad is not None for parameter in model.matcher.parameters())
    assert all(parameter.grad is None for parameter in model.geometry.parameters())


def seen_at(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels at which cameras (B, 2, 3, 3) see maps of points."""
    uv = points @ intrinsics[:, :, None].mT
    return uv[..., :2] / uv[..., 2:]


def test_intrinsics_are_honoured_and_can_be_left_out(model, sample):
    """Points lie on the rays of the camera that was told, or of one that sees 60 degrees; matching asks for neither."""
    views = sample.views
    wide = torch.tensor([[55.4256, 0, 32], [0, 55.4256, 24], [0, 0, 1]]).expand(2, 2, 3, 3)
    assert ((views.intrinsics - wide)[..., 0, 0] > 10).all()
    grid = pixel_grid(48, 64)
    with torch.no_grad():
        given, assumed = model(views), model(replace(views, intrinsics=None))
        same = model(replace(views, intrinsics=wide))
    for said, intrinsics in ((given, views.intrinsics), (assumed, wide)):
        assert (seen_at(said.points, intrinsics) - grid).abs().max() < 1e-3
        assert (seen_at(said.target_points, intrinsics.flip(1)) - grid - said.flow).abs().max() < 0.02
    assert (given.flow - assumed.flow).norm(dim=-1).max() < 0.5 < 5 < given.flow.norm(dim=-1).median()
    assert (same.points / assumed.points - 1).abs().median() < 1e-3


def test_other_sizes_and_lonely_views_are_refused(model, sample):
    with pytest.raises(UsageError, match="multiples of 8"):
        model(replace(sample.views, images=sample.views.images[..., :60]))
    with pytest.raises(UsageError, match="in no pair"):
        model(replace(sample.views, pairs=torch.zeros(2, 1, 2, dtype=torch.long)))
    with pytest.raises(UsageError, match="no size 'huge'"):
        build("compact", "huge")


def test_a_fresh_network_is_small_and_comes_back_from_its_file(tmp_path):
    model = build("compact")
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 10e6
    checkpoints.save(model, tmp_path / "compact.safetensors")
    again = checkpoints.load(tmp_path / "compact.safetensors")
    assert again.config == model.config
    with pytest.raises(UsageError, match="nobody else"):
        checkpoints.to_official(model)


def test_the_file_that_ships_is_what_its_card_says():
    with as_file(files("unproject") / "assets" / "weights") as folder:
        path, card = folder / "compact.safetensors", (folder / "compact.md").read_text()
        assert path.stat().st_size <= 20e6
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["unproject"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    said = re.search(r"\| file \| `compact.safetensors`, (\w+), ([\d.]+) M parameters", card)
    assert said is not None and "| licence | Apache-2.0" in card
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16} and said[1] == "float16"
    assert f"{sum(tensor.numel() for tensor in tensors.values()) / 1e6:.2f}" == said[2]
    assert header["model"] == "compact" and header["licence"] == "Apache-2.0"
    model = shipped("compact")
    assert model.licence == "Apache-2.0" and {p.dtype for p in model.parameters()} == {torch.float32}
    # Each number of the file is in the network, and the network has no others.
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    assert all(
        tensor.isfinite().all() and torch.equal(model.state_dict()[name], tensor.float())
        for name, tensor in tensors.items()
    )
