"""Clips and frames per second of `unproject label`, against the bare calls that it makes.

    python -m benchmarks.label_throughput

First every call of OpenCV, and of zlib that packs the labels, is written down with its arguments while the videos are
labelled. "bare" then makes the same calls in a plain loop, after a plain loop of PyAV that decodes and converts every
frame: what the work costs where nobody asks for anything else. "share of bare" is how much of the processor's time
these calls are: 1 is a labeller that costs nothing of its own. Rates are by the clock, shares by the processor's time,
which others disturb less. The start of the processes is left out of both.
"""

import argparse
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np

from benchmarks.clips import data_root
from benchmarks.run import machine
from benchmarks.table import head, line
from unproject.io.shards import LabelledClip, write_shard
from unproject.labelling.clips import labelled_clips
from unproject.labelling.folder import log_lines
from unproject.labelling.run import Outcome, label
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
"""Of OpenCV, that labelling makes; those of DIS come on top."""

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def _kept(argument: Any) -> Any:
    """Guesses of points and flow are overwritten by what is found, and who begins with that is done sooner."""
    guess = isinstance(argument, np.ndarray) and argument.dtype == np.float32 and argument.shape[-1] == 2
    return argument.copy() if guess else argument


@contextmanager
def written_down(calls: list[Call]) -> Iterator[None]:
    """Every call of `CALLS` goes through and into the list."""

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append((function, tuple(map(_kept, arguments)), named))
            return function(*arguments, **named)

        return call

    create, packer = cv2.DISOpticalFlow_create, zlib.compressobj

    def engine(*arguments: Any) -> Any:
        real = create(*arguments)
        return SimpleNamespace(calc=recorded(real.calc), setFinestScale=real.setFinestScale)

    def packing(level: int, *arguments: Any) -> Any:
        real = packer(level, *arguments)

        def compress(data: Any) -> bytes:
            calls.append((zlib.compress, (bytes(data), level), {}))
            return real.compress(data)

        return SimpleNamespace(compress=compress, flush=real.flush)

    before = {name: getattr(cv2, name) for name in CALLS}
    for name, function in before.items():
        setattr(cv2, name, recorded(function))
    cv2.DISOpticalFlow_create, zlib.compressobj = engine, packing
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(cv2, name, function)
        cv2.DISOpticalFlow_create, zlib.compressobj = create, packer


def bare_s(video: Video, wishes: Wishes) -> tuple[int, float, float, float]:
    """Frames of a video, and the processor's seconds for decoding, for OpenCV and for zlib."""
    calls: list[Call] = []

    def work(shard: Path) -> None:
        made = labelled_clips(video.path, video.name, wishes, TEACHERS)
        clips = ((f"0-0-{number}", one) for number, one in enumerate(made) if isinstance(one, LabelledClip))
        write_shard(shard, clips)

    with written_down(calls), tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as fresh:
        fresh.submit(work, Path(folder) / "000000.tar").result()  # engines of DIS belong to a thread: these are heard
    began = time.process_time()
    with av.open(video.path) as container:
        container.streams.video[0].thread_count = 1
        frames = sum(frame.to_ndarray(format="rgb24") is not None for frame in container.decode(video=0))
    decoding, spent = time.process_time() - began, {True: 0.0, False: 0.0}
    for function, arguments, named in calls:
        began = time.process_time()
        function(*arguments, **named)
        spent[function is zlib.compress] += time.process_time() - began
    return frames, decoding, spent[False], spent[True]


def labelled(videos: list[str], wishes: Wishes, workers: int) -> tuple[Outcome, float, float]:
    """What it came to, seconds with all workers ready, and the processor's seconds of all workers."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        outcome = label(videos, folder, TEACHERS, wishes, workers=workers)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        ready = max(line["ready"]["seconds"] for line in log_lines(Path(folder)) if "ready" in line)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return outcome, outcome.seconds - ready, spent


def start_s(wishes: Wishes) -> float:
    """The processor's seconds of a worker that has nothing to do."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as empty:
        return labelled([empty.name], wishes, 1)[2]


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
    parts = [bare_s(video, wishes) for video in videos]
    frames, decoding, opencv, packing = (sum(part) for part in zip(*parts, strict=True))
    bare, start = decoding + opencv + packing, start_s(wishes)
    shares = f"PyAV {decoding:.1f} s, OpenCV {opencv:.1f} s, zlib {packing:.1f} s"
    print(f"{len(videos)} videos, {frames} frames; bare: {shares}", flush=True)
    print(head("workers", "clips/s", "frames/s", "faster", "processor [s]", "share of bare", "MB a clip"))
    print(line("bare", "-", f"{frames / bare:.1f}", "-", f"{bare:.1f}", "1.00", "-"), flush=True)
    first = None
    for workers in options.workers:
        runs = [labelled([video.path for video in videos], wishes, workers) for _ in range(options.rounds)]
        outcomes, all_seconds, all_spent = zip(*runs, strict=True)
        made, seconds, spent = outcomes[0], min(all_seconds), min(all_spent) - workers * start
        first = first or seconds
        rates = f"{made.clips / seconds:.2f}", f"{frames / seconds:.1f}", f"{first / seconds:.2f} x"
        shares = f"{spent:.1f}", f"{bare / spent:.2f}", f"{made.bytes / made.clips / 1e6:.2f}"
        print(line(str(workers), *rates, *shares), flush=True)


if __name__ == "__main__":
    main()
