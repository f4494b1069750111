"""Fixtures of all tests: the folder of real data, and fixed seeds."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
# The same examples each time and no deadline, so that no test fails by chance or on a busy machine.
# `--hypothesis-profile default` looks for new examples.
settings.load_profile("ci")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data, from FELTSOUND_REAL_DATA or next to the checkout; skip the test without one."""
    folder = Path(os.environ.get("FELTSOUND_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder}: no real data. Set FELTSOUND_REAL_DATA.")
    return folder


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start every test from the same seeds, so that the order of tests does not matter."""
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
