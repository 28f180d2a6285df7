"""Image files: upright 8-bit RGB, what EXIF says of the lens, and resampling with an exact map between pixel grids."""

import importlib
import importlib.util
import math
import os
import re
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from unproject.errors import InputError

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".tga",
    ".ppm", ".pgm", ".pnm", ".jp2", ".avif", ".heic", ".heif",
})  # fmt: skip
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_FULL_FRAME_DIAGONAL_MM = math.hypot(36, 24)
_NUMBER = re.compile("[0-9]+")
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0}  # Exif FocalPlaneResolutionUnit: inch, centimetre, millimetre


# What Pillow's decoders throw at damaged bytes (found by changing some in every format).
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, RuntimeError, LookupError, ArithmeticError)


class NotAnImage(Exception):
    """The file's bytes are not those of any image format known here."""


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What an image file says of itself before its pixels are read."""

    width: int
    height: int
    """Upright size: as a viewer shows it."""
    focal_prior_px: float | None
    camera_name: str
    """Maker, model and lens, as far as EXIF names them."""
    upright: bool
    """The pixels are stored as they are shown (EXIF orientation 1)."""
    transparent: bool
    pages: int
    """Pictures in the file; the first is used."""


def natural_key(path: str | Path) -> tuple[str, str]:
    """Sort key that puts ``2.png`` before ``10.png``, and no two names at the same place.

    Texts, since a list of videos has millions of names: numbers and the words between them take ten times the memory.
    Before each number stands how long it is. It may be too long for an int: lists are not trusted.
    """

    def told(found: re.Match[str]) -> str:
        digits = found[0].lstrip("0")
        return f"\0{chr(min(len(digits), sys.maxunicode))}{digits}"

    name = str(path)
    return _NUMBER.sub(told, name.casefold()), name


def read_header(path: str | Path) -> ImageHeader:
    """Size, focal prior and camera of an image file; its pixels are not decoded.

    Raises `NotAnImage` where the bytes are no image, `InputError` where they are one that cannot be read.
    """
    with _opened(path) as image:
        exif = image.getexif()
        turned = exif.get(ExifTags.Base.Orientation, 1)
        width, height = image.size[::-1] if turned in (5, 6, 7, 8) else image.size
        return ImageHeader(
            width=width,
            height=height,
            focal_prior_px=_focal_from_exif(exif, *image.size),
            camera_name=_camera_name(exif),
            upright=turned not in range(2, 9),
            transparent=image.has_transparency_data,
            pages=1 if image.format == "MPO" else getattr(image, "n_frames", 1),
        )


def read_image(path: str | Path) -> np.ndarray:
    """Decode to upright uint8 RGB [H, W, 3]: 16 bits scaled to 8, grey repeated, transparent parts laid on black."""
    with _opened(path) as image:
        return _rgb(ImageOps.exif_transpose(image), path)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resample [H, W] or [H, W, C] so that both grids span the same area, corner to corner (see `to_original`).

    Reduction averages original pixels by the area that is covered of each, so no detail folds into false detail;
    enlargement is bilinear. An axis that shrinks and one that grows are treated one after the other.
    """
    for size, method in (
        ((min(width, image.shape[1]), min(height, image.shape[0])), cv2.INTER_AREA),
        ((width, height), cv2.INTER_LINEAR),
    ):
        if size != (image.shape[1], image.shape[0]):
            image = cv2.resize(image, size, interpolation=method)
    return image


def to_original(network_size: tuple[int, int], original_size: tuple[int, int]) -> Float[Tensor, "3 3"]:
    """Map of homogeneous pixels (corner origin) from a resized image to its original; sizes are (width, height)."""
    scale = [original / network for original, network in zip(original_size, network_size, strict=True)]
    return torch.diag(torch.tensor([*scale, 1.0], dtype=torch.float64))


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The opened image; whatever Pillow throws in between leaves as one line about this file."""
    _register_heic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # phones reach 108 megapixels
            warnings.filterwarnings("ignore", module="PIL")  # odd EXIF is no concern of the user
            with Image.open(path) as image:
                yield image
    except UnidentifiedImageError as error:
        _refuse_heic(path)
        raise NotAnImage(str(path)) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large ({error}): shrink it first") from error
    except (*_DAMAGE, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{path} cannot be read: {os.strerror(error.errno)}") from error
        raise InputError(f"{path} is damaged ({error}): replace it or leave it out") from error


@cache
def _register_heic() -> None:
    if importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()


def _refuse_heic(path: str | Path) -> None:
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        raise InputError(f'{path} is a HEIC image: run `pip install "unproject[heic]"`, or convert it to JPEG')


def _rgb(image: Image.Image, path: str | Path) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_grey_8bit(np.asarray(image), path)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))  # a copy: Pillow lends its pixels read-only


def _grey_8bit(values: np.ndarray, path: str | Path) -> np.ndarray:
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise InputError(f"{path} holds values outside 0..{top:g}, black and white are unknown: convert it to 8 bits")
    return np.round(values * (255.0 / top)).astype(np.uint8)


def _focal_from_exif(exif: Image.Exif, width: int, height: int) -> float | None:
    """Focal length in pixels of the stored image, or None.

    The 35 mm equivalent compares *diagonals* (43.27 mm), as phone makers count it: 4.25 mm over 1.4 um pixels is
    3036 px, and "26 mm" on 4032x3024 gives 3029 by the diagonal, 2912 by the long side. Both agree at 3:2. Without it,
    the lens's own focal length over the pixel pitch of the focal plane, for a picture of the size that EXIF states.
    """
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    focal = None
    if equivalent_mm := _positive(tags.get(ExifTags.Base.FocalLengthIn35mmFilm)):
        focal = equivalent_mm * math.hypot(width, height) / _FULL_FRAME_DIAGONAL_MM
    else:
        focal_mm = _positive(tags.get(ExifTags.Base.FocalLength))
        per_unit = _positive(tags.get(ExifTags.Base.FocalPlaneXResolution))
        unit_mm = _UNIT_MM.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
        if focal_mm and per_unit and unit_mm:
            stated_width = _positive(tags.get(ExifTags.Base.ExifImageWidth)) or width
            focal = focal_mm * per_unit / unit_mm * width / stated_width
    # Some phones scale the tag with a crop until it says 300 mm; no prior is better than a false one.
    return focal if focal and 0.2 < focal / max(width, height) < 10 else None


def _positive(value: object) -> float | None:
    try:
        number = float(cast(Any, value))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _camera_name(exif: Image.Exif) -> str:
    tags = (ExifTags.Base.Make, ExifTags.Base.Model)
    names = [exif.get(tag) for tag in tags] + [exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.LensModel)]
    return " ".join(str(name).strip("\0 ") for name in names if name)
