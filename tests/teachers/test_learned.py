"""What all teachers share that ask a network of others: when it comes, what is said where it cannot, what it was."""

import importlib.metadata
import pickle
import sys

import pytest
import torch
from stand_ins import Network, installed

from unproject.errors import UsageError, WeightsError
from unproject.teachers.base import Shot
from unproject.teachers.depth import DepthAnythingTeacher, DepthProTeacher, MogeTeacher
from unproject.teachers.flow import DisTeacher
from unproject.teachers.learned import _loaded, plain, spread
from unproject.teachers.learned_flow import RaftTeacher, UfmTeacher
from unproject.teachers.learned_matches import LightGlueTeacher, RomaTeacher
from unproject.teachers.learned_tracks import CoTrackerTeacher
from unproject.teachers.tracks import KltTeacher

MODULES = {
    DepthProTeacher: "depth_pro.depth_pro",
    MogeTeacher: "moge.model.v2",
    DepthAnythingTeacher: "depth_anything_3.api",
    UfmTeacher: "uniflowmatch.models.ufm",
    RaftTeacher: "torchvision.models.optical_flow",
    RomaTeacher: "romatch",
    LightGlueTeacher: "lightglue",
}


@pytest.fixture(autouse=True)
def nothing_loaded():
    _loaded.cache_clear()
    yield
    _loaded.cache_clear()


def moge(monkeypatch, network, calls):
    class MoGeModel:
        @classmethod
        def from_pretrained(cls, name):
            calls.append(name)
            return network

    installed(monkeypatch, "moge.model.v2", MoGeModel=MoGeModel)


@pytest.mark.parametrize("kind", MODULES)
def test_a_package_that_is_absent_is_one_line_with_the_command_that_brings_it(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULES[kind], None)
    teacher = kind(device="cpu")
    for ask in (lambda: teacher.label(Shot.of([])), teacher.provenance):
        with pytest.raises(WeightsError) as caught:
            ask()
        said = str(caught.value)
        assert kind.package.install in said and kind.package.weights_from in said and kind.licence in said
        assert "\n" not in said


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_weights_that_cannot_be_fetched_or_are_of_another_network_are_one_line_that_says_where_they_are(
    monkeypatch, error
):
    def offline(*_, **__):
        raise error("no\nnet")

    monkeypatch.setattr(torch.hub, "load", offline)
    with pytest.raises(WeightsError, match=r"could not be loaded \(no net\): its weights are scaled_offline.pth of"):
        CoTrackerTeacher(device="cpu").network()


def test_a_path_without_weights_is_refused_before_anything_is_imported(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        MogeTeacher(weights=tmp_path / "model.pt").network()


def test_the_network_is_loaded_once_for_equal_teachers_also_after_pickling(monkeypatch, tmp_path):
    calls: list[str] = []
    network = Network()
    moge(monkeypatch, network, calls)
    teacher = MogeTeacher(device="cpu")
    assert not calls
    sent = pickle.loads(pickle.dumps(teacher))
    assert sent == teacher
    assert teacher.network() is sent.network() is network
    assert calls == ["Ruicheng/moge-2-vits-normal"] and not network.training
    path = tmp_path / "model.pt"
    path.touch()
    MogeTeacher(device="cpu", weights=path).network()
    assert calls[1:] == [str(path)]


def test_provenance_is_the_same_wherever_the_weights_lie_and_another_for_other_weights(monkeypatch, tmp_path):
    network = Network()
    moge(monkeypatch, network, [])
    path = tmp_path / "model.pt"
    path.touch()
    one, two = MogeTeacher(device="cpu").provenance(), MogeTeacher(device="cpu", weights=path).provenance()
    assert one == two and len(one.weights_sha256) == 64 and not one.settings
    assert one.name == "MogeTeacher" and one.version.startswith("moge") and "MIT" in one.licence
    with torch.no_grad():
        network.scale[1] = 2.0
    assert MogeTeacher(device="cpu").provenance().weights_sha256 != one.weights_sha256


def test_provenance_of_our_own_code_is_its_version_and_settings():
    version = importlib.metadata.version("unproject")
    said = KltTeacher(target=300).provenance()
    assert said.settings == {"target": 300} and said.version == f"unproject {version}"
    assert said.weights_sha256 is None and said.licence == "Apache-2.0"
    assert DisTeacher().provenance().name == "DisTeacher"


def test_superpoint_is_refused_for_its_licence_and_a_path_where_none_is_taken(tmp_path):
    with pytest.raises(UsageError, match="SuperPoint forbids"):
        LightGlueTeacher(features="superpoint")
    with pytest.raises(UsageError, match="leave out the path"):
        LightGlueTeacher(weights=tmp_path)


def test_what_a_network_says_in_inference_mode_can_be_learned_from():
    with torch.inference_mode():
        said = torch.ones(2, dtype=torch.float16)
    learned = torch.ones(2, requires_grad=True)
    (plain(said) * learned).sum().backward()
    assert learned.grad.tolist() == [1, 1] and plain(said).dtype == torch.float32


def test_the_first_the_middle_and_the_last_are_all_of_few():
    assert [spread(count) for count in (1, 2, 3, 8)] == [[0], [0, 1], [0, 1, 2], [0, 4, 7]]
