import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from unproject.data.capture import Sensor, expose, jpeg
from unproject.data.paths import handheld, standing
from unproject.data.raycast import Bounds
from unproject.data.synthetic import photograph, render, sample_world
from unproject.data.texture import KINDS, default_bank
from unproject.geometry.camera import intrinsics_from_focal

HEIGHT, WIDTH = 40, 56
CLEAN = Sensor(exposure_s=0.0, samples=1, shot_noise=0.0, read_noise=0.0, jpeg_quality=None)


def setting(seed=0, moving=True, batch=1):
    world = sample_world(seed, batch=batch, moving=moving)
    times = torch.tensor([[0.2, 0.6]]).repeat(batch, 1)
    return (
        world,
        handheld(world.stage, seed, duration_s=1.0),
        times,
        intrinsics_from_focal(0 * times + 50, WIDTH, HEIGHT),
    )


def test_a_flawless_sensor_shows_the_rendering():
    world, path, times, intrinsics = setting()
    photo = expose(world, path, times, intrinsics, HEIGHT, WIDTH, CLEAN, seed=0)
    sharp = render(world, path, times, intrinsics, HEIGHT, WIDTH).images
    assert torch.allclose(photo, sharp, atol=1e-6)


def test_exposure_blurs_what_moves_before_the_camera_and_only_that():
    world, path, times, intrinsics = setting(moving=False)
    long = replace(CLEAN, exposure_s=0.2, samples=8)
    still = standing(path)
    short = replace(long, exposure_s=0.0)
    assert torch.allclose(
        *(expose(world, still, times, intrinsics, HEIGHT, WIDTH, s, seed=0) for s in (long, short)), atol=1e-5
    )
    blurred = expose(world, path, times, intrinsics, HEIGHT, WIDTH, long, seed=0)
    sharp = expose(world, path, times, intrinsics, HEIGHT, WIDTH, short, seed=0)
    assert blurred.diff(dim=-1).abs().mean() < 0.9 * sharp.diff(dim=-1).abs().mean()


def test_truth_is_that_of_the_middle_of_the_exposure():
    world, path, times, intrinsics = setting(seed=2)
    photo = photograph(
        world, path, times, intrinsics, HEIGHT, WIDTH, sensor=replace(CLEAN, exposure_s=0.02, samples=4), seed=0
    )
    errors = []
    for shift in (-0.03, 0.0, 0.03):
        sharp = render(world, path, times + shift, intrinsics, HEIGHT, WIDTH)
        errors.append((photo.images - sharp.images).abs().mean())
    assert errors[1] < errors[0] and errors[1] < errors[2]
    assert torch.equal(photo.depth, render(world, path, times, intrinsics, HEIGHT, WIDTH).depth)


def test_noise_has_the_stated_strength_and_follows_the_seed():
    world, path, times, intrinsics = setting()
    noisy = replace(CLEAN, shot_noise=0.03, read_noise=0.01)
    arguments = (world, path, times, intrinsics, HEIGHT, WIDTH)
    first, again, other = (expose(*arguments, noisy, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    light, truth = first.square(), expose(*arguments, CLEAN, seed=0).square()
    middle = (truth > 0.05) & (truth < 0.8)
    expected = (0.03**2 * truth + 0.01**2).sqrt()
    assert ((light - truth) / expected)[middle].std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_what_pillow_makes(quality):
    world, path, times, intrinsics = setting(seed=3)
    image = render(world, path, times[:, :1], intrinsics[:, :1], HEIGHT, WIDTH).images[0, 0]
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality, subsampling="4:2:0")
    pillow = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    ours = jpeg(torch.from_numpy(pixels).permute(2, 0, 1) / 255, quality)
    loss = (pillow - image).square().mean().sqrt()
    assert (ours - pillow).square().mean().sqrt() < 0.35 * loss


def test_windows_leave_nothing_out(monkeypatch):
    """Twin: try every solid, and every shadow, at every pixel."""
    for seed in range(3):
        world, path, times, intrinsics = setting(seed=seed, batch=6)
        fast = render(world, path, times, intrinsics, HEIGHT, WIDTH)
        with monkeypatch.context() as patch:
            solids = len(world.solids.kind)
            patch.setattr(Bounds, "windows", lambda self, views, rows, n=solids: [(slice(None), slice(0, WIDTH))] * n)
            slow = render(world, path, times, intrinsics, HEIGHT, WIDTH)
        assert torch.equal(fast.depth, slow.depth) and torch.equal(fast.surface, slow.surface)
        assert torch.allclose(fast.images, slow.images, atol=1e-5)


def test_textures_repeat_without_a_seam_and_fade_to_their_mean():
    bank = default_bank(torch.device("cpu"), torch.float32, 0)
    count = len(KINDS) * bank.variants
    number = torch.arange(count, dtype=torch.float32)[None, :, None].expand(1, count, 200)
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(1, 2, count, 200, generator=generator)
    for level in (0.0, 1.5, bank.levels - 1.0):
        blur = torch.full_like(number, level)
        here = bank.look_up(number, uv, blur)
        assert torch.allclose(here, bank.look_up(number, uv + 3, blur), atol=2e-3)
        assert here.min() >= 0 and here.max() <= 1
    edge = uv * torch.tensor([0.0, 1.0])[:, None, None]
    step = bank.look_up(number, edge - 1e-4, 0 * number) - bank.look_up(number, edge + 1e-4, 0 * number)
    assert step.abs().max() < 0.1
    coarse = bank.look_up(number, uv, torch.full_like(number, 99.0)).mean(-1)
    fine = bank.look_up(number, uv, 0 * number).mean(-1)
    assert (coarse - fine).abs().mean() < 0.03
