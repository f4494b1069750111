"""Imports go one way, and modeling/ stays fit to travel to the Hub."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# What each package may import of ours, beside itself; run_*.py, benchmarks and tests see everything.
ALLOWED = {
    "media": set(),
    "modeling": set(),
    "evaluation": set(),
    "reporting": set(),
    "hf_datasets": {"media"},
    "training": {"media", "modeling", "evaluation"},
}
OURS = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
FILES = sorted(path.relative_to(REPOSITORY) for name in ALLOWED for path in (REPOSITORY / name).rglob("*.py"))


def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Every import statement of a file, wherever it stands."""
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported_packages(node: ast.Import | ast.ImportFrom) -> set[str]:
    """Top-level packages that a statement names; a relative import names none."""
    if isinstance(node, ast.ImportFrom):
        return {node.module.partition(".")[0]} if not node.level else set()
    return {alias.name.partition(".")[0] for alias in node.names}


def test_every_package_has_a_rule() -> None:
    assert set(ALLOWED) == OURS - {"benchmarks", "tests"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    package = path.parts[0]
    for node in imports(path):
        sideways = (imported_packages(node) & OURS) - ALLOWED[package] - {package}
        assert not sideways, f"{path}:{node.lineno} imports {sideways}; {package} may import {ALLOWED[package]}"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "modeling"], ids=str)
def test_modeling_imports_its_siblings_by_name(path: Path) -> None:
    """Only flat modules with `from .file import Name` survive save_pretrained and load elsewhere."""
    assert len(path.parts) == 2, f"{path}: modeling is flat"
    for node in imports(path):
        place = f"{path}:{node.lineno}"
        assert "modeling" not in imported_packages(node), f"{place}: absolute import of a sibling"
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module, f"{place}: write `from .file import Name`"
