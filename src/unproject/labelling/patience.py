"""A worker at which nothing happens ends itself: a decoder that hangs would hold its unit, and the run, for ever."""

import faulthandler
import time
from collections.abc import Callable

PATIENCE_S = 1800.0
"""No frame and no clip should take so long, on any machine: what is labelled must not depend on how fast one is."""


def end_if_nothing_happens(patience_s: float) -> Callable[[], None]:
    """What to call whenever something happened; if it is not called again in time, the process ends.

    It ends even where no Python runs any more, and says on stderr where it was.
    """
    heard = -patience_s

    def alive() -> None:
        nonlocal heard
        if time.monotonic() - heard > patience_s / 100:  # each call begins a thread
            heard = time.monotonic()
            faulthandler.dump_traceback_later(patience_s, exit=True)

    return alive


def wait_for_ever() -> None:
    """Nothing needs to happen any more."""
    faulthandler.cancel_dump_traceback_later()
