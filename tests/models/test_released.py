"""Released multi-view files: told by their names, rebuilt from their shapes, and as starts of one another."""

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from unproject.errors import InputError, UsageError
from unproject.models import build, checkpoints, keys, released
from unproject.models.build import from_config
from unproject.models.flow3r import config, pi3_config
from unproject.models.multiview import SIZES
from unproject.nn.vit import VitShape

# Every number another than the defaults', and than one another where the network allows it.
ODD = replace(
    SIZES["tiny"],
    encoder=VitShape(dim=48, depth=3, heads=4, patch=7, grid=5),
    depth=6,
    registers=2,
    task_depth=4,
    flow_widths=(8, 12, 16, 20),
    flow_features=16,
)


def on_meta(settings):
    with torch.device("meta"):
        return from_config(settings)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return {name: build(name, "tiny") for name in ("pi3", "flow3r")}


@pytest.mark.parametrize("name", ["pi3", "flow3r"])
def test_the_released_network_is_told_by_its_weights(parity, name):
    lines = [line.split("\t") for line in (parity / f"{name}_keys.txt").read_text().splitlines() if line[0] != "#"]
    shapes = {key: [int(n) for n in re.findall(r"\d+", shape)] for key, shape, _ in lines}
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert released.layout_of(state) == name
    found = released.config_of(name, state)
    assert found == (config() if name == "flow3r" else pi3_config())
    report = checkpoints.explain(on_meta(found), keys.LAYOUTS[name], state)
    assert {line.state for line in report.lines} == {"loaded"} and len(report.lines) == len(state)


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("size", ["odd", "base", "tiny"])
def test_every_size_is_told_by_its_shapes(size, flow):
    shape = ODD if size == "odd" else SIZES[size]
    made = on_meta(replace(config(), shape=shape, flow=flow))
    found = released.config_of("flow3r" if flow else "pi3", made.state_dict())
    # What weights started from has left them, and widths of flow are told by its head alone.
    untold = ("layer_scale",) if flow else ("layer_scale", "flow_widths", "flow_features")
    assert found.flow == flow
    assert replace(found.shape, **{key: getattr(shape, key) for key in untold}) == shape


@pytest.mark.parametrize("name", ["pi3", "flow3r"])
def test_there_and_back_changes_nothing(tiny, name):
    state = tiny[name].state_dict()
    model = checkpoints.from_official(name, state)
    assert checkpoints.name_of(model) == name and same(checkpoints.to_official(model), state)
    assert model.config.shape.encoder == tiny[name].config.shape.encoder and model.config.flow == (name == "flow3r")


@pytest.mark.parametrize(
    ("change", "meant"),
    [
        ({"flow_head": "tracking"}, "with factored flow"),
        ({"backbone": "vggt"}, "without camera tokens"),
        ({"backbone": "vggt", "flow": False}, "without camera tokens"),
        ({"flow_convention": "grid_sample"}, "whose flow head speaks 'pytorch3d'"),
        ({"flow_convention": "pixels"}, "whose flow head speaks 'pytorch3d'"),
    ],
)
def test_what_released_names_cannot_say_is_not_written_under_them(change, meant):
    made = on_meta(replace(config("tiny"), **change))
    with pytest.raises(UsageError, match=f"^released names mean a network {meant}; save this one with"):
        checkpoints.to_official(made)
    # Why: as released files are read, it is refused, or would be another network.
    name = checkpoints.name_of(made)
    try:
        read = checkpoints.from_official(name, empty_state(made))
    except InputError:
        return
    assert read.config.flow_convention != made.config.flow_convention


def empty_state(made):
    return {key: torch.zeros(tensor.shape) for key, tensor in made.state_dict().items()}


def test_without_flow_it_does_not_matter_how_flow_would_be_told():
    made = on_meta(replace(pi3_config("tiny"), flow_head="tracking", flow_convention="pixels"))
    assert checkpoints.to_official(made).keys() == checkpoints.to_official(on_meta(pi3_config("tiny"))).keys()


@pytest.mark.parametrize("name", ["pi3", "flow3r"])
def test_our_files_rebuild_their_network(tiny, name, tmp_path):
    made = from_config(replace(tiny[name].config, rope_precision="reference", flow_convention="grid_sample"))
    made.licence, made.made_from, made.notes = "MIT", "flow3r.bin", ("a note", "another")
    checkpoints.save(made, tmp_path / "mine.safetensors")
    again = checkpoints.load(tmp_path / "mine.safetensors")
    assert again.config == made.config and asdict(again.config)["shape"]["encoder"]["grid"] == 37
    assert same(again.state_dict(), made.state_dict())
    assert (again.licence, again.made_from, again.notes) == (made.licence, made.made_from, made.notes)
    assert checkpoints.licence_of(tmp_path / "mine.safetensors") == "MIT"


def test_a_header_with_a_convention_of_the_future_is_refused(tiny, tmp_path):
    said = json.dumps({"model": "flow3r", "config": asdict(tiny["pi3"].config) | {"flow_convention": "polar"}})
    save_file(tiny["pi3"].state_dict(), tmp_path / "x.safetensors", {checkpoints.METADATA: said})
    with pytest.raises(InputError, match="does not know: flow_convention='polar' is not known"):
        checkpoints.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("file", ["model.safetensors", "model.bin"])
def test_a_released_file_is_read_in_either_format(tiny, tmp_path, file):
    state = tiny["pi3"].state_dict()
    (save_file if file.endswith("safetensors") else torch.save)(state, tmp_path / file)
    model = checkpoints.load(tmp_path / file)
    assert same(model.state_dict(), state) and not model.config.flow
    assert "CC BY-NC 4.0" in model.licence and not model.notes


def test_all_wrong_keys_are_named_at_once(tiny):
    state = dict(tiny["flow3r"].state_dict())
    state["point_decoder.blocks.2.ls1.gamma"] = torch.ones(64)
    state["conf_head.proj.bias"] = torch.zeros(3)
    del state["flow_head.scratch.layer1_rn.weight"], state["camera_head.fc_t.bias"]
    for key in [key for key in state if key.startswith("decoder.3.")]:
        del state[key]  # the last block: what is left is an odd number of them
    with pytest.raises(InputError) as caught:
        checkpoints.from_official("flow3r", state)
    text = str(caught.value)
    for part in (
        "point_decoder.blocks.2.ls1.gamma (unknown)",
        "conf_head.proj.bias (wrong shape: [3] where [196] is needed)",
        "flow_head.scratch.layer1_rn.weight (missing)",
        "camera_head.fc_t.bias (missing)",
        "decoder.3.attn.qkv.weight (missing)",
    ):
        assert part in text
    assert "\n" not in text and "decoder.2." not in text


def test_one_is_not_the_other(tiny):
    with pytest.raises(InputError, match=r"flow_head\.mlp\.0\.weight \(unknown\)"):
        checkpoints.from_official("pi3", tiny["flow3r"].state_dict())
    with pytest.raises(InputError, match=r"flow_head\.mlp\.0\.weight \(missing\)"):
        checkpoints.from_official("flow3r", tiny["pi3"].state_dict())
    with pytest.raises(InputError, match=r"not weights of π³'s family, or damaged: encoder\.pos_embed \(missing\)$"):
        state = tiny["pi3"].state_dict()
        checkpoints.from_official("pi3", {key: state[key] for key in state if "pos_embed" not in key})
    with pytest.raises(InputError, match=r"register_token \(wrong shape: \[5\]\)"):
        checkpoints.from_official("pi3", tiny["pi3"].state_dict() | {"register_token": torch.zeros(5)})
    with pytest.raises(InputError, match="no known layout"):
        released.layout_of({"encoder.cls_token": torch.zeros(1)})


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("decoder.0.attn.q_norm.weight", torch.zeros(0)),
        ("decoder.0.attn.q_norm.weight", torch.tensor(1.0)),
        ("flow_head.projects.1.weight", torch.tensor(1.0)),
        ("flow_head.scratch.layer1_rn.weight", torch.tensor(1.0)),
        ("encoder.patch_embed.proj.weight", torch.zeros(0, 3, 14, 14)),
        ("decoder.99999999.ls1.gamma", torch.zeros(1)),
        ("encoder.pos_embed", torch.zeros(1, 0, 64)),
    ],
)
def test_odd_shapes_are_named_with_their_file(tiny, tmp_path, key, tensor):
    torch.save(tiny["flow3r"].state_dict() | {key: tensor}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth: .*; give another file$"):
        checkpoints.load(tmp_path / "odd.pth")


# --- As starts.


def test_flow3r_starts_from_pi3_and_the_other_way_round(tiny, tmp_path):
    torch.save(tiny["pi3"].state_dict(), tmp_path / "pi3.pth")
    torch.save(tiny["flow3r"].state_dict(), tmp_path / "flow3r.pth")
    model = build("flow3r", "tiny")
    head = {key: value.clone() for key, value in model.flow_head.state_dict().items()}
    report = checkpoints.start_from(model, tmp_path / "pi3.pth")
    assert torch.equal(model.decoder[2].mlp.fc1.weight, tiny["pi3"].decoder[2].mlp.fc1.weight)
    assert same(model.flow_head.state_dict(), head)
    assert {str(line.ours).split(".")[0] for line in report.having("fresh")} == {"flow_head"}
    other = build("pi3", "tiny")
    report = checkpoints.start_from(other, tmp_path / "flow3r.pth")
    assert torch.equal(other.register_token, tiny["flow3r"].register_token)
    assert {str(line.official).split(".")[0] for line in report.having("dropped")} == {"flow_head"}


def vggt(model, blocks=keys.VGGT_BLOCKS):
    """Weights under VGGT's names, with as many blocks as it has, of a network's widths."""
    own = model.state_dict()
    state = {f"aggregator.patch_embed.{key[8:]}": own[key] for key in own if key.startswith("encoder.")}
    for key in [key for key in own if key.startswith("decoder.0.")]:
        for kind in ("frame", "global"):
            for k in range(blocks):
                state[f"aggregator.{kind}_blocks.{k}.{key[10:]}"] = torch.randn_like(own[key])
    dim = own["register_token"].shape[-1]
    return state | {
        "aggregator.camera_token": torch.randn(1, 2, 1, dim),
        "aggregator.register_token": torch.zeros(1, 2, 4, dim),
        "aggregator.patch_embed.mask_token": torch.zeros(1, dim),
        **{f"{head}_head.norm.weight": torch.zeros(3) for head in ("camera", "depth", "point", "track")},
    }


def test_every_key_of_vggt_has_its_place():
    model = on_meta(config())
    state = vggt(model)
    assert released.layout_of(state) == "vggt"
    report = checkpoints.explain(model, keys.vggt_as_start(36), state)
    assert not report.having(*keys.WRONG)
    dropped = [line for line in report.having("dropped") if "_blocks." in line.official]
    assert {int(line.official.split(".")[2]) for line in dropped} == set(range(18, 24))
    assert all("ends after 36 blocks" in line.why for line in dropped)
    filled = {str(line.ours) for line in report.having("renamed")}
    assert filled == {key for key in model.state_dict() if key.startswith(("encoder.", "decoder."))}
    assert {str(line.ours).split(".")[0] for line in report.having("fresh")} == {
        "image_mean", "image_std", "register_token", "point_decoder", "conf_decoder", "camera_decoder",
        "point_head", "conf_head", "camera_head", "flow_head",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["pi3", "flow3r"])
def test_the_trunk_starts_from_vggt(tiny, tmp_path, name):
    state = vggt(tiny["pi3"])
    torch.save(state, tmp_path / "vggt.pt")
    model = build(name, "tiny")
    tokens = model.register_token.clone()
    checkpoints.start_from(model, tmp_path / "vggt.pt")
    assert "VGGT-1B weights is CC BY-NC 4.0" in checkpoints.licence_of(tmp_path / "vggt.pt")
    for k in range(2):
        for kind, number in (("frame", 2 * k), ("global", 2 * k + 1)):
            given = state[f"aggregator.{kind}_blocks.{k}.attn.qkv.weight"]
            assert torch.equal(model.decoder[number].attn.qkv.weight, given)
    assert torch.equal(model.encoder.pos_embed, state["aggregator.patch_embed.pos_embed"])
    assert torch.equal(model.register_token, tokens)


def test_camera_tokens_start_from_vggts_where_a_network_has_them(tiny, tmp_path):
    state = vggt(tiny["pi3"])
    torch.save(state, tmp_path / "vggt.pt")
    model = build("flow3r", "tiny", backbone="vggt")
    report = checkpoints.start_from(model, tmp_path / "vggt.pt")
    assert torch.equal(model.camera_token, state["aggregator.camera_token"])
    assert not any(line.official == "aggregator.camera_token" for line in report.having("dropped"))
    report = checkpoints.start_from(build("flow3r", "tiny"), tmp_path / "vggt.pt")
    (dropped,) = [line for line in report.having("dropped") if line.official == "aggregator.camera_token"]
    assert "a set has no first" in dropped.why
    del state["aggregator.camera_token"]
    torch.save(state, tmp_path / "without.pt")
    with pytest.raises(InputError, match=r"aggregator\.camera_token -> camera_token \(missing\)"):
        checkpoints.start_from(model, tmp_path / "without.pt")


def test_a_start_from_vggt_is_strict(tiny, tmp_path):
    state = vggt(tiny["pi3"])
    del state["aggregator.global_blocks.1.norm2.bias"]
    state["aggregator.frame_blocks.1.norm9.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "vggt.pt")
    with pytest.raises(InputError) as caught:
        checkpoints.start_from(build("pi3", "tiny"), tmp_path / "vggt.pt")
    assert "global_blocks.1.norm2.bias -> decoder.3.norm2.bias (missing)" in str(caught.value)
    assert "frame_blocks.1.norm9.bias (unknown)" in str(caught.value)
    with pytest.raises(UsageError, match="VGGT, which are only a start"):
        checkpoints.load(tmp_path / "vggt.pt")
    with pytest.raises(InputError, match="from which a compact network cannot start"):
        checkpoints.start_from(build("compact"), tmp_path / "vggt.pt")
