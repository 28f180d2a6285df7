"""π³ and Flow3r: views are a set, flow is geometry and pose, and working on few views at a time changes nothing."""

from dataclasses import replace

import pytest
import torch

from unproject.errors import UsageError
from unproject.models import build
from unproject.models.flow3r import Flow3r, config, pixel_flow, released_flow
from unproject.types import Views

PAIRS = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 1]])


@pytest.fixture
def model() -> Flow3r:
    torch.manual_seed(0)
    made = build("flow3r", "tiny").eval()
    assert isinstance(made, Flow3r)
    # As it starts, the trunk adds next to nothing, and no view would hear of another.
    for name, parameter in made.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.5)
        elif name.endswith(("register_token", "register_tokens", "cls_token")):
            torch.nn.init.normal_(parameter, std=0.5)
    return made


def views(batch=1, count=3, height=42, width=56, pairs=PAIRS) -> Views:
    return Views(
        images=torch.rand(batch, count, 3, height, width),
        times=torch.zeros(batch, count),
        pairs=pairs.expand(batch, -1, -1),
    )


@torch.no_grad()
def test_reordering_views_reorders_the_answers(model):
    given, order = views(), torch.tensor([2, 0, 1])
    place = order.argsort()
    said = model(given)
    shuffled = model(replace(given, images=given.images[:, order], pairs=place[given.pairs]))
    for name in ("points", "confidence", "world_from_cam"):
        torch.testing.assert_close(getattr(shuffled, name), getattr(said, name)[:, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shuffled.flow, said.flow, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_views_hear_of_each_other_and_items_do_not(model):
    given = views(batch=2)
    said = model(given)
    alone = model(replace(given, images=given.images[:1], times=given.times[:1], pairs=given.pairs[:1]))
    torch.testing.assert_close(said.points[:1], alone.points, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(said.flow[:1], alone.flow, atol=1e-3, rtol=1e-4)
    other = given.images.clone()
    other[0, 2] = 1 - other[0, 2]
    changed = model(replace(given, images=other))
    assert not torch.allclose(changed.points[0, 0], said.points[0, 0], rtol=1e-3)
    torch.testing.assert_close(changed.points[1], said.points[1])


@torch.no_grad()
@pytest.mark.parametrize("size", [(42, 56), (56, 28), (37 * 14, 14), (14, 14)])
def test_any_number_of_views_and_any_size_of_whole_patches(model, size):
    said = model(views(1, 1, *size, pairs=torch.zeros(1, 2, dtype=torch.long)))
    assert said.points.shape == (1, 1, *size, 3) and said.flow.shape == (1, 1, *size, 2)
    assert bool((said.points[..., 2] > 0).all()) and bool(((said.confidence > 0) & (said.confidence < 1)).all())
    rotation = said.world_from_cam[..., :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0)
    assert bool((torch.linalg.det(rotation) > 0).all())


@torch.no_grad()
def test_few_views_at_a_time_are_the_same_as_all(model):
    given = views(batch=2)
    model.views_at_once = 100
    whole = model(given)
    model.views_at_once = 2
    parts = model(given)
    for name in ("points", "confidence", "world_from_cam", "flow"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-4, rtol=1e-4)


def test_with_and_without_gradients_the_answer_is_the_same(model):
    given = views()
    model.views_at_once = 1
    with torch.no_grad():
        without = model(given)
    torch.testing.assert_close(model(given).flow, without.flow, atol=1e-3, rtol=1e-4)


def reached(model, value) -> set[str]:
    """Parts of the network in which a gradient arrives."""
    model.zero_grad()
    value.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}


def test_flow_trains_geometry_and_pose_and_not_what_reads_them(model):
    names = reached(model, model(views()).flow.square().mean())
    parts = {name.split(".")[0] for name in names}
    assert {"point_decoder", "camera_decoder", "decoder", "encoder", "flow_head"} <= parts
    assert not parts & {"point_head", "conf_head", "conf_decoder", "camera_head"}
    assert not {name for name in names if "linear_out" in name}


@torch.no_grad()
def test_flow_asks_of_the_target_only_the_mean_of_its_pose(model):
    """The factoring itself: shuffling the patches of the target's pose latents leaves flow as it is."""
    head = model.flow_head
    geometry, pose, target = (torch.randn(4, 1, 12, 64) for _ in range(3))
    given = list(geometry), list(pose)
    said = head(*given, [level.mean(1) for level in target], 3, (42, 56))
    shuffled = target[:, :, torch.randperm(12)]
    torch.testing.assert_close(said, head(*given, [level.mean(1) for level in shuffled], 3, (42, 56)))
    moved = head(*given, [level.mean(1) + 1 for level in target], 3, (42, 56))
    assert not torch.allclose(said, moved, rtol=1e-2)


def test_pi3_has_no_flow(model):
    pi3 = build("pi3", "tiny")
    assert pi3(views()).flow is None
    assert set(model.state_dict()) - set(pi3.state_dict()) == {k for k in model.state_dict() if k[:10] == "flow_head."}


def test_the_released_flow_is_a_place_with_x_to_the_left_and_y_up():
    height, width = 6, 9
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    where = torch.stack([1 - 2 * x / (width - 1), 1 - 2 * y / (height - 1)], dim=-1)
    assert pixel_flow(where).abs().max() < 1e-5
    right = where - torch.tensor([2 * 3 / (width - 1), 0])
    torch.testing.assert_close(pixel_flow(right), torch.tensor([3.0, 0]).expand(height, width, 2), atol=1e-5, rtol=0)
    flow = torch.randn(2, height, width, 2)
    torch.testing.assert_close(pixel_flow(released_flow(flow)), flow, atol=1e-5, rtol=1e-5)


def test_what_it_cannot_be_told_is_refused(model):
    given = views()
    with pytest.raises(UsageError, match="intrinsics"):
        model(replace(given, intrinsics=torch.eye(3).expand(1, 3, 3, 3)))
    with pytest.raises(UsageError, match="57x42 pixels: resize to multiples of 14"):
        model(replace(given, images=torch.rand(1, 3, 3, 42, 57)))
    with pytest.raises(UsageError, match="no size 'huge'"):
        build("flow3r", "huge")


def test_pairs_that_name_no_view_are_refused():
    """Numbered through the batch, view 2 of the first of two items would be view 0 of the second."""
    model = build("flow3r", "tiny").eval()
    for wrong in ([[0, 2]], [[-1, 0]]):
        with pytest.raises(UsageError, match="but there are 2 views"):
            model.raw(torch.rand(2, 2, 3, 28, 28), torch.tensor([wrong, [[0, 1]]]))


@torch.no_grad()
@pytest.mark.parametrize("change", [{}, {"flow_head": "tracking"}, {"backbone": "vggt"}], ids=str)
def test_in_double_precision_it_says_the_same(change):
    model = Flow3r(replace(config("tiny"), **change)).eval()
    given = views()
    said = model(given)
    exact = model.double()(replace(given, images=given.images.double()))
    for name in ("points", "confidence", "world_from_cam", "flow"):
        assert getattr(said, name).dtype == torch.float32 and getattr(exact, name).dtype == torch.float64
        torch.testing.assert_close(getattr(said, name).double(), getattr(exact, name), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("change", [{}, {"flow_head": "tracking"}, {"backbone": "vggt"}], ids=str)
def test_of_a_trunk_in_bfloat16_the_heads_speak_float32(change):
    model = Flow3r(replace(config("tiny"), **change)).eval()
    spoke = {}
    for name in ("point_decoder", "conf_decoder", "camera_decoder", "point_head", "conf_head", "flow_head"):
        model.get_submodule(name).register_forward_hook(lambda part, given, said, name=name: spoke.update({name: said}))
    model.decoder[0].mlp.register_forward_hook(lambda part, given, said: spoke.update(trunk=said))
    with torch.autocast("cpu", torch.bfloat16):
        said = model(views())
    assert spoke.pop("trunk").dtype == torch.bfloat16
    for name in ("point_decoder", "conf_decoder", "camera_decoder"):
        features, latents = spoke[name]
        assert {tensor.dtype for tensor in (features, *latents)} == {torch.float32}
    assert {spoke[name].dtype for name in ("point_head", "conf_head", "flow_head")} == {torch.float32}
    for name in ("points", "confidence", "world_from_cam", "flow"):
        assert getattr(said, name).dtype == torch.float32


def test_rounded_angles_reach_every_decoder():
    """Under bfloat16 alone, and only where they are asked for."""
    images = torch.rand(1, 1, 3, 14, 28 * 14)
    models = [Flow3r(config("tiny", rope_precision=how)) for how in ("reference", "float32")]
    rough, exact = (model.grid_of(images).turns for model in models)
    assert torch.equal(rough.cos, exact.cos)
    with torch.autocast("cpu", torch.bfloat16):
        rough, exact = (model.grid_of(images).turns for model in models)
    assert 0.005 < float((rough.cos - exact.cos).abs().max()) < 0.1
