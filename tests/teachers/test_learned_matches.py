"""Matches on stand-ins of their networks: pixels come out right, what is wrong is dropped, and tracks span views."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import HEIGHT, WIDTH, Network, grid, inside, installed, known_world

from unproject.teachers.base import Shot
from unproject.teachers.learned import _loaded
from unproject.teachers.learned_matches import LightGlueTeacher, RomaTeacher

WORLD = known_world(5)
SHOT = Shot(images=WORLD.images, views=(0, 1, 3, 4), pairs=())


@pytest.fixture(autouse=True)
def nothing_loaded():
    _loaded.cache_clear()


def off_px(tracks) -> np.ndarray:
    """How far each observation lies from where the first of its track says."""
    view, track, uv = tracks.view.numpy(), tracks.track.numpy(), tracks.uv.numpy().astype(float)
    off = []
    for number in range(tracks.count):
        first, *others = np.flatnonzero(track == number)
        off += [
            float(np.linalg.norm(WORLD.carried(SHOT.views[view[first]], SHOT.views[view[row]], uv[first]) - uv[row]))
            for row in others
        ]
    return np.array(off)


class Roma(Network):
    """Sees images at a size of its own and answers in [-1, 1], from each to the other side by side."""

    size = (96, 112)

    def match(self, im_A_path, im_B_path, *args, device=None):
        self.admit()
        views = []
        for path in (im_A_path, im_B_path):
            assert isinstance(path, str) and Path(path).suffix == ".png"
            views.append(WORLD.which(torch.from_numpy(np.array(Image.open(path)))))
        own = grid(*self.size) * [WIDTH / self.size[1], HEIGHT / self.size[0]]
        halves, sure = [], []
        for source, target in (views, views[::-1]):
            there = WORLD.carried(source, target, own)
            certain = np.where(inside(there), 0.8, 0.0)
            wrong = np.random.default_rng(source).random(there.shape[:2]) < 0.1  # and just as certain
            there[wrong] += np.random.default_rng(target).uniform(10, 40, (wrong.sum(), 2))
            here = own / [WIDTH, HEIGHT] * 2 - 1
            other = there / [WIDTH, HEIGHT] * 2 - 1
            halves.append(np.concatenate([here, other] if source == views[0] else [other, here], -1))
            sure.append(certain)
        warp = torch.from_numpy(np.concatenate(halves, 1)).float()
        return warp, torch.from_numpy(np.concatenate(sure, 1)).float()

    def to_pixel_coordinates(self, coords, H_A, W_A, H_B=None, W_B=None):
        (one, two), sizes = coords.split(2, dim=-1), ((W_A, H_A), (W_B, H_B))
        return tuple((side + 1) / 2 * torch.tensor(size) for side, size in zip((one, two), sizes, strict=True))


def test_roma_finds_a_grid_of_each_view_in_the_others_and_a_wrong_match_is_dropped(monkeypatch):
    network = Roma()
    given = {}

    def roma_outdoor(device, weights=None, dinov2_weights=None, amp_dtype=torch.float16):
        given.update(device=device, weights=weights, precision=amp_dtype)
        return network

    installed(monkeypatch, "romatch", roma_outdoor=roma_outdoor)
    tracks = RomaTeacher(device="cpu", grid=12).label(SHOT).tracks
    assert given == {"device": torch.device("cpu"), "weights": None, "precision": torch.float32}
    assert network.asked == 6
    off = off_px(tracks)
    # A tenth is wrong. A plane leaves two degrees of freedom to the matrix, so that it explains some of them.
    assert np.median(off) < 0.01 and (off > 1.5).mean() < 0.05
    lengths = tracks.lengths()
    assert lengths.max() == 4 and (lengths == 4).sum() > 100
    np.testing.assert_allclose(sorted(set(tracks.weight.tolist())), [0.8, 1.0], atol=1e-6)
    # Points begin in every view, in the middles of their cells.
    own = tracks.weight == 1
    assert set(tracks.view[own].tolist()) == {0, 1, 2, 3}
    assert (torch.bincount(tracks.view[own]) <= 144).all()


POINTS = np.random.default_rng(0).uniform([5, 5], [WIDTH - 5, HEIGHT - 5], (150, 2))
"""Of the first view."""


class Disk(Network):
    def __init__(self, max_num_keypoints):
        super().__init__()
        self.most = max_num_keypoints

    def extract(self, img, **conf):
        self.admit()
        assert img.dtype == torch.float32 and img.shape == (3, HEIGHT, WIDTH)
        assert img.min() >= 0 and img.max() <= 1
        view = WORLD.which(img.permute(1, 2, 0) * 255)
        uv = WORLD.carried(0, view, POINTS)
        seen = inside(uv)
        numbers = np.flatnonzero(seen)[: self.most]
        order = np.random.default_rng(view).permutation(len(numbers))
        return {
            "keypoints": torch.from_numpy(uv[numbers[order]] - 0.5).float()[None],  # centres at integers
            "descriptors": torch.from_numpy(numbers[order]).float()[None, :, None],
            "image_size": torch.tensor([[WIDTH, HEIGHT]]).float(),
        }


class LightGlue(Network):
    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, data):
        self.admit()
        one, two = (data[name]["descriptors"][0, :, 0].numpy().astype(int) for name in ("image0", "image1"))
        common, in_one, in_two = np.intersect1d(one, two, return_indices=True)
        wrong = common % 10 == 3
        in_two[wrong] = np.roll(in_two[wrong], 1)
        return {"matches": [torch.from_numpy(np.column_stack([in_one, in_two]))], "scores": [torch.ones(len(common))]}


@pytest.mark.parametrize("features", ["disk", "aliked"])
def test_lightglue_joins_the_same_point_of_all_views_and_a_wrong_match_is_dropped(monkeypatch, features):
    made = {name: Disk for name in ("DISK", "ALIKED")}
    installed(monkeypatch, "lightglue", LightGlue=LightGlue, **made)
    teacher = LightGlueTeacher(device="cpu", features=features)
    tracks = teacher.label(SHOT).tracks
    network = teacher.network()
    assert network["extractor"].asked == 4 and network["matcher"].asked == 6
    assert network["matcher"].features == features and network["extractor"].most == 2048
    assert (off_px(tracks) > 1.5).mean() < 0.01
    lengths = tracks.lengths()
    assert (lengths == 4).sum() > 60
    assert tracks.count < 150
    np.testing.assert_allclose(teacher.provenance().settings["most"], 2048)


def test_views_without_a_common_point_have_no_tracks(monkeypatch):
    class Lost(Roma):
        def match(self, *paths, device=None):
            warp, certainty = super().match(*paths, device=device)
            return warp, torch.zeros_like(certainty)

    installed(monkeypatch, "romatch", roma_outdoor=lambda **_: Lost())
    assert not len(RomaTeacher(device="cpu", grid=12).label(SHOT).tracks.view)
