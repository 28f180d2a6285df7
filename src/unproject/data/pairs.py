"""Endless pairs of views of synthetic worlds: what two-view networks learn from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unproject.data.augment import Augmentation
from unproject.data.base import Dataset, Framing, Sample
from unproject.data.clips import PHONE, SyntheticClips


@dataclass(frozen=True, kw_only=True)
class SyntheticPairs(Dataset):
    """Two moments of a hand-held camera, each number in a world of its own; they never end."""

    seed: int = 0
    """Runs of different seeds have no world in common."""
    gap_s: tuple[float, float] = (0.2, 2.8)
    """Seconds between the two views, evenly in the logarithm: parallax and the motion of things grow with it."""
    field_of_view_deg: tuple[float, float] = (42.0, 78.0)
    """Along the longer side."""
    moving: bool = True
    augmentation: Augmentation | None = PHONE

    @property
    def count(self) -> None:
        """They never end."""
        return None

    def __call__(self, numbers: Sequence[int], framing: Framing) -> Sample:
        """On the CPU in float32; numbers that follow one another are rendered together.

        ValueError where other than two views are asked for.
        """
        if framing.views != 2:
            raise ValueError(f"SyntheticPairs has clips of 2 views, and {framing.views} were asked for")
        clips = SyntheticClips(
            seed=self.seed,
            span_s=self.gap_s,
            field_of_view_deg=self.field_of_view_deg,
            moving=self.moving,
            augmentation=self.augmentation,
        )
        names = tuple(f"synthetic pair {number} of seed {self.seed}" for number in numbers)
        return replace(clips(numbers, framing), names=names)
