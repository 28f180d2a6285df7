"""The forecast of `unproject label --plan` against a cluster on which workers are killed.

    python -m benchmarks.label_scaling

Ray's local cluster of two machines with a core each labels thousands of tiny videos of a camera that slides along a
wall. Rates are measured on the first tenth of them, with nobody killed. Then all are labelled while workers are killed
at random moments of their work. Forecast and measured time are from the first unit to the last.
"""

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.run import machine
from benchmarks.table import head, line
from unproject.io.shard_index import verify
from unproject.labelling.folder import log_lines
from unproject.labelling.plan import Rates, forecast, rates_of
from unproject.labelling.run import label
from unproject.labelling.wishes import Wishes
from unproject.teachers.tracks import KltTeacher

NODES = 2
WISHES = Wishes(long_side=96, views=2, most_clips=1, least_matches=16)
WIDTH, HEIGHT, STEP, FRAMES = 96, 72, 6, 16
TICK_S = 0.02
PICTURES = 32
"""Different videos; all others are links to these."""


def write_videos(folder: Path, count: int) -> list[Path]:
    """So many files."""
    for number in range(count):
        path = folder / f"{number:06}.mp4"
        if number < PICTURES:
            write_video(path, number)
        else:
            path.symlink_to(folder / f"{number % PICTURES:06}.mp4")
    return sorted(folder.iterdir())


def write_video(path: Path, seed: int) -> None:
    """A camera that slides along a wall of noise."""
    wide, rng = WIDTH + FRAMES * STEP, np.random.default_rng(seed)
    layers = [cv2.resize(rng.uniform(0, 255, (HEIGHT // s, wide // s)), (wide, HEIGHT)) * s for s in (2, 4, 8)]
    wall = np.clip((sum(layers) / 14 - 127) * 1.6 + 127, 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            view = np.repeat(wall[:, number * STEP : number * STEP + WIDTH, None], 3, axis=2)
            frame = av.VideoFrame.from_ndarray(view, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@contextmanager
def cluster() -> Iterator[str]:
    """Address of one whose workers import what this process imports."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # nice workers measure their neighbours
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        for _ in range(NODES):
            made.add_node(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)
        yield made.address
    finally:
        made.shutdown()


@contextmanager
def killer(folder: Path, mean_s: float) -> Iterator[None]:
    """Whoever is at work is killed after so many seconds of work, on average."""
    over, rng, killed = threading.Event(), random.Random(0), set[int]()

    def kill() -> None:
        before = time.monotonic()
        while not over.wait(TICK_S):
            chance = (time.monotonic() - before) / mean_s
            before = time.monotonic()
            for place in folder.glob("work/*"):
                worker = int(place.name.rpartition("-")[2])
                if worker not in killed and rng.random() < chance:
                    killed.add(worker)  # its folder stays, and its number may soon be another's
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measured_rates(videos: list[Path], folder: Path, address: str) -> Rates:
    """With nobody killed. What no unit takes is the start of the workers."""
    outcome = label(videos, folder, [KltTeacher()], WISHES, ray=address)
    rates = rates_of(folder)
    worked = sum(line["done"]["seconds"] for line in log_lines(folder) if "done" in line)
    return replace(rates, start_s=rates.start_s + max(0.0, outcome.seconds - worked / NODES))


def main() -> None:
    """A row for each time that workers live."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=4000)
    parser.add_argument("--live", type=float, nargs="+", default=[math.inf, 30.0, 5.0], help="seconds, on average")
    options = parser.parse_args()
    print(machine())
    print(
        head(
            "workers live",
            *(f"{part}{what}" for what in ("deaths", "tries of a unit", "seconds") for part in ("", "forecast ")),
            "error",
        )
    )
    with tempfile.TemporaryDirectory() as place, cluster() as address:
        root = Path(place)
        (root / "videos").mkdir()
        videos = write_videos(root / "videos", options.videos)
        rates = measured_rates(videos[: len(videos) // 10], root / "some", address)
        for mean_s in options.live:
            folder = root / f"all-{mean_s}"
            # Ray tells of dead workers on stdout.
            with killer(folder, mean_s), redirect_stdout(sys.stderr):
                outcome = label(videos, folder, [KltTeacher()], WISHES, ray=address)
            assert not verify(folder)
            said = forecast(replace(rates, deaths_per_s=1 / mean_s), len(videos), nodes=NODES, cores=1)
            deaths, seconds = sum("died" in one for one in log_lines(folder)), said.days * 86400
            cells = "for ever" if math.isinf(mean_s) else f"{mean_s:g} s", f"{deaths}"
            cells += f"{said.units * (said.tries - 1):.1f}", f"{1 + deaths / said.units:.3f}", f"{said.tries:.3f}"
            cells += f"{outcome.seconds:.1f}", f"{seconds:.1f}", f"{seconds / outcome.seconds - 1:+.1%}"
            print(line(*cells), flush=True)


if __name__ == "__main__":
    main()
