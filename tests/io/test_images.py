"""Image files as cameras, phones and tools write them, and the map between pixel grids."""

import re
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from unproject.errors import InputError
from unproject.io.images import NotAnImage, natural_key, read_header, read_image, resize, to_original

Tag = ExifTags.Base
RAMP = np.stack(np.broadcast_arrays(np.arange(60)[None, :] * 4, np.arange(40)[:, None] * 6, 90), axis=-1).astype(
    np.uint8
)


def save(path, image=RAMP, *, mode=None, orientation=None, lens=None, base=None, **options):
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    exif = Image.Exif()
    if orientation:
        exif[Tag.Orientation] = orientation
    exif.update(base or {})
    exif.get_ifd(ExifTags.IFD.Exif).update(lens or {})
    (picture.convert(mode) if mode else picture).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    path = save(tmp_path / "a.png", orientation=orientation)
    stored = Image.fromarray(RAMP)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    expected = np.asarray(stored if turn is None else stored.transpose(Image.Transpose(turn)))
    header = read_header(path)
    assert (header.height, header.width) == expected.shape[:2]
    assert header.upright == (orientation == 1)
    np.testing.assert_array_equal(read_image(path), expected)


def test_orientation_agrees_with_opencv(tmp_path):
    for orientation in range(1, 9):
        path = save(tmp_path / f"{orientation}.jpg", orientation=orientation, quality=95)
        np.testing.assert_allclose(read_image(path).astype(int), cv2.imread(str(path))[..., ::-1], atol=4)


@pytest.mark.parametrize(("size", "expected"), [((4032, 3024), 26 * 5040 / 43.2666), ((3000, 2000), 26 / 36 * 3000)])
def test_focal_from_35mm_equivalent(tmp_path, size, expected):
    for orientation in (1, 6):
        path = save(
            tmp_path / "a.jpg", Image.new("L", size), orientation=orientation, lens={Tag.FocalLengthIn35mmFilm: 26}
        )
        assert read_header(path).focal_prior_px == pytest.approx(expected, rel=1e-4)


def test_focal_from_focal_plane_follows_a_later_resize(tmp_path):
    # 24 mm over a sensor of 36 mm: two thirds of the width, whatever the unit and the size since
    for unit, mm in ((2, 25.4), (3, 10.0), (4, 1.0)):
        lens = {
            Tag.FocalLength: 24.0,
            Tag.FocalPlaneXResolution: 6000 / 36 * mm,
            Tag.FocalPlaneResolutionUnit: unit,
            Tag.ExifImageWidth: 6000,
        }
        path = save(tmp_path / "a.jpg", Image.new("L", (600, 400)), lens=lens)
        assert read_header(path).focal_prior_px == pytest.approx(400, rel=1e-4)


@pytest.mark.parametrize("value", [0, 65535, (1, 0)])
def test_senseless_focal_is_no_prior(tmp_path, value):
    lens = {Tag.FocalLength: value} if isinstance(value, tuple) else {Tag.FocalLengthIn35mmFilm: value}
    assert read_header(save(tmp_path / "a.jpg", lens=lens)).focal_prior_px is None


def test_camera_is_named_by_maker_model_and_lens(tmp_path):
    base = {Tag.Make: "Maker", Tag.Model: "M1\0"}
    path = save(tmp_path / "a.jpg", base=base, lens={Tag.LensModel: "wide"})
    assert read_header(path).camera_name == "Maker M1 wide"


def test_sixteen_bits_grey_palette_and_one_bit(tmp_path):
    grey = RAMP[..., 0]
    deep = save(tmp_path / "deep.png", Image.fromarray(grey.astype(np.uint16) * 257))
    assert np.array_equal(read_image(deep), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(read_image(save(tmp_path / "grey.png", grey)), np.repeat(grey[..., None], 3, 2))
    share = save(tmp_path / "share.tif", Image.fromarray((grey / 255).astype(np.float32)))
    assert np.array_equal(read_image(share), np.repeat(grey[..., None], 3, 2))
    few = (RAMP // 64) * 64
    assert np.array_equal(read_image(save(tmp_path / "palette.png", Image.fromarray(few).quantize())), few)
    bits = save(tmp_path / "bits.png", Image.fromarray(grey > 100))
    assert np.array_equal(read_image(bits)[..., 1], np.where(grey > 100, 255, 0))
    print_colours = save(tmp_path / "cmyk.jpg", RAMP, mode="CMYK", quality=98)
    assert read_image(print_colours).shape == RAMP.shape


def test_float_image_without_a_known_white_is_refused(tmp_path):
    path = save(tmp_path / "depth.tif", Image.fromarray(np.full((8, 8), 3.7, np.float32)))
    with pytest.raises(InputError, match="convert it to 8 bits"):
        read_image(path)


def test_transparency_is_laid_on_black(tmp_path):
    alpha = np.where(np.arange(60)[None, :] < 30, 255, 0) * np.ones((40, 1))
    path = save(tmp_path / "a.png", np.dstack([RAMP, alpha.astype(np.uint8)]))
    assert read_header(path).transparent
    np.testing.assert_array_equal(read_image(path), RAMP * (alpha > 0)[..., None])
    save(tmp_path / "palette.png", Image.fromarray(RAMP).convert("P"), transparency=0)
    assert read_header(tmp_path / "palette.png").transparent
    assert read_image(tmp_path / "palette.png").shape == RAMP.shape


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_damaged_image_is_named_with_the_remedy(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = save(tmp_path / f"a.{suffix}", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"a\.{suffix} .*replace it or leave it out"):
        read_header(path)
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "gif"])
def test_any_damage_is_one_of_our_errors_or_none(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = save(tmp_path / f"a.{suffix}", lens={Tag.FocalLengthIn35mmFilm: 26}, orientation=6)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(40):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        for read in (read_header, read_image):
            try:
                read(path)
            except (InputError, NotAnImage) as error:
                assert "\n" not in str(error)


def test_not_an_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"hello")
    with pytest.raises(NotAnImage):
        read_header(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="No such file"):
        read_header(tmp_path / "missing.jpg")


@pytest.mark.skipif("pillow_heif" in sys.modules, reason="the extra is installed")
def test_heic_names_the_extra(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with pytest.raises(InputError, match=r'pip install "unproject\[heic\]"'):
        read_header(tmp_path / "a.heic")


def test_natural_order():
    names = ["10.png", "2.png", "b/1.png", "a10.png", "A9.png", "1.png", "a.png"]
    ordered = ["1.png", "2.png", "10.png", "A9.png", "a10.png", "a.png", "b/1.png"]
    assert sorted(names, key=natural_key) == ordered


def slow_key(name: str) -> list[tuple[int, int, str]]:
    """Numbers as numbers, and before words."""
    parts = re.split("([0-9]+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


@given(st.lists(st.text("aBß./ 0123456789", min_size=1, max_size=12)))
def test_natural_order_equals_the_slow_twin_and_is_that_of_no_list(names):
    assert sorted(names, key=natural_key) == sorted(names, key=lambda name: (slow_key(name), name))
    assert sorted(names, key=natural_key) == sorted(names[::-1], key=natural_key)


def ramp(width, height, scale_x=1.0, scale_y=1.0):
    """The image of the functions x and y: its value at each pixel centre is that centre's original coordinate."""
    x, y = np.meshgrid((np.arange(width) + 0.5) * scale_x, (np.arange(height) + 0.5) * scale_y)
    return np.stack([x, y], axis=-1).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 48), (50, 37), (128, 97), (97, 31), (13, 200), (256, 192)])
def test_resized_ramp_reads_the_original_coordinates(size):
    """A linear image stays linear, so the ramp shows the pixel map itself.

    Averages over pixels that are covered in part are off by the integral of (floor(x) + 1/2 - x) over the window,
    divided by its length s: at most 1 / (8 s), and 0 for whole factors. Enlargement clamps at the border.
    """
    small = resize(ramp(128, 97), *size)
    centres = np.concatenate([ramp(*size), np.ones((size[1], size[0], 1))], axis=-1)
    expected = (centres @ to_original(size, (128, 97)).numpy().T)[..., :2]
    margin = [int(np.ceil(0.5 * new / old)) for new, old in zip(size, (128, 97), strict=True)]
    inside = (slice(margin[1], size[1] - margin[1]), slice(margin[0], size[0] - margin[0]))
    for axis, (new, old) in enumerate(zip(size, (128, 97), strict=True)):
        error = np.abs(small - expected)[inside][..., axis]
        assert error.max() <= (0.002 if old % new == 0 or new >= old else new / old / 8 + 0.002)
        assert np.abs((small - expected)[inside][..., axis].mean()) < 0.01


def test_integer_centres_would_be_noticed():
    """The planted fault: a map that scales integer centres is wrong by up to half a pixel, far above the tolerance."""
    small = resize(ramp(128, 96), 32, 24)
    wrong = ramp(32, 24) * 4 + 0.5 - 2.0
    assert np.abs(small - wrong).min() > 1.4


def test_reduction_keeps_the_mean_exactly():
    noise = np.random.default_rng(0).random((90, 120, 3)).astype(np.float32)
    for width, height in ((40, 30), (77, 53), (120, 31)):
        weights = resize(noise, width, height).mean(axis=(0, 1))
        np.testing.assert_allclose(weights, noise.mean(axis=(0, 1)), rtol=1e-4)


def test_to_original_takes_corners_to_corners():
    matrix = to_original((37, 21), (1920, 1081))
    corners = torch.tensor([[0.0, 0, 1], [37, 21, 1]], dtype=torch.float64)
    torch.testing.assert_close(corners @ matrix.T, torch.tensor([[0.0, 0, 1], [1920, 1081, 1]], dtype=torch.float64))


def test_pillow_is_the_oracle_of_whole_factors():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    expected = np.asarray(ImageOps.scale(Image.fromarray(image), 0.25, Image.Resampling.BOX))
    np.testing.assert_allclose(resize(image, 20, 15).astype(int), expected, atol=1)
