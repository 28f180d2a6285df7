"""Speed and memory of the two-view networks: `python -m benchmarks.networks`.

Weights are random, no figure depends on them. `rates` prints pairs/s (both images encoded, both heads) and frames/s of
an anchored sequence, the arithmetic that torch counts in a pair, and what share of the machine's own rate of matrix
products, measured in the same run, that comes to. `sequence` times an anchored sequence against the same network run
pair by pair; aim: 1.6 times less. `memory` is the peak of `reconstruct` into a folder against the number of frames, in
batches of its own choice; aim: flat. `training` are steps of the training loop on rendered pairs; aim: under 5 % of the
time spent waiting for data. `peaks` is what the machine reaches in products and in convolutions. On two cores:

    python -m benchmarks.networks rates
    python -m benchmarks.networks sequence --networks base --images 224x224 --frames 64
    python -m benchmarks.networks memory --networks base --images 224x224 --lengths 16 64 256
    python -m benchmarks.networks training --networks base compact --images 224x224
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import conv2d, linear
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import measured
from benchmarks.run import machine
from benchmarks.table import head, line
from unproject.data.pairs import SyntheticPairs
from unproject.inference.anchored import Sequencing, anchored
from unproject.inference.reconstruct import reconstruct
from unproject.models import compact as compact_network
from unproject.models.base import Reconstructor, trunk_in
from unproject.models.build import CONFIGS, build
from unproject.recipes import compact
from unproject.recipes.smoke import smoke
from unproject.training.log import lines
from unproject.training.loop import train
from unproject.training.recipe import Recipe
from unproject.types import Views

SMALL = ("tiny", "base", "large")
NAMES = (*SMALL, "compact")
CASE = "network", "image", "type"
"""Columns that name a `Case`."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MATRIX = {"cpu": 1024, "cuda": 8192}
"""Side of the matrices by whose product a machine is judged."""
STEPS = 6
"""Of training."""
BOTH_WAYS = torch.tensor([[0, 1], [1, 0]])


def made(name: str, device: str) -> Reconstructor:
    """The network with random weights; Flow4R with the DPT head."""
    model = build("flow4r", name) if name in SMALL else build(name)
    return model.to(device).eval()


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of 512x288."""
    width, height = text.split("x")
    return int(height), int(width)


def clock(work: Callable[[], object], device: str, seconds: float) -> float:
    """Seconds of one call: the mean over as many as fit, at least one. The caller has run it before."""
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < seconds:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        done += 1
    return (time.perf_counter() - start) / done


def matmul_rate(device: str, dtype: torch.dtype, seconds: float) -> float:
    """Arithmetic per second of one large product of matrices."""
    side = MATRIX[device]
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    linear(a, b)
    return 2 * side**3 / clock(lambda: linear(a, b), device, seconds)


def convolution_rate(device: str, dtype: torch.dtype, seconds: float) -> float:
    """Arithmetic per second of a 3x3 convolution of 256 channels, which torch may take from another library."""
    maps = torch.randn(4, 256, 56, 56, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    conv2d(maps, kernel, padding=1)
    return 2 * maps.numel() * 256 * 9 / clock(lambda: conv2d(maps, kernel, padding=1), device, seconds)


def whole_pairs(model: Reconstructor, images: Tensor, batch: int, dtype: torch.dtype) -> None:
    """The first image with each other one, everything anew for every pair."""
    for others in images[1:].split(batch):
        both = torch.stack([images[:1].expand_as(others), others], dim=1)
        pairs = BOTH_WAYS.to(images.device).expand(len(both), -1, -1)
        with torch.no_grad(), trunk_in(dtype, images.device):
            model(Views(images=both, times=both.new_zeros(len(both), 2), pairs=pairs))


def sequence(model: Reconstructor, images: Tensor, batch: int, dtype: torch.dtype, *, both_sides: bool = True) -> None:
    """The same pairs as an anchored sequence."""
    wishes = Sequencing(batch=batch, both_sides=both_sides, least_overlap=0.0, precision=dtype)
    for _ in anchored(model, images, wishes):
        pass


def arithmetic(model: Reconstructor, images: Tensor, dtype: torch.dtype) -> int:
    """Operations of one pair, multiplication and addition counted apart."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # of which all products are seen
        whole_pairs(model, images[:2], 1, dtype)
    return counter.get_total_flops()


@dataclass(frozen=True)
class Case:
    """One network on images of one size, in one type."""

    name: str
    image: str
    dtype: str
    batch: int
    device: str
    seconds: float

    @property
    def kind(self) -> torch.dtype:
        """What the trunk runs in."""
        return DTYPES[self.dtype]

    def images(self, frames: int) -> Tensor:
        """Noise."""
        return torch.rand(frames, 3, *size_of(self.image), device=self.device)

    def pairs_s(self, model: Reconstructor, images: Tensor, seconds: float) -> float:
        """Seconds for all pairs, each from its images."""
        return clock(lambda: whole_pairs(model, images, self.batch, self.kind), self.device, seconds)

    def sequence_s(self, model: Reconstructor, images: Tensor, seconds: float, *, both_sides: bool = True) -> float:
        """Seconds for the same as an anchored sequence."""
        return clock(
            lambda: sequence(model, images, self.batch, self.kind, both_sides=both_sides), self.device, seconds
        )

    def row(self, *cells: str) -> str:
        """One line of a table."""
        return line(self.name, self.image, self.dtype, *cells)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Every network, size and type that was asked for."""
    for name, image, dtype in product(options.networks, options.images, options.dtypes):
        yield Case(name, image, dtype, options.batch, options.device, options.seconds)


def rates(options: argparse.Namespace) -> Iterator[str]:
    """One row per case."""
    yield head(*CASE, "TFLOP/pair", "pairs/s", "frames/s", "TFLOP/s", "matmul TFLOP/s", "share")
    for case in cases(options):
        model, images = made(case.name, case.device), case.images(options.frames)
        flops = arithmetic(model, images, case.kind)
        few = images[: case.batch + 1]
        pair = case.pairs_s(model, few, case.seconds) / (len(few) - 1)
        frame = case.sequence_s(model, images, case.seconds) / len(images)
        peak = matmul_rate(case.device, case.kind, min(case.seconds, 2.0))
        yield case.row(
            f"{flops / 1e12:.3g}",
            f"{1 / pair:.3g}",
            f"{1 / frame:.3g}",
            f"{flops / pair / 1e12:.3g}",
            f"{peak / 1e12:.3g}",
            f"{flops / pair / peak:.0%}",
        )


def peaks(options: argparse.Namespace) -> Iterator[str]:
    """What the machine itself reaches, in two ways."""
    yield head("type", "linear TFLOP/s", "convolution TFLOP/s")
    for name in options.dtypes:
        found = [rate(options.device, DTYPES[name], options.seconds) for rate in (matmul_rate, convolution_rate)]
        yield line(name, *(f"{each / 1e12:.3g}" for each in found))


def sequences(options: argparse.Namespace) -> Iterator[str]:
    """One row per case."""
    yield head(
        *CASE, "frames", "pair by pair [s]", "anchored [s]", "times less", "anchor's head only [s]", "times less"
    )
    for case in cases(options):
        model, images = made(case.name, case.device), case.images(options.frames)
        case.pairs_s(model, images[: case.batch + 1], 0)
        plain = case.pairs_s(model, images, 0)
        both, half = (case.sequence_s(model, images, 0, both_sides=sides) for sides in (True, False))
        yield case.row(
            str(len(images)),
            f"{plain:.2f}",
            f"{both:.2f}",
            f"{plain / both:.2f}",
            f"{half:.2f}",
            f"{plain / half:.2f}",
        )


def memory(options: argparse.Namespace) -> Iterator[str]:
    """One row per case: the peak of a process of its own (of the device's memory on CUDA) for each length."""
    yield head(*CASE, *(f"{length} frames [MiB]" for length in options.lengths))
    for case in cases(options):
        yield case.row(*(f"{_peak_mib(case, length):.0f}" for length in options.lengths))


def _peak_mib(case: Case, length: int) -> float:
    if case.device == "cpu":
        given = ["--networks", case.name, "--images", case.image, "--dtypes", case.dtype, "--batch", str(case.batch)]
        command = ["-m", "benchmarks.networks", "stream", *given, "--device", "cpu", "--frames", str(length)]
        return measured([sys.executable, *command])
    torch.cuda.reset_peak_memory_stats()
    stream(case, length)
    return torch.cuda.max_memory_allocated() / 2**20


def stream(case: Case, length: int) -> None:
    """What a user runs, into a folder, on so many images of noise."""
    height, width = size_of(case.image)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        frames = Path(folder) / "frames"
        frames.mkdir()
        for number in range(length):
            noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
            cv2.imwrite(str(frames / f"{number:06d}.png"), noise)
        wishes = {"long_side": max(height, width), "device": case.device, "dtype": case.dtype}
        reconstruct(frames, model=made(case.name, case.device), output=Path(folder) / "result", **wishes)


def training(options: argparse.Namespace) -> Iterator[str]:
    """One row per case: steps of this batch through the loop; the first fills the loader and does not count."""
    yield head(*CASE, "pairs/s", "waiting for data")
    for case in cases(options):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            train(learning(case), folder, device=case.device, dtype=case.dtype, steps=STEPS, log_every=1)
            said = [line["time"] for line in lines(Path(folder))][1:]
        times = [(case.batch / time["clips_per_s"], time["waiting_share"]) for time in said]
        whole = sum(seconds for seconds, _ in times)
        yield case.row(
            f"{case.batch * len(times) / whole:.3g}",
            f"{sum(seconds * share for seconds, share in times) / whole:.1%}",
        )


def learning(case: Case) -> Recipe:
    """The case's network on rendered pairs, with the losses that it is trained by."""
    two_view = case.name in SMALL
    parent = smoke(STEPS) if two_view else compact.geometry(STEPS)
    source = replace(parent.sources[0], dataset=SyntheticPairs())
    return replace(
        parent,
        model=CONFIGS["flow4r"](case.name) if two_view else compact_network.config(),
        sources=(source,),
        clip=replace(parent.clip, sizes=(size_of(case.image),)),
        schedule=replace(parent.schedule, batch=case.batch),
        validation=None,
    )


def streamed(options: argparse.Namespace) -> Iterator[str]:
    """What `memory` measures from outside; prints nothing."""
    stream(next(cases(options)), options.frames)
    yield from ()


TABLES = {
    "rates": rates,
    "peaks": peaks,
    "sequence": sequences,
    "memory": memory,
    "training": training,
    "stream": streamed,
}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=[name for name in NAMES if name != "tiny"])
    parser.add_argument("--images", nargs="+", default=["224x224", "512x288", "512x384"], metavar="WxH")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="pairs at a time (2 on a CPU, 16 on CUDA)")
    parser.add_argument("--frames", type=int, default=9, help="of a sequence")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64, 256], help="of the sequences of `memory`")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="for each figure, or one run where that takes longer"
    )
    options = parser.parse_args()
    options.batch = options.batch or {"cpu": 2, "cuda": 16}[options.device]
    if options.table != "stream":
        where = torch.cuda.get_device_name() if options.device == "cuda" else machine()
        print(f"{where}; {torch.get_num_threads()} threads, {options.batch} pairs at a time, torch {torch.__version__}")
    for printed in TABLES[options.table](options):
        print(printed, flush=True)


if __name__ == "__main__":
    main()
