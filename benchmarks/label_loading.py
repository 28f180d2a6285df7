"""Clips per second that training gets from label shards, and their size: `python -m benchmarks.label_loading`.

One process, one thread. A video is labelled by DIS flow, KLT tracks and, in place of a network, depth with nothing in
it but a slope; then clips of the same views and size are fetched from the shards, and from the video itself, which has
no labels (`data.footage.Footage`). After the first look the system keeps the files in memory. On a busy machine, read
the figures per CPU second. Last, what training asks for: the recipe `videos` on the same shards, without its waiting.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from benchmarks.table import head, line, number
from unproject.data.base import Dataset, Framing
from unproject.data.footage import Footage
from unproject.data.labels import LabelShards
from unproject.io.shard_index import INDEX, write_index
from unproject.io.shards import LabelledClip, Row, write_shard
from unproject.io.video import decode, index_video
from unproject.models.loading import device_of
from unproject.recipes.flow3r import ring
from unproject.recipes.videos import videos
from unproject.teachers.base import Shot
from unproject.teachers.flow import DisTeacher
from unproject.teachers.tracks import KltTeacher
from unproject.training.log import lines
from unproject.training.loop import train
from unproject.types import Known, Labels

SPAN_S = 1.5


def labelled(video: Path, clips: int, views: int) -> list[LabelledClip]:
    """Clips of so many seconds, begun at even steps through the video."""
    index = index_video(video)
    last = int(np.searchsorted(index.times_s, index.times_s[-1] - SPAN_S))
    images = list(decode(index, range(len(index.times_s))))
    made = []
    for begin in np.linspace(0, last, clips).astype(int).tolist():
        end = int(np.searchsorted(index.times_s, index.times_s[begin] + SPAN_S))
        frames = np.linspace(begin, min(end, len(images) - 1), views).astype(int)
        shot = Shot(images=images[begin : end + 1], views=tuple((frames - begin).tolist()), pairs=ring(views))
        shown = np.stack([images[frame] for frame in frames])
        slope = torch.linspace(1, 9, shown.shape[2]).expand(1, *shown.shape[:3]).contiguous()
        labels = Labels(
            flow=DisTeacher().label(shot).flow,
            tracks=KltTeacher().label(shot).tracks,
            mono_depth=Known(slope, torch.ones_like(slope)),
        )
        made.append(
            LabelledClip(
                file=video.name,
                frames=tuple(frames.tolist()),
                times_s=tuple(index.times_s[frames].tolist()),
                images=shown,
                pairs=shot.pairs,
                labels=labels,
                quality={},
            )
        )
    return made


def rate(fetch: Callable[[int], object], seconds: float) -> tuple[float, float]:
    """Calls per second and per second of CPU time, after one that warms up."""
    fetch(0)
    begin, begin_cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        done += 1
        fetch(done)
    return done / (time.perf_counter() - begin), done / (time.process_time() - begin_cpu)


def rows_of(shards: Dataset, footage: Dataset, framing: Framing, seconds: float) -> list[str]:
    """The lines of the table."""
    count = shards.count or 1
    kinds: dict[str, Callable[[int], object]] = {
        "shards": lambda place: shards([place % count], framing),
        "video, no labels": lambda place: footage([place], framing),
    }
    table = [head("source", "clips/s", "views/s", "clips per CPU second")]
    for name, fetch in kinds.items():
        wall, cpu = rate(fetch, seconds)
        table.append(line(name, number(wall, 1), number(wall * framing.views, 1), number(cpu, 1)))
    return table


def asked_for(folder: str, size: str, side: int, device: str) -> str:
    """Clips per second that steps of training take, once warm."""
    recipe = videos(folder, size)
    schedule = replace(recipe.schedule, steps=4, batch=2, passes=1, warmup_steps=1)
    recipe = replace(recipe, schedule=schedule, clip=replace(recipe.clip, sizes=((side, side),), fewest_views=None))
    with tempfile.TemporaryDirectory() as run:
        train(recipe, Path(run) / "run", device=device, workers=0, log_every=1)
        times = [step["time"] for step in lines(Path(run) / "run") if "time" in step][1:]
    pace = median(each["clips_per_s"] / (1 - each["waiting_share"]) for each in times)
    return f"training `videos`, size {size}, on {device_of(device)}: {pace:.2f} clips/s"


def sizes(rows: tuple[Row, ...], clips: list[LabelledClip], seconds: float) -> str:
    """Bytes of a clip, and how fast clips are written."""
    mean = sum(row.length for row in rows) / len(rows)
    pixels = clips[0].images.shape[1:3]
    return (
        f"{len(rows)} clips of {pixels[1]}x{pixels[0]}, {len(clips[0].frames)} views, {len(clips[0].pairs)} pairs: "
        f"{mean / 1e6:.2f} MB each, written at {len(rows) / seconds:.1f} clips per CPU second"
    )


def main() -> None:
    """Print the size of clips and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="instead of the bundled sample")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="side of the square views, pixels")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--train", nargs="*", default=["tiny", "small"], help="sizes of networks")
    parser.add_argument("--device", default="auto", help="of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    framing = Framing(views=options.views, pairs=ring(options.views), height=options.size, width=options.size)
    sample = files("unproject") / "assets" / "sample.mp4"
    with as_file(sample) as bundled, tempfile.TemporaryDirectory() as folder:
        video = options.video or bundled
        clips = labelled(video, options.clips, options.views)
        begin = time.process_time()
        keyed = ((f"000000-000000-{place:04d}", clip) for place, clip in enumerate(clips))
        rows = write_shard(Path(folder) / "shards" / "000000.tar", keyed)
        write_index(Path(folder) / INDEX, rows)
        print(sizes(rows, clips, time.process_time() - begin), end="\n\n")
        footage = Footage(files=(str(video),), span_s=(SPAN_S, SPAN_S))
        print("\n".join(rows_of(LabelShards(folder=folder), footage, framing, options.seconds)))
        for size in options.train:
            print(asked_for(folder, size, options.size, options.device), flush=True)


if __name__ == "__main__":
    main()
