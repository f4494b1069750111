"""Runs of all tasks with torch.compile save models that load without it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch.run import load_task
from tasks import TASKS
from tests.conftest import REPOSITORY
from tests.helpers.configs import LITTLE_SCORED, OF_TASK
from tests.helpers.run_folders import record

# aot_eager traces and differentiates like inductor, but without the C++ compiler, which takes a minute per config.
COMMON = (
    "--torch_compile_backend", "aot_eager", "--max_steps", "2", "--report_to", "none", "--disable_tqdm", "true",
    "--use_cpu", "true", "--eval_strategy", "no", "--load_best_model_at_end", "false",
)  # fmt: skip
PROGRAM = "import shlex, sys, run_train\nfor command in sys.argv[1:]: run_train.main(shlex.split(command))"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of one run per task; one process does all runs, because most of a start is imports."""
    folders = {task: tmp_path_factory.mktemp("compiled") / task for task in TASKS}
    commands = [
        shlex.join([str(OF_TASK[task]), *LITTLE_SCORED.get(task, ()), *COMMON, "--output_dir", str(folder)])
        for task, folder in folders.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *commands], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_compiled_run_saves_a_model_that_loads(runs: dict[str, Path], task: str) -> None:
    metrics = record(runs[task])
    assert metrics["training"]["steps"] == 2
    assert json.loads((runs[task] / "run_config.json").read_text(encoding="utf-8"))["torch_compile"]
    for folder in (runs[task], runs[task] / "checkpoint-2"):
        model, loading = load_task(task).auto_model.from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"], loading
        assert not loading["unexpected_keys"], loading
        assert all(value.isfinite().all() for value in model.state_dict().values() if value.dtype == torch.float32)
