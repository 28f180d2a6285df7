"""Depth teachers on stand-ins of their networks: units, ranges, masks, places of pixels."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from stand_ins import HEIGHT, WIDTH, Network, answer, grid, installed, known_world

from unproject.teachers.base import Shot
from unproject.teachers.depth import DepthAnythingTeacher, DepthProTeacher, MogeTeacher, known_depth
from unproject.teachers.learned import _loaded

WORLD = known_world(5)
SHOT = Shot(images=WORLD.images, views=(0, 2, 3, 4), pairs=((0, 1),))
SCALES = torch.tensor([0.5, 1.0, 2.0, 3.0, 40.0])


@pytest.fixture(autouse=True)
def nothing_loaded():
    _loaded.cache_clear()


def slope(view: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """True depth: its logarithm is linear across the image, and every view has a scale of its own."""
    x, y = np.moveaxis(grid(height, width) / [width, height], -1, 0)
    return SCALES[view] * torch.from_numpy(np.exp(1.3 * x - 0.7 * y)).float()


class DepthPro(Network):
    def infer(self, x, f_px=None, interpolation_mode="bilinear"):
        self.admit()
        assert x.dtype == torch.float32 and x.shape == (3, HEIGHT, WIDTH) and f_px is None
        assert -1 <= x.min() < -0.5 and 0.5 < x.max() <= 1
        view = WORLD.which((x.permute(1, 2, 0) + 1) * 127.5)
        depth = slope(view)
        depth[:30] = 1e4  # sky, a quarter of the image
        return {"depth": depth, "focallength_px": torch.tensor(100.0)}


@dataclass
class Config:
    checkpoint_uri: str = "./checkpoints/depth_pro.pt"


def test_depth_pro_is_asked_in_its_range_and_its_sky_is_clipped(monkeypatch, tmp_path):
    configs = []

    def create_model_and_transforms(config, device=None, precision=torch.float32):
        configs.append(config.checkpoint_uri)
        return DepthPro(), None

    installed(
        monkeypatch,
        "depth_pro.depth_pro",
        DEFAULT_MONODEPTH_CONFIG_DICT=Config(),
        create_model_and_transforms=create_model_and_transforms,
    )
    path = tmp_path / "depth_pro.pt"
    path.touch()
    label = DepthProTeacher(device="cpu", weights=path).label(SHOT).mono_depth
    DepthProTeacher(device="cpu").network()
    assert configs == [str(path), "./checkpoints/depth_pro.pt"]
    assert label.value.shape == label.weight.shape == (1, 4, HEIGHT, WIDTH) and (label.weight == 1).all()
    for row, view in enumerate(SHOT.views):
        truth, depth = slope(view), label.value[0, row]
        sure = (truth[30:] / depth[30:] - 1).abs()
        assert (sure < 1e-5).float().mean() > 0.985  # the nearest half per cent is clipped
        assert torch.allclose(depth[:30], torch.tensor(100 * truth_median(view)))


def truth_median(view: int) -> float:
    depth = slope(view)
    depth[:30] = 1e4
    return float(depth.median())


class Moge(Network):
    def __init__(self):
        super().__init__()
        self.told = []

    @torch.inference_mode()
    def infer(self, image, num_tokens=None, resolution_level=9, apply_mask=True, fov_x=None, use_fp16=True):
        self.asked += 1
        assert not use_fp16 and image.dtype == torch.float32 and image.shape[1:] == (3, HEIGHT, WIDTH)
        assert image.min() >= 0 and image.max() <= 1
        several = [self.one(each, fov_x) for each in image]
        return {name: torch.stack([each[name] for each in several]) for name in several[0]}

    def one(self, image, fov_x):
        view = WORLD.which(image.permute(1, 2, 0) * 255)
        self.told.append((view, fov_x))
        across = fov_x if fov_x is not None else 50.0 + 5 * view
        focal = 0.5 / np.tan(np.deg2rad(across) / 2)
        mask = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
        mask[:40] = False
        depth = torch.where(mask, slope(view), torch.inf)
        intrinsics = torch.tensor([[focal, 0, 0.5], [0, focal * WIDTH / HEIGHT, 0.5], [0, 0, 1]], dtype=torch.float32)
        return {"points": depth[..., None].expand(-1, -1, 3), "depth": depth, "mask": mask, "intrinsics": intrinsics}


def test_moge_gives_all_views_one_field_of_view_in_pixels_and_no_weight_where_it_is_masked(monkeypatch):
    network = Moge()
    kind = type("MoGeModel", (), {"from_pretrained": staticmethod(lambda name: network)})
    installed(monkeypatch, "moge.model.v2", MoGeModel=kind)
    monkeypatch.setattr("unproject.teachers.depth.AT_ONCE", 3)
    labels = MogeTeacher(device="cpu").label(SHOT)
    assert network.asked == 3, "for the field of view, then three views and one"
    assert [view for view, told in network.told if told is None] == [0, 3, 4]
    told = [fov for _, fov in network.told if fov is not None]
    np.testing.assert_allclose(told, 65.0, atol=1e-4)  # the median of 50, 65 and 70
    depth = labels.mono_depth
    assert (
        depth.value.isfinite().all() and (depth.weight[0, :, :40] == 0).all() and (depth.weight[0, :, 40:] == 1).all()
    )
    ratio = depth.value[0, :, 40:] / torch.stack([slope(view) for view in SHOT.views])[:, 40:]
    assert ((ratio - 1).abs() < 1e-5).float().mean() > 0.985
    intrinsics = labels.intrinsics
    assert (intrinsics.weight == 1).all() and intrinsics.weight.shape == (1, 4)
    focal = WIDTH / 2 / np.tan(np.deg2rad(65) / 2)
    expected = [[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]]
    np.testing.assert_allclose(intrinsics.value[0], np.tile(expected, (4, 1, 1)), rtol=1e-5)


class DepthAnything(Network):
    size = (378, 504)
    """As it makes of 120 x 164: the longer side 504, then multiples of 14."""

    def inference(self, image, **more):
        self.admit()
        assert isinstance(image, list) and all(each.dtype == np.uint8 for each in image) and not more
        views = [WORLD.which(torch.from_numpy(each)) for each in image]
        depth = np.stack([slope(view, *self.size).numpy() for view in views])
        confidence = np.full_like(depth, 1 + np.exp(2.0))
        confidence[:, :, :100] = 1.0
        depth[0, 200:210, 300:310] = np.nan
        return answer(depth=depth, conf=confidence, extrinsics=None, intrinsics=None)


def test_depth_anything_is_resized_to_the_pixel_and_its_confidence_is_a_weight(monkeypatch):
    network = DepthAnything()
    kind = type("DepthAnything3", (), {"from_pretrained": staticmethod(lambda name: network)})
    installed(monkeypatch, "depth_anything_3.api", DepthAnything3=kind)
    label = DepthAnythingTeacher(device="cpu").label(SHOT).mono_depth
    assert network.asked == 1 and label.value.shape == (1, 4, HEIGHT, WIDTH)
    truth = torch.stack([slope(view) for view in SHOT.views])
    weight = label.weight[0]
    off = (label.value[0] / truth - 1).abs()[weight > 0]
    assert (off < 1e-4).float().mean() > 0.985 and off.max() < 0.12
    assert (weight[:, :, :32] == 0).all()
    np.testing.assert_allclose(weight[1, :, 40:], 1 / (1 + np.exp(-2.0)), atol=1e-6)
    hole = (weight[0, :, 40:] == 0).float().mean()
    assert 0 < hole < 0.02


def test_depth_that_is_no_depth_weighs_nothing_and_is_finite():
    depth = torch.ones(1, 20, 20)
    depth[0, :5] = torch.tensor([np.nan, np.inf, -1.0, 0.0]).repeat(5)
    trust = torch.full((1, 20, 20), 1.5)
    trust[0, 10] = np.nan
    known = known_depth(depth, trust)
    assert (known.weight[0, 0, :5] == 0).all() and (known.weight[0, 0, 10] == 0).all()
    assert (known.weight[0, 0, 11:] == 1).all() and (known.value == 1).all()
    nothing = known_depth(torch.full((1, 4, 4), np.nan), torch.ones(1, 4, 4))
    assert not nothing.weight.any() and nothing.value.isfinite().all()


def test_depth_is_kept_within_its_quantiles():
    depth = torch.linspace(1, 2, 10_000).view(1, 100, 100)
    value = known_depth(depth, torch.ones(1, 100, 100)).value
    assert value.min() == pytest.approx(1.005, abs=1e-3) and value.max() == pytest.approx(1.995, abs=1e-3)
