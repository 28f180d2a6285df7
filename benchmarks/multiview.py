"""Speed and memory of the multi-view network against a plain reading of its paper: `python -m benchmarks.multiview`.

Plain is the same network with attention written out (softmax of all scores), and everything of all views at once. Both
run on the same images with the same random weights, each in a process of its own; no figure depends on the weights.
Where the plain one would need more than ``--limit-gib``, it is left out, and the need of its scores alone is printed.
The last column is the trunk's arithmetic per second over what the machine reaches in matrix products beside it.

    python -m benchmarks.multiview --sizes large --views 2 8 --images 224x224
    python -m benchmarks.multiview --compile --sizes base  # what torch.compile gains
    python -m benchmarks.multiview --rounding [--weights FILE]  # what bfloat16 changes of each output
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import measured
from benchmarks.networks import DTYPES, matmul_rate, size_of
from benchmarks.run import machine
from benchmarks.table import head, line
from unproject.data.base import Framing
from unproject.data.clips import SyntheticClips
from unproject.geometry.rigid import inverse, rotation_angle
from unproject.models.base import Reconstructor, trunk_in
from unproject.models.checkpoints import load
from unproject.models.flow3r import Flow3r, config
from unproject.models.multiview import SIZES
from unproject.nn import attention
from unproject.recipes.flow3r import ring
from unproject.tensors import map_tensors
from unproject.types import Prediction, Views, require

CASE = "network", "image", "type", "views"
"""Columns that name a `Case`."""


@dataclass(frozen=True)
class Case:
    """One run."""

    size: str
    image: str
    dtype: str
    views: int
    device: str
    plain: bool = False

    def row(self, *figures: str) -> str:
        """A line of a table."""
        return line(self.size, self.image, self.dtype, str(self.views), *figures)

    @property
    def scores_gib(self) -> float:
        """Of attention over all views, written out: scores and their softmax."""
        made_from = config(self.size, flow=False)
        encoder = made_from.shape.encoder
        height, width = size_of(self.image)
        tokens = self.views * (made_from.special + height * width // encoder.patch**2)
        return 2 * encoder.heads * tokens**2 * DTYPES[self.dtype].itemsize / 2**30


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as the formula stands."""
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def made(case: Case) -> tuple[Flow3r, Tensor]:
    """The network without flow, and noise to look at."""
    model = Flow3r(config(case.size, flow=False)).to(case.device).eval()
    if case.plain:
        model.views_at_once = case.views
    return model, torch.rand(1, case.views, 3, *size_of(case.image), device=case.device)


def run_one(case: Case) -> dict[str, float]:
    """Seconds of a run, after one on a single view, and of its trunk."""
    model, images = made(case)
    none = torch.zeros(1, 0, 2, dtype=torch.long, device=case.device)
    attend = written_out if case.plain else attention.scaled_dot_product_attention
    trunk, trunk_s = model.trunk, []

    def clocked(*given: Any) -> Any:
        began = now(case.device)
        state = trunk(*given)
        trunk_s.append(now(case.device) - began)
        return state

    with (
        torch.no_grad(),
        trunk_in(DTYPES[case.dtype], images.device),
        patch.object(attention, "scaled_dot_product_attention", attend),
        patch.object(model, "trunk", clocked),
    ):
        model.raw(images[:, :1], none)
        began = now(case.device)
        model.raw(images, none)
        seconds = now(case.device) - began
    peak = torch.cuda.max_memory_allocated() / 2**20 if case.device == "cuda" else 0.0
    return {"seconds": seconds, "trunk_s": trunk_s[-1], "cuda_mib": peak}


def now(device: str) -> float:
    """The clock, once all work so far is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def arithmetic(case: Case) -> float:
    """Of the trunk; counted on the meta device, where it costs nothing."""
    with torch.device("meta"):
        model, images = Flow3r(config(case.size, flow=False)).eval(), torch.rand(1, case.views, 3, *size_of(case.image))
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            model.trunk(images, model.grid_of(images))
    return counter.get_total_flops()


def outcome(case: Case) -> dict[str, float]:
    """What `run_one` says in a process of its own, and that one's peak."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        place = Path(folder) / "case.json"
        place.write_text(json.dumps(asdict(case)))
        peak = measured([sys.executable, "-m", "benchmarks.multiview", "--one", str(place)])
        said = json.loads(place.read_text())
    return {**said, "mib": said["cuda_mib"] or peak}


def rounding(options: argparse.Namespace) -> Iterator[str]:
    """How far each output in bfloat16 is from that in float32: median and 99 % over pixels, or views."""
    yield head("network", "image", "views", "output", "median", "99 %")
    model = load(options.weights) if options.weights else Flow3r(config(options.sizes[0]))
    name = options.weights.parent.name if options.weights else options.sizes[0]
    for image, views in product(options.images, options.views):
        height, width = size_of(image)
        framing = Framing(views=views, pairs=ring(views), height=height, width=width)
        given = replace(SyntheticClips(seed=3)([0], framing).views, intrinsics=None)
        exact, rounded = (_said(model.to(options.device).eval(), given, dtype) for dtype in DTYPES.values())
        for output, difference in _differences(exact, rounded).items():
            middle, most = difference.flatten().float().quantile(torch.tensor([0.5, 0.99])).tolist()
            yield line(name, image, str(views), output, f"{middle:.2g}", f"{most:.2g}")


def _said(model: Reconstructor, views: Views, dtype: torch.dtype) -> Prediction:
    views = map_tensors(lambda tensor: tensor.to(next(model.parameters()).device), views)
    with torch.no_grad(), trunk_in(dtype, views.images.device):
        return map_tensors(lambda tensor: tensor.cpu(), model(views))


def _differences(exact: Prediction, rounded: Prediction) -> dict[str, Tensor]:
    poses, others = (require(said, "world_from_cam") for said in (exact, rounded))
    moved, other = ((inverse(said[:, :1]) @ said)[:, 1:] for said in (poses, others))
    distance = exact.points.norm(dim=-1)
    # One scale is free: that of what is said in bfloat16 follows the median point.
    scale = (distance / rounded.points.norm(dim=-1)).median()
    found = {
        "points, share of their distance": (scale * rounded.points - exact.points).norm(dim=-1) / distance,
        "rotation between views [deg]": torch.rad2deg(rotation_angle(moved[..., :3, :3].mT @ other[..., :3, :3])),
        "translation, share of the median distance": (scale * other - moved)[..., :3, 3].norm(dim=-1)
        / distance.median(),
        "confidence": (rounded.confidence - exact.confidence).abs(),
    }
    if exact.flow is not None and rounded.flow is not None:
        found["flow [px]"] = (rounded.flow - exact.flow).norm(dim=-1)
    return found


def compiled(options: argparse.Namespace) -> Iterator[str]:
    """`torch.compile` of the trunk, its first call by itself: after how many calls what it saves has paid for that."""
    yield head(*CASE, "as it is [s]", "compiled [s]", "first call [s]", "pays after")
    for case in cases(options):
        model, images = made(case)
        with torch.no_grad(), trunk_in(DTYPES[case.dtype], images.device):
            eager_s = min(_trunk_s(model, images, case.device) for _ in range(3))
            with patch.object(model, "trunk", torch.compile(model.trunk)):
                first_s, *later_s = (_trunk_s(model, images, case.device) for _ in range(4))
        saved_s = eager_s - min(later_s)
        pays = f"{math.ceil((first_s - min(later_s)) / saved_s)} calls" if saved_s > 0 else "never"
        yield case.row(f"{eager_s:.2f}", f"{min(later_s):.2f}", f"{first_s:.1f}", pays)


def _trunk_s(model: Flow3r, images: Tensor, device: str) -> float:
    began = now(device)
    model.trunk(images, model.grid_of(images))
    return now(device) - began


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All that were asked for."""
    for size, image, dtype, views in product(options.sizes, options.images, options.dtypes, options.views):
        yield Case(size, image, dtype, views, options.device)


def rows(options: argparse.Namespace) -> Iterator[str]:
    """The table."""
    yield head(*CASE, "ours [s]", "plain [s]", "ours [MiB]", "plain [MiB]", "share in the trunk")
    for case in cases(options):
        ours = outcome(case)
        plain = "-", f"scores alone {case.scores_gib * 1024:.0f}"
        if case.scores_gib < options.limit_gib:
            told = outcome(replace(case, plain=True))
            plain = f"{told['seconds']:.2f}", f"{told['mib']:.0f}"
        share = arithmetic(case) / ours["trunk_s"] / matmul_rate(case.device, DTYPES[case.dtype], 2.0)
        figures = f"{ours['seconds']:.2f}", plain[0], f"{ours['mib']:.0f}", plain[1], f"{share:.0%}"
        yield case.row(*figures)


def main() -> None:
    """Print the table, or run what a file describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["large"])
    parser.add_argument("--images", nargs="+", default=["224x224", "518x392"], metavar="WxH")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--views", nargs="+", type=int, default=[2, 8, 32])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit-gib", type=float, default=12.0)
    parser.add_argument("--compile", action="store_true", help="the trunk with torch.compile, and without")
    parser.add_argument("--rounding", action="store_true", help="bfloat16 against float32, output by output")
    parser.add_argument("--weights", type=Path, help="of a trained network, for --rounding; random ones by default")
    parser.add_argument("--one", type=Path, help="a case; its answer takes the file's place")
    options = parser.parse_args()
    if options.one:
        options.one.write_text(json.dumps(run_one(Case(**json.loads(options.one.read_text())))))
        return
    where = torch.cuda.get_device_name() if options.device == "cuda" else machine()
    print(f"{where}; {torch.get_num_threads()} threads, torch {torch.__version__}")
    table = rounding if options.rounding else compiled if options.compile else rows
    for printed in table(options):
        print(printed, flush=True)


if __name__ == "__main__":
    main()
