"""What every test shares: real data when there is some, and seeds that do not leak from one test into the next."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
