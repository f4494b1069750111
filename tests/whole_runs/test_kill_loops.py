"""Training and prepare, killed at random times: `python -m benchmarks.kill_loops` with few kills."""

import random
import sys
from pathlib import Path

import pytest

from benchmarks.kill_loops import TRAINING, kill_loop, preparing, training
from tests.helpers.programs import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def preload_imports() -> None:
    """Start one program, so that the others start fast and are killed during their work, not during imports."""
    run(sys.executable, "run_train.py", "--help")


@pytest.mark.parametrize("task", TRAINING)
def test_a_training_run_that_is_killed_twice_ends_with_the_same_bytes(task: str, tmp_path: Path) -> None:
    assert kill_loop(training(task), 2, random.Random(0), tmp_path / "runs") >= 1


@pytest.mark.parametrize("name", ["folder", "tunein"])
def test_a_prepare_that_is_killed_twice_ends_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    assert kill_loop(preparing(name, tmp_path), 2, random.Random(0), tmp_path / "runs") >= 1
