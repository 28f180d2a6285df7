"""Reliev3R: views are a set, depth lies on the rays that it is given, hinted at or finds."""

from dataclasses import replace

import pytest
import torch
from live_bytes import LiveBytes

from unproject.errors import UsageError
from unproject.geometry.camera import project
from unproject.models import build, checkpoints
from unproject.models.build import from_config
from unproject.models.multiview import SIZES
from unproject.models.reliev3r import (
    FIRST_VIEW_RAD,
    NARROWEST_RAD,
    WIDEST_RAD,
    Reliev3r,
    Reliev3rConfig,
    ViewAngleHead,
    config,
    patch_slopes,
)
from unproject.nn.backbone import AlternatingBlocks, token_positions, trunk_state
from unproject.nn.vit import VitShape
from unproject.tensors import map_tensors
from unproject.types import Views

HEIGHT, WIDTH = 42, 56
INTRINSICS = torch.tensor([[60.0, 0, 27], [0, 58, 22], [0, 0, 1]])


def made(rays="given") -> Reliev3r:
    torch.manual_seed(0)
    model = build("reliev3r", "tiny", rays=rays).eval()
    assert isinstance(model, Reliev3r)
    for name, parameter in model.named_parameters():
        if name.endswith(("register_token", "register_tokens", "cls_token", "ray_embed.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def views(batch=1, count=3, known=True) -> Views:
    return Views(
        images=torch.rand(batch, count, 3, HEIGHT, WIDTH),
        times=torch.zeros(batch, count),
        pairs=torch.zeros(batch, 0, 2, dtype=torch.long),
        intrinsics=INTRINSICS.expand(batch, count, 3, 3) if known else None,
    )


def test_the_papers_network_has_450_million_parameters():
    with torch.device("meta"):
        count = sum(p.numel() for p in from_config(config()).parameters())
    assert count == pytest.approx(455.5e6, rel=1e-3)  # π³'s base trunk with a ViT-B, counted by hand


@torch.no_grad()
@pytest.mark.parametrize("rays", ["given", "hinted", "found"])
def test_reordering_views_reorders_the_answers(rays):
    model, given, order = made(rays), views(known=rays != "found"), torch.tensor([2, 0, 1])
    said, shuffled = model(given), model(replace(given, images=given.images[:, order]))
    for name in ("points", "confidence", "world_from_cam", "intrinsics"):
        torch.testing.assert_close(getattr(shuffled, name), getattr(said, name)[:, order], atol=1e-4, rtol=1e-4)
    assert said.confidence.min() > 0 and said.confidence.max() < 1 and said.flow is None


@torch.no_grad()
@pytest.mark.parametrize("rays", ["given", "hinted", "found"])
def test_in_double_precision_it_says_the_same(rays):
    model, given = made(rays), views(known=rays != "found")
    said = model(given)
    wide = map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, given)
    exact = model.double()(wide)
    for name in ("points", "confidence", "world_from_cam", "intrinsics"):
        assert getattr(exact, name).dtype == torch.float64
        torch.testing.assert_close(getattr(said, name).double(), getattr(exact, name), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_items_do_not_hear_of_each_other_and_few_views_at_a_time_change_nothing():
    model, given = made(), views(batch=2)
    both = model(given)
    alone = model(map_tensors(lambda tensor: tensor[1:], given))
    torch.testing.assert_close(both.points[1:], alone.points, atol=1e-4, rtol=1e-4)
    model.views_at_once = 1
    torch.testing.assert_close(model(given).points, both.points, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rays", ["given", "hinted", "found"])
def test_points_lie_on_the_rays_that_are_known(rays):
    said = made(rays)(views())
    assert torch.equal(said.intrinsics, INTRINSICS.expand(1, 3, 3, 3))
    pixels = project(said.points[0, 0].flatten(0, 1), INTRINSICS).view(HEIGHT, WIDTH, 2)
    torch.testing.assert_close(pixels[3, 5], torch.tensor([5.5, 3.5]), atol=1e-3, rtol=0)
    assert said.points[..., 2].min() > 0


@torch.no_grad()
def test_only_a_hinted_network_depends_on_the_rays_beyond_its_points():
    wide = replace(views(), intrinsics=torch.tensor([[30.0, 0, 28], [0, 30, 21], [0, 0, 1]]).expand(1, 3, 3, 3))
    for rays, depends in (("given", False), ("hinted", True)):
        model = made(rays)
        near, far = (
            model(replace(wide, intrinsics=some)).points[..., 2] for some in (wide.intrinsics, views().intrinsics)
        )
        assert torch.equal(near, far) != depends


@torch.no_grad()
def test_a_fresh_network_finds_one_view_of_sixty_degrees_for_a_clip():
    model = made("found")
    found = model(views(batch=2, known=False)).intrinsics
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert (found[..., 0, 2] == WIDTH / 2).all() and (found[..., 1, 2] == HEIGHT / 2).all()
    angle = 2 * torch.atan(WIDTH / 2 / found[..., 0, 0])
    assert (angle - FIRST_VIEW_RAD).abs().max() < 0.3
    assert torch.equal(found[..., 0, 0], found[..., 1, 1])
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("push", [-1e4, 1e4])
def test_a_view_at_its_limit_is_finite_and_so_is_its_gradient(push):
    head = ViewAngleHead(8)
    with torch.no_grad():
        head.fc2.bias += push
    pooled = torch.rand(1, 2, 8, requires_grad=True)
    found = head(pooled, HEIGHT, WIDTH)
    found[..., 0, 0].log().sum().backward()
    angle = 2 * torch.atan(WIDTH / 2 / found[0, 0, 0, 0])
    assert angle.item() == pytest.approx(WIDEST_RAD if push > 0 else NARROWEST_RAD, rel=1e-4)
    assert pooled.grad.isfinite().all()


@pytest.mark.parametrize("rays", ["given", "hinted"])
def test_without_rays_it_says_what_it_needs(rays):
    with pytest.raises(UsageError, match=r"give Views\.intrinsics"):
        made(rays)(views(known=False))


def test_slopes_are_those_of_the_patches_middles():
    slopes = patch_slopes(INTRINSICS.expand(1, 1, 3, 3), (HEIGHT, WIDTH), 14)
    assert slopes.shape == (1, 1, 12, 2)
    torch.testing.assert_close(slopes[0, 0, 5], torch.tensor([(21.0 - 27) / 60, (21.0 - 22) / 58]))


def test_every_patch_has_its_own_hint_and_registers_none():
    hint, images = torch.rand(2, 3, 4, 8), torch.rand(2, 3, 3, 28, 28)
    state = trunk_state(
        lambda some: some.new_zeros(len(some), 4, 8),
        AlternatingBlocks(8, 2, 0, 1.0),
        images,
        torch.zeros(2, 3, 1, 8),
        token_positions(2, 2, 1),
        most=2,
        hint=hint,
    )
    assert torch.equal(state.over[:, 1:], hint.flatten(0, 1)) and not state.over[:, 0].any()


def test_gradients_are_finite_from_the_first_step_on_and_reach_everything():
    model = made("found").train()
    said = model(views(known=False))
    (
        said.points.mean() + said.world_from_cam.square().mean() + said.confidence.mean() + said.intrinsics.mean()
    ).backward()
    for name, parameter in model.named_parameters():
        if not name.endswith("mask_token"):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("rays", ["given", "hinted", "found"])
def test_weights_on_disk_build_it_again(tmp_path, rays):
    model = made(rays)
    checkpoints.save(model, tmp_path / "weights.safetensors")
    again = checkpoints.load(tmp_path / "weights.safetensors")
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize(("dim", "task_width"), [(64, 512), (128, None)], ids=["wide decoders", "wide trunk"])
def test_predicted_memory_covers_the_tensors_that_live_at_once_and_little_more(dim, task_width):
    """What processes take besides, since allocators keep what is free, is measured by `benchmarks.multiview_memory`."""
    shape = replace(SIZES["tiny"], encoder=VitShape(dim=dim, depth=1, heads=dim // 64), depth=2, task_depth=1)
    model = from_config(Reliev3rConfig(shape=shape, task_width=task_width)).eval()
    with LiveBytes() as live:
        model(views(count=8))
    assert 1.0 < model.working_bytes(8, 0, HEIGHT, WIDTH) / live.peak < 2.8


def test_sizes_are_named():
    with pytest.raises(UsageError, match="choose one of large, base, small, tiny"):
        build("reliev3r", "huge")
