"""The list of videos: the same from every form in which it can be given, and no entry that hurts."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unproject.errors import InputError, UsageError
from unproject.labelling.folder import units_of
from unproject.labelling.videos import Video, find_videos, videos_per_unit

NAMES = ["1.mp4", "2.MOV", "10.mkv", "sub/3.webm"]


@pytest.fixture
def folder(tmp_path):
    for name in [*NAMES, "notes.txt", "1.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(*given):
    return [video.name for video in find_videos(given)[0]]


def test_a_folder_is_searched_with_all_that_is_below_in_natural_order(folder):
    assert names(folder) == NAMES
    assert [video.path for video in find_videos([folder])[0]] == [str(folder / name) for name in NAMES]


def test_lists_name_their_videos_from_where_they_lie(folder, monkeypatch):
    (folder / "list.txt").write_text("\n".join([*reversed(NAMES), "", "gone.mp4"]))
    rows = "".join(f'x,"{name}"\n' for name in [*NAMES, "gone.mp4"])
    (folder / "list.csv").write_text("title,path\n" + rows)
    (folder / "bare.csv").write_text("".join(f"{name},0\n" for name in [*NAMES, "gone.mp4"]))
    lines = [json.dumps({"video": name, "n": 1}) for name in NAMES] + [json.dumps("gone.mp4"), ""]
    (folder / "list.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(folder.parent)
    for kind in ("list.txt", "list.csv", "bare.csv", "list.jsonl"):
        videos, notes = find_videos([folder / kind])
        assert [video.name for video in videos] == [*NAMES[:3], "gone.mp4", NAMES[3]] and not notes
        assert [video.path for video in videos] == [str(folder / video.name) for video in videos]


def test_files_and_globs_keep_what_was_written(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names("10.mkv", "1.mp4") == ["1.mp4", "10.mkv"]
    assert names("**/*") == NAMES
    assert names("sub/*.webm") == ["sub/3.webm"]
    (folder / "a[1].mp4").touch()
    assert names("a[1].mp4") == ["a[1].mp4"], "a file that is there is no pattern"
    assert names("gone.mp4") == ["gone.mp4"], "whether it is there is found out when it is worked on"


def test_a_video_that_is_given_twice_is_taken_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "list.txt").write_text("1.mp4\n./1.mp4\nsub/../1.mp4\n2.MOV\n")
    videos, notes = find_videos(["list.txt", "2.MOV"])
    assert [video.name for video in videos] == ["1.mp4", "2.MOV"] and "3 paths" in notes[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", '{"size": 3}\n'), ("a.jsonl", "{\n"), ("a.jsonl", "[" * 100_000), ("a.csv", 'a\n"' + "x" * 200_000)],
)
def test_what_is_no_list_is_refused_with_its_name(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name} is no list of videos .*: give one path per line"):
        find_videos([tmp_path / name])


def test_what_holds_no_video_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    for nothing in ([tmp_path], [tmp_path / "empty.txt"], [tmp_path / "*.mp4"]):
        with pytest.raises(UsageError, match=r"no video in .*\.mp4"):
            find_videos(nothing)
    with pytest.raises(UsageError, match="give videos"):
        find_videos([])
    for absent in (tmp_path / "gone", tmp_path / "gone.txt"):
        with pytest.raises(InputError, match=r"gone.*(is not there|cannot be read)"):
            find_videos([absent])


def test_hostile_entries_are_names_of_files_and_nothing_else(tmp_path):
    entries = ["http://example.org/a.mp4", "concat:a.mp4|b.mp4", "-i", "../../../etc/passwd", "~/a.mp4", "a\0b.mp4"]
    entries += ["\x1b[2Jbell\a.mp4", "tab\tspace .mp4", "ü\u202egnp.mp4"]
    (tmp_path / "list.txt").write_bytes("\n".join(entries).encode() + b"\n\xff\xfe.mp4\n")
    videos, _ = find_videos([tmp_path / "list.txt"])
    assert len(videos) == len(entries) + 1
    for video in videos:
        assert video.name.isprintable() and video.name.encode() and os.path.isabs(video.path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_with_any_name_is_found_and_has_a_printable_one(tmp_path):
    for name in (b"new\nline.mp4", b"\xff.mp4", b"*.mp4"):
        (tmp_path / os.fsdecode(name)).touch()
    videos, _ = find_videos([tmp_path])
    assert [video.name for video in videos] == ["*.mp4", r"\udcff.mp4", r"new\nline.mp4"]
    assert all(os.path.exists(video.path) for video in videos)


def test_numbers_of_any_length_are_in_order(tmp_path):
    numbers = ["2", "010", "9" * 5000, "1" + "0" * 5000]
    (tmp_path / "list.txt").write_text("\n".join(f"{number}.mp4" for number in reversed(numbers)))
    assert names(tmp_path / "list.txt") == [f"{number}.mp4" for number in numbers]


MEASURE = """
import sys, tracemalloc
from unproject.labelling.videos import find_videos
find_videos([sys.argv[1]])  # what the first call takes is not the videos'
tracemalloc.start()
videos, _ = find_videos([sys.argv[1]])
print(tracemalloc.get_traced_memory()[1] / len(videos))
"""


def test_a_list_takes_little_memory_of_each_video(tmp_path):
    """Measured 400 bytes on the way, 240 in the end; with a tuple for each part of a name it was 1830.

    In a process of its own: threads that other tests leave behind take memory, too.
    """
    numbers = range(1000)
    (tmp_path / "list.txt").write_text("".join(f"part-{n % 7:03}/of-{n:05}/video_{n:07}_1.mp4\n" for n in numbers))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "list.txt")]
    bytes_each = float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert 100 < bytes_each < 500 + 2 * len(str(tmp_path))


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0/"), min_size=1, max_size=9), min_size=1)
)
def test_the_order_does_not_depend_on_that_of_the_list(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("lists")
    texts = [f"{entry}.mp4" for entry in entries]
    for name, lines in (("a.txt", texts), ("b.txt", texts[::-1])):
        (folder / name).write_text("\n".join(lines))
    assert find_videos([folder / "a.txt"])[0] == find_videos([folder / "b.txt"])[0]


@pytest.mark.parametrize(("count", "each"), [(1, 1), (999, 1), (1999, 1), (10_000, 10), (10**8, 50)])
def test_units_grow_with_the_library_and_stay_small(count, each):
    assert videos_per_unit(count) == each


def test_units_are_the_list_cut():
    videos = [Video(name=str(number), path=f"/{number}") for number in range(7)]
    units = units_of(videos, 3)
    assert [len(unit.videos) for unit in units] == [3, 3, 1] and [unit.number for unit in units] == [0, 1, 2]
    assert [video for unit in units for video in unit.videos] == videos
