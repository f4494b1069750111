"""Fixtures of all tasks' tests."""

from typing import Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect every figure that is written, so that a test can compare what it shows with the numbers."""
    written: list[Figure] = []
    write = Figure.savefig

    def collect(figure: Figure, *args: Any, **kwargs: Any) -> None:
        written.append(figure)
        write(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", collect)
    return written
