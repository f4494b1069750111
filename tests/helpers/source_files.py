"""The Python files of this repository, by their path in it."""

import ast
from functools import cache
from pathlib import Path

from tests.conftest import REPOSITORY

PACKAGES = sorted(path.parent.name for path in REPOSITORY.glob("*/__init__.py"))
FREE = {"benchmarks", "tests"}  # packages that may import all others
FILES = sorted(
    path.relative_to(REPOSITORY)
    for pattern in ("*.py", *(f"{name}/**/*.py" for name in PACKAGES))
    for path in REPOSITORY.glob(pattern)
)
PRODUCT = [path for path in FILES if path.parts[0] not in FREE]
CHILDREN = ("entry", "unpickling")  # started only by other programs
PROGRAMS = sorted(
    ".".join(path.with_suffix("").parts)
    for path in PRODUCT
    if '__name__ == "__main__"' in (REPOSITORY / path).read_text(encoding="utf-8") and path.stem not in CHILDREN
)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
