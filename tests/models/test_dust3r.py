from dataclasses import replace

import pytest
import torch

from unproject.errors import UsageError
from unproject.geometry import align
from unproject.models import build
from unproject.models.dust3r import SideMaps
from unproject.types import Views

BOTH_WAYS = torch.tensor([[[0, 1], [1, 0]]])


def views(images, pairs=BOTH_WAYS):
    batch, count = images.shape[:2]
    return Views(images=images, times=torch.zeros(batch, count), pairs=pairs.expand(batch, -1, -1))


def pretend(monkeypatch, model, points_world, cameras, units):
    """Let the network know the truth: a static scene, seen with another unit in each run."""
    calls = iter([(0, 1), (1, 0)])

    def decode(first, second):
        order = next(calls)
        into = cameras[order[0]].inverse()
        maps = (points_world[view] @ into[:3, :3].T + into[:3, 3] for view in order)
        return tuple(SideMaps(units[order[0]] * points[None], torch.zeros(1, *points.shape[:2])) for points in maps)

    monkeypatch.setattr(model, "decode", decode)


def test_two_runs_of_a_static_scene_agree_after_scaling(monkeypatch):
    model, size = build("dust3r", "tiny", head="linear"), (32, 48)
    world = torch.randn(2, *size, 3) + torch.tensor([0.0, 0.0, 5.0])
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.2, 0.1], [0.2, 0.0, -0.3], [-0.1, 0.3, 0.0]]))
    cameras = torch.eye(4).repeat(2, 1, 1)
    cameras[1, :3, :3], cameras[1, :3, 3] = turn, torch.tensor([1.0, 0.0, -0.5])
    pretend(monkeypatch, model, world, cameras, units=(1.0, 3.0))
    prediction = model(views(torch.rand(1, 2, 3, *size)))
    flat = [x[0].flatten(1, 2) for x in (prediction.points, prediction.target_points)]
    second_from_first, first_from_second = align.procrustes(*flat, prediction.pose_weight[0].flatten(1))
    assert torch.allclose(second_from_first, cameras[1].inverse() @ cameras[0], atol=1e-4)
    assert torch.allclose(second_from_first @ first_from_second, torch.eye(4), atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "dpt"])
def test_shapes_ranges_and_gradients(head):
    model = build("dust3r", "tiny", head=head)
    prediction = model(views(torch.rand(2, 2, 3, 32, 48)))
    assert prediction.points.shape == prediction.target_points.shape == (2, 2, 32, 48, 3)
    assert ((prediction.confidence >= 0) & (prediction.confidence <= 1)).all()
    assert torch.allclose(prediction.pose_weight.sum((-2, -1)), torch.ones(2, 2), atol=1e-5)
    # Bounded, since the distance of random points is exponential.
    bounded = prediction.points.tanh().sum() + prediction.target_points.tanh().sum() + prediction.confidence.sum()
    (bounded + (prediction.pose_weight.log()).mean()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@pytest.mark.parametrize(("head", "count"), [("linear", 532_342_784), ("dpt", 571_171_208 - 2 * 1_180_160)])
def test_the_released_network_has_the_size_that_the_public_code_counts(head, count):
    with torch.device("meta"):
        model = build("dust3r", "large", head=head)
    mask_token = 768
    assert sum(p.numel() for p in model.parameters()) == count - mask_token


def test_intrinsics_are_refused():
    given = views(torch.rand(1, 2, 3, 32, 32))
    with pytest.raises(UsageError, match="intrinsics"):
        build("dust3r", "tiny")(replace(given, intrinsics=torch.eye(3).expand(1, 2, 3, 3)))


def test_models_are_reached_by_their_public_name():
    import unproject

    assert unproject.models.build is build
    assert unproject.models.checkpoints.from_official
