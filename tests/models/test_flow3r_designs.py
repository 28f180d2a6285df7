"""The designs that the paper compares: flow by matching, and a backbone with a camera token of each view."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from unproject.models import build
from unproject.models.flow3r import Flow3r, config
from unproject.types import Views

PAIRS = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 1]])


def made(**choices) -> Flow3r:
    """With weights under which views hear of each other and tokens differ; as it starts, they hardly do."""
    torch.manual_seed(0)
    model = build("flow3r", "tiny", **choices).eval()
    assert isinstance(model, Flow3r)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.5)
        elif name.endswith(("register_token", "register_tokens", "cls_token", "camera_token")):
            nn.init.normal_(parameter, std=0.5)
    return model


def views(batch=1, count=3, height=42, width=56, pairs=PAIRS) -> Views:
    return Views(
        images=torch.rand(batch, count, 3, height, width),
        times=torch.zeros(batch, count),
        pairs=pairs.expand(batch, -1, -1),
    )


def reached(model, value) -> set[str]:
    value.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}


def test_matched_flow_trains_points_and_not_cameras():
    """Why it is the lesser design: nothing of pose is asked."""
    model = made(flow_head="tracking")
    names = reached(model, model(views()).flow.square().mean())
    parts = {name.split(".")[0] for name in names}
    assert {"point_decoder", "decoder", "encoder", "flow_head"} <= parts
    assert not parts & {"point_head", "conf_head", "conf_decoder", "camera_head", "camera_decoder"}
    assert not {name for name in names if "linear_out" in name}


@torch.no_grad()
def test_matched_flow_sees_the_target_and_starts_near_nothing():
    model = made(flow_head="tracking")
    given = views()
    said = model(given)
    assert said.flow.shape == (1, 4, 42, 56, 2) and bool(said.flow.isfinite().all())
    factored = set(made().state_dict())
    assert {k for k in factored ^ set(model.state_dict()) if not k.startswith("flow_head.")} == set()
    model.views_at_once = 2
    torch.testing.assert_close(model(given).flow, said.flow, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("flow_head", ["factored", "tracking"])
def test_with_camera_tokens_the_first_view_is_apart_and_the_others_are_a_set(flow_head):
    model = made(backbone="vggt", flow_head=flow_head)
    given, order = views(count=4), torch.tensor([0, 3, 1, 2])
    with torch.no_grad():
        said = model(given)
        moved = model(replace(given, images=given.images[:, order], pairs=order.argsort()[given.pairs]))
        swapped = model(replace(given, images=given.images[:, [1, 0, 2, 3]]))
    for name in ("points", "confidence", "world_from_cam"):
        torch.testing.assert_close(getattr(moved, name), getattr(said, name)[:, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved.flow, said.flow, atol=1e-2, rtol=1e-3)
    assert not torch.allclose(swapped.world_from_cam[:, [1, 0, 2, 3]], said.world_from_cam, atol=1e-2)


def test_pose_is_read_from_the_camera_token_and_from_no_patch():
    """Patches reach pose only through the token: what the camera decoder says of them afterwards is not asked."""
    model = made(backbone="vggt")
    seen = {}

    def spoil(part, given, result):
        features, latents = result
        seen["tokens"] = features.shape[1]
        spoilt = features.clone()
        spoilt[:, 1:] = 100.0
        return spoilt, [torch.cat([level[:, :1], torch.full_like(level[:, 1:], 100.0)], dim=1) for level in latents]

    given = views()
    with torch.no_grad():
        said = model(given)
        hook = model.camera_decoder.register_forward_hook(spoil)
        again = model(given)
        hook.remove()
    assert seen["tokens"] == 1 + 5 + 12
    torch.testing.assert_close(again.world_from_cam, said.world_from_cam)
    torch.testing.assert_close(again.flow, said.flow)


def test_flow_trains_the_camera_tokens():
    model = made(backbone="vggt")
    names = reached(model, model(views()).flow.square().mean())
    assert {"camera_token", "register_token"} <= names
    assert model.camera_token.grad[0, 0].any() and model.camera_token.grad[0, 1].any()


@torch.no_grad()
@pytest.mark.parametrize("flow_head", ["factored", "tracking"])
def test_few_views_at_a_time_are_the_same_as_all(flow_head):
    model, given = made(backbone="vggt", flow_head=flow_head), views(batch=2)
    whole = model(given)
    model.views_at_once = 2
    parts = model(given)
    for name in ("points", "world_from_cam", "flow"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_few_views_have_camera_tokens_too(count):
    model = made(backbone="vggt")
    with torch.no_grad():
        said = model(views(count=count, pairs=torch.zeros(1, 2, dtype=torch.long)))
    assert said.world_from_cam.shape == (1, count, 4, 4)


def test_the_released_layout_is_the_default():
    assert config() == config(flow_head="factored", backbone="pi3") and config().special == 5
    assert config(backbone="vggt").special == 6
    assert "camera_token" not in made().state_dict()


def test_the_memory_of_a_camera_token_is_that_of_one_more_register():
    shape = replace(config("tiny").shape, registers=6)
    with torch.device("meta"):
        token = Flow3r(config("tiny", backbone="vggt"))
        register = Flow3r(replace(config("tiny"), shape=shape))
    assert token.working_bytes(3, 4, 42, 56) == register.working_bytes(3, 4, 42, 56)
