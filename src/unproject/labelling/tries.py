"""Which video a unit's worker is at, so that one that kills its worker twice is given up and not the run."""

from pathlib import Path

from unproject.errors import InputError
from unproject.io import disk

MOST_DEATHS = 2
"""So often a video may kill its worker."""


class Tries:
    """A small file of a unit: the worker writes where it is, who sees it die adds a death, and it goes with the unit.

    Only deaths that somebody saw count: where whoever started the workers was killed too, no video is to blame.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at: int | None = None
        self._deaths: dict[str, int] = {}
        try:
            said = disk.read_json(path)
            self._at, self._deaths = said["at"], dict(said["deaths"])
        except (InputError, KeyError, TypeError, ValueError):  # none yet, or not ours: nothing is known
            pass

    def given_up(self, video: int) -> bool:
        """Whether the video of this place in its unit killed too many."""
        return self._deaths.get(str(video), 0) >= MOST_DEATHS

    def begin(self, video: int | None) -> None:
        """The worker goes on to this video; None where it is at none of them."""
        self._at = video
        disk.write_json(self._path, {"at": self._at, "deaths": self._deaths})

    def died(self) -> int | None:
        """The worker is dead; the place of the video it was at, if it was at one."""
        video = self._at
        if video is not None:
            self._deaths[str(video)] = self._deaths.get(str(video), 0) + 1
            self.begin(None)
        return video

    def end(self) -> None:
        """The unit is done."""
        self._path.unlink(missing_ok=True)
