"""A training pass of the multi-view network with blocks that are computed twice, against one that keeps everything.

What is kept for the backward pass, and processor time of forward and backward together, both as shares of the same pass
that keeps everything. Weights are random, images are noise.

    python -m benchmarks.recomputed --size small --views 4 --image 224x224
"""

import argparse
import time

import torch

from benchmarks.networks import DTYPES, size_of
from benchmarks.table import head, line
from unproject.models.base import trunk_in
from unproject.models.flow3r import Flow3r, config
from unproject.models.multiview import SIZES
from unproject.recipes.flow3r import RECOMPUTED, ring
from unproject.training.parts import recompute
from unproject.training.plan import kept_bytes


def one_pass(model: Flow3r, images: torch.Tensor, dtype: torch.dtype) -> tuple[int, float]:
    """Bytes that are kept, and seconds of the processor."""
    pairs = torch.tensor(ring(images.shape[1]))[None]
    began = time.process_time()
    with kept_bytes(model) as kept:
        with trunk_in(dtype, images.device):
            raw = model.raw(images, pairs)
        assert raw.flow is not None
        said = (raw.points, raw.confidence_logit, raw.world_from_cam, raw.flow)
        torch.stack([maps.square().mean() for maps in said]).sum().backward()
    model.zero_grad(set_to_none=True)
    return kept.bytes, time.process_time() - began


def main() -> None:
    """One row per type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--image", default="224x224", metavar="WxH")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--rounds", type=int, default=2, help="the fastest of so many counts")
    options = parser.parse_args()
    model = Flow3r(config(options.size)).train()
    images = torch.rand(1, options.views, 3, *size_of(options.image))
    print(head("type", "everything kept [MiB]", "recomputed [MiB]", "share", "time"))
    for name in options.dtypes:
        plain = [one_pass(model, images, DTYPES[name]) for _ in range(options.rounds)]
        recompute(model, RECOMPUTED)
        twice = [one_pass(model, images, DTYPES[name]) for _ in range(options.rounds)]
        recompute(model, None)
        (kept, seconds), (less, longer) = (min(runs, key=lambda run: run[1]) for runs in (plain, twice))
        sizes = f"{kept / 2**20:.0f}", f"{less / 2**20:.0f}", f"{less / kept:.0%}"
        print(line(name, *sizes, f"{longer / seconds:.2f} x"), flush=True)


if __name__ == "__main__":
    main()
