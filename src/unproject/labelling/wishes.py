"""What is asked of the clips that videos are cut into."""

from dataclasses import dataclass

from unproject.errors import UsageError
from unproject.io.shards import LONGEST_SIDE


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Plain values, so that they can be written down and read again: same video, wishes and teachers, same clips.

    Raises `UsageError` for what cannot be had.
    """

    long_side: int = 512
    """Pixels that larger pictures are shrunk to; smaller ones stay. Both sides are even, as the colour of JPEG and
    video wants it. No patch of a network is thought of: a side of 288 would change by 2 %, and square pixels go."""
    views: int = 8
    """Views of a clip (Reliev3R: 8)."""
    least_overlap: float = 0.1
    most_overlap: float = 0.6
    """Share of the first view's points that the last still sees; for each clip one is drawn between these."""
    fps: float = 30.0
    """Frames per second that are looked at, at most."""
    longest_s: float = 10.0
    """Seconds from the first view to the last, at most."""
    step: float = 1.0
    """Where the next clip begins, in lengths of the last from its beginning: below 1 they share frames."""
    most_clips: int = 16
    """Of one video: what comes after is not decoded, nor what comes after so many that their labels turned down."""
    least_matches: int = 32
    """Points that both views of a pair must see."""
    least_inliers: float = 0.5
    """Share of a pair's matches that one motion of the camera must explain."""
    least_covisible: float = 0.1
    """Share of a pair's pixels whose flow is trusted (Flow3r's raw video)."""
    most_round_trip_px: float = 3.0
    """Median distance from where they started of trusted pixels that went there and back, in pictures of about 500
    pixels: networks weigh what they see, and not that it comes back."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"long_side": 64, "views": 2, "most_clips": 1, "least_matches": 8, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(f"{name} must be at least {bound}, not {getattr(self, name)}")
        most = {"long_side": LONGEST_SIDE - 1, "views": 32}  # a shard holds no more, and sides are even
        for name, bound in most.items():
            if getattr(self, name) > bound:
                raise UsageError(f"{name} must be at most {bound}, not {getattr(self, name)}")
        for name in ("fps", "longest_s", "step", "most_round_trip_px"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 < self.least_overlap < self.most_overlap < 1:
            raise UsageError(
                f"overlap must lie between 0 and 1 and the least below the most, not {self.least_overlap:g} and "
                f"{self.most_overlap:g}"
            )
        for name in ("least_inliers", "least_covisible"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} must be a share above 0 and up to 1, not {getattr(self, name)}")
