"""A worker at which nothing happens ends itself: a decoder that hangs would hold its unit, and the run, for ever."""

import faulthandler
import time

PATIENCE_S = 6 * 3600.0
"""No frame and no clip takes so long on any machine, or what is labelled would depend on how fast one is."""


class Watch:
    """Ends this process, wherever it is, where it is not told for so many seconds that something happened.

    It says on stderr where that was. One of None seconds ends nothing.
    """

    def __init__(self, patience_s: float | None = None) -> None:
        self._patience_s = patience_s
        self._told = float("-inf")

    def alive(self) -> None:
        """Something happened."""
        if self._patience_s is not None and time.monotonic() - self._told > self._patience_s / 100:
            self._told = time.monotonic()  # not at each call: each begins a thread
            faulthandler.dump_traceback_later(self._patience_s, exit=True, file=2)

    def end(self) -> None:
        """Nothing needs to happen any more."""
        if self._patience_s is not None:
            self._told = float("-inf")
            faulthandler.cancel_dump_traceback_later()
