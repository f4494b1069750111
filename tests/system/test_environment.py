"""What a run finds on its machine."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from training.environment import INSTALL, threads_for_this_process, torch_mismatch, versions

CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, CORES),
        ({"OMP_NUM_THREADS": "3"}, None),  # the user's
        ({"OMP_NUM_THREADS": "1"}, None),  # the user's, without accelerate
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, CORES),  # accelerate's, nobody's choice
        ({"OMP_NUM_THREADS": "4", "ACCELERATE_MIXED_PRECISION": "no"}, None),
        ({"LOCAL_WORLD_SIZE": "2"}, max(1, CORES // 2)),
        ({"LOCAL_WORLD_SIZE": "1000"}, 1),
    ],
)
def test_threads(monkeypatch: pytest.MonkeyPatch, environment: dict, expected: int | None) -> None:
    for name in ("OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert threads_for_this_process() == expected


def test_the_installed_torch_fits_its_companions() -> None:
    assert torch_mismatch() is None
    assert versions()["torch"].startswith("2.")


def test_what_the_message_says_to_install_is_what_the_project_asks_for() -> None:
    asked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    triple = [name for name in asked if name.startswith("torch")]
    assert len(triple) == 3
    assert INSTALL == "pip install " + " ".join(f"'{name}'" for name in triple)


def test_a_torchvision_that_does_not_load_is_named_with_what_to_install(tmp_path: Path) -> None:
    """What a torchvision built for another torch does at import, without one: a module that raises the same."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    run = subprocess.run(
        [sys.executable, REPOSITORY / "run_train.py", REPOSITORY / "configs" / "eda_tcn.json", "--dataset", "x"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    (line,) = run.stderr.strip().splitlines()
    assert "torchvision" in line
    assert "operator torchvision::nms" in line
    assert "pip install 'torch>=2.11,<2.13'" in line
