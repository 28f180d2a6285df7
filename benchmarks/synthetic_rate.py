"""Views per second that the synthetic world renders: `python -m benchmarks.synthetic_rate`.

One process a core, one thread a process, as a training run loads data. "plain" is image, depth and surface numbers of
random worlds with shadows; "labels" adds flow, covisibility and P_vt of one pair of views in both directions; "capture"
is a photograph with motion blur (six instants), noise and JPEG, and its truth. Aim: 100 plain views/s on two cores. On
a busy machine, read the figure per CPU second.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from unproject.data.paths import CameraPath
from unproject.data.synthetic import Sensor, World, handheld, photograph, render, sample_world
from unproject.geometry.camera import intrinsics_from_focal

WORLDS, VIEWS = 8, 2
PAIRS = torch.tensor([[0, 1], [1, 0]])


def setting(seed: int, size: int, device: str) -> tuple[World, CameraPath, torch.Tensor, torch.Tensor, int, int]:
    """Arguments of `render`: fresh worlds, two views each."""
    world = sample_world(seed, batch=WORLDS, device=device)
    times = torch.tensor([0.2, 0.6], device=device).repeat(WORLDS, 1)
    intrinsics = intrinsics_from_focal(torch.full_like(times, float(size)), size, size)
    return world, handheld(world.stage, seed, duration_s=1.0), times, intrinsics, size, size


def plain(seed: int, size: int, device: str) -> None:
    """Render."""
    render(*setting(seed, size, device))


def labels(seed: int, size: int, device: str) -> None:
    """Render, and make the labels of both directions."""
    render(*setting(seed, size, device)).labels(PAIRS)


def capture(seed: int, size: int, device: str) -> None:
    """Photograph."""
    photograph(*setting(seed, size, device), sensor=Sensor(), seed=seed)


KINDS: dict[str, Callable[[int, int, str], None]] = {"plain": plain, "labels": labels, "capture": capture}


def rate(kind: str, size: int, device: str, seconds: float, start_s: float) -> tuple[float, float]:
    """Views per second and per second of CPU time of this process, from a moment on that all processes share."""
    torch.set_num_threads(1)
    KINDS[kind](0, size, device)
    time.sleep(max(0.0, start_s - time.time()))
    begin, begin_cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        done += 1
        KINDS[kind](done, size, device)
        if device == "cuda":
            torch.cuda.synchronize()
    views = done * WORLDS * VIEWS
    return views / (time.perf_counter() - begin), views / (time.process_time() - begin_cpu)


def main() -> None:
    """Print one line per kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--size", type=int, default=224, help="side of the square views, pixels")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"{options.size} x {options.size} px, {options.processes} processes, {options.device}")
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for kind in KINDS:
            start_s = time.time() + 12
            jobs = [
                pool.submit(rate, kind, options.size, options.device, options.seconds, start_s)
                for _ in range(options.processes)
            ]
            walls, cpus = zip(*(job.result() for job in jobs), strict=True)
            print(f"{kind:8s} {sum(walls):7.1f} views/s in all, {sum(cpus) / len(cpus):6.1f} per CPU second")


if __name__ == "__main__":
    main()
