"""Numbers of the public CroCo and DUSt3R modules on weights that are functions of their names."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from official_weights import filled_official, filler

from unproject.models import build, checkpoints
from unproject.models.dust3r import Dust3rConfig
from unproject.models.flow4r import SIZES, Flow4rConfig
from unproject.nn.attention import Turns
from unproject.nn.croco import CrocoDecoder, TwoViewShape
from unproject.nn.rope import grid_positions

TOKENS, RAW, ACTIVATED = 1e-4, 5e-4, 1e-3
ROWS = 4
TINY = replace(SIZES["tiny"], dpt_widths=TwoViewShape().dpt_widths, dpt_features=TwoViewShape().dpt_features)
LAYERS = (1, 6, 9, 12)


def reference(parity, name):
    return {key: torch.from_numpy(value) for key, value in np.load(parity / f"{name}.npz").items() if key != "meta"}


def off(value, expected):
    return float((value - expected).abs().max())


def off_relative(points, expected):
    """Distance over distance from the camera: single coordinates may be next to zero."""
    return float(((points - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def encoded(model, known):
    return [model.encode(known[f"img{side}"] / 2 + 0.5) for side in (1, 2)]


def check_tokens(tokens, streams, known):
    for side in (1, 2):
        assert off(tokens[side - 1].values, known[f"enc{side}"]) < TOKENS
        for layer, values in zip(LAYERS, streams[side - 1], strict=True):
            assert off(values, known[f"dec{side}_{layer}"]) < TOKENS


@pytest.mark.parametrize("head", ["linear", "dpt"])
@torch.no_grad()
def test_dust3r(parity, head):
    known = reference(parity, f"tiny_{head}")
    weights = filled_official(parity, "dust3r", Dust3rConfig(shape=replace(TINY, head=head)))
    model = checkpoints.from_official("dust3r", weights).eval()
    assert model.config.shape == (TINY if head == "dpt" else replace(SIZES["tiny"], **default_dpt(), head="linear"))
    tokens = encoded(model, known)
    check_tokens(tokens, model.decoder.two_stacks(model.other_blocks, *tokens, LAYERS), known)
    if head == "dpt":
        layers = model.decoder.two_stacks(model.other_blocks, *tokens, model.config.shape.head_layers)
        assert off(model.head(layers[0], ROWS), known["raw1"]) < RAW
        assert off(model.other_head(layers[1], ROWS), known["raw2"]) < RAW
    first, second = model.decode(*tokens)
    assert off_relative(first.points, known["pts3d_1"]) < ACTIVATED
    assert off_relative(second.points, known["pts3d_2_in_1"]) < ACTIVATED
    for maps, side in ((first, 1), (second, 2)):
        assert torch.allclose(1 + maps.raw_confidence.exp(), known[f"conf_{side}"], rtol=ACTIVATED)


def default_dpt():
    return {"dpt_widths": TwoViewShape().dpt_widths, "dpt_features": TwoViewShape().dpt_features}


@torch.no_grad()
def test_flow4r_is_dust3r_with_tied_weights(parity):
    known = reference(parity, "tiny_shared_linear8")
    weights = filled_official(parity, "flow4r", Flow4rConfig(shape=replace(TINY, head="linear")))
    model = checkpoints.from_official("flow4r", weights).eval()
    tokens = encoded(model, known)
    check_tokens(tokens, model.decoder(*tokens, LAYERS), known)
    for layers, side in zip(model.relate(*tokens), (1, 2), strict=True):
        assert off(model.read(layers, ROWS), known[f"raw{side}"]) < RAW


def unturned(self, heads):
    return heads


def reversed_blocks(self, first, second, layers):
    return self.two_stacks(self.blocks[::-1], first, second, layers)


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [(Turns, "turn", unturned), (CrocoDecoder, "forward", reversed_blocks)],
    ids=["no positions", "blocks in another order"],
)
@torch.no_grad()
def test_a_planted_fault_is_seen(parity, monkeypatch, where, name, fault):
    monkeypatch.setattr(where, name, fault)
    with pytest.raises(AssertionError):
        test_flow4r_is_dust3r_with_tied_weights(parity)


@torch.no_grad()
def test_croco_paints_hidden_patches(parity):
    """Pre-training: the first image is mostly hidden and the memory stands still. Its blocks are ours."""
    known = reference(parity, "tiny_croco")
    weights = filled_official(parity, "flow4r", Flow4rConfig(shape=replace(TINY, head="linear")))
    fill = filler(parity).splitmix_param
    extra = {"mask_token": (1, 1, 64), "prediction_head.weight": (768, 64), "prediction_head.bias": (768,)}
    extra = {key: torch.from_numpy(fill(0, key, shape)) for key, shape in extra.items()}
    start = {key: value for key, value in weights.items() if not key.startswith("downstream_head1.")} | extra
    model = checkpoints.from_official("croco", start).eval()
    encoder, decoder = model.encoder, model.decoder

    positions, hidden = grid_positions(ROWS, 4), known["mask"][0]
    seen = encoder.patches(known["img1"])[:, ~hidden]
    seen = decoder.embed(encoder.run(seen, Turns.of(positions[~hidden], 32)))
    values = extra["mask_token"].repeat(1, len(hidden), 1)
    values[:, ~hidden] = seen
    turns = Turns.of(positions, 16)
    memory = decoder.embed(encoder.run(encoder.patches(known["img2"]), Turns.of(positions, 32)))
    for block in decoder.blocks:
        values = block(values, memory, turns, turns)
    painted = decoder.norm(values) @ extra["prediction_head.weight"].T + extra["prediction_head.bias"]
    assert off(painted, known["out"]) < RAW


def test_what_raw_channels_mean(parity):
    """P and P_vt are as DUSt3R has points; C = 1 + exp(raw) is 1 / (1 - confidence); W adds up to 1."""
    known = reference(parity, "functions")
    points, confidence = known["act_in"].movedim(-1, 1), known["conf_in"]
    raw = torch.cat([points, points.flip(0), -2 * confidence[:, None], confidence[:, None]], dim=1)
    maps = build("flow4r", "tiny", head="linear").activate(raw)
    assert off_relative(maps.points, known["act_exp"]) < 1e-5
    assert off_relative(maps.target_points, known["act_exp"].flip(0)) < 1e-5
    assert off(1 / (1 - maps.confidence) / known["conf_exp"], 1) < 1e-5
    share = np.exp(-2 * confidence.double().numpy())
    assert np.allclose(maps.log_weight.exp().numpy(), share / share.sum((1, 2), keepdims=True), rtol=1e-4)
