"""Weights by name: looked for offline and in order, imported with their origin; what is missing is told its place."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from spoken_flow import speaking

import unproject
from unproject.errors import InputError, UsageError, WeightsError
from unproject.io.cache import cache_folder, hub_folder, in_hub_cache
from unproject.models import build, catalogue, checkpoints
from unproject.models.build import CONFIGS
from unproject.models.importing import bring_in, fetch


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty ones, wherever this runs."""
    monkeypatch.setenv("UNPROJECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return {name: build(name, "tiny") for name in ("pi3", "flow3r")}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def released(model, path: Path) -> Path:
    """A file as others publish it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    return path


def in_hub(caches: Path, repository: str, file: str, model, commit: str = "c0ffee") -> Path:
    """The same as the hub's own programs keep it: a blob with its digest for a name, and a link to it."""
    folder = caches / "hub" / f"models--{repository.replace('/', '--')}"
    made = released(model, folder / "blobs" / file)
    blob = made.rename(made.with_name(sha256(made)))
    link = folder / "snapshots" / commit / file
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    return link


# --- Folders.


def test_where_caches_lie(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache" and hub_folder() == tmp_path / "hub"
    monkeypatch.delenv("UNPROJECT_CACHE")
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "unproject" and hub_folder() == tmp_path / "hf" / "hub"
    monkeypatch.delenv("HF_HOME")
    assert hub_folder() == tmp_path / "xdg" / "huggingface" / "hub"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "unproject"
    assert hub_folder() == tmp_path / "home" / ".cache" / "huggingface" / "hub"


def test_of_several_versions_in_the_hubs_cache_the_current_one_is_taken(caches):
    folder = caches / "hub" / "models--a--b"
    for age, commit in enumerate(("new", "old")):
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "w.bin").write_bytes(b"x")
        os.utime(folder / "snapshots" / commit / "w.bin", (1000 - age, 1000 - age))
    assert in_hub_cache("a/b", "w.bin").parent.name == "new"
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("old")
    assert in_hub_cache("a/b", "w.bin").parent.name == "old"
    (folder / "refs" / "main").write_text("never fetched")
    assert in_hub_cache("a/b", "w.bin").parent.name == "new"
    (folder / "snapshots" / "new" / "w.bin").unlink()
    (folder / "snapshots" / "new" / "w.bin").symlink_to(caches / "gone")
    assert in_hub_cache("a/b", "w.bin").parent.name == "old"
    assert in_hub_cache("a/b", "other.bin") is None


# --- By name.


def test_imported_weights_go_before_the_hubs(caches, tiny):
    link = in_hub(caches, "yyfz233/Pi3", "model.safetensors", tiny["pi3"])
    assert catalogue.find("pi3") == catalogue.Found(link, "hub cache")
    model = unproject.load("pi3", device="cpu")
    assert torch.equal(model.register_token, tiny["pi3"].register_token) and "CC BY-NC 4.0" in model.licence
    other = build("pi3", "tiny")
    bring_in(released(other, caches / "mine.safetensors"))
    assert catalogue.find("pi3").place == "imported"
    assert torch.equal(unproject.load("pi3", device="cpu").register_token, other.register_token)


@pytest.mark.parametrize(
    ("name", "file", "place"),
    [
        ("pi3", "model.safetensors", "huggingface.co/yyfz233/Pi3"),
        ("flow3r", "flow3r.bin", "huggingface.co/Clara211111"),
    ],
)
def test_what_is_missing_is_told_with_its_place_and_licence(caches, name, file, place):
    with pytest.raises(WeightsError) as caught:
        unproject.load(name)
    text = str(caught.value)
    assert caught.value.exit_code == 4 and "\n" not in text
    for part in (file, place, "CC BY-NC 4.0", f"import {file}", f"import {name} --download", str(caches / "cache")):
        assert part in text


def test_every_network_that_can_be_built_is_in_the_list(caches, tiny):
    lines = catalogue.listed()
    assert set(lines) == set(CONFIGS)
    assert lines["compact"].here == "package" and lines["compact"].path.is_file()
    assert {line.here for name, line in lines.items() if name != "compact"} == {None}
    assert lines["pi3"].parameters == 958_696_732 and lines["flow3r"].parameters == 1_001_053_694
    assert lines["pi3"].licence == "CC BY-NC 4.0" and "not stated" in lines["flow3r"].licence
    assert "Clara211111/flow3r" in lines["flow3r"].source
    bring_in(released(tiny["pi3"], caches / "file.safetensors"), "garden")
    (caches / "cache" / "weights" / "half.tmp.safetensors").write_bytes(b"half")
    lines = catalogue.listed()
    assert set(lines) == {*CONFIGS, "garden"}
    line = lines["garden"]
    assert line.here == "imported" and line.parameters == sum(p.numel() for p in tiny["pi3"].parameters())
    assert line.source.startswith("file.safetensors, sha256 ")


@pytest.mark.parametrize("name", ["pi3", "garden"])
@pytest.mark.parametrize("fault", ["cut short", "heads", "no header"])
def test_one_broken_file_does_not_hide_the_others(caches, tiny, name, fault):
    bring_in(released(tiny["flow3r"], caches / "file.safetensors"), "flow3r")
    path = caches / "cache" / "weights" / f"{name}.safetensors"
    if fault == "cut short":
        checkpoints.save(tiny["pi3"], path)
        path.write_bytes(path.read_bytes()[:-9])
    elif fault == "heads":
        said = {"model": "compact", "config": asdict(build("compact").config) | {"heads": 0}}
        save_file({"x": torch.zeros(1)}, path, {checkpoints.METADATA: json.dumps(said)})
    else:
        save_file({"x": torch.zeros(1)}, path)
    lines = catalogue.listed()
    assert lines["flow3r"].broken is None and lines["flow3r"].here == "imported"
    if (name, fault) == ("pi3", "no header"):
        assert lines[name].broken is None  # as a released file, whose names are not read for a list
        return
    assert lines[name].broken.startswith(str(path)) and "\n" not in lines[name].broken
    assert lines[name].parameters is None and lines[name].path == path


# --- What a file holds.


def test_about_a_released_file(caches):
    path = released(speaking("pytorch3d"), caches / "flow3r.bin")
    said = catalogue.about(path)
    assert (said.network, said.layout, said.sha256) == ("flow3r", "released", sha256(path))
    assert said.bytes == path.stat().st_size and said.sizes["shape"]["encoder"]["dim"] == 64
    assert len(said.flow) == 3 and said.flow[0].startswith("as 'pytorch3d' a picture's flow to itself is off by 0.")
    assert not said.notes and "π³" in said.licence


def test_about_ours_and_a_start(caches, tiny):
    said = catalogue.about("compact")
    assert (said.network, said.layout, said.licence, said.flow) == ("compact", "ours", "Apache-2.0", ())
    start = {"aggregator.frame_blocks.0.norm1.bias": torch.zeros(5), "aggregator.camera_token": torch.zeros(1, 2, 1, 5)}
    torch.save(start, caches / "vggt.pt")
    said = catalogue.about(caches / "vggt.pt")
    assert (said.network, said.parameters, said.sizes) == ("vggt", 15, {}) and "--start" in said.notes[0]
    with pytest.raises(WeightsError, match="no weights at"):
        catalogue.about(caches / "none.pt")


# --- Import.


def test_import_keeps_weights_origin_and_notes(caches):
    path = released(speaking("grid_sample"), caches / "flow3r.bin")
    done = bring_in(path)
    assert done.name == "flow3r" and done.path == caches / "cache" / "weights" / "flow3r.safetensors"
    assert done.made_from == f"flow3r.bin, sha256 {sha256(path)}" and "grid_sample" in done.notes[0]
    model = unproject.load("flow3r", device="cpu")
    assert (model.made_from, model.licence, model.notes) == (done.made_from, done.licence, done.notes)
    assert model.config.flow_convention == "grid_sample"
    given = torch.load(path, weights_only=True)
    assert all(torch.equal(tensor, given[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(UsageError, match=r"imported already .*--overwrite"):
        bring_in(path)
    assert bring_in(done.path, overwrite=True).made_from == done.made_from


def test_a_name_is_imported_from_the_hubs_cache(caches, tiny):
    with pytest.raises(WeightsError, match="--download"):
        bring_in("pi3")
    first = in_hub(caches, "yyfz233/Pi3", "model.safetensors", tiny["pi3"])
    assert bring_in("pi3").made_from.endswith(sha256(first))
    # A second time too it is the hub's file that is meant, not what was made of it.
    first.unlink()
    with pytest.raises(WeightsError, match="--download"):
        bring_in("pi3", overwrite=True)


def test_a_file_that_is_not_what_the_hub_had_is_refused(caches, tiny):
    link = in_hub(caches, "yyfz233/Pi3", "model.safetensors", tiny["pi3"])
    blob = link.resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"oops")
    with pytest.raises(InputError, match="is damaged: its SHA-256 is"):
        bring_in("pi3")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("flow3r", InputError, "holds weights of pi3, not of flow3r"),
        ("compact", InputError, "holds weights of pi3, not of compact"),
        ("../pi3", UsageError, "no bare word"),
    ],
)
def test_names_that_do_not_fit(caches, tiny, name, error, says):
    with pytest.raises(error, match=says):
        bring_in(released(tiny["pi3"], caches / "model.safetensors"), name)
    assert not (caches / "cache").exists()


def test_what_comes_with_the_package_keeps_its_name(caches):
    checkpoints.save(build("compact"), caches / "mine.safetensors")
    with pytest.raises(UsageError, match="come with the package; give these another name"):
        bring_in(caches / "mine.safetensors")
    assert bring_in(caches / "mine.safetensors", "rooms").name == "rooms"
    assert unproject.load("rooms", device="cpu").origin == "rooms"
    with pytest.raises(WeightsError, match="no weights at"):
        bring_in(caches / "none.safetensors")


# --- Fetching: nothing here asks the net.


class Hub(ModuleType):
    """Stands for the library of Hugging Face."""

    def __init__(self, answer):
        super().__init__("huggingface_hub")
        self.answer, self.asked = answer, []

    def hf_hub_download(self, repository, file):
        self.asked.append((repository, file))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def test_download_is_asked_of_the_hub_and_imported(caches, tiny, monkeypatch):
    hub = Hub(in_hub(caches, "yyfz233/Pi3", "model.safetensors", tiny["pi3"]))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert bring_in("pi3", download=True).name == "pi3"
    assert hub.asked == [("yyfz233/Pi3", "model.safetensors")]
    hub.answer = ConnectionError("no net")
    with pytest.raises(WeightsError, match=r"huggingface\.co/Clara.*\(ConnectionError\): fetch and import it by hand"):
        fetch("flow3r")


def test_download_without_the_extra_or_of_what_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r'pip install "unproject\[hub\]"'):
        fetch("pi3")
    for name in ("flow4r", "compact", "some/file.bin"):
        with pytest.raises(UsageError, match="name one of pi3, flow3r, dust3r"):
            fetch(name)


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="the extra `hub` is not installed")
def test_the_real_library_without_a_net(caches):
    """In a process of its own: the library reads its environment once."""
    code = "from unproject.models.importing import fetch; fetch('pi3')"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "WeightsError: model.safetensors of https://huggingface.co/yyfz233/Pi3 could not be fetched" in run.stderr
