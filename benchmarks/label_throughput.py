"""Clips and frames per second of `unproject label`, against the bare calls that it makes.

    python -m benchmarks.label_throughput

First every call of OpenCV is written down with its arguments while the videos are labelled. "bare" then makes the same
calls on the same pictures in a plain loop, after a plain loop of PyAV that decodes and converts every frame: what the
work costs where nobody asks for anything else. "of bare" is the share of a core's time that these calls are, so that 1
is a labeller which costs nothing of its own. Start of the processes is left out.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2

from benchmarks.clips import data_root
from benchmarks.run import machine
from benchmarks.table import head, line
from unproject.io.shards import LabelledClip
from unproject.labelling.clips import labelled_clips
from unproject.labelling.library import log_lines
from unproject.labelling.run import label
from unproject.labelling.unit import one_thread
from unproject.labelling.videos import Video, find_videos
from unproject.labelling.wishes import Wishes
from unproject.teachers.base import Teacher
from unproject.teachers.flow import DisTeacher
from unproject.teachers.tracks import KltTeacher

TEACHERS: tuple[Teacher, ...] = (DisTeacher(), KltTeacher())
CALLS = (
    "calcOpticalFlowPyrLK", "cornerMinEigenVal", "cvtColor", "dilate", "GaussianBlur", "Laplacian",
    "findFundamentalMat", "findHomography", "imencode", "remap", "resize",
)  # fmt: skip
"""Of OpenCV, that anything below labelling makes; those of DIS come on top."""

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@contextmanager
def written_down(calls: list[Call]) -> Iterator[None]:
    """Every call of `CALLS` goes through and into the list."""

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append((function, arguments, named))
            return function(*arguments, **named)

        return call

    create = cv2.DISOpticalFlow_create

    def engine(*arguments: Any) -> Any:
        real = create(*arguments)
        return SimpleNamespace(calc=recorded(real.calc), setFinestScale=real.setFinestScale)

    before = {name: getattr(cv2, name) for name in CALLS}
    for name, function in before.items():
        setattr(cv2, name, recorded(function))
    cv2.DISOpticalFlow_create = engine
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(cv2, name, function)
        cv2.DISOpticalFlow_create = create


def bare_s(video: Video, wishes: Wishes, rounds: int) -> tuple[int, float, float]:
    """Frames of a video, and seconds of decoding it and of the calls that labelling it makes: the fastest of some."""
    calls: list[Call] = []
    with written_down(calls):
        made = list(labelled_clips(video.path, video.name, wishes, TEACHERS))
    assert any(isinstance(one, LabelledClip) for one in made), f"{video.name} gives no clip"
    frames, decoding, calling = 0, [], []
    for _ in range(rounds):
        began = time.perf_counter()
        with av.open(video.path) as container:
            container.streams.video[0].thread_count = 1
            frames = sum(frame.to_ndarray(format="rgb24") is not None for frame in container.decode(video=0))
        decoding.append(time.perf_counter() - began)
        began = time.perf_counter()
        for function, arguments, named in calls:
            function(*arguments, **named)
        calling.append(time.perf_counter() - began)
    return frames, min(decoding), min(calling)


def labelled(videos: list[str], wishes: Wishes, workers: int) -> tuple[int, float, float]:
    """Clips, seconds from when all workers were ready to the end, and seconds of all workers together."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = label(videos, folder, TEACHERS, wishes, workers=workers)
        lines = list(log_lines(Path(folder)))
    ready = max(line["ready"]["seconds"] for line in lines if "ready" in line)
    return outcome.clips, outcome.seconds - ready, sum(line["done"]["seconds"] for line in lines if "done" in line)


def main() -> None:
    """A row per number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", help="by default the clips of the shared data")
    parser.add_argument("--long-side", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2, help="the fastest of so many")
    options = parser.parse_args()
    wishes = Wishes(long_side=options.long_side)
    videos, _ = find_videos(options.videos or [data_root() / "clips"])
    one_thread()
    print(machine())
    parts = [bare_s(video, wishes, options.rounds) for video in videos]
    frames, decoding, calling = (sum(part) for part in zip(*parts, strict=True))
    bare = decoding + calling
    print(f"{len(videos)} videos, {frames} frames; bare: decoding {decoding:.1f} s, calls {calling:.1f} s")
    print(head("workers", "clips/s", "frames/s", "frames/s of a core", "of bare", "speed"))
    print(line("bare, 1", "-", f"{frames / bare:.1f}", f"{frames / bare:.1f}", "1.00", "-"), flush=True)
    first = None
    for workers in options.workers:
        runs = [labelled([video.path for video in videos], wishes, workers) for _ in range(options.rounds)]
        clips, seconds, worked = min(runs, key=lambda run: run[1])
        first = first or seconds * workers
        rates = f"{clips / seconds:.2f}", f"{frames / seconds:.1f}", f"{frames / worked:.1f}"
        print(line(str(workers), *rates, f"{bare / worked:.2f}", f"{first / seconds:.2f} x"), flush=True)


if __name__ == "__main__":
    main()
