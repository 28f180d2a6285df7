from dataclasses import replace

import pytest
import torch

from unproject.errors import UsageError
from unproject.geometry import align, rigid
from unproject.models import build
from unproject.types import Views

RELEASED = 437_529_544
"""Parameters of the large network with DPT as the public code builds it."""
UNREACHED = 2 * (256 * 256 * 9 + 256)
"""Of these, weights of its DPT head that no data reaches; ours has none of them."""
BOTH_WAYS = torch.tensor([[[0, 1], [1, 0]]])


def tiny(head="dpt", motion="target_points"):
    return build("flow4r", "tiny", head=head, motion=motion).eval()


def views(images, pairs=BOTH_WAYS):
    batch, count = images.shape[:2]
    return Views(images=images, times=torch.zeros(batch, count), pairs=pairs.expand(batch, -1, -1))


@pytest.mark.parametrize(("head", "count"), [("linear", 418_902_272), ("dpt", RELEASED - UNREACHED)])
def test_the_large_network_has_the_papers_size(head, count):
    with torch.device("meta"):
        model = build("flow4r", "large", head=head)
    assert sum(p.numel() for p in model.parameters()) == count


def test_images_are_as_large_as_in_the_stage_that_the_head_is_of():
    assert (tiny("linear").long_side, tiny("dpt").long_side) == (224, 512)


def test_base_is_half_of_large():
    with torch.device("meta"):
        assert 190e6 < sum(p.numel() for p in build("flow4r", "base", head="linear").parameters()) < 210e6


@pytest.mark.parametrize("head", ["linear", "dpt"])
@pytest.mark.parametrize("size", [(32, 64), (64, 48)])
def test_shapes_and_types(head, size):
    prediction = tiny(head)(views(torch.rand(2, 2, 3, *size)))
    assert prediction.points.shape == prediction.target_points.shape == (2, 2, *size, 3)
    assert prediction.pose_weight.shape == prediction.confidence.shape == (2, 2, *size)
    assert prediction.world_from_cam is None
    assert ((prediction.confidence >= 0) & (prediction.confidence <= 1)).all()
    assert torch.allclose(prediction.pose_weight.sum((-2, -1)), torch.ones(2, 2), atol=1e-5)


def test_swapping_the_images_swaps_everything():
    model, images = tiny(), torch.rand(1, 2, 3, 32, 48)
    there, back = model(views(images)), model(views(images.flip(1)))
    for name in ("points", "confidence", "target_points", "pose_weight"):
        assert torch.equal(getattr(there, name), getattr(back, name).flip(1)), name


def test_items_of_a_batch_do_not_see_each_other():
    model, images = tiny(), torch.rand(3, 2, 3, 32, 48)
    together, alone = model(views(images)), model(views(images[1:2]))
    for name in ("points", "confidence", "target_points"):
        assert torch.allclose(getattr(together, name)[1:2], getattr(alone, name), atol=1e-4), name


def test_one_batch_equals_two_streams():
    model, images = tiny(), torch.rand(2, 3, 32, 48)
    first, second = model.encode(images[:1]), model.encode(images[1:])
    layers = model.config.shape.head_layers
    fast, slow = (f(first, second, layers) for f in (model.decoder, streams(model)))
    cotangent = [torch.randn_like(x) for x in (*slow[0], *slow[1])]
    parameters = list(model.decoder.parameters())
    gradients = [torch.autograd.grad([*a, *b], parameters, cotangent, retain_graph=True) for a, b in (fast, slow)]
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip([*fast[0], *fast[1]], [*slow[0], *slow[1]], strict=True))
    assert all(torch.allclose(x, y, atol=1e-2, rtol=1e-3) for x, y in zip(*gradients, strict=True))


def streams(model):
    return lambda *args: model.decoder.two_stacks(model.decoder.blocks, *args)


def test_images_of_two_sizes_can_be_a_pair():
    model = tiny()
    wide, tall = model.encode(torch.rand(1, 3, 32, 64)), model.encode(torch.rand(1, 3, 48, 16))
    first, second = model.decode(wide, tall)
    again_second, again_first = model.decode(tall, wide)
    assert first.points.shape == (1, 32, 64, 3) and second.points.shape == (1, 48, 16, 3)
    assert torch.equal(first.target_points, again_first.target_points)
    assert torch.equal(second.log_weight, again_second.log_weight)


@pytest.mark.parametrize("head", ["linear", "dpt"])
@pytest.mark.parametrize("motion", ["target_points", "scene_flow"])
def test_the_motion_channels(head, motion):
    model = tiny(head, motion)
    raw = torch.randn(1, 8, 4, 5)
    maps = model.activate(raw)
    third = model.activate(raw.roll(-3, 1)).points
    assert torch.equal(maps.target_points, third if motion == "target_points" else maps.points + third)
    assert torch.allclose(maps.log_weight.exp().sum(), torch.tensor(1.0))
    assert torch.allclose(1 / (1 - maps.confidence.double()), 1 + raw[:, 7].double().exp(), rtol=1e-5)


def test_every_weight_gets_a_gradient():
    for head in ("linear", "dpt"):
        model = tiny(head)
        prediction = model(views(torch.rand(1, 2, 3, 32, 48)))
        pose = align.procrustes(
            prediction.points.flatten(2, 3), prediction.target_points.flatten(2, 3), prediction.pose_weight.flatten(2)
        )
        moved = rigid.transform(pose, prediction.points.flatten(2, 3))
        (moved.square().mean() - (1 - prediction.confidence).log().mean()).backward()
        idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not idle
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_trunk_in_bfloat16_results_in_float32():
    model, given = tiny(), views(torch.rand(1, 2, 3, 32, 48))
    seen = {}
    model.decoder.blocks[3].mlp.fc1.register_forward_hook(lambda _m, _i, out: seen.update(trunk=out.dtype))
    model.encoder.blocks[1].register_forward_hook(lambda _m, _i, out: seen.update(encoder_sum=out.dtype))
    model.decoder.blocks[3].register_forward_hook(lambda _m, _i, out: seen.update(decoder_sum=out.dtype))
    model.head.map.narrow.register_forward_hook(lambda _m, _i, out: seen.update(head=out.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(given)
    sums = {"encoder_sum": torch.float32, "decoder_sum": torch.float32}
    assert seen == {"trunk": torch.bfloat16, "head": torch.float32} | sums
    assert {half.points.dtype, half.target_points.dtype, half.pose_weight.dtype} == {torch.float32}
    full = model(given)
    assert (half.confidence - full.confidence).abs().mean() < 0.05


def test_each_image_is_encoded_once_and_each_pair_decoded_once():
    model, counts = tiny("linear"), []
    model.encoder.norm.register_forward_hook(lambda _m, _i, out: counts.append(len(out)))
    model.decoder.norm.register_forward_hook(lambda _m, _i, out: counts.append(len(out)))
    model(views(torch.rand(1, 3, 3, 32, 32), torch.tensor([[[0, 1], [1, 0], [0, 2], [2, 0], [0, 1]]])))
    assert counts == [3, 4]


def test_any_pairs_in_one_scale():
    """A run by itself is the truth; within the prediction of many runs all share the scale of the first."""
    model, images = tiny(), torch.rand(2, 3, 3, 32, 48)
    pairs = torch.tensor([[[2, 0], [0, 1], [0, 2]], [[1, 2], [2, 1], [1, 0]]])
    prediction = model(views(images, pairs))
    tokens = model.encode(images.flatten(0, 1))
    for item, rows in enumerate(pairs.tolist()):
        for number, (source, target) in enumerate(rows):
            maps, _ = model.decode(*(tokens[3 * item + v : 3 * item + v + 1] for v in (source, target)))
            points, moved = prediction.points[item, source], prediction.target_points[item, number]
            scale = moved.norm() / maps.target_points[0].norm()
            assert torch.allclose(moved, scale * maps.target_points[0], rtol=1e-3, atol=1e-4)
            assert torch.allclose(prediction.pose_weight[item, number], maps.log_weight[0].exp(), rtol=1e-3)
            # P of this run and the view's own P are two maps of one thing: their mean distances agree.
            assert torch.allclose(points.norm(dim=-1).mean(), scale * maps.points[0].norm(dim=-1).mean(), rtol=1e-3)


def test_a_pair_of_one_image_with_itself():
    prediction = tiny()(views(torch.rand(1, 1, 3, 32, 32), torch.tensor([[[0, 0]]])))
    assert prediction.target_points.shape == (1, 1, 32, 32, 3)


def refuse_size(model):
    model(views(torch.rand(1, 2, 3, 32, 40)))


def refuse_intrinsics(model):
    model(replace(views(torch.rand(1, 2, 3, 32, 32)), intrinsics=torch.eye(3).expand(1, 2, 3, 3)))


def refuse_lonely_view(model):
    model(views(torch.rand(1, 3, 3, 32, 32)))


def refuse_unknown_view(model):
    model(views(torch.rand(1, 2, 3, 32, 32), torch.tensor([[[0, 2]]])))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (refuse_size, "40x32 pixels"),
        (refuse_intrinsics, "intrinsics"),
        (refuse_lonely_view, "view 2 of item 0 is in no pair"),
        (refuse_unknown_view, "there are 2 views"),
        (lambda _: build("flow4r", "huge"), "no size 'huge'"),
        (lambda _: build("flow5r", "tiny"), "no model is called 'flow5r'"),
        (lambda _: build("dust3r", "huge"), "no size 'huge'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(call, says):
    with pytest.raises(UsageError, match=says):
        call(tiny("linear"))
