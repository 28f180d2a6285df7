"""What can go wrong at the door: one line that names the thing and the remedy, and the exit code it leaves with."""


class UnprojectError(Exception):
    """The run failed. Every error that a user can cause derives from this; its text is one line."""

    exit_code = 1


class UsageError(UnprojectError):
    """A flag or argument that cannot be honoured."""

    exit_code = 2


class InputError(UnprojectError):
    """An input (image, video, camera file, result folder) that is missing, unreadable or contradicts itself."""

    exit_code = 3


class WeightsError(UnprojectError):
    """Weights that are not on this machine."""

    exit_code = 4


class MemoryLimitError(UnprojectError):
    """The run does not fit; the text says the largest size that does."""

    exit_code = 5


PARTIAL = 6
"""Exit code of a run that wrote what could honestly be given, and less than was asked for."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""
