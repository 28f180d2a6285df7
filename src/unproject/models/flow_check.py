"""Which convention a flow head speaks, asked of the network itself: files of weights do not say.

A picture's flow to itself is zero. That tells conventions of places apart, which must say every pixel's own place. A
head of displacements says next to nothing there, as one that knows nothing does: it is also asked for the flow to the
same picture moved by a known number of pixels.
"""

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import as_file, files
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.io.images import resize
from unproject.io.source import open_source
from unproject.models.flow3r import Flow3r, FlowConvention, pixel_flow

ROWS, COLUMNS = 14, 22
"""Patches of the picture: the smallest images that π³ was trained on have as many."""
MOVED = (1, 2)
"""Rows and columns of patches by which the other picture is moved."""
STILL_ENOUGH = 0.05
"""Of the longer side. Read in a wrong convention of places, the median pixel is off by a third of it or more."""
MOVED_ENOUGH = 0.5
"""Of the distance moved. A head that knows nothing is off by all of it."""


@dataclass(frozen=True)
class Reading:
    """How well one convention explains what a head says."""

    convention: FlowConvention
    still: float
    """Median length of the flow of a picture to itself, as a share of its longer side."""
    moved: float
    """Median error of the flow to the moved picture, as a share of the distance moved."""

    @property
    def fits(self) -> bool:
        """Whether weights may have been trained to speak so."""
        return self.still < STILL_ENOUGH and (self.convention != "pixels" or self.moved < MOVED_ENOUGH)

    def __str__(self) -> str:
        return (
            f"as {self.convention!r} a picture's flow to itself is off by {self.still:.1%} of its side, "
            f"to itself moved by {self.moved:.0%} of the move"
        )


def readings(model: Flow3r) -> tuple[Reading, ...]:
    """Of every convention, for a network that has a flow head."""
    shown = pictures(model.config.shape.encoder.patch)
    move = shown.new_tensor([MOVED[1], MOVED[0]]) * model.config.shape.encoder.patch
    place, training = next(model.parameters()).device, model.training
    with torch.no_grad():
        raw = model.eval().raw(shown.to(place), torch.tensor([[[0, 0], [0, 1]]], device=place)).flow
    model.train(training)
    if raw is None:
        raise ValueError("this network has no flow head to be asked; give one whose config says flow=True")
    raw, side = raw[0].float().cpu(), max(shown.shape[-2:])
    found = []
    for convention in get_args(FlowConvention):
        still, moved = pixel_flow(raw, convention)
        # What lies at a pixel of the first picture lies up and to the left of it in the moved one.
        off = (moved + move).norm(dim=-1).median() / move.norm()
        found.append(Reading(convention, float(still.norm(dim=-1).median()) / side, float(off)))
    return tuple(found)


def settle(model: Flow3r) -> None:
    """Let the network decode its flow in the convention that its weights speak; a note where that is not its own.

    Where none fits, its own stays, and a note says so.
    """
    if not model.config.flow:
        return
    found = {reading.convention: reading for reading in readings(model)}
    own = found[model.config.flow_convention]
    if own.fits:
        return
    best = min((reading for reading in found.values() if reading.fits), key=lambda r: r.still, default=None)
    if best is None:
        note = f"flow of these weights fits no known convention, do not trust it: {'; '.join(map(str, found.values()))}"
    else:
        note = f"flow is read as {best.convention!r}: {best}; {own}"
        model.config = replace(model.config, flow_convention=best.convention)
    model.notes = (*model.notes, note)


@cache
def pictures(patch: int) -> Float[Tensor, "1 2 3 H W"]:
    """A frame of the sample clip, and the same moved."""
    with as_file(files("unproject") / "assets" / "sample.mp4") as clip:
        frame = next(iter(open_source(clip, max_frames=1))).image
    height, width = ROWS * patch, COLUMNS * patch
    down, right = (steps * patch for steps in MOVED)
    whole = resize(frame, round(frame.shape[1] * (height + down) / frame.shape[0]), height + down)
    crops = [whole[:height, :width], whole[down:, right : right + width]]
    return torch.stack([torch.from_numpy(crop.copy()).movedim(-1, 0).float() / 255 for crop in crops])[None]
