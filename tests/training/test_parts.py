"""What is computed twice gives the same gradients and keeps less; parts that there are not are named."""

import pytest
import torch
from torch import nn

from unproject.errors import UsageError
from unproject.models import build
from unproject.models.base import trunk_in
from unproject.models.flow3r import Flow3r
from unproject.nn.transformer import EncoderBlock
from unproject.training.parts import hold, recompute
from unproject.training.plan import kept_bytes

PAIRS = torch.tensor([[[0, 1], [1, 0]]])


@pytest.fixture(scope="module")
def model() -> Flow3r:
    torch.manual_seed(0)
    made = build("flow3r", "tiny")
    assert isinstance(made, Flow3r)
    return made


def learned(model: Flow3r, images: torch.Tensor, dtype: torch.dtype) -> tuple[int, torch.Tensor, dict]:
    """Bytes that a pass keeps, its loss, and all gradients."""
    model.zero_grad()
    with kept_bytes(model) as kept, trunk_in(dtype, images.device):
        raw = model.raw(images, PAIRS)
    said = (raw.points, raw.confidence_logit, raw.world_from_cam, raw.flow)
    loss = torch.stack([(maps - 0.3).square().mean() for maps in said]).sum()
    loss.backward()
    named = model.named_parameters()
    return kept.bytes, loss.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_computed_twice_the_loss_and_all_gradients_are_the_same_and_less_is_kept(model, dtype):
    images = torch.rand(1, 2, 3, 42, 56)
    recompute(model, None)
    everything, loss, gradients = learned(model, images, dtype)
    kept = []
    for parts in (("encoder",), ("encoder", "decoder")):
        recompute(model, parts)
        bytes_, same_loss, same = learned(model, images, dtype)
        assert torch.equal(same_loss, loss) and same.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(same[name], gradient, msg=lambda text, name=name: f"{name}: {text}")
        kept.append(bytes_)
    assert everything > kept[0] > kept[1]
    assert gradients["encoder.blocks.0.attn.qkv.weight"].any()


def test_the_blocks_of_the_named_parts_and_no_others_are_computed_twice(model):
    recompute(model, ("encoder", "decoder.1"))
    on = {name for name, block in model.named_modules() if isinstance(block, EncoderBlock) and block.recomputed}
    assert on == {"encoder.blocks.0", "encoder.blocks.1", "decoder.1"}
    recompute(model, None)
    assert not any(block.recomputed for block in model.modules() if isinstance(block, EncoderBlock))


def test_parts_that_there_are_not_are_named(model):
    with pytest.raises(UsageError, match=r"network is called nose; Schedule\.recomputed: register_token, "):
        recompute(model, ("encoder", "nose"))
    with pytest.raises(UsageError, match=r"^point_head: no blocks there can be computed twice"):
        recompute(model, ("encoder", "point_head"))
    with pytest.raises(UsageError, match=r"called nothing; Recipe\.trained: 0"):
        hold(nn.Sequential(nn.Linear(1, 1)), ())
