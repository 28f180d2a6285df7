"""Networks by name."""

from collections.abc import Callable
from typing import Any

from unproject.errors import UsageError
from unproject.models import compact, dust3r, flow3r, flow4r, reliev3r
from unproject.models.base import Reconstructor

CONFIGS: dict[str, Callable[..., Any]] = {
    "flow4r": flow4r.config,
    "flow3r": flow3r.config,
    "pi3": flow3r.pi3_config,
    "reliev3r": reliev3r.config,
    "dust3r": dust3r.config,
    "compact": compact.config,
}
NETWORKS: dict[type, Callable[[Any], Reconstructor]] = {
    flow4r.Flow4rConfig: flow4r.Flow4r,
    flow3r.Flow3rConfig: flow3r.Flow3r,
    reliev3r.Reliev3rConfig: reliev3r.Reliev3r,
    dust3r.Dust3rConfig: dust3r.Dust3r,
    compact.CompactConfig: compact.Compact,
}


def build(name: str, size: str | None = None, **choices: Any) -> Reconstructor:
    """A fresh network with random weights, of its paper's size unless another is named.

    ``choices`` are those of its own ``config``, as ``head="linear"``.
    """
    if name not in CONFIGS:
        raise UsageError(f"no model is called {name!r}; choose one of {', '.join(CONFIGS)}")
    sizes = () if size is None else (size,)
    return from_config(CONFIGS[name](*sizes, **choices))


def from_config(config: Any) -> Reconstructor:
    """A fresh network of a model's configuration."""
    return NETWORKS[type(config)](config)
