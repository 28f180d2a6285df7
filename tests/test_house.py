"""Rules of the house that a linter does not know."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "src").rglob("*.py"))
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
# Copyleft, or bound to another build of torch than the tested one.
FORBIDDEN = {"torchvision", "plyfile", "evo"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 80


def faults(code: str) -> list[str]:
    """What breaks a rule in one file."""
    tree = ast.parse(code)
    found = ["file too long"] if len(code.splitlines()) > LONGEST_FILE else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            from_module = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            found += [f"imports {name}" for name in from_module if name.split(".")[0] in FORBIDDEN]
            # The shape checks of the tests need annotations as objects.
            found += ["postpones annotations"] if "__future__" in from_module else []
        elif isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION:
            found.append(f"{node.name} too long")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"bare except in line {node.lineno}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
            found.append(f"{node.func.id} in line {node.lineno}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_file_keeps_the_rules(path):
    found = faults(path.read_text())
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "import torchvision.transforms",
        "from evo.core import metrics",
        "from __future__ import annotations",
        "try:\n    pass\nexcept:\n    pass",
        "eval('1')",
        "\n" * (LONGEST_FILE + 1),
        "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION,
    ],
)
def test_each_rule_is_checked(code):
    assert len(faults(code)) == 1


def test_version_stands_in_the_changelog():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_is_pinned_to_the_tested_set():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[<>=\[]", requirement)[0].lower() for requirement in wanted}
    assert names <= pinned
    assert not FORBIDDEN & pinned - {"evo"}


def test_extras_are_installed_by_a_line_that_every_shell_takes():
    """zsh takes brackets that are not quoted for a pattern."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [
        (path.name, *found.groups())
        for path in (*FILES, *DOCUMENTS)
        for found in re.finditer(r"(.{0,13})unproject\[(\w+)\](.?)", path.read_text())
    ]
    assert {extra for _, _, extra, _ in named} <= set(extras) and len(named) > 5
    assert not [each for each in named if (each[1], each[3]) != ('pip install "', '"')]


def test_every_page_is_reached_from_the_first_and_stands_in_the_table_of_the_site():
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    linked = set(re.findall(r"\]\(([^):#]+\.md)", (ROOT / "docs" / "index.md").read_text()))
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert linked | {"index.md"} == pages == set(listed) and len(listed) == len(pages)


def test_no_link_of_the_documents_is_broken():
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert not broken
