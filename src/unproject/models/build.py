"""Networks by name."""

from collections.abc import Callable
from typing import Any

from unproject.errors import UsageError
from unproject.models import dust3r, flow4r
from unproject.models.base import Reconstructor

CONFIGS: dict[str, Callable[..., Any]] = {"flow4r": flow4r.config, "dust3r": dust3r.config}
NETWORKS: dict[type, Callable[[Any], Reconstructor]] = {
    flow4r.Flow4rConfig: flow4r.Flow4r,
    dust3r.Dust3rConfig: dust3r.Dust3r,
}


def build(name: str, size: str = "large", **choices: Any) -> Reconstructor:
    """A fresh network with random weights; ``choices`` are those of its own ``config``, as ``head="linear"``."""
    if name not in CONFIGS:
        raise UsageError(f"no model is called {name!r}; choose one of {', '.join(CONFIGS)}")
    return from_config(CONFIGS[name](size, **choices))


def from_config(config: Any) -> Reconstructor:
    """A fresh network of a model's configuration."""
    return NETWORKS[type(config)](config)
