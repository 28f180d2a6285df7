"""State dicts in the released layouts, small and with values that are functions of their names."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from unproject.models import keys
from unproject.models.build import from_config


@cache
def filler(folder: Path) -> ModuleType:
    """The module with the functions that fill weights by name."""
    spec = importlib.util.spec_from_file_location("parity_fill", folder / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_official(layout: str, config: object) -> dict[str, Tensor]:
    """Random weights of a network under the released names, without those that are dropped."""
    with torch.device("meta"):
        shapes = from_config(config).state_dict()
    table = keys.LAYOUTS[layout]
    return {keys.to_official_name(table, key): torch.randn(tensor.shape) for key, tensor in shapes.items()}


def filled_official(folder: Path, layout: str, config: object) -> dict[str, Tensor]:
    """The same, filled as the reference networks were."""
    fill = filler(folder)
    with torch.device("meta"):
        shapes = from_config(config).state_dict()
    names = {keys.to_official_name(keys.LAYOUTS[layout], key): tuple(tensor.shape) for key, tensor in shapes.items()}
    return {key: torch.from_numpy(fill.splitmix_param(0, key, shape)) for key, shape in names.items()}


def listed_official(folder: Path, section: int) -> dict[str, Tensor]:
    """Tensors without memory of the names and shapes that a section of dust3r_keys.txt lists."""
    text = (folder / "dust3r_keys.txt").read_text().split("\n\n")[section + 1]
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    shapes = {key: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for key, shape, _ in rows}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
