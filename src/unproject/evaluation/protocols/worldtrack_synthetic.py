"""The synthetic world as a WorldTrack set: always at hand, with the answers of a perfect method."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from unproject.data.synthetic import Rendering, follow, handheld_clip, world_points
from unproject.evaluation.protocols.worldtrack_files import FRAMES, Sequence, write_sequence
from unproject.geometry.motion import transform_map
from unproject.geometry.rigid import inverse, transform


@dataclass(frozen=True, kw_only=True)
class SyntheticSequence:
    """One sequence and what a perfect method says of it."""

    sequence: Sequence
    places: Float[Tensor, "T H W 3"]
    """Every pixel of frame 0 at each frame's time, in camera 0."""
    points: Float[Tensor, "T H W 3"]
    """Every frame's own points, in camera 0."""


def synthetic_sequence(
    seed: int, *, frames: int = FRAMES, height: int = 288, width: int = 512, every: int = 16
) -> SyntheticSequence:
    """A hand carries a camera past things that move; there is a track every so many pixels of frame 0, both ways."""
    made = handheld_clip(seed, frames=frames, height=height, width=width).rendering
    first, times = inverse(made.world_from_cam[0, 0]), made.times[0]
    seen = torch.zeros_like(made.valid[0, 0])
    seen[every // 2 :: every, every // 2 :: every] = True
    row, column = (seen & made.valid[0, 0]).nonzero().unbind(-1)
    tracks = follow(made, torch.stack([column, row], dim=-1), source=0)
    sequence = Sequence(
        name=f"synthetic_{seed}",
        jpegs=tuple(_jpeg(image) for image in (made.images[0] * 255).round().to(torch.uint8).movedim(1, -1)),
        size=(height, width),
        intrinsics=made.intrinsics[0, 0].double(),
        cam_from_world=inverse(first @ made.world_from_cam[0]).double(),
        tracks=transform(first, tracks.xyz).double(),
        visible=tracks.visible,
        depth=torch.where(made.valid, made.depth, 0)[0].double(),
    )
    return SyntheticSequence(
        sequence=sequence,
        places=torch.stack([transform_map(first, world_points(made, 0, time[None])[0]) for time in times]),
        points=_own_points(made, first),
    )


def _own_points(made: Rendering, first: Float[Tensor, "4 4"]) -> Float[Tensor, "T H W 3"]:
    return transform_map(first @ made.world_from_cam[0], made.points[0])


def _jpeg(image: UInt8[Tensor, "H W 3"]) -> bytes:
    file = BytesIO()
    Image.fromarray(image.cpu().numpy()).save(file, format="JPEG", quality=95)
    return file.getvalue()


def write_synthetic(folder: Path, seeds: range, **options: int) -> None:
    """One file for each seed; the options are those of `synthetic_sequence`."""
    for seed in seeds:
        sequence = synthetic_sequence(seed, **options).sequence
        write_sequence(folder / f"{sequence.name}.npz", sequence)
