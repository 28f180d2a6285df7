"""A video through a two-view network: each frame against an anchor, one scale for all (Flow4R, arXiv 2602.14021).

Pairs (anchor, n) have scales of their own; those of one anchor are brought together by the mean distance of its points
(the paper's s_1/s_n). When too little of the anchor is left in a frame, the last frame that saw enough becomes the next
anchor, with the pose and the scale that its pair gave it. Frames stream through: a long video takes no more memory.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unproject.geometry import motion
from unproject.geometry.align import intrinsics_from_points
from unproject.geometry.flow import sample
from unproject.geometry.rigid import inverse
from unproject.inference.pairs import Pairs, pairs_of
from unproject.models.base import Reconstructor
from unproject.models.pairing import PairMaps, TwoViewNetwork

MaskOf = Callable[[int], Tensor | None]
"""A frame's mask at network resolution [H, W] with values in [0, 1], by the frame's number; None where it has none."""
SURE = 0.02
"""Share of depth by which a point may miss the surface that it is said to lie on, to inherit the surface's mask."""


def no_mask(index: int) -> None:
    """No frame has a mask."""
    del index


@dataclass(frozen=True, kw_only=True)
class Sequencing:
    """How a sequence is run."""

    batch: int = 4
    """Pairs at a time."""
    both_sides: bool = True
    """Whether the frames' own pixels are wanted. Without, the head reads half as much: there are tracks of the anchor's
    pixels, and poses from one direction only; nothing tells what a frame hides."""
    every: int | None = None
    """A new anchor at least every so many frames."""
    least_overlap: float = 0.4
    """A new anchor where less of the anchor's confidence is left in a frame."""
    precision: torch.dtype | None = None
    """Of the trunk; None is the network's own, else the caller's autocast."""
    reference: MaskOf | None = None
    """What is at rest by definition, in place of the network's W: poses and tracks are relative to it. Frame 0 needs a
    mask; frames without one are seen from the anchor's only."""
    usable: MaskOf = no_mask
    """What may speak of pose at all."""


@dataclass(frozen=True, kw_only=True)
class AnchoredFrame:
    """What a sequence says of one frame; the world is the first frame's camera, lengths are in one scale.

    Maps are slices of a batch's: who keeps one keeps its batch.
    """

    index: int
    anchor: int
    """The frame that this one was paired with; the first frame's is itself."""
    world_from_cam: Float[Tensor, "4 4"]
    """float64. NaN where nothing had weight."""
    cam_from_anchor: Float[Tensor, "1 4 4"]
    anchor_maps: PairMaps
    """Of the anchor's pixels (F = 1): where they are in this frame's camera at its time."""
    own_maps: PairMaps | None
    """Of the frame's own pixels (F = 1), where they are wanted."""
    anchor_intrinsics: Float[Tensor, "1 3 3"]
    intrinsics: Float[Tensor, "1 3 3"]
    """For the network's pixels, from the frame's own points; the anchor's where these are not wanted."""
    scale: float
    """By which this pair's lengths were multiplied; 1 for the first pair."""
    overlap: float
    """Share of the anchor's confidence (of its first pair) that is left in this frame."""

    @property
    def places(self) -> Float[Tensor, "H W 3"]:
        """The anchor's pixels at this frame's time, in the world (eq. 6)."""
        return self._in_world(self.anchor_maps.target_points)

    @property
    def points(self) -> Float[Tensor, "H W 3"]:
        """The frame's own pixels at its time, in the world."""
        if self.own_maps is None:
            raise ValueError("AnchoredFrame.own_maps is needed here; run the sequence with both_sides=True")
        return self._in_world(self.own_maps.points)

    def _in_world(self, points: Float[Tensor, "1 H W 3"]) -> Float[Tensor, "H W 3"]:
        return motion.transform_map(self.world_from_cam.to(points)[None], points)[0]


def anchored(
    network: TwoViewNetwork | Reconstructor,
    frames: Iterable[Float[Tensor, "3 H W"]],
    sequencing: Sequencing = Sequencing(),
) -> Iterator[AnchoredFrame]:
    """One `AnchoredFrame` per image (RGB in [0, 1] on the network's device), in their order.

    Images may change their size from frame to frame. Each is encoded once if the network can be split; a frame behind
    which the anchor is lost is compared a second time, with the next anchor.
    """
    run = _Run(pairs=pairs_of(network, sequencing.precision), sequencing=sequencing)
    for images in _stacks(frames, sequencing.batch):
        yield from run.feed(images)
    if run.anchor is not None and run.last is None:  # one image: it is compared with itself
        yield from run.accepted(run.paired(run.anchor.code, 0), 1)


def track_first(
    network: TwoViewNetwork | Reconstructor,
    frames: Iterable[Float[Tensor, "3 H W"]],
    places: Float[Tensor, "N H W 3"],
    sequencing: Sequencing = Sequencing(both_sides=False, least_overlap=0.0),
) -> Float[Tensor, "N H W 3"]:
    """Writes where every pixel of the first image is at each image's time, in the first camera; returns ``places``.

    ``places`` may be larger than memory: ``torch.from_numpy(np.lib.format.open_memmap(...))``. All images are compared
    with the first, as in the paper and in WorldTrack.
    """
    if sequencing.every is not None or sequencing.least_overlap > 0:
        raise ValueError("track_first keeps the first image as its anchor: leave out every, set least_overlap to 0")
    for frame in anchored(network, frames, sequencing):
        places[frame.index] = frame.places.to(places)
    return places


def _stacks(frames: Iterable[Float[Tensor, "3 H W"]], batch: int) -> Iterator[Float[Tensor, "F 3 H W"]]:
    """Images of one size in batches."""
    for _, same in groupby(frames, key=lambda image: image.shape):
        while images := list(islice(same, batch)):
            yield torch.stack(images)


@dataclass(kw_only=True)
class _Anchor:
    index: int
    code: Any
    world_from_cam: Tensor
    distance: Tensor | None = None
    """Mean distance of its points, in the sequence's scale; that of its first pair where it is the first anchor."""
    reference: Tensor | None = None
    usable: Tensor | None = None
    intrinsics: Tensor | None = None
    trust: Tensor | None = None
    """Confidence of its pixels, all in all: of the first anchor in its first pair, of others in that with the last."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Frames ``index`` and following against the anchor, lengths in the sequence's scale."""

    index: int
    code: Any
    first: PairMaps
    second: PairMaps | None
    cam_from_anchor: Tensor
    known: Tensor
    intrinsics: Tensor
    scale: Tensor
    overlap: Tensor


@dataclass(kw_only=True)
class _Run:
    pairs: Pairs
    sequencing: Sequencing
    count: int = 0
    anchor: _Anchor | None = None
    last: AnchoredFrame | None = field(default=None)
    last_code: Any = None

    def feed(self, images: Float[Tensor, "F 3 H W"]) -> Iterator[AnchoredFrame]:
        """What these images are, seen from the anchor or from what becomes one."""
        with torch.no_grad():
            code = self.pairs.encode(images)
        start, end = 0, len(images)
        if self.anchor is None:
            pose = torch.eye(4, dtype=torch.float64, device=images.device)
            self.anchor = _Anchor(index=0, code=self.pairs.row(code, 0), world_from_cam=pose)
            self.anchor.reference, self.anchor.usable = self._reference(0), self.sequencing.usable(0)
            self.count = start = 1
        while start < end:
            room = end if self.sequencing.every is None else self.anchor.index + self.sequencing.every + 1 - self.count
            rows = slice(start, min(end, start + max(room, 1)))
            block = self.paired(self.pairs.rows(code, rows), self.count)
            enough = (block.overlap >= self.sequencing.least_overlap) & block.known
            good = int(enough.long().cumprod(0).sum())
            if good == 0 and self._new_anchor():
                continue
            good = max(good, 1)  # there is no better anchor
            yield from self.accepted(block, good)
            start += good
            if good < len(block.scale) or self._is_due():
                self._new_anchor()

    def accepted(self, block: _Block, good: int) -> Iterator[AnchoredFrame]:
        """The first frames of a block; with the first block, the first image itself."""
        anchor = self._anchor
        if self.last is None:
            first = self._frame(block, 0, anchor.index)
            yield replace(first, **_at_home(first))
        for row in range(good):
            if block.index + row > anchor.index:
                self.last = self._frame(block, row, block.index + row)
                self.count = block.index + row + 1
                yield self.last
        self.last_code = self.pairs.row(block.code, good - 1)

    @torch.no_grad()
    def paired(self, code: Any, index: int) -> _Block:
        """The anchor against the images of this code, which are frames ``index`` and following."""
        anchor = self._anchor
        first, second = self.pairs.compare(anchor.code, code, self.sequencing.both_sides)
        distance = first.points.norm(dim=-1).mean((-2, -1))
        if anchor.distance is None:
            anchor.distance = distance[0]
        scale = anchor.distance / distance
        first, second = _scaled(first, scale), None if second is None else _scaled(second, scale)
        if anchor.intrinsics is None:
            anchor.intrinsics = intrinsics_from_points(first.points[:1], first.confidence[:1])
        own = anchor.intrinsics.expand(len(scale), 3, 3)
        if second is not None:
            own = intrinsics_from_points(second.points, second.confidence)
        pose, known = self._pose(first, second, index)
        return _Block(
            index=index,
            code=code,
            first=first,
            second=second,
            cam_from_anchor=pose,
            known=known,
            intrinsics=own,
            scale=scale,
            overlap=self._overlap(first, own, first if second is None else second),
        )

    def _pose(self, first: PairMaps, second: PairMaps | None, index: int) -> tuple[Tensor, Tensor]:
        """cam_from_anchor of each frame (eq. 2, both directions in one fit where both are there), and where known."""
        anchor = self._anchor
        count = len(first.points)
        ahead = self._weight(first, [anchor.reference] * count, [anchor.usable] * count)
        if second is None:
            return motion.relative_pose(first.points, first.target_points, ahead), ahead.flatten(1).sum(1) > 0
        frames = range(index, index + count)
        references = [self._reference(frame) for frame in frames]
        back = self._weight(second, references, [self.sequencing.usable(frame) for frame in frames])
        pose = motion.fused_pose(first.points, first.target_points, ahead, second.points, second.target_points, back)
        return pose, ahead.flatten(1).sum(1) + back.flatten(1).sum(1) > 0

    def _weight(self, maps: PairMaps, references: list[Tensor | None], usable: list[Tensor | None]) -> Tensor:
        """W, or the mask of what is at rest by definition; nothing where a pixel may not speak."""
        weight = maps.log_weight.exp()
        if self.sequencing.reference is not None:
            nothing = torch.zeros_like(weight[0])
            weight = torch.stack([nothing if mask is None else mask.to(nothing) for mask in references])
        if any(mask is not None for mask in usable):
            everything = torch.ones_like(weight[0])
            weight = weight * torch.stack([everything if mask is None else mask.to(everything) for mask in usable])
        return weight

    def _overlap(self, maps: PairMaps, own: Tensor, there: PairMaps) -> Tensor:
        """Share of the anchor's confidence on points that lie in each frame's image."""
        anchor = self._anchor
        trust = _trust(maps.confidence, anchor.reference)
        if anchor.trust is None:
            anchor.trust = trust[0].sum()
        height, width = there.points.shape[1:3]
        landed = motion.landing(maps.target_points, own)
        inside = ((landed >= 0) & (landed <= landed.new_tensor([width, height]))).all(-1)
        return (trust * inside).sum((-2, -1)) / anchor.trust.clamp(min=1e-12)

    def _frame(self, block: _Block, row: int, index: int) -> AnchoredFrame:
        anchor, one = self._anchor, slice(row, row + 1)
        pose = anchor.world_from_cam @ inverse(block.cam_from_anchor[row].double())
        return AnchoredFrame(
            index=index,
            anchor=anchor.index,
            world_from_cam=torch.where(block.known[row], pose, torch.nan),
            cam_from_anchor=block.cam_from_anchor[one],
            anchor_maps=_rows(block.first, one),
            own_maps=None if block.second is None else _rows(block.second, one),
            anchor_intrinsics=torch.as_tensor(anchor.intrinsics),
            intrinsics=block.intrinsics[one],
            scale=float(block.scale[row]),
            overlap=float(block.overlap[row]),
        )

    def _is_due(self) -> bool:
        every = self.sequencing.every
        return every is not None and self.count > self._anchor.index + every

    @torch.no_grad()
    def _new_anchor(self) -> bool:
        """Goes on from the last frame; False where it is the anchor, or tells nothing of what is at rest."""
        old, link = self._anchor, self.last
        if link is None or link.index == old.index or not bool(link.world_from_cam.isfinite().all()):
            return False
        # Once more, with both sides: the sequence may have been asked for one.
        first, second = self.pairs.compare(old.code, self.last_code, True)
        if second is None:
            raise ValueError("both sides of a pair were asked for, one came back")
        scale = torch.as_tensor(old.distance) / first.points.norm(dim=-1).mean((-2, -1))
        first, second = _scaled(first, scale), _scaled(second, scale)
        reference = self._reference(link.index)
        if self.sequencing.reference is not None and reference is None:
            reference = _handed_over(old, first, second)
            if not bool(reference.any()):
                return False
        self.anchor = _Anchor(
            index=link.index,
            code=self.last_code,
            world_from_cam=link.world_from_cam,
            distance=second.points.norm(dim=-1).mean(),
            trust=_trust(second.confidence, reference).sum(),
            reference=reference,
            usable=self.sequencing.usable(link.index),
        )
        return True

    def _reference(self, frame: int) -> Tensor | None:
        return None if self.sequencing.reference is None else self.sequencing.reference(frame)

    @property
    def _anchor(self) -> _Anchor:
        if self.anchor is None:
            raise ValueError("a sequence has no anchor before its first image")
        return self.anchor


def _at_home(frame: AnchoredFrame) -> dict[str, Any]:
    """What differs for the anchor's own frame: its pixels are where they are."""
    maps = replace(frame.anchor_maps, target_points=frame.anchor_maps.points)
    still = torch.eye(4).to(frame.cam_from_anchor)[None]
    return {
        "world_from_cam": torch.eye(4).to(frame.world_from_cam),
        "cam_from_anchor": still,
        "anchor_maps": maps,
        "own_maps": None if frame.own_maps is None else maps,
        "intrinsics": frame.anchor_intrinsics,
        "overlap": 1.0,
    }


def _trust(confidence: Float[Tensor, "F H W"], reference: Tensor | None) -> Float[Tensor, "F H W"]:
    """Of what counts."""
    return confidence if reference is None else confidence * reference.to(confidence)


def _scaled(maps: PairMaps, scale: Float[Tensor, " F"]) -> PairMaps:
    factor = scale[:, None, None, None]
    return replace(maps, points=maps.points * factor, target_points=maps.target_points * factor)


def _rows(maps: PairMaps, rows: slice) -> PairMaps:
    return PairMaps(maps.points[rows], maps.target_points[rows], maps.log_weight[rows], maps.confidence[rows])


def _handed_over(old: _Anchor, first: PairMaps, second: PairMaps) -> Float[Tensor, "H W"]:
    """The old anchor's mask on the pixels of the next: those that were well inside it and that it saw.

    Strict, since what lies close behind a masked body would pull the pose away from it; what is missed costs little.
    """
    matrix = torch.as_tensor(old.intrinsics)
    seen = motion.visibility(
        second.points, second.target_points, first.points, first.target_points, matrix, tolerance=SURE
    )
    mask = torch.as_tensor(old.reference).to(second.points)
    found, _ = sample(mask[None, ..., None], motion.landing(second.target_points, matrix))
    return torch.where(seen & (found[..., 0] > 0.99), found[..., 0], 0)[0]
