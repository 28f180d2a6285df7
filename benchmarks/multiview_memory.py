"""Memory that runs with a multi-view network take, against what `--dry-run` predicts for them; aim: within a fifth.

Weights are random, images are noise; each run is a process of its own, on the processor.

    python -m benchmarks.multiview_memory --network flow3r --size small --cases 4x224x224 16x224x224 8x518x294
"""

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measure import measured
from benchmarks.table import head, line
from unproject.inference.reconstruct import plan, reconstruct
from unproject.models import build

NETWORKS = ("flow3r", "pi3")


def photos(folder: Path, views: int, width: int, height: int) -> Path:
    """So many images of noise."""
    noise = np.random.default_rng(0)
    for number in range(views):
        cv2.imwrite(str(folder / f"{number:06d}.png"), noise.integers(0, 255, (height, width, 3), np.uint8))
    return folder


def predicted_and_measured(network: str, size: str, case: str) -> tuple[float, float]:
    """GiB of a run on so many photos of that width and height (16x224x224)."""
    views, width, height = map(int, case.split("x"))
    with tempfile.TemporaryDirectory() as place:
        folder = photos(Path(place), views, width, height)
        said = plan(folder, model=build(network, size), long_side=max(width, height)).memory_gib
        command = ["-m", "benchmarks.multiview_memory", "--network", network, "--size", size, "--run", str(folder)]
        return said, measured([sys.executable, *command]) / 1024


def main() -> None:
    """One row per case; with --run, what is measured from outside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="flow3r")
    parser.add_argument("--size", default="small")
    parser.add_argument("--cases", nargs="+", default=["4x224x224", "16x224x224", "8x518x294"], metavar="NxWxH")
    parser.add_argument("--run", type=Path, help="reconstruct this folder, at its images' size")
    options = parser.parse_args()
    if options.run is not None:
        side = max(cv2.imread(str(next(options.run.iterdir()))).shape[:2])
        with tempfile.TemporaryDirectory() as place:
            reconstruct(
                options.run,
                model=build(options.network, options.size).eval(),
                long_side=side,
                output=Path(place) / "out",
                device="cpu",
            )
        return
    print(head("views x width x height", "predicted [GiB]", "measured [GiB]", "ratio"))
    for case in options.cases:
        said, found = predicted_and_measured(options.network, options.size, case)
        print(line(case, *(f"{each:.2f}" for each in (said, found, said / found))), flush=True)


if __name__ == "__main__":
    main()
