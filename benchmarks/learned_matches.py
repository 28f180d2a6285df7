"""What matches that the compact network guides give to cameras: `python -m benchmarks.learned_matches`.

Each clip with true poses is solved from tracks alone, and with the matches of `benchmarks.guided` beside them, without
dense depth. `NAME[1::3]` is every third view from the second on.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from threadpoolctl import threadpool_limits

from benchmarks.clips import READERS, Clip, MissingClip
from benchmarks.guided import GuidedMatches, guided_matches
from benchmarks.run import machine
from benchmarks.table import head, line
from unproject.evaluation import metrics
from unproject.geometry.camera import rays
from unproject.geometry.rays import sampson_distance
from unproject.geometry.rigid import inverse, skew
from unproject.inference.evidence import Pictures, gather
from unproject.inference.reconstruct import Solution, solve
from unproject.io.source import open_source
from unproject.models.loading import load
from unproject.progress import silent
from unproject.types import Tracks

CLIPS = (
    "apc_shelf[::5]",
    "apc_shelf[::4]",
    "apc_shelf[::3]",
    "apc_shelf[::2]",
    "kitti06_stereo",
    "strecha_fountain_p11[::4]",
    "strecha_fountain_p11[::3]",
    "lund_door[::4]",
    "lund_door[::3]",
    "ingp_fox[::10]",
    "ingp_fox[::7]",
    "ingp_fox[1::5]",
    "ingp_fox_every4",
    "apc_shelf",
)
COLUMNS = (
    "clip",
    "with",
    "matches",
    "right",
    "tracks of 3 and more",
    "views",
    "ATE",
    "AUC@5",
    "AUC@30",
    "search, solve [s]",
)
RIGHT_PX = 4.0
"""Distance from the true epipolar line."""


def right_share(clip: Clip, pictures: Pictures, found: GuidedMatches) -> float:
    """Share of matches near the true epipolar line, in working pixels."""
    near = []
    for pair in found.pairs:
        xy = []
        for view, index in ((pair.a, pair.index_a), (pair.b, pair.index_b)):
            uv = torch.from_numpy(found.features[view].uv[index]).double() / pictures.work_scale[view]
            xy.append(rays(uv, clip.intrinsics[view], clip.distortion[view])[:, :2])
        b_from_a = inverse(clip.world_from_cam[pair.b]) @ clip.world_from_cam[pair.a]
        off = sampson_distance(skew(b_from_a[:3, 3]) @ b_from_a[:3, :3], *xy)
        near.append(off * clip.intrinsics[pair.a, 0, 0] * pictures.work_scale[pair.a] < RIGHT_PX)
    return torch.cat(near).double().mean().item() if near else float("nan")


def scores(clip: Clip, solution: Solution) -> list[str]:
    """Of the largest part, the only one that counts."""
    poses = torch.full((len(clip.files), 4, 4), torch.nan, dtype=torch.float64)
    if solution.parts:
        largest = torch.as_tensor(max((part.views for part in solution.parts), key=len))
        poses[largest] = solution.cameras.world_from_cam[largest].double()
    found = int(poses.isfinite().all(-1).all(-1).sum())
    errors = metrics.pair_errors(poses, clip.world_from_cam)
    return [
        f"{found}/{len(clip.files)}",
        f"{metrics.ate(poses, clip.world_from_cam):.4f}" if found >= 3 else "-",
        f"{100 * errors.auc(5):.1f}",
        f"{100 * errors.auc(30):.1f}",
    ]


def long_tracks(tracks: Tracks) -> str:
    """How many tracks three views and more see."""
    return str(int((tracks.lengths() > 2).sum()))


def timed(make: Callable):
    """What it makes, and the seconds that takes."""
    began = time.perf_counter()
    return make(), time.perf_counter() - began


def compare(clip: Clip, weights: str) -> None:
    """Print the rows of one clip."""
    network = load(weights, "cpu")
    with threadpool_limits(1, "blas"), Pictures(open_source(list(clip.files))) as pictures:
        evidence = gather(pictures, None, 0, silent)
        alone, solve_s = timed(lambda: solve(pictures, evidence, None, 0, silent))
        row = [clip.name, "nothing", "-", "-", long_tracks(evidence.tracks), *scores(clip, alone)]
        print_row([*row, f"-, {solve_s:.1f}"])
        found, search_s = timed(lambda: guided_matches(pictures, network, silent))
        joined = replace(evidence, tracks=found.joined(evidence.tracks))
        helped, solve_s = timed(lambda: solve(pictures, joined, None, 0, silent))
        count, right = sum(len(pair.index_a) for pair in found.pairs), right_share(clip, pictures, found)
        row = [clip.name, "the network", str(count), f"{right:.2f}", long_tracks(joined.tracks), *scores(clip, helped)]
        print_row([*row, f"{search_s:.1f}, {solve_s:.1f}"])


def print_row(cells: Sequence[str]) -> None:
    """At once: a table takes long."""
    print(line(*cells), flush=True)


def subset(name: str) -> Clip:
    """A clip, or every so many of its views: `name[first::step]`."""
    taken = re.fullmatch(r"([^\[]+)\[(\d*)::(\d+)\]", name)
    if taken is None:
        return READERS[name]()
    clip, keep = READERS[taken[1]](), slice(int(taken[2] or 0), None, int(taken[3]))
    parts = {part: getattr(clip, part)[keep] for part in ("files", "world_from_cam", "intrinsics", "distortion")}
    return replace(clip, name=name, depth=None, **parts)


def main() -> None:
    """Print the table clip by clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", nargs="+", default=CLIPS, metavar="NAME", help=", ".join(CLIPS))
    parser.add_argument("--weights", default="compact", help="a name or a file")
    arguments = parser.parse_args()
    print(machine())
    print(head(*COLUMNS))
    for name in arguments.clips:
        try:
            clip = subset(name)
        except MissingClip as reason:
            print(f"skipped {name}: {reason}")
        else:
            compare(clip, arguments.weights)


if __name__ == "__main__":
    main()
