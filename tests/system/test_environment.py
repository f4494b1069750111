"""Threads and package versions on the machine of a run."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY
from training import environment
from training.environment import TRIPLES, remedy, threads_for_this_process, torch_mismatch, versions

CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, CORES),
        ({"OMP_NUM_THREADS": "3"}, None),  # the user's
        ({"OMP_NUM_THREADS": "1"}, None),  # the user's, without accelerate
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, CORES),  # set by accelerate, not by the user
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


def test_the_project_supports_each_known_triple_and_nothing_newer() -> None:
    dependencies = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    supported = {requirement.name: requirement.specifier for requirement in map(Requirement, dependencies)}
    for triple in TRIPLES:
        for name, number in triple.items():
            assert number in supported[name]
            assert f"{number}+cpu" in supported[name]
    for name, number in TRIPLES[0].items():  # pip installs the newest supported version
        assert {bound.version for bound in supported[name] if bound.operator == "<="} == {number}


@pytest.mark.parametrize("triple", TRIPLES, ids=lambda triple: triple["torch"])
@pytest.mark.parametrize("build", ["", "cpu", "cu130"])
def test_the_remedy_names_packages_that_match_torch(monkeypatch, triple: dict[str, str], build: str) -> None:
    installed = triple["torch"] + (f"+{build}" if build else "")
    monkeypatch.setattr(environment, "version", {"torch": installed}.get)
    words = remedy("torchvision").split()
    assert {word for word in words if "==" in word} == {f"{n}=={v}" for n, v in triple.items() if n != "torch"}
    assert words[-1].endswith(f"/whl/{build}") if build else "--index-url" not in words


@pytest.mark.parametrize(
    ("torch", "failed", "expected"),
    [
        ("missing", "torch", TRIPLES[0]),
        ("2.9.1", "torchvision", TRIPLES[0]),  # in no known triple
        ("2.9.1+cu128", "torchvision", TRIPLES[0]),
        ("2.9.1+cpu", "torchvision", TRIPLES[0]),
        *((triple["torch"], "torch", triple) for triple in TRIPLES),  # torch itself does not load
    ],
)
def test_the_remedy_names_all_three_packages_if_torch_is_the_problem(
    monkeypatch: pytest.MonkeyPatch, torch: str, failed: str, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(environment, "version", {"torch": torch}.get)
    index = ["--index-url", "https://download.pytorch.org/whl/cpu"] if torch.endswith("+cpu") else []
    packages = [f"{name}=={number}" for name, number in expected.items()]
    assert remedy(failed).split() == ["pip", "install", *packages, *index]


def test_a_torchvision_that_does_not_load_is_reported_with_the_remedy(tmp_path: Path) -> None:
    # A stand-in module raises the same error as a torchvision built for another torch.
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
    assert line.endswith(remedy("torchvision"))
