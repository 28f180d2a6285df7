"""Photos as clips: which ones, in which pixels, and what their EXIF says of the lens."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from unproject.data.base import Framing
from unproject.data.photos import Photos
from unproject.errors import InputError
from unproject.losses.weak import WeakLoss
from unproject.recipes.taught import Taught
from unproject.teachers.base import Shot, Teacher
from unproject.types import Known, Labels, Prediction, Tracks

FRAMING = Framing(views=3, pairs=((0, 1), (1, 2)), height=30, width=30)


def photo(path, level: int, equivalent_mm: int | None = 26, turned: bool = False) -> None:
    """Of 80x60 pixels, grey; with ``turned`` a viewer shows it upright, 60x80."""
    exif = Image.Exif()
    if equivalent_mm is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = equivalent_mm
    if turned:
        exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.full((60, 80, 3), level, np.uint8)).save(path, exif=exif)


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        photo(tmp_path / f"{number}.jpg", 20 * number, turned=number == 3)
    photo(tmp_path / "10.jpg", 200, equivalent_mm=None)
    return str(tmp_path)


def test_intrinsics_are_those_of_exif_in_pixels_of_the_cropped_images(folder):
    sample = Photos(folders=(folder,))(range(6), FRAMING)
    focal = 26 * math.hypot(80, 60) / math.hypot(36, 24) * 30 / 60  # the middle 60x60, at half the size, turned or not
    expected = torch.tensor([[focal, 0, 15], [0, focal, 15], [0, 0, 1]])
    torch.testing.assert_close(sample.views.intrinsics, expected.expand(6, 3, 3, 3))
    assert torch.equal(sample.labels.intrinsics.value, sample.views.intrinsics)
    assert (sample.labels.intrinsics.weight == 1).all() and sample.views.pairs.shape == (6, 2, 2)


def test_photos_of_a_clip_follow_one_another_in_no_order_and_a_number_is_always_the_same_clip(folder):
    data = Photos(folders=(folder,))
    sample = data(range(20), FRAMING)
    seen = (255 / 20 * sample.views.images.mean((2, 3, 4))).round().int()
    assert {tuple(clip.sort().values.tolist()) for clip in seen} == {(0, 1, 2), (1, 2, 3), (2, 3, 4)}
    assert any(clip.tolist() != clip.sort().values.tolist() for clip in seen)
    again = data([7], FRAMING)
    assert torch.equal(again.views.images[0], sample.views.images[7]) and again.names[0] == sample.names[7]


def test_without_intrinsics_photos_need_state_no_focal_length(folder):
    sample = Photos(folders=(folder,), intrinsics=False)(range(20), FRAMING)
    assert sample.views.intrinsics is None and sample.labels.intrinsics is None
    assert sample.views.images.max() > 0.7  # that of 10.jpg, the last in natural order


def test_a_folder_of_too_few_photos_says_what_is_missing(folder, tmp_path):
    many = Framing(views=6, pairs=(), height=30, width=30)
    with pytest.raises(InputError, match="holds 5 photos that state a focal length in EXIF, 6 are needed"):
        Photos(folders=(folder,))([0], many)
    assert Photos(folders=(folder,), intrinsics=False)([0], many).views.images.shape[1] == 6
    with pytest.raises(InputError, match="is no folder"):
        Photos(folders=(str(tmp_path / "none"),))([0], FRAMING)


@dataclass(frozen=True)
class Middle(Teacher):
    """Follows the middle of the image."""

    def label(self, shot: Shot) -> Labels:
        count, (height, width) = len(shot.images), shot.images[0].shape[:2]
        assert shot.images[0].dtype == np.uint8 and shot.pairs == FRAMING.pairs
        tracks = Tracks(
            view=torch.arange(count),
            track=torch.zeros(count, dtype=torch.long),
            uv=torch.tensor([width / 2, height / 2]).expand(count, 2),
            weight=torch.ones(count),
        )
        wrong = torch.eye(3).expand(1, count, 3, 3)
        return Labels(tracks=tracks, intrinsics=Known(wrong, torch.ones(1, count)))


def test_what_teachers_say_of_photos_trains_along_the_rays_of_exif(folder):
    photos = Photos(folders=(folder,))
    sample = Taught(dataset=photos, teachers=(Middle(),))([0, 1], FRAMING)
    assert torch.equal(sample.labels.intrinsics.value, photos([0, 1], FRAMING).views.intrinsics)
    assert sample.labels.tracks.view.tolist() == [0, 1, 2, 3, 4, 5] and sample.labels.tracks.count == 2
    depth = torch.ones(2, 3, 30, 30, 1)
    said = Prediction(
        points=torch.cat([torch.zeros(2, 3, 30, 30, 2), depth], -1),
        confidence=depth[..., 0] / 2,
        world_from_cam=torch.eye(4).expand(2, 3, 4, 4),
    )
    loss = WeakLoss(depth=0.0, gauge=0.0, least_shared=1)
    assert loss(said, sample.labels, sample.views).total < 1e-3
