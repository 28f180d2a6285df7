"""When a run ends before its last step: a signal, a time limit, a number of steps."""

import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Asked after each step. Where entered, it takes SIGINT and SIGTERM as wishes; a second one interrupts at once."""

    def __init__(self, steps: int | None, time_limit_s: float | None) -> None:
        self.signal: int | None = None
        """The signal that asked for the end."""
        self._steps = steps
        self._until = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # only there does Python let one listen
            self._before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def why(self, step: int) -> str | None:
        """The reason to end now that so many steps are done, if there is one."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if self._until is not None and time.monotonic() >= self._until:
            return "time limit"
        return "steps" if self._steps is not None and step >= self._steps else None
