"""The papers' ablations at a size that two cores can train: tables of runs that differ in one thing."""

from collections.abc import Callable

from unproject.errors import UsageError
from unproject.experiments import flow3r, flow4r, reliev3r
from unproject.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Callable[..., Experiment]] = {
    "flow3r-designs": flow3r.designs,
    "flow3r-scaling": flow3r.scaling,
    "flow4r-motion": flow4r.motion,
    "reliev3r-losses": reliev3r.losses,
    "reliev3r-rays": reliev3r.rays,
    "reliev3r-guesses": reliev3r.guesses,
}
"""As the command line calls them; each takes ``steps``, its default those of the published table."""


def named(name: str, steps: int | None = None) -> Experiment:
    """The experiment of this name; `UsageError` that lists all names where there is none."""
    if name not in EXPERIMENTS:
        raise UsageError(f"no experiment is called {name!r}; choose one of {', '.join(EXPERIMENTS)}")
    if steps is not None and steps < 1:
        raise UsageError(f"steps is {steps}; give 1 or more, or leave it out")
    return EXPERIMENTS[name]() if steps is None else EXPERIMENTS[name](steps=steps)
