"""One pass over the input: pixels keep their place through every size, masks hide, far frames find each other."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from planar_world import about, seen_through, texture

from unproject.errors import InputError
from unproject.inference import evidence
from unproject.inference.evidence import Evidence, Pictures, gather, network_scale, network_size, work_scales
from unproject.io.source import open_source
from unproject.progress import silent
from unproject.teachers import matches
from unproject.types import FrameInfo, Tracks

FRAMES = 10
FAITHFUL = {"crf": "8", "preset": "veryfast"}


def info(width: int, height: int) -> FrameInfo:
    return FrameInfo(file="a.png", index=0, time_s=0.0, width=width, height=height)


def gathered(source: Path | list[Path], masks: Path | None = None) -> Evidence:
    with Pictures(open_source(source)) as pictures:
        return gather(pictures, masks, 0, silent)


def zoomed(frames: int, width: int, height: int) -> list[np.ndarray]:
    """A picture that grows about the image's corner, by 3 % a frame: pixel u becomes 1.03 u."""
    canvas = texture(height, width)
    maps = [np.diag([1.03**number, 1.03**number, 1.0]) for number in range(frames)]
    return [np.repeat(seen_through(canvas, one, height, width)[..., None], 3, 2) for one in maps]


def panned(frames: int, width: int = 320, height: int = 240, step: float = 6.0) -> list[np.ndarray]:
    canvas = texture(height, 3 * width)
    maps = [about((0, 0), shift=(-step * number, 0)) for number in range(frames)]
    return [np.repeat(seen_through(canvas, one, height, width)[..., None], 3, 2) for one in maps]


def saved(folder: Path, frames: list[np.ndarray]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:03d}.png", compress_level=1)
    return sorted(folder.glob("*.png"))


@pytest.mark.parametrize("size", [(1280, 720), (4032, 3024), (160, 120), (1001, 333), (20, 4000)])
def test_sizes(size: tuple[int, int]) -> None:
    """Never enlarged; the aspect kept to a pixel; the area of the maps bounded."""
    one = info(*size)
    scale = work_scales((one,), 960)[0]
    assert scale <= 1 and max(size) * scale <= 960
    width, height = network_size(one)
    assert (width - 0.5) * (height - 0.5) <= evidence.NETWORK_AREA  # each side is rounded
    assert width == pytest.approx(height * size[0] / size[1], abs=1 + size[0] / size[1])


@pytest.mark.parametrize("size", [(1283, 701), (999, 1777)])
def test_rounding_of_the_working_size_is_undone(size: tuple[int, int]) -> None:
    """The corner of a working image is the corner of the original, exactly, though neither side divides."""
    infos = (info(*size),)
    scale = work_scales(infos, 960)
    corner = torch.tensor([evidence._sizes(infos, scale)[0].tolist()], dtype=torch.float32)
    tracks = Tracks(
        view=torch.zeros(1, dtype=torch.long), track=torch.zeros(1, dtype=torch.long), uv=corner, weight=torch.ones(1)
    )
    exact = evidence._as_if_exact(tracks, infos, scale)
    np.testing.assert_allclose(exact.uv[0] / scale[0], size, rtol=1e-6)


def test_a_pixel_keeps_its_place_through_decoding_resizing_and_tracking(tmp_path, write_video) -> None:
    """Under a zoom about the corner, a shift by half a pixel anywhere would show as (zoom - 1) / 2."""
    clip = write_video(tmp_path / "zoom.mp4", zoomed(FRAMES, 1284, 702), options=FAITHFUL)
    found = gathered(clip)
    view, scale = found.tracks.view.numpy(), work_scales((info(1284, 702),), evidence.VIDEO_SIDE)[0]
    start = found.tracks.uv.double().numpy() / scale / 1.03 ** view[:, None]
    long = np.flatnonzero(found.tracks.lengths().numpy() >= FRAMES - 2)
    assert len(long) > 100
    of_track = [start[found.tracks.track.numpy() == track] for track in long]
    assert np.abs(np.median([places[-1] - places[0] for places in of_track], axis=0)).max() < 0.05
    assert np.median([np.ptp(places, axis=0) for places in of_track]) < 0.2 / scale  # the tracker sees working pixels
    one = (info(1284, 702),)
    corner = np.array([1284, 702]) * scale * network_scale(one, np.array([scale]))[0]
    np.testing.assert_allclose(corner, network_size(one[0]), rtol=1e-9)


@pytest.mark.parametrize("size", [(1283, 701), (2101, 1402)])
def test_the_scale_of_the_greys_is_that_of_their_whole_pixels(tmp_path, size: tuple[int, int]) -> None:
    """1402 * 1920 / 2101 = 1281.22 pixels are 1281: the last corner of either image is the same corner."""
    width, height = size
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    with Pictures(open_source([path])) as pictures:
        assert len(list(pictures.decode(silent))) == 1
        (grey,) = pictures.greys
        assert max(grey.shape) == min(width, evidence.SHARP_SIDE)
        np.testing.assert_allclose(pictures.grey_scale[0] * size, grey.shape[::-1], rtol=1e-12)
        assert max(pictures.kept[0].shape) == evidence.PHOTO_SIDE


@pytest.mark.parametrize("video", [True, False])
def test_pictures_can_be_looked_at_again(tmp_path, write_video, video: bool) -> None:
    """Of photos the greys are kept, of a video they are decoded anew; either way they are those of the first pass."""
    frames = panned(4)
    path = write_video(tmp_path / "pan.mp4", frames) if video else saved(tmp_path / "pan", frames)
    with Pictures(open_source(path)) as pictures:
        first = list(pictures.decode(silent))
        for _ in range(2):
            for one, again in zip(first, pictures.greys, strict=True):
                np.testing.assert_array_equal(one, again)
        assert [image.shape for image in pictures.small] == [(240, 320, 3)] * 4
        assert len(pictures.kept) == (0 if video else 4)


def test_a_folder_that_holds_a_video_is_followed(tmp_path) -> None:
    """More than are matched all with all, and each much like the next; photos, even in a row, are matched."""
    found = gathered(saved(tmp_path / "pan", panned(matches.FEW_VIEWS + 1)))
    assert found.ordered
    shift = np.diff(found.tracks.uv[found.tracks.track == int(found.tracks.lengths().argmax())].numpy(), axis=0)
    np.testing.assert_allclose(shift, np.tile([-6.0, 0.0], (len(shift), 1)), atol=0.1)
    apart = gathered(saved(tmp_path / "far", panned(4, step=70.0)))
    assert not apart.ordered
    assert list(apart.keyframes) == [0, 1, 2, 3]
    assert apart.tracks.count > 100


class TestMasks:
    @pytest.fixture
    def clip(self, tmp_path, write_video) -> Path:
        return write_video(tmp_path / "pan.mp4", panned(8), options=FAITHFUL)

    def mask(self, folder: Path, name: str, *, size: tuple[int, int] = (320, 240)) -> Path:
        folder.mkdir(exist_ok=True)
        image = np.full((size[1], size[0]), 255, np.uint8)
        image[:, : size[0] // 2] = 0
        cv2.imwrite(str(folder / name), image)
        return folder

    def test_black_pixels_are_ignored(self, clip, tmp_path) -> None:
        for number in (0, 3):
            masks = self.mask(tmp_path / "masks", f"{number:06d}.png")
        found, plain = gathered(clip, masks), gathered(clip)
        for view in range(8):
            least = found.tracks.uv[found.tracks.view == view, 0].min()
            assert least >= 160 if view in (0, 3) else least < 100
        assert len(found.tracks.view) < len(plain.tracks.view)
        assert (np.diff(np.unique(found.tracks.track)) == 1).all()  # numbered without gaps

    def test_a_mask_of_another_size_is_refused(self, clip, tmp_path) -> None:
        masks = self.mask(tmp_path / "masks", "000000.png", size=(160, 120))
        with pytest.raises(InputError, match="160x120, its image 320x240"):
            gathered(clip, masks)

    def test_a_folder_without_any_mask_is_refused(self, tmp_path) -> None:
        masks = self.mask(tmp_path / "masks", "holiday.png")
        with pytest.raises(InputError, match="no mask for any frame"):
            evidence.check_masks(masks, [info(320, 240)])
        with pytest.raises(InputError, match="check --masks"):
            evidence.check_masks(tmp_path / "nowhere", [info(320, 240)])

    def test_names_that_fit(self, tmp_path) -> None:
        one = replace(info(320, 240), file="somewhere/IMG_2.jpg")
        assert evidence.mask_of(tmp_path, one, 7) is None
        for name in ("000007.png", "IMG_2.png", "IMG_2.jpg.png"):
            folder = self.mask(tmp_path / name.replace(".", "_"), name)
            mask = evidence.mask_of(folder, one, 7)
            assert mask is not None and mask[:, 160:].all() and not mask[:, :160].any()


def test_a_place_seen_again_is_one_track(tmp_path, write_video) -> None:
    """Out of sight for a while: tracks end; where the camera comes back, they are joined to those of the start."""
    there = panned(16, step=24.0)  # the last shares nothing with the first
    clip = write_video(tmp_path / "loop.mp4", there + there[::-1], options=FAITHFUL)
    found = gathered(clip)
    view, track = found.tracks.view.numpy(), found.tracks.track.numpy()
    start, end = np.unique(track[view == 0]), np.unique(track[view == 31])
    again = np.intersect1d(start, end)
    assert len(again) > 50
    uv = found.tracks.uv.numpy()
    gap = [uv[(track == one) & (view == 31)][0] - uv[(track == one) & (view == 0)][0] for one in again]
    assert np.abs(np.median(gap, axis=0)).max() < 0.3  # the very same image
    assert {0, 31} <= set(found.keyframes.tolist())


def test_frames_that_look_at_other_things_are_not_joined(tmp_path, write_video) -> None:
    """Upside down, smooth noise is much like itself: some points survive such a cut by chance."""
    first, second = panned(5), [np.ascontiguousarray(frame[::-1]) for frame in panned(5, step=-6.0)]
    clip = write_video(tmp_path / "cut.mp4", first + second, options=FAITHFUL)
    found = gathered(clip)
    view, track = found.tracks.view.numpy(), found.tracks.track.numpy()
    assert len(np.intersect1d(track[view < 5], track[view >= 5])) == 0
    assert {4, 5} <= set(found.keyframes.tolist())
