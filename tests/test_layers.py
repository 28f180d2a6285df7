"""Imports point down: each layer of the stack sees only what stands below it (CONTRIBUTING: "The stack")."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "unproject"

# From the top down. Units of one layer do not import each other; "" is the package itself, its public face.
STACK = [
    {"cli"},
    {""},
    {"experiments"},
    {"recipes"},
    {"training", "evaluation", "inference", "labelling", "viewer"},
    {"models", "losses", "data", "teachers"},
    {"nn", "io"},
    {"types", "tensors", "errors", "progress"},
    {"geometry"},
]
HEIGHT = {unit: len(STACK) - level for level, units in enumerate(STACK) for unit in units}
GEOMETRY_MAY_IMPORT = {"torch", "einops", "jaxtyping", *sys.stdlib_module_names}


def module_name(path: Path) -> str:
    parts = ("unproject", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every name imported anywhere in a file, in functions too, as (line, dotted name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def unit_of(name: str) -> str:
    """The unit of the stack that an imported name under `unproject` belongs to."""
    unit = [*name.split("."), ""][1]
    return unit if (SOURCE / unit).is_dir() or (SOURCE / f"{unit}.py").is_file() or unit in HEIGHT else ""


def violations(code: str, module: str, is_package: bool = False) -> list[str]:
    """What a file imports and should not, one line each."""
    unit = [*module.split("."), ""][1]
    if unit not in HEIGHT:
        return [f"{module}: {unit} has no place in the stack"]
    found = []
    for line, name in imported(ast.parse(code), module, is_package):
        top = name.split(".")[0]
        if top == "unproject":
            target = unit_of(name)
            if target != unit and HEIGHT.get(target, len(STACK)) >= HEIGHT[unit]:
                found.append(f"{module}:{line}: {unit or 'the package'} may not import {target or 'the package'}")
        elif unit == "geometry" and top not in GEOMETRY_MAY_IMPORT:
            found.append(f"{module}:{line}: geometry may not import {top}")
    return found


def test_imports_point_down():
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        found += violations(path.read_text(), module_name(path), path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("unproject.geometry.rigid", "from unproject.types import Views"),
        ("unproject.geometry.rigid", "import numpy"),
        ("unproject.geometry.rigid", "def f():\n    from scipy.spatial import transform"),
        ("unproject.types", "from unproject.io import result"),
        ("unproject.types", "from unproject.errors import InputError"),
        ("unproject.io.result", "from unproject.nn.vit import Vit"),
        ("unproject.losses.weak", "from unproject.teachers.flow import flow"),
        ("unproject.data.synthetic", "from ..models import base"),
        ("unproject.models.flow3r", "import unproject.losses.weak"),
        ("unproject.teachers.tracks", "from unproject import data"),
        ("unproject.inference.refine", "def f():\n    import unproject.evaluation.metrics as metrics"),
        ("unproject.inference.refine", "from unproject import Reconstruction"),
        ("unproject.training.loop", "from unproject.recipes.smoke import smoke"),
        ("unproject.recipes.smoke", "from unproject.cli import main"),
        ("unproject.helpers", "import torch"),
    ],
)
def test_the_checker_catches_a_violation(module, code):
    assert len(violations(code, module)) == 1


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("unproject.geometry.align", "import math\nfrom unproject.geometry.rigid import inverse\nfrom . import rays"),
        ("unproject.types", "from unproject.geometry import rigid"),
        ("unproject.teachers.tracks", "import cv2\nfrom unproject.types import Tracks\nfrom .base import Teacher"),
        ("unproject.recipes.smoke", "from unproject.models import flow3r\nfrom unproject.losses import weak"),
        ("unproject.cli", "from unproject import reconstruct\nfrom unproject.errors import UnprojectError"),
    ],
)
def test_the_checker_lets_good_imports_pass(module, code):
    assert not violations(code, module)


@pytest.mark.parametrize("module", ["unproject", "unproject.cli"])
def test_no_heavy_library_is_loaded_before_it_is_needed(module):
    heavy = ["torch", "cv2", "av", "scipy", "pycolmap", "trimesh"]
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not loaded
