"""Video files through PyAV: every frame's own time stamp, upright square pixels, one frame in memory at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from unproject.errors import InputError
from unproject.io.images import resize

# Their index lists true sync samples, so a group of pictures that holds no wanted frame need not be decoded.
_SKIPPABLE = ("mov", "matroska")
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True, kw_only=True)
class VideoIndex:
    """All frames of a video, known without decoding them."""

    file: str
    width: int
    height: int
    """As a player shows it: upright, square pixels."""
    times_s: np.ndarray
    """Seconds since the first frame, in order of showing."""
    notes: tuple[str, ...]
    damage: str | None
    """What is said of a file that is damaged or cut short, among the notes too; None where it is whole, or where
    nothing tells."""
    pts: np.ndarray | None
    """Time stamps as the container writes them; None where it has no usable ones and frames are counted instead."""
    groups: np.ndarray | None
    """First and last group of pictures that has to be decoded for each frame [N, 2]; None where all must be."""
    stored_size: tuple[int, int]
    display_matrix: np.ndarray
    """Display axes from stored axes, 2x2 of 0 and +-1."""


def index_video(path: str | Path) -> VideoIndex:
    """Read every packet's header for exact frame count and times; only the first picture is decoded.

    A video that ends early or is damaged is decoded once through, and counts as what could be read, with a note.
    Raises `InputError` where no frame can be read.
    """
    scan = _scan(path)
    first = _first_frame(path)
    pts, groups, damage = scan.pts, scan.groups, None
    if pts is None:
        times = np.arange(_count(path)) / scan.rate
        notes = [f"the file has no usable time stamps: taken as {scan.rate:.4g} frames per second"]
    else:
        readable = np.isin(pts, _decodable(path)) if scan.damaged else pts >= first.pts
        if not readable.any():
            raise InputError(f"{path} is damaged, none of its frames can be decoded: record or copy it again")
        pts, groups = pts[readable], None if groups is None else groups[readable]
        times = (pts - pts[0]) * scan.time_base
        lost = int((~readable).sum())
        notes = [f"the first {lost} frames refer to pictures before a cut and cannot be decoded"] if lost else []
        if scan.damaged:
            damage = f"the file is damaged or cut short: {len(times)} frames can be read, up to {times[-1]:.2f} s"
            notes = [damage]
    matrix, width, height, look_notes = _look(first, scan.pixel_aspect)
    return VideoIndex(
        file=str(path),
        width=width,
        height=height,
        times_s=times,
        notes=(_rate_note(times), *look_notes, *notes),
        damage=damage,
        pts=pts,
        groups=groups,
        stored_size=(first.width, first.height),
        display_matrix=matrix,
    )


def decode(index: VideoIndex, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Stream the wanted frames (ascending numbers) as upright uint8 RGB [H, W, 3].

    Raises `InputError` at a frame that cannot be decoded: none is ever left out in silence.
    """
    pending = iter(wanted)
    number = next(pending, None)
    if number is None:
        return
    for position, frame in _positions(index, wanted):
        if position > number:
            break
        if position == number:
            yield _upright(frame, index)
            number = next(pending, None)
            if number is None:
                return
    time_s = index.times_s[number]
    raise InputError(
        f"{index.file}: frame {number} at {time_s:.3f} s cannot be decoded: "
        f"stop before it with --end {time_s:.3f}, or re-encode the file"
    )


@dataclass(frozen=True)
class _Scan:
    pts: np.ndarray | None
    groups: np.ndarray | None
    time_base: float
    rate: float
    pixel_aspect: float
    damaged: bool


def _scan(path: str | Path) -> _Scan:
    """Demux the whole file: time stamps, groups of pictures, and signs that it was cut short."""
    rows, damaged = [], False
    with _opened(path) as (container, stream):
        names = container.format.name
        time_base, rate = float(stream.time_base or 1), float(stream.average_rate or stream.guessed_rate or 25)
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
        size = Path(path).stat().st_size
        damaged |= any(entry.pos + entry.size > size for entry in stream.index_entries)
        key_pts, group = 0, -1
        try:
            for packet in _packets(container, stream):
                damaged |= packet.is_corrupt
                if packet.is_keyframe or group < 0:
                    group, key_pts = group + 1, packet.pts
                if not (packet.is_discard or packet.is_corrupt):
                    leading = packet.pts is not None and key_pts is not None and packet.pts < key_pts
                    rows.append((packet.pts, max(group - leading, 0), group))
        except av.error.InvalidDataError:
            damaged = True  # what came before can still be read
        stated_s = (container.duration or 0) / av.time_base if "matroska" in names else 0
    # AVI states decoding order only, raw streams state nothing, and two frames at one time cannot be told apart.
    stamps = {row[0] for row in rows}
    usable = "avi" not in names and None not in stamps and len(stamps) == len(rows)
    if not (usable and rows):
        return _Scan(None, None, time_base, rate, pixel_aspect, damaged)
    table = np.array(sorted(rows), dtype=np.int64)
    spoken_s = (table[-1, 0] - table[0, 0]) * time_base + 1 / rate
    damaged |= bool(stated_s - spoken_s > max(1.5 / rate, 0.02 * stated_s))
    skippable = any(name in names for name in _SKIPPABLE)
    return _Scan(table[:, 0], table[:, 1:] if skippable else None, time_base, rate, pixel_aspect, damaged)


def _count(path: str | Path) -> int:
    with _opened(path) as (container, stream):
        return sum(1 for _ in _frames(container, stream))


def _decodable(path: str | Path) -> list[int]:
    """Time stamps of all frames that come out when the whole file is decoded."""
    with _opened(path) as (container, stream):
        return [frame.pts for frame in _frames(container, stream) if frame.pts is not None]


def _first_frame(path: str | Path) -> VideoFrame:
    with _opened(path) as (container, stream):
        for frame in _frames(container, stream):
            return frame
    raise InputError(f"{path} holds no frame that can be decoded: record or copy it again")


def _positions(index: VideoIndex, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames with their numbers, from the groups of pictures that the wanted ones need."""
    needed = None
    if index.groups is not None:
        needed = {group for first, last in index.groups[list(wanted)] for group in range(first, last + 1)}
    number_of = None if index.pts is None else {pts: number for number, pts in enumerate(index.pts.tolist())}
    with _opened(index.file) as (container, stream):
        for count, frame in enumerate(_frames(container, stream, needed)):
            if number_of is None:
                yield count, frame
            elif frame.pts in number_of:
                yield number_of[frame.pts], frame


def _frames(container: InputContainer, stream: VideoStream, needed: set[int] | None = None) -> Iterator[VideoFrame]:
    """Decode the needed groups of pictures (all by default); a packet that cannot be decoded gives no frame."""
    group, active = -1, True
    with suppress(av.error.InvalidDataError):  # the file ends here; what was given to the decoder still comes out
        for packet in _packets(container, stream):
            if packet.is_keyframe or group < 0:
                group += 1
                was_active, active = active, needed is None or group in needed
                if was_active and not active and group > 0:
                    yield from stream.codec_context.decode(None)
                    stream.codec_context.flush_buffers()
            if active and not packet.is_corrupt:
                with suppress(av.error.InvalidDataError):  # the caller misses the frame by its number and says so
                    yield from packet.decode()
    if active:
        yield from stream.codec_context.decode(None)


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    for packet in container.demux(stream):
        if packet.size:
            yield packet


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams or container.format.name == "tty":  # FFmpeg shows text files as pictures of a terminal
                raise InputError(f"{path} is no video and no image: give a video, image files or a folder of images")
            if streams[0].codec_context is None:
                raise InputError(f"{path} is coded in a way that FFmpeg does not know: re-encode it as H.264")
            streams[0].thread_type = "AUTO"
            streams[
                0
            ].codec_context.thread_count = cv2.getNumThreads()  # a worker with one core decodes with one thread
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise InputError(f"{path} cannot be read as video ({error.strerror}): record or copy it again") from error


def _look(frame: VideoFrame, pixel_aspect: float) -> tuple[np.ndarray, int, int, list[str]]:
    """Display matrix, size as shown, and what is to be said of both."""
    matrix, notes = np.eye(2, dtype=int), []
    if "DISPLAYMATRIX" in frame.side_data:
        # FFmpeg stores the transpose in 16.16 fixed point; the third row and column are no part of the turn.
        raw = np.frombuffer(cast(Any, frame.side_data["DISPLAYMATRIX"]), np.int32).reshape(3, 3)[:2, :2].T
        turn = np.round(raw / max(np.abs(raw).max(), 1)).astype(int)
        if np.abs(turn).sum() == 2 and abs(np.linalg.det(turn)) == 1:
            matrix = turn
        else:
            notes.append(f"the file asks for a turn by {frame.rotation} degrees, no quarter turn: left as stored")
    if (matrix != np.eye(2)).any():
        notes.append("turned upright as the file asks")
    width, height = max(1, round(frame.width * pixel_aspect)), frame.height
    if width != frame.width:
        notes.append(f"pixels are not square: stretched from {frame.width}x{frame.height} to {width}x{height}")
    if frame.interlaced_frame:
        notes.append("interlaced: moving edges are combed, `ffmpeg -i in -vf bwdif out` mends that")
    if curve := _HDR.get(int(frame.color_trc)):
        notes.append(f"HDR video ({curve}): shown without tone mapping, colours look pale")
    return matrix, *((height, width) if matrix[0, 0] == 0 else (width, height)), notes


def _upright(frame: VideoFrame, index: VideoIndex) -> np.ndarray:
    if (frame.width, frame.height) != index.stored_size:
        raise InputError(
            f"{index.file} changes its size from {index.stored_size[0]}x{index.stored_size[1]} to "
            f"{frame.width}x{frame.height} at {frame.time:.3f} s: split it there"
        )
    transposed = index.display_matrix[0, 0] == 0
    size = (index.height, index.width) if transposed else (index.width, index.height)
    image = resize(frame.to_ndarray(format="rgb24"), *size)
    image = image.swapaxes(0, 1) if transposed else image
    flip_x, flip_y = (index.display_matrix.sum(axis=1) < 0).tolist()
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _rate_note(times_s: np.ndarray) -> str:
    if len(times_s) < 2:
        return "a single frame"
    gaps = np.diff(times_s)
    text = f"{len(times_s)} frames over {times_s[-1]:.2f} s, {1 / gaps.mean():.4g} per second"
    # Matroska rounds to milliseconds: a step of one is no variation.
    if np.ptp(gaps) > 0.0021:
        text += f", variable: {1000 * gaps.min():.0f} to {1000 * gaps.max():.0f} ms apart"
    return text
