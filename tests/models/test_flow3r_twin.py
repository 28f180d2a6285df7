"""The multi-view network against its description read off formula by formula, at many sizes and numbers of views."""

import pytest
import torch
from flow3r_twin import Twin

from unproject.models.flow3r import Flow3r, config

SIZE = 37 * 14
"""The one grid of patches whose positions are not interpolated."""


@pytest.fixture(scope="module")
def network() -> Flow3r:
    """Every weight away from where it starts, so that none is without effect."""
    torch.manual_seed(1)
    made = Flow3r(config("tiny")).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "token" in name or name.endswith("pos_embed"):
                weight.normal_(std=0.5)
            elif weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return made


@pytest.mark.parametrize(
    ("batch", "views", "height", "width", "pairs"),
    [
        (1, 1, 14, 14, [[0, 0]]),
        (1, 1, SIZE, SIZE, [[0, 0]]),
        (2, 5, 28, 70, [[0, 1], [4, 0], [2, 2], [0, 1]]),
        (1, 2, SIZE, 42, [[1, 0]]),
        (1, 1, 42, SIZE, [[0, 0]]),
        (1, 12, 42, 42, [[view, (view + 1) % 12] for view in range(12)]),
    ],
)
@torch.no_grad()
def test_every_output_is_that_of_the_description(network, batch, views, height, width, pairs):
    torch.manual_seed(2)
    images = torch.rand(batch, views, 3, height, width)
    asked = torch.tensor([pairs]).repeat(batch, 1, 1)
    asked[1:] = asked[1:].flip(-1)
    said, wanted = network.raw(images, asked), Twin(network.state_dict(), network.config)(images, asked)
    for ours, theirs in zip((said.points, said.confidence_logit, said.world_from_cam, said.flow), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=3e-5, atol=1e-5)
        assert theirs.std() > 1e-3


@torch.no_grad()
def test_the_twin_hears_every_weight_that_it_reads(network):
    """Planted: each kind of weight bent in turn; the two must part."""
    images, pairs = torch.rand(1, 2, 3, 28, 42), torch.tensor([[[0, 1]]])
    said = network.raw(images, pairs)
    for name in (
        "encoder.pos_embed",
        "encoder.blocks.0.ls2.gamma",
        "register_token",
        "decoder.1.attn.q_norm.weight",
        "point_decoder.blocks.3.mlp.fc1.bias",
        "camera_head.fc_t.weight",
        "flow_head.norm.bias",
        "flow_head.scratch.refinenet3.resConfUnit1.conv2.weight",
    ):
        bent = {**network.state_dict(), name: 1.5 * network.state_dict()[name] + 0.1}
        wanted = Twin(bent, network.config)(images, pairs)
        pairs_of = zip((said.points, said.confidence_logit, said.world_from_cam, said.flow), wanted, strict=True)
        assert any(float((ours - theirs).abs().max()) > 1e-3 for ours, theirs in pairs_of), name
