"""Parts of a network, by the names of their weights up to a dot: which of them learn, and which are computed twice."""

from torch import nn

from unproject.errors import UsageError
from unproject.nn.transformer import EncoderBlock


def hold(model: nn.Module, trained: tuple[str, ...] | None) -> None:
    """Hold all weights fast but those of the parts that are trained; UsageError for a part that there is not."""
    if trained is None:
        return
    require_parts(model, trained or ("nothing",), "Recipe.trained")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(belongs(name, part) for part in trained))


def recompute(model: nn.Module, recomputed: tuple[str, ...] | None) -> None:
    """Let the blocks of these parts, and no others, be computed a second time in the backward pass.

    UsageError for a part that there is not, or that has no such blocks.
    """
    recomputed = recomputed or ()
    require_parts(model, recomputed, "Schedule.recomputed")
    blocks = {name: block for name, block in model.named_modules() if isinstance(block, EncoderBlock)}
    without = [part for part in recomputed if not any(belongs(name, part) for name in blocks)]
    if without:
        raise UsageError(f"{', '.join(without)}: no blocks there can be computed twice; not for Schedule.recomputed")
    for name, block in blocks.items():
        block.recomputed = any(belongs(name, part) for part in recomputed)


def require_parts(model: nn.Module, parts: tuple[str, ...], asked: str) -> None:
    """UsageError for parts that the network has not; ``asked`` says where they were asked for."""
    names = [name for name, _ in model.named_parameters()]
    absent = [part for part in parts if not any(belongs(name, part) for name in names)]
    if absent:
        there = ", ".join(dict.fromkeys(part_of(name) for name in names))
        raise UsageError(f"no part of this network is called {', '.join(absent)}; {asked}: {there}")


def belongs(name: str, part: str) -> bool:
    """Whether a weight or module of that name is of a part, or is that part."""
    return name == part or name.startswith(f"{part}.")


def part_of(name: str) -> str:
    """The top-level part of a network that a weight belongs to."""
    return name.partition(".")[0]
