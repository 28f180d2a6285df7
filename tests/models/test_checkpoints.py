import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path, PosixPath

import numpy as np
import pytest
import torch
from official_weights import listed_official, random_official
from safetensors.torch import save_file

from unproject.errors import InputError, UsageError, WeightsError
from unproject.models import build, checkpoints, keys, released
from unproject.models.dust3r import Dust3rConfig
from unproject.models.flow4r import SIZES, Flow4rConfig
from unproject.models.loading import fingerprint
from unproject.types import Views

SMALL = replace(SIZES["tiny"], enc_depth=2, dec_depth=4)
LINEAR = replace(SMALL, head="linear")
CONFIGS = {"flow4r": Flow4rConfig, "dust3r": Dust3rConfig}


def official(name, shape=SMALL):
    return random_official(name, CONFIGS[name](shape=shape))


def croco(shape=SMALL):
    trunk = {key: value for key, value in official("flow4r", shape).items() if not key.startswith("downstream_head1")}
    hidden = {"mask_token": torch.randn(1, 1, shape.dec_dim), "prediction_head.bias": torch.randn(768)}
    return trunk | hidden


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- Key tables.


@pytest.mark.parametrize(
    ("section", "layout", "config", "dropped"),
    [
        # mask_token, per head 4 second names and 4 weights that no data reaches.
        (0, "dust3r", Dust3rConfig(), 1 + 2 * (4 + 4)),
        (2, "croco", Flow4rConfig(), 1 + 2),
    ],
)
def test_every_released_key_has_its_place(parity, monkeypatch, section, layout, config, dropped):
    monkeypatch.setattr(torch, "equal", lambda a, b: a.shape == b.shape)  # the listing has no values
    state = listed_official(parity, section)
    assert len(state) == {0: 1009, 2: 587}[section]
    assert released.layout_of(state) == layout
    inferred = released.shape_of(state)
    assert inferred == replace(config.shape, head="dpt" if layout == "dust3r" else "linear")
    with torch.device("meta"):
        model = checkpoints.from_config(config)
    report = checkpoints.explain(model, keys.LAYOUTS[layout], state)
    assert not report.having(*keys.WRONG)
    assert len(report.having("dropped")) == dropped
    assert len(report.having("renamed")) == len(state) - dropped
    assert all(line.ours.startswith("head.") for line in report.having("fresh"))


def test_the_linear_heads_have_their_places(parity):
    state = listed_official(parity, 0) | listed_official(parity, 1)
    state = {key: value for key, value in state.items() if ".dpt." not in key}
    assert len(state) == 877
    with torch.device("meta"):
        model = checkpoints.from_config(Dust3rConfig(shape=released.shape_of(state)))
    report = checkpoints.explain(model, keys.LAYOUTS["dust3r"], state)
    assert not report.having(*keys.WRONG) and len(report.having("renamed")) == 876


def test_a_report_has_each_key_of_file_and_network_once():
    state, model = croco(), build("flow4r", "tiny")
    report = checkpoints.explain(model, keys.LAYOUTS["croco"], state)
    of_file = [line.official for line in report.lines if line.state not in ("missing", "fresh")]
    assert sorted(of_file) == sorted(state)
    assert sorted(line.ours for line in report.lines if line.ours) == sorted(model.state_dict())
    assert {line.ours.split(".")[0] for line in report.having("fresh")} == {"head"}
    assert all(line.ours.startswith(("encoder.blocks.", "decoder.blocks.")) for line in report.having("missing"))
    assert "mask_token (dropped: stands for hidden patches" in str(report)


# --- From the released layout and back.


@pytest.mark.parametrize("name", ["flow4r", "dust3r"])
@pytest.mark.parametrize("shape", [SMALL, LINEAR], ids=["dpt", "linear"])
def test_there_and_back_changes_nothing(name, shape):
    state = official(name, shape)
    model = checkpoints.from_official(name, state)
    assert same(checkpoints.to_official(model), state)
    again = checkpoints.from_official(name, checkpoints.to_official(model))
    assert again.config.shape == model.config.shape and same(again.state_dict(), model.state_dict())


def test_a_tensor_may_have_either_of_its_names_or_both():
    state = official("flow4r")
    first, second = "downstream_head1.dpt.scratch.layer1_rn.weight", "downstream_head1.dpt.scratch.layer_rn.0.weight"
    renamed = {second if key == first else key: value for key, value in state.items()}
    for given in (renamed, state | {second: state[first]}):
        assert same(checkpoints.to_official(checkpoints.from_official("flow4r", given)), state)
    with pytest.raises(InputError, match=r"layer_rn\.0.*contradicts"):
        checkpoints.from_official("flow4r", state | {second: state[first] + 1})


def test_croco_starts_a_network_with_a_fresh_head():
    state = croco()
    model = checkpoints.from_official("croco", state)
    written = checkpoints.to_official(model)
    assert all(torch.equal(written[key], value) for key, value in state.items() if key in written)
    assert {key for key in written if key not in state} == {f"downstream_head1.proj.{x}" for x in ("weight", "bias")}


@pytest.mark.parametrize("source", ["croco", "dust3r", "stage 1"])
@pytest.mark.parametrize("motion", ["target_points", "scene_flow"])
def test_encoder_and_decoder_start_from_any_of_the_family(source, motion):
    model = checkpoints.from_config(Flow4rConfig(shape=SMALL, motion=motion))
    head = {key: value.clone() for key, value in model.head.state_dict().items()}
    stage_1 = checkpoints.from_config(Flow4rConfig(shape=LINEAR))
    state = {"croco": croco, "dust3r": lambda: official("dust3r"), "stage 1": lambda: checkpoints.to_official(stage_1)}
    state = state[source]()
    report = checkpoints.initialise(model, state)
    assert torch.equal(model.decoder.blocks[1].mlp.fc1.weight, state["dec_blocks.1.mlp.fc1.weight"])
    assert same(model.head.state_dict(), head)
    assert {line.official.split(".")[0] for line in report.having("dropped")} == {
        "croco": {"mask_token", "prediction_head"},
        "dust3r": {"dec_blocks2", "downstream_head1", "downstream_head2"},
        "stage 1": {"downstream_head1"},
    }[source]
    with pytest.raises(InputError, match=r"weights as a start.*wrong shape"):
        checkpoints.initialise(model, state | {"enc_norm.bias": torch.zeros(2)})


def test_training_does_not_change_what_was_given():
    state = official("flow4r", LINEAR)
    before = {key: value.clone() for key, value in state.items()}
    model = checkpoints.from_official("flow4r", {key: value.half() for key, value in state.items()})
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())
    for network in (model, checkpoints.from_official("flow4r", state)):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(1)
    assert same(state, before)


def test_all_wrong_keys_are_named_at_once():
    state = official("dust3r", LINEAR)
    state["enc_norm.weights"] = state.pop("enc_norm.weight")
    state["decoder_embed.bias"] = torch.zeros(3)
    del state["dec_blocks2.1.mlp.fc2.bias"]
    with pytest.raises(InputError) as caught:
        checkpoints.from_official("dust3r", state)
    text = str(caught.value)
    assert text.startswith("dust3r weights: 4 of ") and "\n" not in text
    for part in (
        "enc_norm.weights (unknown)",
        "enc_norm.weight -> encoder.norm.weight (missing)",
        "decoder_embed.bias -> decoder.embed.bias (wrong shape: [3] where [64] is needed)",
        "dec_blocks2.1.mlp.fc2.bias -> other_blocks.1.mlp.fc2.bias (missing)",
    ):
        assert part in text


@pytest.mark.parametrize("fault", ["missing", "wrong shape"])
def test_without_the_weights_that_tell_its_widths_all_other_strange_names_are_listed(tmp_path, fault):
    state = official("dust3r", LINEAR) | {"mystery": torch.zeros(1), "riddle": torch.zeros(1)}
    if fault == "missing":
        del state["patch_embed.proj.weight"]
    else:
        state["patch_embed.proj.weight"] = torch.tensor(1.0)
    torch.save(state, tmp_path / "torn.pth")
    with pytest.raises(
        InputError,
        match=rf"patch_embed\.proj\.weight \({fault}.*mystery \(unknown\); riddle \(unknown\); give another file$",
    ):
        checkpoints.load(tmp_path / "torn.pth")


def test_a_head_of_another_meaning_is_not_taken_in_silence(tmp_path):
    says_flow = build("flow4r", "tiny", head="linear", motion="scene_flow")
    with pytest.raises(UsageError, match="says P_vt"):
        checkpoints.to_official(says_flow)
    checkpoints.save(says_flow, tmp_path / "flow.safetensors")
    with pytest.raises(InputError, match="says scene_flow, this network's target_points"):
        checkpoints.start_from(build("flow4r", "tiny", head="linear"), tmp_path / "flow.safetensors")
    same = build("flow4r", "tiny", head="linear")
    same.load_state_dict(says_flow.state_dict())
    assert fingerprint(same) != fingerprint(says_flow)


def test_the_file_of_another_network_is_refused():
    with pytest.raises(InputError, match=r"dec_blocks2.*unknown"):
        checkpoints.from_official("flow4r", official("dust3r", LINEAR))
    with pytest.raises(InputError, match=r"downstream_head1\.proj.*wrong shape.*1024"):
        four_channels = {k: v for k, v in official("dust3r", LINEAR).items() if "dec_blocks2" not in k}
        checkpoints.from_official("flow4r", {k: v for k, v in four_channels.items() if "head2" not in k})
    with pytest.raises(InputError, match=r"patch_embed\.proj\.weight"):
        checkpoints.from_official("flow4r", {"decoder_embed.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match=r"no known layout.*the file has encoder.weight; every name begins with"):
        released.layout_of({"encoder.weight": torch.zeros(2)})
    with pytest.raises(UsageError, match="choose one of flow4r, croco, dust3r"):
        checkpoints.from_official("mast3r", {})
    with pytest.raises(InputError, match="missing"):
        checkpoints.initialise(build("flow4r", "tiny"), {})


# --- Files.


def saved(path, content):
    torch.save(content, path)
    return path


def test_a_training_checkpoint_is_read_without_its_code(tmp_path):
    state = official("dust3r", LINEAR)
    arguments = argparse.Namespace(
        model="AsymmetricCroCo3DStereo(depth_mode=('exp', -inf, inf))", output=PosixPath("x")
    )
    numbers = {"epoch": 3, "best_so_far": np.float64(0.5), "loss": np.float32(1)}
    path = saved(tmp_path / "dust3r.pth", {"args": arguments, "model": state} | numbers)
    model = checkpoints.load(path)
    assert same(checkpoints.to_official(model), state)
    assert same(checkpoints.read_weights(saved(tmp_path / "plain.pth", state)), state)


class Bomb:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    path = saved(tmp_path / "bomb.pth", {"model": official("flow4r", LINEAR), "args": Bomb()})
    with pytest.raises(InputError, match=r"bomb\.pth is refused: it holds .*print, which could run code"):
        checkpoints.read_weights(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("text.pth", b"hello", "refused|damaged"),
        ("empty.pth", b"", "damaged"),
        ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{", "damaged"),
    ],
)
def test_damaged_files(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        checkpoints.load(tmp_path / name)


READ = """
import re, sys
from pathlib import Path
from unproject.models import checkpoints
peak_mib = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text()).group(1)) / 2**10
before = peak_mib()
state = checkpoints.read_weights(Path(sys.argv[1]))
print(peak_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells no peak of memory")
def test_reading_a_file_takes_its_weights_once(tmp_path):
    save_file({f"{number}": torch.zeros(2**19) for number in range(128)}, tmp_path / "x.safetensors")
    run = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "x.safetensors")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(checkpoints.__file__).parents[2])},
    )
    assert 250 < float(run.stdout) < 1.5 * 256


def test_files_without_weights(tmp_path):
    with pytest.raises(WeightsError, match="no weights at"):
        checkpoints.load(tmp_path / "none.pth")
    for content in ({"model": 3}, [torch.zeros(1)], {"a": torch.zeros(1), "b": 2}):
        with pytest.raises(InputError, match="holds no weights"):
            checkpoints.read_weights(saved(tmp_path / "other.pth", content))


def odd_numbers(kind):
    """Weights of a network, one of them such as nobody computes with."""
    state, key = official("flow4r", LINEAR), "enc_norm.bias"
    made = {
        "sparse": lambda whole: whole.to_sparse(),
        "meta": lambda whole: whole.to("meta"),
        "integer": lambda whole: whole.long(),
        "bool": lambda whole: whole > 0,
        "complex": lambda whole: whole + 0j,
    }[kind]
    return state | {key: made(state[key])}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("sparse", "enc_norm.bias is a sparse.*save it dense"),
        ("meta", "enc_norm.bias is a .*meta tensor"),
        ("integer", r"wrong type: torch.int64 where floating-point.*give another file"),
        ("bool", "wrong type: torch.bool"),
        ("complex", "wrong type: torch.complex64"),
    ],
)
def test_tensors_that_are_no_plain_numbers(tmp_path, kind, says):
    path = saved(tmp_path / "odd.pth", odd_numbers(kind))
    for read in (checkpoints.load, lambda path: checkpoints.start_from(build("flow4r", "tiny", head="linear"), path)):
        with pytest.raises(InputError, match=rf"odd\.pth: .*{says}"):
            read(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({7: torch.zeros(1)}, "holds no weights"),
        ({("a", "b"): torch.zeros(1)}, "holds no weights"),
        ({"enc_blocks.999999999.norm1.bias": torch.zeros(1)}, "blocks of enc_blocks are there"),
        ({f"enc_blocks.{'9' * 5000}.norm1.bias": torch.zeros(1)}, "unknown"),
        ({"patch_embed.proj.weight": torch.zeros(0, 3, 16, 16)}, "wrong shape"),
        ({"downstream_head1.dpt.head.0.weight": torch.tensor(1.0)}, "wrong shape"),
        ({"downstream_head1.dpt.act_postprocess.0.0.weight": torch.tensor(1.0)}, "wrong shape|missing"),
        ({"two\nlines": torch.zeros(1)}, r"two lines \(unknown\)"),
    ],
)
def test_released_files_with_odd_names_and_shapes(tmp_path, change, says):
    with pytest.raises(InputError, match=rf"odd\.pth.*{says}.*give another file$"):
        checkpoints.load(saved(tmp_path / "odd.pth", official("flow4r") | change))


@pytest.mark.parametrize("motion", ["target_points", "scene_flow"])
def test_our_files_rebuild_their_network(tmp_path, motion):
    model = build("flow4r", "tiny", motion=motion).eval()
    checkpoints.save(model, tmp_path / "a" / "flow4r.safetensors")
    again = checkpoints.load(tmp_path / "a" / "flow4r.safetensors").eval()
    assert again.config == model.config and same(again.state_dict(), model.state_dict())
    views = Views(images=torch.rand(1, 2, 3, 32, 32), times=torch.zeros(1, 2), pairs=torch.tensor([[[0, 1]]]))
    assert torch.equal(again(views).target_points, model(views).target_points)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["flow4r.safetensors"]


def test_dust3r_files_too(tmp_path):
    model = checkpoints.from_official("dust3r", official("dust3r"))
    checkpoints.save(model, tmp_path / "dust3r.safetensors")
    again = checkpoints.load(tmp_path / "dust3r.safetensors")
    assert again.config == model.config and same(again.state_dict(), model.state_dict())


def test_released_safetensors_are_told_by_their_names(tmp_path):
    state = official("dust3r", LINEAR)
    save_file(state, tmp_path / "model.safetensors")
    assert same(checkpoints.to_official(checkpoints.load(tmp_path / "model.safetensors")), state)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"model": "flow9r", "config": {}}, "model called 'flow9r'"),
        ({"model": "flow4r", "config": {}}, "does not know"),
        ({"model": "flow4r", "config": {"shape": {"depth": 3}}}, "does not know"),
        ({"model": "flow4r", "config": {"shape": {"enc_dim": 64, "enc_depth": 1, "enc_heads": 1}}}, "keys do not fit"),
    ],
)
def test_headers_that_do_not_fit(tmp_path, header, says):
    if says == "keys do not fit":
        header["config"]["shape"] |= {"dec_dim": 64, "dec_depth": 1, "dec_heads": 1, "head": "linear"}
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {checkpoints.METADATA: json.dumps(header)})
    with pytest.raises(InputError, match=says):
        checkpoints.load(tmp_path / "x.safetensors")


# --- As a start for a network with other parts.


def test_a_released_file_starts_what_it_has(tmp_path):
    state = official("dust3r")
    torch.save({"model": state}, tmp_path / "dust3r.pth")
    model = checkpoints.from_config(Flow4rConfig(shape=SMALL))
    head = {key: value.clone() for key, value in model.head.state_dict().items()}
    report = checkpoints.start_from(model, tmp_path / "dust3r.pth")
    assert torch.equal(model.decoder.embed.weight, state["decoder_embed.weight"])
    assert same(model.head.state_dict(), head) and report.having("fresh") and report.having("dropped")
    other = checkpoints.from_config(Dust3rConfig(shape=SMALL))
    assert not checkpoints.start_from(other, tmp_path / "dust3r.pth").having("fresh")


def test_our_file_starts_a_network_with_another_head(tmp_path):
    first = checkpoints.from_config(Flow4rConfig(shape=LINEAR))
    checkpoints.save(first, tmp_path / "first.safetensors")
    second = checkpoints.from_config(Flow4rConfig(shape=SMALL))
    report = checkpoints.start_from(second, tmp_path / "first.safetensors")
    assert same(second.encoder.state_dict(), first.encoder.state_dict())
    assert {line.official for line in report.having("dropped")} == {"head.map.proj.weight", "head.map.proj.bias"}
    assert all(line.ours.startswith("head.map.") for line in report.having("fresh"))


def test_a_start_that_does_not_fit_is_refused(tmp_path):
    wide = replace(LINEAR, dec_dim=96)
    checkpoints.save(checkpoints.from_config(Flow4rConfig(shape=wide)), tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match="wrong shape"):
        checkpoints.start_from(checkpoints.from_config(Flow4rConfig(shape=LINEAR)), tmp_path / "wide.safetensors")
    header = json.dumps({"model": "flow4r", "config": asdict(Flow4rConfig(shape=LINEAR))})
    save_file(
        {f"foreign{n}": torch.zeros(2) for n in range(9)},
        tmp_path / "foreign.safetensors",
        {checkpoints.METADATA: header},
    )
    with pytest.raises(InputError, match="no weight that this network"):
        checkpoints.start_from(checkpoints.from_config(Flow4rConfig(shape=LINEAR)), tmp_path / "foreign.safetensors")
