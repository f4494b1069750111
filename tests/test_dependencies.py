"""Every dependency is imported by the code that it is declared for, and every imported package is declared."""

import ast
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tests.helpers.source_files import FILES, PACKAGES, PRODUCT, tree_of

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
GROUPS = {group: {canonicalize_name(Requirement(line).name) for line in lines} for group, lines in DECLARED.items()}
TESTS, BENCHMARKS = ([path for path in FILES if path.parts[0] == name] for name in ("tests", "benchmarks"))
IMPORTED_BY = {"core": PRODUCT, "eda": PRODUCT, "sagemaker": PRODUCT, "test": TESTS, "bench": BENCHMARKS}

# Dependencies that our code does not import -> who needs them.
NEEDED_BY = {
    "s3fs": "fsspec, for s3://",
    "tensorboard": "Trainer, for its logs",
    "pytest-xdist": "pytest -n",
    "ruff": ".ci/run",
    "pyright": ".ci/run",
}
OPTIONAL = {"torchcodec"}  # a peer in one benchmark, which skips it if it is missing; it needs FFmpeg

OURS = {*PACKAGES, *(path.stem for path in FILES if len(path.parts) == 1)}

distributions = cache(packages_distributions)


@cache
def outside_packages(path: Path) -> set[str]:
    """Return the PyPI names of the packages that a file imports, without ours and the standard library."""
    modules: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module)
    names = {module.split(".")[0] for module in modules} - OURS - sys.stdlib_module_names
    # For an extra that is not installed, the name of the module must do.
    return {canonicalize_name(distributions().get(name, [name])[0]) for name in names}


def imported(paths: Iterable[Path]) -> set[str]:
    return set().union(*map(outside_packages, paths))


@pytest.mark.parametrize("group", GROUPS)
def test_every_dependency_is_needed(group: str) -> None:
    assert GROUPS[group] - imported(IMPORTED_BY[group]) - set(NEEDED_BY) == set()


@pytest.mark.parametrize(
    ("paths", "groups"),
    [
        (PRODUCT, ("core", "eda", "sagemaker")),
        (TESTS, ("core", "eda", "test")),
        (BENCHMARKS, ("core", "test", "bench")),  # "test", because some use the servers of the tests
    ],
    ids=["product", "tests", "benchmarks"],
)
def test_everything_imported_is_declared(paths: list[Path], groups: tuple[str, ...]) -> None:
    declared = set().union(*(GROUPS[group] for group in groups))
    assert imported(paths) - declared - OPTIONAL == set()
