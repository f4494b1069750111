"""Fixtures shared by the tests of all tasks."""

from typing import Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect every figure that is saved, so that a test can compare it with the numbers."""
    saved: list[Figure] = []
    save = Figure.savefig

    def collect(figure: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", collect)
    return saved
