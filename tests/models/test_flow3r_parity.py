"""Numbers of the public π³ and Flow3r on weights that are functions of their names: the whole networks, in float32."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unproject.models.build import from_config
from unproject.models.flow3r import Flow3r, config, pi3_config

CLOSE = 1e-5
"""Absolute, and relative: another processor's sums of a thousand products differ by as much."""
COUNTS = {"flow3r": (1_001_053_694, 1278), "pi3": (958_696_732, 1210)}


def released(parity: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released file."""
    lines = [line.split("\t") for line in (parity / f"{name}_keys.txt").read_text().splitlines() if line[0] != "#"]
    return {key: tuple(map(int, re.findall(r"\d+", shape))) for key, shape, _ in lines}


def empty(flow: bool) -> Flow3r:
    with torch.device("meta"):
        model = from_config(config() if flow else pi3_config())
    assert isinstance(model, Flow3r)
    return model


@pytest.mark.parametrize("name", ["flow3r", "pi3"])
def test_weights_have_the_names_and_shapes_of_the_released_file(parity, name):
    model = empty(flow=name == "flow3r")
    parameters, tensors = COUNTS[name]
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == released(parity, name)
    assert sum(p.numel() for p in model.parameters()) == parameters and len(model.state_dict()) == tensors


@pytest.fixture(scope="module")
def model(parity) -> Flow3r:
    """Filled in place: the weights take 4 GB."""
    spec = importlib.util.spec_from_file_location("fill", parity / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    made = empty(flow=True).to_empty(device="cpu")
    state = made.state_dict()
    state["image_mean"].copy_(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    state["image_std"].copy_(torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
    fill.fill_by_crc32(state, seed=0)
    return made.eval()


@pytest.fixture(scope="module")
def known(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(parity / "flow3r_3x56x70.npz").items()}


@pytest.fixture(scope="module")
def inside(model, known) -> dict[str, Tensor]:
    """What the parts say on the way, and what comes out."""
    seen: dict[str, Tensor] = {}

    def keep(name):
        return lambda part, given, said: seen.__setitem__(name, said[0] if isinstance(said, tuple) else said)

    parts = {
        "mid_encoder": model.encoder,
        **{f"mid_decoder{n}": model.decoder[n] for n in (0, 1, 34, 35)},
        **{f"mid_{task}_decoder": getattr(model, f"{task}_decoder").linear_out for task in ("point", "conf", "camera")},
    }
    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    with torch.no_grad():
        raw = model.raw(known["imgs"], known["pair_indices"])
    for hook in hooks:
        hook.remove()
    return seen | {
        "local_points": raw.points,
        "conf": raw.confidence_logit[..., None],
        "camera_poses": raw.world_from_cam,
        "flow": raw.flow,
    }


@pytest.mark.parametrize(
    "name",
    [
        "mid_encoder", "mid_decoder0", "mid_decoder1", "mid_decoder34", "mid_decoder35",
        "mid_point_decoder", "mid_conf_decoder", "mid_camera_decoder",
        "local_points", "conf", "camera_poses", "flow",
    ],
)  # fmt: skip
def test_every_part_says_what_the_public_code_says(inside, known, name):
    assert inside[name].shape == known[name].shape
    torch.testing.assert_close(inside[name], known[name], atol=CLOSE, rtol=CLOSE)


@torch.no_grad()
def test_without_its_flow_head_it_is_pi3(parity, model):
    known = {key: torch.from_numpy(value) for key, value in np.load(parity / "pi3_3x56x70.npz").items()}
    other = empty(flow=False)
    other.load_state_dict({k: t for k, t in model.state_dict().items() if k in other.state_dict()}, assign=True)
    raw = other.raw(known["imgs"], torch.zeros(1, 0, 2, dtype=torch.long))
    torch.testing.assert_close(raw.points, known["local_points"], atol=CLOSE, rtol=CLOSE)
    torch.testing.assert_close(raw.world_from_cam, known["camera_poses"], atol=CLOSE, rtol=CLOSE)
    assert raw.flow is None
