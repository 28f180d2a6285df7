"""What the compact network's matches give to cameras: `python -m benchmarks.learned_matches`.

Each clip with true poses is solved as it is, and with matches that begin where the network sees the points of one view
in another. The network's own flow is off by several pixels of the images that are solved with, so it is only where
search begins: for the patch (KLT), or for the point whose descriptor is most alike (SIFT). What is found must agree on
a fundamental matrix before it joins the tracks. `unguided` is the same search for patches from where they are in the
first view, without the network. `NAME[1::3]` is every third view from the second on.
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from benchmarks.clips import READERS, Clip
from benchmarks.run import machine
from unproject.evaluation import metrics
from unproject.geometry.camera import rays
from unproject.geometry.rays import sampson_distance
from unproject.geometry.rigid import inverse, skew
from unproject.inference import assemble
from unproject.inference.evidence import Evidence, Pictures, gather
from unproject.inference.reconstruct import _solve
from unproject.inference.twoview import fit_pair
from unproject.inference.view import lookup
from unproject.io.images import resize
from unproject.io.source import open_source
from unproject.models.base import Reconstructor
from unproject.models.loading import load
from unproject.progress import silent
from unproject.teachers import matches
from unproject.teachers.matches import Features, PairMatches
from unproject.types import Tracks, Views

CLIPS = (
    "apc_shelf",
    "apc_shelf[::2]",
    "ingp_fox_every4",
    "ingp_fox[::5]",
    "ingp_fox[1::5]",
    "kitti06_stereo",
    "7scenes_redkitchen_every4",
    "strecha_fountain_p11",
    "strecha_fountain_p11[::2]",
    "lund_door",
    "lund_door[::2]",
)
COLUMNS = (
    "clip",
    "added",
    "matches",
    "right",
    "tracks",
    "of 3 and more",
    "views",
    "ATE",
    "AUC@5",
    "AUC@30",
    "solve [s]",
)
LONG_SIDE, CELL = 160, 8
"""What the network is asked at, as for depth."""
LOOP_PX, LEAST_CONFIDENCE = 1.5, 0.5
"""Of the network's pixels, forth and back; and how sure it must be of its flow."""
REACH = 0.02
"""Of the longer side: how far from the network's match a point is looked for."""
REST_PX = 1.5
"""What stays put in the image this well is a gripper or a speck, and any fundamental matrix explains it."""
KLT = {"winSize": (24, 24), "maxLevel": 2, "criteria": (3, 30, 0.01)}
RETURN_PX, VERIFY_PX, RIGHT_PX = 0.7, 1.5, 4.0
"""KLT forth and back; distance from the epipolar line that is agreement, and of the true one."""


@dataclass(frozen=True)
class Flow:
    """What the network says of one image in another; its pixels."""

    shift: np.ndarray
    """h w 2."""
    trust: np.ndarray
    """h w, confidence of the flow times its weight for the pose, the mean weight counting as 1."""
    confidence: np.ndarray
    """h w."""


class Network:
    """Flow between any two views, asked once."""

    def __init__(self, model: Reconstructor, pictures: Pictures) -> None:
        self.model, self.pictures, self.said = model, pictures, {}
        self.seconds = 0.0

    def flows(self, a: int, b: int) -> tuple[Flow, Flow]:
        """From a to b and back."""
        if (a, b) not in self.said:
            began = time.perf_counter()
            self.said[a, b] = self._ask(a, b)
            self.seconds += time.perf_counter() - began
        return self.said[a, b]

    def _ask(self, a: int, b: int) -> tuple[Flow, Flow]:
        height, width = self.pictures.small[a].shape[:2]
        shrink = LONG_SIDE / max(height, width) / CELL
        size = round(width * shrink) * CELL, round(height * shrink) * CELL
        images = np.stack([resize(self.pictures.small[view], *size) for view in (a, b)])
        images = torch.from_numpy(images).movedim(-1, 1)[None] / 255
        with torch.inference_mode():
            said = self.model(Views(images=images, times=torch.zeros(1, 2), pairs=torch.tensor([[[0, 1], [1, 0]]])))
        weight = said.pose_weight * said.pose_weight[0, 0].numel()
        trust = said.flow_confidence * weight.clamp(max=1.0)
        one, two = (Flow(*(of[0, side].numpy() for of in (said.flow, trust, said.flow_confidence))) for side in (0, 1))
        return one, two


@dataclass(frozen=True)
class Landings:
    """Where the network sees points in another view, and how far to trust that; both N rows."""

    uv: np.ndarray
    trust: np.ndarray
    sure: np.ndarray


def land(forth: Flow, back: Flow, uv: np.ndarray, scale: np.ndarray) -> Landings:
    """Of points with ``scale`` network pixels per pixel."""
    here = (uv * scale).astype(np.float32)
    there = here + lookup(forth.shift, here[None])[0]
    loop = np.linalg.norm(there + lookup(back.shift, there[None])[0] - here, axis=1)
    inside = ((there >= 0) & (there <= forth.trust.shape[::-1])).all(1)
    confidence, trust = (lookup(of, here[None])[0] for of in (forth.confidence, forth.trust))
    sure = inside & (loop < LOOP_PX) & (confidence > LEAST_CONFIDENCE)
    return Landings((there / scale).astype(np.float32), trust.clip(0.05, 1.0), sure)


@dataclass(frozen=True)
class Seen:
    """One view: its picture and its points."""

    grey: np.ndarray
    points: Features


Found = tuple[np.ndarray, np.ndarray]
"""Numbers of a's points, and where they are in b."""
Search = Callable[[Seen, Seen, Landings, Landings], Found]


def by_patch(a: Seen, b: Seen, forth: Landings, back: Landings) -> Found:
    """KLT at full resolution, from where the network says; it must come back."""
    del back
    index = np.flatnonzero(forth.sure)
    if not len(index):
        return index, forth.uv[index]
    here, guess = (uv[index, None] - np.float32(0.5) for uv in (a.points.uv, forth.uv))
    use = cv2.OPTFLOW_USE_INITIAL_FLOW
    there, went, _ = cv2.calcOpticalFlowPyrLK(a.grey, b.grey, here, guess.copy(), flags=use, **KLT)
    returned, came, _ = cv2.calcOpticalFlowPyrLK(b.grey, a.grey, there, here - guess + there, flags=use, **KLT)
    near = np.linalg.norm(there - guess, axis=2)[:, 0] < REACH * max(a.grey.shape)
    closed = np.linalg.norm(returned - here, axis=2)[:, 0] < RETURN_PX
    good = near & closed & (went > 0)[:, 0] & (came > 0)[:, 0]
    return index[good], there[good, 0] + np.float32(0.5)


def unguided(a: Seen, b: Seen, forth: Landings, back: Landings) -> Found:
    """The same without the network."""
    return by_patch(a, b, Landings(a.points.uv, np.ones_like(forth.trust), np.ones_like(forth.sure)), back)


def by_descriptor(a: Seen, b: Seen, forth: Landings, back: Landings) -> Found:
    """The point most alike near where the network says, in both directions, clearly before the second there."""
    reach = REACH * max(a.grey.shape)
    near = _within(forth, b.points.uv, reach) & _within(back, a.points.uv, reach).T
    likeness = np.where(near, a.points.descriptor @ b.points.descriptor.T, -1.0)
    if min(likeness.shape) < 2:
        return np.zeros(0, int), np.zeros((0, 2), np.float32)
    best, row = likeness.argmax(1), np.arange(len(likeness))
    second, value = np.partition(likeness, -2, axis=1)[:, -2], likeness[row, best]
    clear = (1 - value < matches.RATIO**2 * (1 - second)) & (2 - 2 * value < matches.FARTHEST**2)
    index = np.flatnonzero(clear & (likeness.argmax(0)[best] == row))
    return index, b.points.uv[best[index]]


def _within(landings: Landings, uv: np.ndarray, reach: float) -> np.ndarray:
    """Landings by points (bool)."""
    near = np.zeros((len(landings.uv), len(uv)), bool)
    if len(uv):
        for row, close in enumerate(cKDTree(uv).query_ball_point(landings.uv, reach)):
            near[row, close] = landings.sure[row]
    return near


@dataclass(frozen=True)
class Added:
    """Tracks with the network's help, and the share of what was added that is right by the true cameras."""

    evidence: Evidence
    matches: int
    right: float


def with_help(clip: Clip, pictures: Pictures, evidence: Evidence, network: Network, search: Search) -> Added:
    """The evidence with the matches of one kind of search joined to its tracks."""
    infos = pictures.source.infos
    greys = {view: pictures.kept[view] for view in evidence.keyframes.tolist()}
    seen = {view: Seen(grey, matches.detect(grey, 3000)) for view, grey in greys.items()}
    places = [seen[view].points if view in seen else Features.none() for view in range(len(infos))]
    trusts = [np.ones(len(place.uv), np.float32) for place in places]
    kept, right = [], []
    for a, b in pairs_of(evidence):
        flows = network.flows(a, b)
        forth, back = (
            land(*order, seen[v].points.uv, _scale(flows[0], seen[v].grey))
            for order, v in ((flows, a), (flows[::-1], b))
        )
        index, uv = agreeing(*search(seen[a], seen[b], forth, back), seen[a])
        if not len(index):
            continue
        distance, nearest = cKDTree(places[b].uv[: len(seen[b].points.uv)]).query(uv)
        fresh = distance > matches.SAME_POINT_PX
        number = np.where(fresh, len(places[b].uv) + np.cumsum(fresh) - 1, nearest)
        nothing = np.zeros((fresh.sum(), 128), np.float32)
        places[b] = Features(np.concatenate([places[b].uv, uv[fresh]]), np.concatenate([places[b].descriptor, nothing]))
        trusts[b] = np.concatenate([trusts[b], forth.trust[index[fresh]]])
        kept.append(PairMatches(a, b, index, number, 1.0))
        right.append(off_px(clip, pictures, a, b, seen[a].points.uv[index], uv) < RIGHT_PX)
    exact = np.array([[info.width, info.height] for info in infos]) * pictures.work_scale[:, None]
    exact /= np.array([pictures.kept[view].shape[::-1] for view in range(len(infos))])
    tracks = matches.merge(places, kept, assemble.rescaled(evidence.tracks, 1 / exact)) if kept else evidence.tracks
    if kept:
        tracks = assemble.rescaled(_weighed(tracks, places, trusts), exact)
    all_right = np.concatenate(right) if right else np.zeros(0)
    share = float(all_right.mean()) if len(all_right) else np.nan
    return Added(replace(evidence, tracks=tracks), len(all_right), share)


def pairs_of(evidence: Evidence) -> Iterator[tuple[int, int]]:
    """Of photos all; of a video those at the distances at which photos are compared."""
    for (place_a, a), (place_b, b) in combinations(enumerate(evidence.keyframes.tolist()), 2):
        if not evidence.ordered or place_b - place_a in matches.GAPS:
            yield a, b


def agreeing(index: np.ndarray, uv: np.ndarray, a: Seen) -> Found:
    """What one fundamental matrix explains; nothing where too little agrees on any."""
    moves = np.linalg.norm(uv - a.points.uv[index], axis=1) > REST_PX
    index, uv = index[moves], uv[moves]
    here = a.points.uv[index].astype(np.float64)
    fit = fit_pair(0, 1, here, uv.astype(np.float64), scale_px=VERIFY_PX, seed=0)
    if fit is None:
        return index[:0], uv[:0]
    matrix = torch.from_numpy(fit.fundamental)
    near = sampson_distance(matrix, torch.from_numpy(here), torch.from_numpy(uv).double()).abs().numpy() < VERIFY_PX
    return index[near], uv[near]


def off_px(clip: Clip, pictures: Pictures, a: int, b: int, uv_a: np.ndarray, uv_b: np.ndarray) -> np.ndarray:
    """Sampson distance from the true epipolar geometry, in working pixels."""
    scale = torch.as_tensor(pictures.work_scale)
    xy = []
    for view, uv in ((a, uv_a), (b, uv_b)):
        original = torch.as_tensor(uv).double() / scale[view]
        xy.append(rays(original, clip.intrinsics[view], clip.distortion[view])[:, :2])
    b_from_a = inverse(clip.world_from_cam[b]) @ clip.world_from_cam[a]
    distance = sampson_distance(skew(b_from_a[:3, 3]) @ b_from_a[:3, :3], *xy).abs()
    return (distance * clip.intrinsics[a, 0, 0] * scale[a]).numpy()


def _scale(flow: Flow, grey: np.ndarray) -> np.ndarray:
    return np.array(flow.trust.shape[::-1]) / np.array(grey.shape[::-1])


def _weighed(tracks: Tracks, places: list[Features], trusts: list[np.ndarray]) -> Tracks:
    """The network's trust as the weight of what it added: rows at exactly its places."""
    weight = tracks.weight.clone()
    for view, (place, trust) in enumerate(zip(places, trusts, strict=True)):
        rows = torch.nonzero(tracks.view == view)[:, 0]
        if len(rows) and len(place.uv):
            distance, nearest = cKDTree(place.uv).query(tracks.uv[rows].numpy())
            added = torch.as_tensor(distance == 0)
            weight[rows[added]] = weight[rows[added]].minimum(torch.as_tensor(trust[nearest])[added])
    return replace(tracks, weight=weight)


def cells(clip: Clip, pictures: Pictures, name: str, added: Added) -> list[str]:
    """Solve and compare with the truth."""
    began = time.perf_counter()
    solution = _solve(pictures, added.evidence, None, 0, silent)
    seconds = time.perf_counter() - began
    poses = torch.full((len(clip.files), 4, 4), torch.nan, dtype=torch.float64)
    if solution.parts:
        largest = torch.as_tensor(max((part.views for part in solution.parts), key=len))
        poses[largest] = solution.cameras.world_from_cam[largest].double()
    found = int(poses.isfinite().all(-1).all(-1).sum())
    errors = metrics.pair_errors(poses, clip.world_from_cam)
    ate = f"{metrics.ate(poses, clip.world_from_cam):.4f}" if found >= 3 else "-"
    lengths = added.evidence.tracks.lengths()
    right = f"{added.right:.2f}" if added.matches else "-"
    return [
        clip.name,
        name,
        str(added.matches),
        right,
        str(len(lengths)),
        str(int((lengths > 2).sum())),
        f"{found}/{len(clip.files)}",
        ate,
        f"{100 * errors.auc(5):.1f}",
        f"{100 * errors.auc(30):.1f}",
        f"{seconds:.1f}",
    ]


def subset(name: str) -> Clip:
    """A clip, or every so many of its views: `name[first::step]`."""
    plain, first, step = re.fullmatch(r"([^\[]+)(?:\[(\d*)::(\d+)\])?", name).groups()
    clip = READERS[plain]()
    if step is None:
        return clip
    keep = slice(int(first or 0), None, int(step))
    parts = {part: getattr(clip, part)[keep] for part in ("files", "world_from_cam", "intrinsics", "distortion")}
    return replace(clip, name=name, depth=None, **parts)


WAYS: dict[str, Search] = {"KLT": by_patch, "SIFT": by_descriptor, "KLT, unguided": unguided}


def main() -> None:
    """Print the table line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", nargs="+", default=CLIPS, metavar="NAME", help=", ".join(CLIPS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--weights", default="compact", help="a name, or a file: compact")
    arguments = parser.parse_args()
    model = load(arguments.weights, "cpu")
    torch.set_num_threads(1)  # threads that wait in circles cost more than they give where other programs run
    print(machine())
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for name in arguments.clips:
        clip = subset(name)
        source = open_source([Path(file) for file in clip.files])
        with threadpool_limits(1, "blas"), Pictures(source) as pictures:
            evidence = gather(pictures, None, 0, silent)
            print(f"| {' | '.join(cells(clip, pictures, 'none', Added(evidence, 0, np.nan)))} |", flush=True)
            network = Network(model, pictures)
            for way in arguments.ways:
                added = with_help(clip, pictures, evidence, network, WAYS[way])
                print(f"| {' | '.join(cells(clip, pictures, way, added))} |", flush=True)


if __name__ == "__main__":
    main()
