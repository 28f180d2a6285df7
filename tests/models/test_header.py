"""What a file says of its network is trusted in nothing: whatever stands there, one line names the file."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from unproject.errors import InputError
from unproject.models import build, checkpoints
from unproject.models.header import CONFIGS, METADATA, header_of

TINY = {name: build(name, *(() if name == "compact" else ("tiny",))).config for name in CONFIGS}


def written(path, said):
    text = said if isinstance(said, str) else json.dumps(said)
    save_file({f"{number}": torch.zeros(1) for number in range(100)}, path, {METADATA: text})
    return path


def with_change(name, change):
    """A header whose configuration has another value at a path of names, such as shape.encoder.heads."""
    config = json.loads(json.dumps(asdict(TINY[name])))
    for path, value in change.items():
        *parents, last = path.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
    return {"model": name, "config": config}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_comes_back_as_it_was(tmp_path, name):
    path = written(tmp_path / "x.safetensors", with_change(name, {}) | {"licence": "MIT", "notes": ["a", "b"]})
    found = header_of(path)
    assert (found.config, found.licence, found.made_from, found.notes) == (TINY[name], "MIT", None, ("a", "b"))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("[1, 2]", "holds a model called"),
        ("3", "holds a model called 3"),
        ('"flow3r"', "does not know"),
        ("[" * 100_000, "damaged"),
        ("{", "damaged"),
        ({"model": ["flow3r"]}, "holds a model called"),
        ({"config": {}}, "holds a model called None"),
        ({"model": "flow3r"}, "does not know: 'config'"),
        ({"model": "flow3r", "config": None}, "None is no Flow3rConfig"),
        ({"model": "flow3r", "config": {"shape": 3}}, "3 is no MultiViewShape"),
        (with_change("flow3r", {}) | {"notes": "a note"}, "no list of texts"),
        (with_change("flow3r", {}) | {"licence": {"a": 1}}, "licence=.* is no text"),
        (with_change("flow3r", {"mystery": 1}), "mystery.* is not known"),
    ],
)
def test_what_is_no_header(tmp_path, said, says):
    with pytest.raises(InputError, match=says) as caught:
        checkpoints.load(written(tmp_path / "odd.safetensors", said))
    assert "odd.safetensors" in str(caught.value) and "\n" not in str(caught.value)
    assert any(remedy in str(caught.value) for remedy in ("fetch it again", "give another file"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flow3r", {"shape.encoder.heads": 0}),
        ("flow3r", {"shape.encoder.heads": 7}),
        ("flow3r", {"shape.encoder.heads": "2"}),
        ("flow3r", {"shape.encoder.heads": True}),
        ("flow3r", {"shape.encoder.dim": -64}),
        ("flow3r", {"shape.encoder.dim": 0}),
        ("flow3r", {"shape.encoder.dim": 64.5}),
        ("flow3r", {"shape.encoder.dim": 10**30}),
        ("flow3r", {"shape.encoder.depth": 10**9}),
        ("flow3r", {"shape.encoder.patch": 0}),
        ("flow3r", {"shape.depth": 3}),
        ("flow3r", {"shape.registers": -1}),
        ("flow3r", {"shape.layer_scale": float("nan")}),
        ("flow3r", {"shape.layer_scale": 10**400}),
        ("flow3r", {"shape.flow_widths": [1, 2, 3]}),
        ("flow3r", {"shape.flow_widths": [16, 32, 48, "64"]}),
        ("flow3r", {"flow": "yes"}),
        ("flow3r", {"backbone": ["pi3"]}),
        ("flow4r", {"shape.dec_heads": 0}),
        ("flow4r", {"shape.dec_depth": -1}),
        ("flow4r", {"motion": 3}),
        ("reliev3r", {"task_width": 0}),
        ("reliev3r", {"task_width": 65}),
        ("reliev3r", {"rays": None}),
        ("dust3r", {"shape.enc_heads": 5}),
        ("dust3r", {"shape.enc_depth": 10**8}),
        ("compact", {"heads": 0}),
        ("compact", {"blocks": 10**7}),
        ("compact", {"matcher.depths": [1, 2, 10**7]}),
        ("compact", {"matcher.widths": 24}),
    ],
)
def test_sizes_of_which_no_network_can_be_made(tmp_path, name, change):
    with pytest.raises(InputError) as caught:
        checkpoints.load(written(tmp_path / "odd.safetensors", with_change(name, change)))
    text = str(caught.value)
    assert "odd.safetensors" in text and "\n" not in text and "keys do not fit" not in text
    assert "fetch it again" in text or "give another file" in text
