"""One pass over the input: tracks through all frames, which frames to solve with, small images for later."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch

from unproject.errors import InputError
from unproject.inference.keyframes import select_keyframes
from unproject.inference.problem import MIN_COMMON, common_tracks, rows_of
from unproject.io.frame_store import FrameStore
from unproject.io.images import read_image, resize
from unproject.io.source import Frame, Source
from unproject.progress import Progress
from unproject.teachers import matches
from unproject.teachers.tracks import KltTracker, follow_each_other
from unproject.types import FrameInfo, Tracks

LOOP_POINTS, LOOP_INLIERS, LOOP_SHARE = 1500, 30, 0.5
"""Stricter than between photos: a false loop bends a whole clip."""
PHOTO_SIDE, VIDEO_SIDE = 1280, 960
"""Long side at which points are found and followed, at most."""
NETWORK_AREA = 320 * 240
"""Pixels of the dense maps, at most; measured: three times the side costs nine times the time and gains nothing."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the images say in 2D."""

    tracks: Tracks
    """Pixels of the working size."""
    work_scale: np.ndarray
    """N, working pixels per original pixel."""
    keyframes: np.ndarray
    small: FrameStore
    """RGB at network size."""
    infos: tuple[FrameInfo, ...]
    ordered: bool
    """The frames follow each other in time: a video, or a folder that holds one."""

    @property
    def network_scale(self) -> np.ndarray:
        """N 2, network pixels per working pixel."""
        network = np.array([network_size(info) for info in self.infos])
        return network / (np.array([[info.width, info.height] for info in self.infos]) * self.work_scale[:, None])


def gather(source: Source, small: FrameStore, masks: Path | None, seed: int, progress: Progress) -> Evidence:
    """Decode everything once, filling ``small``. Black pixels of the images in ``masks`` are ignored, as COLMAP does.

    Raises:
        InputError: the source does not decode, or a mask has another size than its image.
    """
    read = _from_video if source.kind == "video" else _from_images
    return read(source, small, masks, seed, progress)


def decode(source: Source, small: FrameStore, progress: Progress) -> None:
    """Fill ``small`` as `gather` does, and no more: for a run that has its tracks already."""
    for frame in progress(source, "read", len(source)):
        small.append(resize(frame.image, *network_size(frame.info)))


def work_scales(infos: tuple[FrameInfo, ...], side: int) -> np.ndarray:
    """Working pixels per original pixel: never above 1."""
    return np.array([min(1.0, side / max(info.width, info.height)) for info in infos])


def network_size(info: FrameInfo) -> tuple[int, int]:
    """Width and height of the dense maps of a frame, at its aspect."""
    shrink = min(1.0, np.sqrt(NETWORK_AREA / (info.width * info.height)))
    return max(8, round(info.width * shrink)), max(8, round(info.height * shrink))


def _from_video(source: Source, small: FrameStore, masks: Path | None, seed: int, progress: Progress) -> Evidence:
    scale = work_scales(source.infos, VIDEO_SIDE)

    def greys() -> Iterator[np.ndarray]:
        for number, frame in enumerate(progress(source, "read, track", len(source))):
            small.append(resize(frame.image, *network_size(frame.info)))
            yield _work_grey(frame, scale[number])

    return _of_sequence(greys(), source.infos, scale, small, masks, seed)


def _from_images(source: Source, small: FrameStore, masks: Path | None, seed: int, progress: Progress) -> Evidence:
    scale = work_scales(source.infos, PHOTO_SIDE)
    with FrameStore() as greys:
        for number, frame in enumerate(progress(source, "read", len(source))):
            greys.append(_work_grey(frame, scale[number]))
            small.append(resize(frame.image, *network_size(frame.info)))
        if len(greys) > matches.FEW_VIEWS and follow_each_other(greys):
            return _of_sequence(progress(greys, "track", len(greys)), source.infos, scale, small, masks, seed)
        tracks = matches.match_all(greys, seed=seed, progress=progress)
    tracks = _uncovered(_exact(tracks, source.infos, scale), masks, source.infos, scale)
    everything = np.arange(len(source))
    return Evidence(
        tracks=tracks, work_scale=scale, keyframes=everything, small=small, infos=source.infos, ordered=False
    )


def _of_sequence(
    greys: Iterable[np.ndarray],
    infos: tuple[FrameInfo, ...],
    scale: np.ndarray,
    small: FrameStore,
    masks: Path | None,
    seed: int,
) -> Evidence:
    """Frames that follow each other in time: tracked through all, solved at keyframes."""
    tracker, looked_at = KltTracker(), _loop_frames(len(infos))
    kept: dict[int, np.ndarray] = {}
    for number, grey in enumerate(greys):
        tracker.feed(grey)
        if number in looked_at:
            kept[number] = grey
    tracks, loops = _with_loops(tracker.finish(), kept, seed)
    tracks = _uncovered(_exact(tracks, infos, scale), masks, infos, scale)
    side = float(max(infos[0].width, infos[0].height) * scale[0])
    keyframes = np.union1d(select_keyframes(tracks, len(infos), side), loops)
    return Evidence(tracks=tracks, work_scale=scale, keyframes=keyframes, small=small, infos=infos, ordered=True)


def _loop_frames(frames: int) -> set[int]:
    """Frames of a video that are compared with one another, to find places seen again: 16, of long clips up to 64."""
    count = int(np.clip(frames / 60, 16, 64))
    return set(np.linspace(0, frames - 1, min(count, frames)).round().astype(int).tolist())


def _with_loops(tracks: Tracks, greys: dict[int, np.ndarray], seed: int) -> tuple[Tracks, np.ndarray]:
    """``tracks`` joined where far frames see the same points again, and the frames that did."""
    numbers = np.array(sorted(greys))
    here = np.isin(tracks.view.numpy(), numbers)
    place = np.searchsorted(numbers, tracks.view.numpy()[here])
    common = common_tracks(place, tracks.track.numpy()[here], len(numbers)).toarray()
    with ThreadPoolExecutor() as pool:
        features = list(pool.map(lambda number: matches.detect(greys[number], LOOP_POINTS), numbers))
        apart = [(a, b) for a, b in combinations(range(len(numbers)), 2) if common[a, b] < MIN_COMMON]
        found = pool.map(lambda pair: matches.match_pair(features, *pair, seed=seed), apart)
        sure = [m for m in found if m and len(m.index_a) >= LOOP_INLIERS and m.inlier_share >= LOOP_SHARE]
    if not sure:
        return tracks, np.zeros(0, int)
    places = [matches.Features.none() for _ in range(int(numbers[-1]) + 1)]
    for number, item in zip(numbers, features, strict=True):
        places[number] = item
    sure = [replace(m, a=int(numbers[m.a]), b=int(numbers[m.b])) for m in sure]
    return matches.merge(places, sure, tracks), np.unique([[m.a, m.b] for m in sure])


def _work_size(info: FrameInfo, scale: float) -> tuple[int, int]:
    return max(1, round(info.width * scale)), max(1, round(info.height * scale))


def _work_grey(frame: Frame, scale: float) -> np.ndarray:
    return resize(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), *_work_size(frame.info, scale))


def _exact(tracks: Tracks, infos: tuple[FrameInfo, ...], scale: np.ndarray) -> Tracks:
    """Tracks as if the working images had not been rounded to whole pixels: original pixels times ``scale`` exactly."""
    sizes = np.array([_work_size(info, factor) for info, factor in zip(infos, scale, strict=True)])
    exact = np.array([[info.width, info.height] for info in infos]) * scale[:, None]
    factor = torch.as_tensor((exact / sizes)[tracks.view.numpy()], dtype=torch.float32)
    return replace(tracks, uv=tracks.uv * factor)


def _uncovered(tracks: Tracks, masks: Path | None, infos: tuple[FrameInfo, ...], scale: np.ndarray) -> Tracks:
    """Tracks without the observations on black pixels of the masks; frames without a mask keep all."""
    if masks is None:
        return tracks
    if not masks.is_dir():
        raise InputError(f"{masks} is no folder of masks: check --masks")
    keep, rows = np.ones(len(tracks.view), bool), rows_of(tracks.view.numpy(), len(infos))
    found = 0
    for number, info in enumerate(infos):
        mask = mask_of(masks, info, number)
        if mask is None:
            continue
        found += 1
        row = rows[number]
        column, line = (tracks.uv.numpy()[row] / scale[number]).astype(int).T
        keep[row] = mask[line.clip(0, info.height - 1), column.clip(0, info.width - 1)]
    if not found:
        raise InputError(f"{masks} holds no mask for any frame: name them like the images, or 000000.png for a video")
    return tracks.select(torch.as_tensor(keep))


def mask_of(masks: Path, info: FrameInfo, number: int) -> np.ndarray | None:
    """Where a frame may be used (bool H W), or None without a mask: ``<image>.png``, ``<stem>.png`` or ``000000.png``.

    Raises:
        InputError: the mask has another size than its image.
    """
    name = Path(info.file)
    for candidate in (f"{name.name}.png", f"{name.stem}.png", f"{number:06d}.png"):
        path = masks / candidate
        if path.is_file():
            mask = np.asarray(read_image(path).any(axis=2))
            if mask.shape != (info.height, info.width):
                raise InputError(f"{path} is {mask.shape[1]}x{mask.shape[0]}, its image {info.width}x{info.height}")
            return mask
    return None
