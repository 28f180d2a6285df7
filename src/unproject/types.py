"""The nouns that every layer speaks: what a model is given, what it says, what a label knows, what a user holds.

Two kinds of quantity only: per view (axis ``N``) and per ordered pair of views (axis ``P``). Cameras are OpenCV
(x right, y down, z forward), poses are ``world_from_cam``, depth is z, pixel centres lie at +0.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Scale = Literal["metric", "up_to_scale", "aligned"]


@dataclass(frozen=True, kw_only=True)
class Views:
    """What a model is given."""

    images: Float[Tensor, "B N 3 H W"]
    """RGB in [0, 1]."""
    times: Float[Tensor, "B N"]
    """Seconds."""
    pairs: Int[Tensor, "B P 2"]
    """(source, target) views that pair quantities speak of."""
    intrinsics: Float[Tensor, "B N 3 3"] | None = None
    """A prior the caller has; honoured or refused, never silently dropped."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """How a network that matches came to its flow, coarse to fine; what its matcher is trained on."""

    log_match: Float[Tensor, "B P h w h2w2"]
    """Of each coarse cell of the source: log-probability of each coarse cell of the target."""
    flows: tuple[Float[Tensor, "B P _ _ 2"], ...]
    """Pixels of the full image, at the cells of each stage; the first is that of `log_match`."""
    logits: tuple[Float[Tensor, "B P _ _"], ...]
    """Of each stage after the first: log-odds that its flow is right."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says."""

    points: Float[Tensor, "B N H W 3"]
    """In each view's own camera; depth is ``points[..., 2]``."""
    confidence: Float[Tensor, "B N H W"]
    """In [0, 1]."""
    world_from_cam: Float[Tensor, "B N 4 4"] | None = None
    intrinsics: Float[Tensor, "B N 3 3"] | None = None
    flow: Float[Tensor, "B P H W 2"] | None = None
    """Pixels, source to target."""
    target_points: Float[Tensor, "B P H W 3"] | None = None
    """The source's points in the target's camera at the target's time (Flow4R's P_vt)."""
    pose_weight: Float[Tensor, "B P H W"] | None = None
    """How far to trust a pixel for pose (Flow4R's W)."""
    flow_confidence: Float[Tensor, "B P H W"] | None = None
    """In [0, 1]: how likely the flow is right, so also that the target sees the pixel's surface."""
    matching: Matching | None = None
    """Only where a network is trained."""


@dataclass(frozen=True)
class Known:
    """A label and its trust: where ``weight`` is 0 the value is unknown and never read."""

    value: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Points followed through views, one row per observation.

    Rows are few where a table of views by tracks would be mostly empty. A track is seen at most once per view.
    Rows are sorted by (track, view); track numbers are 0..T-1 without gaps.
    """

    view: Int[Tensor, " O"]
    track: Int[Tensor, " O"]
    uv: Float[Tensor, "O 2"]
    """Pixels of the view's image."""
    weight: Float[Tensor, " O"]
    """Trust in (0, 1]."""

    @property
    def count(self) -> int:
        """Number of tracks."""
        return int(self.track.max()) + 1 if len(self.track) else 0

    def lengths(self) -> Int[Tensor, " T"]:
        """Number of views that see each track."""
        return torch.bincount(self.track, minlength=self.count)

    def shared(self) -> "Tracks":
        """Only the tracks that two views see, at least."""
        return self.select(self.lengths()[self.track] >= 2)

    @staticmethod
    def beside(parts: "Sequence[Tracks]") -> "Tracks":
        """All tracks of several sets, none of which is another's; views stay as they are counted."""
        starts = accumulate((part.count for part in parts), initial=0)
        return Tracks(
            view=torch.cat([part.view for part in parts]),
            track=torch.cat([part.track + start for part, start in zip(parts, starts, strict=False)]),
            uv=torch.cat([part.uv for part in parts]),
            weight=torch.cat([part.weight for part in parts]),
        )

    def select(self, keep: Bool[Tensor, " O"]) -> "Tracks":
        """Only the given observations; tracks are renumbered without gaps, in their order."""
        kept = self.track[keep]
        _, renumbered = torch.unique(kept, return_inverse=True)
        return Tracks(view=self.view[keep], track=renumbered, uv=self.uv[keep], weight=self.weight[keep])


@dataclass(frozen=True, kw_only=True)
class MovingTracks:
    """3D tracks through time (TAPVid-3D): ``xyz`` in world coordinates."""

    xyz: Float[Tensor, "N K 3"]
    uv: Float[Tensor, "N K 2"]
    """Original pixels."""
    visible: Bool[Tensor, "N K"]
    confidence: Float[Tensor, "N K"]
    moving: Bool[Tensor, " K"]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is known of a clip, from ground truth or a teacher.

    Mirrors `Prediction`; the ambiguity of a label is in its field.
    """

    points: Known | None = None
    world_from_cam: Known | None = None
    intrinsics: Known | None = None
    flow: Known | None = None
    """Pixels, source to target; the weight is covisibility."""
    target_points: Known | None = None
    """Of each pair: the source's points in the target's camera at the target's time."""
    scene_flow: Known | None = None
    """Of each pair: displacement of the source's surface in the world (of `world_from_cam`) until the target's time."""
    mono_depth: Known | None = None
    """Depth with an unknown scale per view."""
    tracks: Tracks | None = None
    """2D tracks; views are counted through the batch (clip * N + view), so no track leaves its clip."""
    moving_tracks: tuple[MovingTracks, ...] | None = None
    """3D tracks of each clip, in the world of `world_from_cam`; where confidence is 0 nothing is known."""


def require(owner: object, name: str) -> Any:
    """An optional field of one of the nouns, or an error that names it."""
    value = getattr(owner, name)
    if value is None:
        raise ValueError(f"{type(owner).__name__}.{name} is needed here and was not given")
    return value


@dataclass(frozen=True, kw_only=True)
class FrameInfo:
    """One frame that was asked for: where it came from and its size as a viewer shows it (upright)."""

    file: str
    """Path of the image or video, as given."""
    index: int
    """Frame number in the video; 0 for an image file."""
    time_s: float
    width: int
    height: int
    focal_prior_px: float | None = None
    """Focal length from EXIF, in pixels of this size; None where the file does not say."""
    camera: int = 0
    """Frames with the same number share one physical camera."""


@dataclass(frozen=True, kw_only=True)
class FrameMaps:
    """The dense result of one frame, at network resolution."""

    depth: Float[Tensor, "H W"]
    """z, in the reconstruction's scale; finite everywhere, meaningful where ``valid``."""
    valid: Bool[Tensor, "H W"]
    """Depth was measured here, not filled in."""
    confidence: Float[Tensor, "H W"]
    """In [0, 1]; 0 where nothing is known."""
    motion: Float[Tensor, "H W"]
    """Probability in [0, 1] that the pixel's surface moves in the world."""
    to_original: Float[Tensor, "3 3"]
    """Network pixel (homogeneous) to original pixel."""
    rgb: UInt8[Tensor, "H W 3"] | None = None
    scene_flow: Float[Tensor, "H W 3"] | None = None
    """World-frame displacement of the surface until the next frame, in the reconstruction's scale."""


@dataclass(frozen=True, kw_only=True)
class FlowMaps:
    """What a network says of one ordered pair of frames, at the pixels of its source's `FrameMaps`."""

    flow: Float[Tensor, "H W 2"]
    """Pixels, from each one of the source's maps to where the target's maps show its surface; finite everywhere."""
    covisible: Bool[Tensor, "H W"]
    """By depth and cameras: the target sees the source's surface, if it stands still."""
    motion: Float[Tensor, "H W"]
    """In [0, 1]: how surely the surface moves in the world between the two times, by flow against depth and cameras."""


@dataclass(frozen=True, kw_only=True)
class Points3D:
    """Sparse world points with their 2D observations in original pixels: real multi-view tracks."""

    xyz: Float[Tensor, "T 3"]
    rgb: UInt8[Tensor, "T 3"]
    tracks: Tracks


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """Solved or known cameras of N frames, for original pixels."""

    world_from_cam: Float[Tensor, "N 4 4"]
    """NaN where ``found`` is false."""
    intrinsics: Float[Tensor, "N 3 3"]
    distortion: Float[Tensor, "N 5"]
    """OpenCV order k1 k2 p1 p2 k3."""
    found: Bool[Tensor, " N"]
    component: Int[Tensor, " N"]
    """Frames with different numbers were solved apart: no common scale or frame. -1 where not found."""
    quality: Float[Tensor, " N"]
    """Share of a view's observations that its camera explains, in [0, 1]."""
