"""The GPU benchmark, with small models on the CPU: every model trains, and the page has every figure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.gpu import NUMBERS_A_WEIGHT, Work, counted
from benchmarks.models import training_step
from tests.conftest import REPOSITORY

SUBJECTS = ("tcn", "wavenet", "detection", "fusion_embeddings", "fusion_clips")
CASES = (("float32", "eager"), ("float32", "compiled"), ("bfloat16", "eager"))
# Missing on a machine that has only torch and transformers.
MISSING = ("datasets", "librosa", "soundfile", "soxr", "av", "evaluate")


class OneLayer(nn.Module):
    """A linear map, and the mean of its squared outputs as the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(8, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.map(x).square().mean()


def test_operations_and_bytes_of_a_step_by_hand() -> None:
    model, batch, work = OneLayer(), {"x": torch.randn(16, 8)}, {}
    with counted(model, batch, work, "float32"):
        training_step(model)(batch)
    product = 2 * 16 * 8 * 4  # operations of the forward pass, and of the gradient of the weights
    saved = 16 * 4 * 4  # bytes of the map's output, which the square saves; the input and the weights count separately
    assert work["float32"] == Work(2 * product, 16 * 8 * 4 + 2 * saved + NUMBERS_A_WEIGHT * 4 * 32)


@pytest.mark.slow
def test_every_model_trains_in_all_modes_and_the_page_has_all_figures(tmp_path: Path) -> None:
    page = tmp_path / "results" / "cpu.md"
    command = ["--small", "--device", "cpu", "--compiler", "aot_eager", "--output", str(page)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    text = page.read_text(encoding="utf-8")
    assert text.strip() == done.stdout.strip()
    assert [path.name for path in page.parent.iterdir()] == ["cpu.md"]
    assert " ".join(["python -m benchmarks.gpu", *command]) in text, text
    assert "Error" not in text, text
    figures = dict(re.findall(r"^(?:RATIO|VALUE) (\w+) (\S+)", text, re.MULTILINE))
    wanted = {f"{subject}_{'_'.join(case)}_cpu" for subject in SUBJECTS for case in CASES}
    for name in wanted:
        assert {f"{name}_items_per_second", f"{name}_vs_matmul_ceiling", f"{name}_vs_copy_ceiling"} <= figures.keys()
        assert ("_compiled_" in name) == (f"{name}_vs_eager" in figures)
        assert name.startswith(("tcn", "wavenet")) == (f"{name}_vs_peer" in figures)
    assert {"matmul_float32_cpu", "matmul_bfloat16_cpu", "copy_cpu", "trainer_items_per_second_cpu"} <= figures.keys()
    share = float(figures.pop("trainer_data_wait_share_cpu"))
    assert 0 <= share < 1
    assert all(float(value) > 0 for value in figures.values())


@pytest.mark.slow
def test_models_are_measured_without_the_packages_of_the_trainer(tmp_path: Path) -> None:
    program = "import sys\nfor name in sys.argv[1:]: sys.modules[name] = None\n"
    program += "from benchmarks.gpu import subjects, train_eda\nprint([s.name for s in subjects(True, 'cpu')])\n"
    program += "train_eda('cpu', steps=1)"
    done = subprocess.run(
        [sys.executable, "-c", program, *MISSING], cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert done.stdout.strip() == str(list(SUBJECTS)), done.stderr[-2000:]
    assert f"ModuleNotFoundError: missing packages: {', '.join(MISSING)}" in done.stderr
