"""One pass over the input: tracks through all frames, which frames to solve with, small images for later."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import TracebackType

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
SHARP_SIDE = 1920
"""Long side at which tracks of photos are sharpened, at most: a tenth more accurate than at 1280 (measured)."""
NETWORK_AREA = 320 * 240
"""Pixels of the dense maps, at most; measured: three times the side costs nine times the time and gains nothing."""


class Pictures:
    """The frames of a source as later stages look at them; gone when closed.

    Greys are kept of photos; of a video they are decoded anew, since an hour of them fills 30 GiB.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.small, self.kept = FrameStore(), FrameStore()
        video = source.kind == "video"
        self.work_scale = work_scales(source.infos, VIDEO_SIDE if video else PHOTO_SIDE)
        """N, working pixels per original pixel."""
        self._work_size = _sizes(source.infos, self.work_scale)
        self._grey_size = _sizes(source.infos, work_scales(source.infos, VIDEO_SIDE if video else SHARP_SIDE))
        self._large = FrameStore() if (self._grey_size != self._work_size).any() else self.kept

    def decode(self, progress: Progress, stage: str = "read") -> Iterator[np.ndarray]:
        """Decode everything once, filling ``small`` (RGB at network size); pass on the greys at working size.

        Those of photos are put into ``kept``, where they can be read at random, and larger ones aside for `greys`.
        """
        for number, frame in enumerate(progress(self.source, stage, len(self.source))):
            self.small.append(resize(frame.image, *network_size(frame.info)))
            grey = _grey(frame, self._work_size[number])
            if self.source.kind == "images":
                self.kept.append(grey)
            if self._large is not self.kept:
                self._large.append(_grey(frame, self._grey_size[number]))
            yield grey

    @property
    def greys(self) -> Iterable[np.ndarray]:
        """What tracks are sharpened with, in order; after `decode`."""
        if self.source.kind == "images":
            return self._large
        return (_grey(frame, self._grey_size[number]) for number, frame in enumerate(self.source))

    @property
    def grey_scale(self) -> np.ndarray:
        """N 2, pixels of `greys` per original pixel, exactly: their sizes are whole."""
        return self._grey_size / _originals(self.source.infos)

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in (self.small, self.kept, self._large):
            store.__exit__(kind, error, trace)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the images say in 2D."""

    tracks: Tracks
    """Pixels of the working size."""
    keyframes: np.ndarray
    ordered: bool
    """The frames follow each other in time: a video, or a folder that holds one."""


def gather(pictures: Pictures, masks: Path | None, seed: int, progress: Progress) -> Evidence:
    """Decode ``pictures`` and track. Black pixels of the images in ``masks`` are ignored, as COLMAP does.

    Raises:
        InputError: the source does not decode, or a mask has another size than its image.
    """
    if pictures.source.kind == "video":
        return _of_sequence(pictures.decode(progress, "read, track"), pictures, masks, seed)
    for _ in pictures.decode(progress):
        pass
    photos = pictures.kept
    if len(photos) > matches.FEW_VIEWS and follow_each_other(photos):
        return _of_sequence(progress(photos, "track", len(photos)), pictures, masks, seed)
    tracks = matches.match_all(photos, seed=seed, progress=progress)
    return Evidence(
        tracks=_in_place(tracks, pictures, masks),
        keyframes=np.arange(len(photos)),
        ordered=False,
    )


def work_scales(infos: tuple[FrameInfo, ...], side: int) -> np.ndarray:
    """Working pixels per original pixel: never above 1."""
    return np.array([min(1.0, side / max(info.width, info.height)) for info in infos])


def network_size(info: FrameInfo) -> tuple[int, int]:
    """Width and height of the dense maps of a frame, at its aspect."""
    shrink = min(1.0, np.sqrt(NETWORK_AREA / (info.width * info.height)))
    return max(8, round(info.width * shrink)), max(8, round(info.height * shrink))


def network_scale(infos: Sequence[FrameInfo], work_scale: np.ndarray) -> np.ndarray:
    """N 2, network pixels per working pixel."""
    network = np.array([network_size(info) for info in infos])
    return network / (_originals(infos) * work_scale[:, None])


def _of_sequence(greys: Iterable[np.ndarray], pictures: Pictures, masks: Path | None, seed: int) -> Evidence:
    """Frames that follow each other in time: tracked through all, solved at keyframes."""
    infos, scale = pictures.source.infos, pictures.work_scale
    tracker, looked_at = KltTracker(), _loop_frames(len(infos))
    kept: dict[int, np.ndarray] = {}
    for number, grey in enumerate(greys):
        tracker.feed(grey)
        if number in looked_at:
            kept[number] = grey
    tracks, loops = _with_loops(tracker.finish(), kept, seed)
    tracks = _in_place(tracks, pictures, masks)
    side = float(max(infos[0].width, infos[0].height) * scale[0])
    keyframes = np.union1d(select_keyframes(tracks, len(infos), side), loops)
    return Evidence(tracks=tracks, keyframes=keyframes, ordered=True)


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
    with ThreadPoolExecutor(cv2.getNumThreads()) as pool:
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


def _originals(infos: Sequence[FrameInfo]) -> np.ndarray:
    """N 2, width and height."""
    return np.array([[info.width, info.height] for info in infos])


def _sizes(infos: Sequence[FrameInfo], scale: np.ndarray) -> np.ndarray:
    """N 2, width and height in whole pixels."""
    return np.maximum(np.round(_originals(infos) * scale[:, None]).astype(int), 1)


def _grey(frame: Frame, size: np.ndarray) -> np.ndarray:
    return resize(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), *size.tolist())


def _in_place(tracks: Tracks, pictures: Pictures, masks: Path | None) -> Tracks:
    """Tracks in original pixels times ``work_scale``, without those on masks."""
    infos, scale = pictures.source.infos, pictures.work_scale
    return _uncovered(_as_if_exact(tracks, infos, scale), masks, infos, scale)


def _as_if_exact(tracks: Tracks, infos: tuple[FrameInfo, ...], scale: np.ndarray) -> Tracks:
    """Tracks as if the working images had not been rounded to whole pixels."""
    exact = _originals(infos) * scale[:, None] / _sizes(infos, scale)
    factor = torch.as_tensor(exact[tracks.view.numpy()], dtype=torch.float32)
    return replace(tracks, uv=tracks.uv * factor)


def _uncovered(tracks: Tracks, masks: Path | None, infos: tuple[FrameInfo, ...], scale: np.ndarray) -> Tracks:
    """Tracks without the observations on black pixels of the masks; frames without a mask keep all."""
    if masks is None:
        return tracks
    keep, rows = np.ones(len(tracks.view), bool), rows_of(tracks.view.numpy(), len(infos))
    for number, info in enumerate(infos):
        mask = mask_of(masks, info, number)
        if mask is None:
            continue
        row = rows[number]
        column, line = (tracks.uv.numpy()[row] / scale[number]).astype(int).T
        keep[row] = mask[line.clip(0, info.height - 1), column.clip(0, info.width - 1)]
    return tracks.select(torch.as_tensor(keep))


def check_masks(masks: Path, infos: Sequence[FrameInfo]) -> None:
    """Fail before any work is done.

    Raises:
        InputError: no such folder, or it holds no mask of any frame.
    """
    if not masks.is_dir():
        raise InputError(f"{masks} is no folder of masks: check --masks")
    if not any(_mask_path(masks, info, number) for number, info in enumerate(infos)):
        raise InputError(f"{masks} holds no mask for any frame: name them like the images, or 000000.png for a video")


def _mask_path(masks: Path, info: FrameInfo, number: int) -> Path | None:
    name = Path(info.file)
    candidates = (masks / f"{stem}.png" for stem in (name.name, name.stem, f"{number:06d}"))
    return next((path for path in candidates if path.is_file()), None)


def mask_of(masks: Path, info: FrameInfo, number: int) -> np.ndarray | None:
    """Where a frame may be used (bool H W), or None without a mask: ``<image>.png``, ``<stem>.png`` or ``000000.png``.

    Raises:
        InputError: the mask has another size than its image.
    """
    path = _mask_path(masks, info, number)
    if path is None:
        return None
    mask = np.asarray(read_image(path).any(axis=2))
    if mask.shape != (info.height, info.width):
        raise InputError(f"{path} is {mask.shape[1]}x{mask.shape[0]}, its image {info.width}x{info.height}")
    return mask
