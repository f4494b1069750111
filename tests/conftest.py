"""What every test shares: real data when there is some, and seeds that do not leak from one test into the next."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
# The same examples each time, for as long as they take: chance and a busy machine fail no test.
# `--hypothesis-profile default` looks for new ones.
settings.load_profile("ci")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings, from FELTSOUND_REAL_DATA or beside the checkout; skips where there is none."""
    folder = Path(os.environ.get("FELTSOUND_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set FELTSOUND_REAL_DATA)")
    return folder


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same seeds, so that its order among the others does not matter."""
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
