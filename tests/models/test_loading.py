"""Weights by name or path: what comes back is ready to be used, what cannot is told in one line."""

import pytest
import torch
from official_weights import random_official

import unproject
from unproject.errors import UsageError, WeightsError
from unproject.models import build, checkpoints, loading
from unproject.models.dust3r import Dust3rConfig
from unproject.models.flow4r import SIZES
from unproject.types import Views


def tiny():
    return build("flow4r", "tiny", head="linear")


def views():
    return Views(images=torch.rand(1, 2, 3, 32, 48), times=torch.zeros(1, 2), pairs=torch.tensor([[[0, 1]]]))


def test_a_file_of_ours(tmp_path):
    made = tiny()
    made.licence = "Apache-2.0"
    checkpoints.save(made, tmp_path / "mine.safetensors")
    model = unproject.load(tmp_path / "mine.safetensors")
    assert not model.training and model.origin.endswith("mine.safetensors") and model.licence == "Apache-2.0"
    assert loading.fingerprint(model) == loading.fingerprint(made)
    given = views()
    assert torch.equal(model(given).points, made.eval()(given).points)


def test_a_released_file_says_whose_it_is(tmp_path):
    state = random_official("dust3r", Dust3rConfig(shape=SIZES["tiny"]))
    torch.save({"model": state}, tmp_path / "released.pth")
    assert "CC BY-NC-SA" in unproject.load(tmp_path / "released.pth").licence


def test_a_fingerprint_tells_weights_apart():
    model = tiny()
    before = loading.fingerprint(model)
    with torch.no_grad():
        model.decoder.norm.bias[3] += 1e-7
    assert loading.fingerprint(model) != before


@pytest.mark.parametrize(("dtype", "trunk"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_trunk_runs_in_what_was_asked_for(tmp_path, dtype, trunk):
    checkpoints.save(tiny(), tmp_path / "mine.safetensors")
    model = unproject.load(tmp_path / "mine.safetensors", device="cpu", dtype=dtype)
    seen = []
    model.decoder.blocks[0].mlp.fc1.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    # Also where the caller's autocast says something else.
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prediction = model(views())
    assert seen == [trunk] and prediction.points.dtype == torch.float32


def test_without_a_wish_the_caller_decides():
    model, seen = tiny().eval(), []
    model.decoder.blocks[0].mlp.fc1.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(views())
    model(views())
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("flow4r", WeightsError, "no weights of flow4r on this machine .*released none.* give the path"),
        ("dust3r", WeightsError, "huggingface.co/naver/DUSt3R"),
        ("flow5r", UsageError, "no model is called 'flow5r'; choose one of flow4r"),
        ("missing.safetensors", WeightsError, "no weights at missing.safetensors"),
    ],
)
def test_what_is_not_there(name, error, says, tmp_path, monkeypatch):
    for cache in ("UNPROJECT_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(cache, str(tmp_path))
    with pytest.raises(error, match=says) as caught:
        unproject.load(name)
    assert caught.value.exit_code == (4 if error is WeightsError else 2)


def test_a_folder_of_that_name_is_not_meant(tmp_path, monkeypatch):
    (tmp_path / "compact").mkdir()
    monkeypatch.chdir(tmp_path)
    model = unproject.load("compact", device="cpu")
    assert type(model).__name__ == "Compact" and not model.training and model.licence == "Apache-2.0"


def test_weights_that_are_only_a_start_are_no_network(tmp_path):
    state = random_official("flow4r", tiny().config)
    torch.save({k: v for k, v in state.items() if not k.startswith("downstream_head1")}, tmp_path / "croco.pth")
    with pytest.raises(UsageError, match="only a start"):
        unproject.load(tmp_path / "croco.pth")


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"device": "tpu"}, "--device tpu is not known"),
        ({"device": "cuda:99"}, "has no CUDA device|CUDA devices"),
        ({"dtype": "float16"}, "--dtype float16 is not known"),
    ],
)
def test_devices_and_types_that_are_not_there(wish, says):
    with pytest.raises(UsageError, match=says):
        unproject.load("flow4r", **wish)
