"""Videos of every kind that phones and tools make: exact count, time, orientation and content of each frame."""

import json
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from unproject.errors import InputError
from unproject.io import video
from unproject.io.video import decode, index_video

WIDTH, HEIGHT = 96, 64


def numbered(count: int, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    """Frames that bear their number as eight bars, and a red corner at the lower left."""
    frames = []
    for number in range(count):
        image = np.full((height, width, 3), 128, np.uint8)
        for bit in range(8):
            left, right = bit * width // 8, (bit + 1) * width // 8
            image[: height // 2, left:right] = 255 if number >> bit & 1 else 0
        image[height // 2 :, : width // 4] = (220, 20, 20)
        frames.append(image)
    return frames


def number_of(image: np.ndarray) -> int:
    height, width = image.shape[:2]
    middles = [(2 * bit + 1) * width // 16 for bit in range(8)]
    return sum(int(image[height // 4, x].mean() > 128) << bit for bit, x in enumerate(middles))


def numbers(path: Path, wanted: list[int] | None = None) -> list[int]:
    index = index_video(path)
    return [number_of(image) for image in decode(index, range(len(index.times_s)) if wanted is None else wanted)]


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("h264.mp4", "libx264", "yuv420p"),
        ("h264.mkv", "libx264", "yuv420p"),
        ("h264.ts", "libx264", "yuv420p"),
        ("reordered.avi", "libx264", "yuv420p"),
        ("mpeg4.avi", "mpeg4", "yuv420p"),
        ("vp9.webm", "libvpx-vp9", "yuv420p"),
        ("ten_bits.mp4", "libx265", "yuv420p10le"),
        ("ten_bits_h264.mkv", "libx264", "yuv422p10le"),
        ("pictures.mov", "mjpeg", "yuvj420p"),
        ("moving.gif", "gif", "rgb8"),
        ("raw.h264", "libx264", "yuv420p"),
    ],
)
def test_every_frame_of_every_container(tmp_path, write_video, name, codec, pixels):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_video(tmp_path / name, numbered(40), codec=codec, pixels=pixels, options=options)
    index = index_video(path)
    assert (index.width, index.height) == (WIDTH, HEIGHT)
    # GIF counts hundredths, Matroska thousandths of a second; a raw stream is taken at 25 frames per second
    rate = 25 if name == "raw.h264" else 30
    np.testing.assert_allclose(index.times_s, np.arange(40) / rate, atol=0.0051)
    assert numbers(path) == list(range(40))


def test_variable_rate_keeps_each_time_stamp(tmp_path, write_video):
    gaps = np.random.default_rng(1).integers(300, 9000, 59)
    pts = [5000, *(5000 + np.cumsum(gaps)).tolist()]
    path = write_video(tmp_path / "vfr.mp4", numbered(60), pts=pts, time_base=Fraction(1, 90000))
    index = index_video(path)
    np.testing.assert_allclose(index.times_s, (np.array(pts) - 5000) / 90000, atol=1e-9)
    assert numbers(path) == list(range(60))
    assert any("variable" in note for note in index.notes)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_agrees_with_opencv(tmp_path, write_video, rotation):
    path = write_video(tmp_path / "turned.mp4", numbered(3), rotation=rotation)
    ok, expected = cv2.VideoCapture(str(path)).read()
    assert ok
    index = index_video(path)
    image = next(decode(index, [0]))
    assert image.shape == (index.height, index.width, 3)
    assert image.shape == ((WIDTH, HEIGHT, 3) if rotation % 180 else (HEIGHT, WIDTH, 3))
    np.testing.assert_allclose(image, expected[..., ::-1], atol=3)


@pytest.mark.parametrize(
    ("matrix", "twin"),
    [
        ([[-1, 0], [0, 1]], lambda image: image[:, ::-1]),
        ([[1, 0], [0, -1]], lambda image: image[::-1]),
        ([[0, 1], [1, 0]], lambda image: image.swapaxes(0, 1)),
        ([[0, -1], [-1, 0]], lambda image: image[::-1, ::-1].swapaxes(0, 1)),
    ],
)
def test_mirrors_of_selfie_cameras(tmp_path, write_video, matrix, twin):
    plain = index_video(write_video(tmp_path / "plain.mp4", numbered(1)))
    width, height = (HEIGHT, WIDTH) if matrix[0][0] == 0 else (WIDTH, HEIGHT)
    mirrored = replace(plain, display_matrix=np.array(matrix), width=width, height=height)
    np.testing.assert_array_equal(next(decode(mirrored, [0])), twin(next(decode(plain, [0]))))


def test_ten_bits_and_odd_sizes_keep_their_values(tmp_path, write_video):
    ramp = np.broadcast_to(np.linspace(16, 235, 63).round().astype(np.uint8)[None, :, None], (47, 63, 3))
    for name, codec, pixels in [("odd.mkv", "ffv1", "yuv420p"), ("deep.mkv", "ffv1", "yuv444p10le")]:
        path = write_video(tmp_path / name, [ramp.copy()], codec=codec, pixels=pixels)
        image = next(decode(index_video(path), [0]))
        assert image.shape == ramp.shape
        np.testing.assert_allclose(image.astype(int), ramp, atol=3)


def test_non_square_pixels_are_stretched_as_players_do(tmp_path, write_video):
    path = write_video(tmp_path / "wide.mp4", numbered(4), aspect=Fraction(4, 3))
    index = index_video(path)
    assert (index.width, index.height) == (128, HEIGHT)
    assert numbers(path) == [0, 1, 2, 3]
    assert any("not square" in note for note in index.notes)


def test_edit_list_hides_what_was_trimmed(tmp_path, write_video):
    """A phone's lossless trim keeps the frames before the cut in the file and asks players to skip them."""
    whole, trimmed = write_video(tmp_path / "whole.mp4", numbered(30), options={"bf": "0"}), tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w", options={"avoid_negative_ts": "disabled"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts -= 10 * packet.duration
                packet.dts -= 10 * packet.duration
                packet.stream = stream
                target.mux(packet)
    assert numbers(trimmed) == list(range(10, 30))


def test_sparse_wishes_decode_few_groups_and_give_the_same_frames(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "long.mp4", numbered(200), options={"g": "10", "bf": "2"})
    wanted = [0, 9, 10, 57, 58, 121, 199]
    assert numbers(path, wanted) == wanted
    index, decoded, every_frame = index_video(path), [], video._frames
    monkeypatch.setattr(video, "_frames", lambda *given: (decoded.append(f) or f for f in every_frame(*given)))
    assert [number_of(image) for image in decode(index, wanted)] == wanted
    assert len(decoded) <= 60


def test_one_frame_in_memory_at_a_time(tmp_path, write_video):
    index = index_video(write_video(tmp_path / "a.mp4", numbered(20)))
    before = None
    for image in decode(index, range(20)):
        assert before is None or before() is None
        before = weakref.ref(image.base if image.base is not None else image)
        del image


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4", "cut.ts", "cut.webm"])
def test_truncated_video_gives_what_is_there_and_says_so(tmp_path, write_video, name):
    noise = np.random.default_rng(0).integers(-60, 60, (HEIGHT, WIDTH, 1))
    frames = [np.clip(f.astype(int) + np.roll(noise, i), 0, 255).astype(np.uint8) for i, f in enumerate(numbered(60))]
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    # faststart: the index comes first, as on the web; without it a cut MP4 cannot be read at all
    path = write_video(tmp_path / name, frames, codec=codec, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    index = index_video(path)
    assert 10 < len(index.times_s) < 50
    assert sum(1 for _ in decode(index, range(len(index.times_s)))) == len(index.times_s)
    if name != "cut.ts":  # a transport stream has no header that knows better
        assert "cut short" in index.damage and index.damage in index.notes


def test_cut_without_its_index_is_refused_in_one_line(tmp_path, write_video):
    path = write_video(tmp_path / "cut.mp4", numbered(60))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.mp4 cannot be read as video .*: record or copy it again"):
        index_video(path)


def test_hole_in_the_middle_is_never_silent(tmp_path, write_video):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(30)]
    for name in ("hole.mkv", "hole.mp4"):
        path = write_video(tmp_path / name, frames, options={"crf": "10"})
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 20000] = bytes(20000)
        path.write_bytes(data)
        index = index_video(path)
        if len(index.times_s) < 30:  # Matroska stops there, or finds its place again and leaves a gap in the times
            assert any("damaged" in note or "variable" in note for note in index.notes)
            assert sum(1 for _ in decode(index, range(len(index.times_s)))) == len(index.times_s)
        else:  # MP4 gives packets of nonsense
            with pytest.raises(InputError, match=r"frame \d+ at .* cannot be decoded: stop before it with --end"):
                list(decode(index, range(30)))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_any_damage_is_our_error_or_keeps_the_promised_count(tmp_path, write_video, name):
    rng = np.random.default_rng(0)
    path = write_video(tmp_path / name, numbered(12))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(15):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 6)] = rng.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        try:
            index = index_video(path)
            assert sum(1 for _ in decode(index, range(len(index.times_s)))) == len(index.times_s)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"\0" * 4096, b"hello\n" * 100])
def test_what_is_no_video_is_refused(tmp_path, content):
    for name in ("junk.mp4", "notes.txt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            index_video(tmp_path / name)


def test_sound_with_a_cover_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mp3", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), format="s16", layout="stereo")
        sound.sample_rate = 44100
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    with pytest.raises(InputError, match="no video and no image"):
        index_video(path)


@pytest.mark.data
def test_real_clips_decode_to_the_stated_count(shared_data):
    for clip in json.loads((shared_data / "clips" / "clips.json").read_text()):
        index = index_video(shared_data / "clips" / Path(clip["file"]).name)
        assert (len(index.times_s), index.width, index.height) == (clip["frames"], clip["width"], clip["height"])
