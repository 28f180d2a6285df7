"""Flow teachers on stand-ins of their networks: the truth of a plane comes out as it went in."""

import numpy as np
import pytest
import torch
from stand_ins import HEIGHT, WIDTH, Network, answer, grid, inside, installed, known_world

from unproject.teachers.base import Shot
from unproject.teachers.learned import _loaded
from unproject.teachers.learned_flow import RaftTeacher, UfmTeacher

WORLD = known_world(4)
SHOT = Shot(images=WORLD.images, views=(0, 1, 3), pairs=((0, 1), (1, 0), (2, 0), (0, 2)))
IN_THE_WORLD = [(SHOT.views[source], SHOT.views[target]) for source, target in SHOT.pairs]


@pytest.fixture(autouse=True)
def nothing_loaded():
    _loaded.cache_clear()


class Ufm(Network):
    def predict_correspondences_batched(self, source_image, target_image, data_norm_type=None):
        self.admit()
        for images in (source_image, target_image):
            assert images.dtype == torch.uint8 and images.shape[1:] == (HEIGHT, WIDTH, 3)
        pairs = [[WORLD.which(image) for image in pair] for pair in zip(source_image, target_image, strict=True)]
        flow = torch.from_numpy(np.stack([WORLD.flow(*pair) for pair in pairs])).permute(0, 3, 1, 2)
        lands = np.stack([inside(grid(HEIGHT, WIDTH) + WORLD.flow(*pair)) for pair in pairs])
        mask = torch.from_numpy(lands).float() * 1.0001  # resizing overshoots
        flow, mask = flow.clone(), mask.clone()
        flow[:, 0, 5, 7] = torch.nan
        mask[:, 6, 7] = torch.nan
        return answer(flow=answer(flow_output=flow), covisibility=answer(mask=mask, logits=None))


def test_ufm_is_shown_bytes_and_its_flow_and_covisibility_are_labels(monkeypatch):
    network = Ufm()
    kind = type("UniFlowMatchConfidence", (), {"from_pretrained": staticmethod(lambda name: network)})
    installed(monkeypatch, "uniflowmatch.models.ufm", UniFlowMatchConfidence=kind)
    label = UfmTeacher(device="cpu").label(SHOT).flow
    assert label.value.shape == (1, 4, HEIGHT, WIDTH, 2) and label.weight.shape == (1, 4, HEIGHT, WIDTH)
    assert label.value.isfinite().all() and label.weight.min() == 0 and label.weight.max() == 1
    for row, pair in enumerate(IN_THE_WORLD):
        truth = WORLD.flow(*pair)
        lands = inside(grid(HEIGHT, WIDTH) + truth)
        weight, value = label.weight[0, row].numpy().copy(), label.value[0, row].numpy()
        assert weight[5, 7] == weight[6, 7] == 0
        weight[5:7, 7] = lands[5:7, 7]
        assert ((weight > 0.5) == lands).all()
        rest = np.ones((HEIGHT, WIDTH), bool)
        rest[5:7, 7] = False
        np.testing.assert_allclose(value[rest], truth[rest])


class Raft(Network):
    def forward(self, image1, image2, num_flow_updates=12):
        self.admit()
        for images in (image1, image2):
            height, width = images.shape[-2:]
            assert images.dtype == torch.float32 and images.shape[1] == 3
            assert height % 8 == width % 8 == 0 and min(height, width) >= 128
            assert -1 <= images.min() < -0.5 and 0.5 < images.max() <= 1
        found = torch.full((len(image1), 2, height, width), 1e3)
        for row, pair in enumerate(zip(image1, image2, strict=True)):
            views = [WORLD.which((image.permute(1, 2, 0)[:HEIGHT, :WIDTH] + 1) * 127.5) for image in pair]
            found[row, :, :HEIGHT, :WIDTH] = torch.from_numpy(WORLD.flow(*views)).permute(2, 0, 1)
        return [torch.zeros_like(found)] * 11 + [found]


def test_raft_is_asked_both_ways_once_in_its_range_and_size(monkeypatch):
    network = Raft()
    given = []

    def raft_large(*, weights=None, progress=True):
        given.append(weights)
        return network

    installed(monkeypatch, "torchvision.models.optical_flow", raft_large=raft_large)
    label = RaftTeacher(device="cpu").label(SHOT).flow
    assert given == ["C_T_SKHT_V2"] and network.asked == 1
    for row, pair in enumerate(IN_THE_WORLD):
        truth = WORLD.flow(*pair)
        lands = inside(grid(HEIGHT, WIDTH) + truth)
        np.testing.assert_allclose(label.value[0, row], truth)
        weight = label.weight[0, row].numpy()
        assert (weight[~lands] == 0).all() and (weight[lands] > 0.9).mean() > 0.97
    assert RaftTeacher().licence.startswith("BSD")


@pytest.mark.parametrize("kind", [UfmTeacher, RaftTeacher])
def test_a_shot_without_pairs_has_flow_of_none(monkeypatch, kind):
    network = Ufm() if kind is UfmTeacher else Raft()
    monkeypatch.setattr(kind, "network", lambda self: network)
    label = kind(device="cpu").label(Shot(images=WORLD.images, views=(0, 1), pairs=())).flow
    assert label.value.shape == (1, 0, HEIGHT, WIDTH, 2) and label.weight.shape == (1, 0, HEIGHT, WIDTH)


def test_raft_takes_weights_from_a_file(monkeypatch, tmp_path):
    network, others = Raft(), Raft()
    with torch.no_grad():
        others.scale.fill_(7.0)
    torch.save(others.state_dict(), tmp_path / "raft.pth")
    installed(monkeypatch, "torchvision.models.optical_flow", raft_large=lambda *, weights, progress=True: network)
    assert RaftTeacher(device="cpu", weights=tmp_path / "raft.pth").network().scale[0] == 7.0
