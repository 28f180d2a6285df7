"""Weak training on a real room, with real tracks: what a tiny network learns of frames that it has not seen.

    python -m benchmarks.weak_clips -o out/weak-clips --seeds 3

The room is the 7-Scenes kitchen: a hand-held camera, poses by KinectFusion, depth by a Kinect. Clips are of four views;
the first 600 frames are learned from, the last 360 are measured. Tracks are KLT's. Depth is the Kinect's, in place of a
network's whose weights may not be had here; or, like the lens, it is what `refine` found in the same frames: those rows
saw nothing but video. Last, nothing of the room is learned from: `unproject label --teacher refine` of twelve videos by
others. What is done is kept in the folder, and not done again.
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.clips import data_root, kitchen_whole
from unproject.data.base import Framing
from unproject.data.clips import mixed_seed
from unproject.data.crop import Crop
from unproject.data.labels import LabelShards, same_surface
from unproject.evaluation.scene import scene_metrics
from unproject.experiments.experiment import Experiment
from unproject.experiments.reliev3r import COLUMNS
from unproject.experiments.run import run
from unproject.geometry.camera import unproject
from unproject.inference.reconstruct import from_frames
from unproject.io.images import read_image
from unproject.io.shard_index import INDEX, write_index
from unproject.io.shards import LabelledClip, write_shard
from unproject.io.source import in_memory
from unproject.labelling.run import label
from unproject.labelling.wishes import Wishes
from unproject.recipes.refine import RefineTeacher, labels_of
from unproject.recipes.weak_designs import HELD, SUPERVISED, VIEWS, WEAK, weak_designs
from unproject.teachers.base import Shot
from unproject.teachers.tracks import KltTeacher, of_views
from unproject.training.recipe import Validation
from unproject.types import Known, Labels

LEARNED, MEASURED = (0, 600), (640, 1000)
"""Frames of the sequence, 30 a second."""
SPAN = (30, 90)
"""Frames from the first to the last view of a clip."""
CLIPS, TRIED = 600, 128
"""Clips that are learned from and measured."""
KEPT = Framing(views=VIEWS, pairs=(), height=80, width=100)
"""Clips are kept at twice the size that the network sees."""


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Frames of one sequence, what is known of each, and their numbers in it."""

    numbers: list[int]
    images: list[np.ndarray]
    labels: Labels
    """Of a batch of one: points of every frame, cameras and tracks."""

    def windows(self, count: int) -> list[list[int]]:
        """Places of the views of about so many clips."""
        at, found = np.array(self.numbers), []
        for clip in range(count):
            random = np.random.default_rng(mixed_seed(self.numbers[0], clip))
            span = int(random.integers(*SPAN, endpoint=True))
            begin = int(random.integers(at[0], at[-1] - span, endpoint=True))
            places = {int(np.abs(at - wanted).argmin()) for wanted in np.linspace(begin, begin + span, VIEWS)}
            if len(places) == VIEWS:
                found.append(sorted(places))
        return found

    def write(self, folder: Path, clips: int) -> None:
        """Clips of it as a folder of labels, as `unproject label` lays it out."""
        small = self.shrunk()
        windows = self.windows(clips)
        different = len(set(map(tuple, windows)))
        print(f"{folder.name}: {len(windows)} clips, {different} different, of {len(self.numbers)} frames")
        keyed = ((f"000000-000000-{at:04d}", small.clip(views)) for at, views in enumerate(windows))
        write_index(folder / INDEX, write_shard(folder / "shards" / "000000.tar", keyed))

    def shrunk(self) -> "Footage":
        """The same in small."""
        crop = Crop.middle(self.images[0], KEPT)
        points, lens, tracks = self.labels.points, self.labels.intrinsics, self.labels.tracks
        assert points is not None and lens is not None and tracks is not None
        maps = [
            crop.known(value.numpy(), weight.numpy(), same_surface)
            for value, weight in zip(points.value[0], points.weight[0], strict=True)
        ]
        values, weights = (torch.from_numpy(np.stack(each)).float() for each in zip(*maps, strict=True))
        intrinsics = (torch.from_numpy(crop.from_image) @ lens.value[0].double()).float()
        labels = replace(
            self.labels,
            points=Known(values[None], weights[None]),
            intrinsics=Known(intrinsics[None], lens.weight),
            tracks=crop.tracks(tracks),
        )
        return replace(self, images=[crop.image(image) for image in self.images], labels=labels)

    def clip(self, views: list[int]) -> LabelledClip:
        """Some of its frames."""
        whole = self.labels
        assert whole.tracks is not None

        def of_these(known: Known | None) -> Known:
            assert known is not None
            return Known(known.value[:, views], known.weight[:, views])

        labels = Labels(
            points=of_these(whole.points),
            world_from_cam=of_these(whole.world_from_cam),
            intrinsics=of_these(whole.intrinsics),
            tracks=of_views(whole.tracks, views),
        )
        return LabelledClip(
            file="kitchen",
            frames=tuple(self.numbers[view] for view in views),
            times_s=tuple(self.numbers[view] / 30 for view in views),
            images=np.stack([self.images[view] for view in views]),
            pairs=(),
            labels=labels,
            quality={},
        )


def by_sensor(frames: tuple[int, int]) -> Footage:
    """Frames of the kitchen between two numbers, with depth and poses that were measured, and tracks by KLT."""
    clip = kitchen_whole()
    assert clip.depth is not None and clip.world_from_cam is not None and clip.intrinsics is not None
    numbers = [int(path.name[6:12]) for path in clip.files]
    places = [place for place, number in enumerate(numbers) if frames[0] <= number < frames[1]]
    images = [read_image(clip.files[place]) for place in places]
    depth = torch.stack([clip.depth(place).float() for place in places])
    every = torch.ones(1, len(places))
    lenses = clip.intrinsics[places].float()
    points = torch.stack([unproject(*each) for each in zip(depth, lenses, strict=True)])
    labels = Labels(
        points=Known(points[None], (depth > 0).float()[None]),
        world_from_cam=Known(clip.world_from_cam[places].float()[None], every),
        intrinsics=Known(lenses[None], every),
        tracks=KltTeacher().label(Shot.of(images)).tracks,
    )
    return Footage(numbers=[numbers[place] for place in places], images=images, labels=labels)


def by_refine(footage: Footage) -> Footage:
    """The same frames, with what they alone tell."""
    every = range(len(footage.images))
    return replace(footage, labels=labels_of(from_frames(in_memory(footage.images, "video"), views=every), every))


def experiment(folder: Path, steps: int) -> Experiment:
    """The table, from labels that lie in the folder."""
    weakly, fully = ("points", "tracks", "intrinsics"), ("points", "world_from_cam", "intrinsics")

    def labels(name: str, needs: tuple[str, ...]) -> LabelShards:
        return LabelShards(folder=str(folder / name), needs=needs)

    held = labels("measured", fully)
    measured = Validation(dataset=held, numbers=tuple(range(held.count)), measure=scene_metrics, every=steps)
    row = partial(weak_designs, measured=measured, steps=steps)
    sensed = partial(row, footage=labels("sensor", weakly))
    seen = partial(row, footage=labels("refine", weakly))
    others = partial(row, footage=labels("others", weakly))
    rows = {
        "after one step": partial(sensed, steps=1),
        "supervised": partial(row, (SUPERVISED,), footage=labels("sensor", fully)),
        "weak": sensed,
        "weak, alpha 0.2": partial(sensed, (replace(WEAK, ambiguity=0.2),)),
        "weak, alpha 0.5": partial(sensed, (replace(WEAK, ambiguity=0.5),)),
        "weak, alpha 2.0": partial(sensed, (replace(WEAK, ambiguity=2.0),)),
        "weak, no trust": partial(sensed, (replace(WEAK, ambiguity=None),)),
        "depth alone": partial(sensed, (replace(WEAK, registration=0.0),)),
        "tracks alone": partial(sensed, (replace(WEAK, depth=0.0),)),
        "weak, video alone": seen,
        "weak, video alone, lens learned": partial(seen, (HELD,), rays="found"),
        "refine's points and poses": partial(row, (SUPERVISED,), footage=labels("refine", fully)),
        "synthetic alone": partial(row, (), warm=True),
        "synthetic, then weak, video alone": partial(seen, warm=True),
        "weak, videos of other places": others,
        "synthetic, then weak, videos of other places": partial(others, warm=True),
    }
    return Experiment(name="weak-clips", title="Weak training on a real room", rows=rows, columns=COLUMNS)


def main() -> None:
    """Labels, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", nargs="+", help="these alone, as a table of its own: weak-clips-some")
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    labels = options.output / "labels"
    label([data_root() / "clips"], labels / "others", [RefineTeacher()], Wishes(views=VIEWS), resume=True)
    if not (labels / "refine" / INDEX).exists():
        seen = by_sensor(LEARNED)
        by_sensor(MEASURED).write(labels / "measured", TRIED)
        seen.write(labels / "sensor", CLIPS)
        by_refine(seen).write(labels / "refine", CLIPS)
    table = experiment(labels, options.steps)
    if options.rows:
        if unknown := set(options.rows) - set(table.rows):
            parser.error(f"no rows {', '.join(unknown)}; choose of {', '.join(table.rows)}")
        table = replace(table, name="weak-clips-some", rows={name: table.rows[name] for name in options.rows})
    print(run(table, options.output, seeds=options.seeds, jobs=options.jobs, resume=True).table)


if __name__ == "__main__":
    main()
