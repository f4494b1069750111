"""The entry script in the container builds the right command, and reports failures."""

import json
from pathlib import Path

import pytest

from launch.sagemaker import entry as sagemaker_entry


def container(tmp_path: Path, **other: str) -> dict[str, str]:
    """Return the environment variables that SageMaker's toolkit sets."""
    return {
        "SAGEMAKER_BASE_DIR": str(tmp_path),
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_NUM_GPUS": "0",
        "SM_HPS": json.dumps({"config": "configs/x.json", "learning_rate": "3e-4", "label_names": ["a", "b"]}),
        **other,
    }


def test_the_entry_starts_one_process_per_gpu_on_every_machine(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/x"
    command = sagemaker_entry.train_command(container(tmp_path), folder)
    assert "--cpu" in command
    assert command[command.index("--num_processes") + 1] == "1"
    assert command[command.index("run_train.py") :] == [
        "run_train.py", "configs/x.json", "--learning_rate", "3e-4", "--label_names", "a", "b",
        "--output_dir", str(folder), "--disable_tqdm", "true",
    ]  # fmt: skip
    one = sagemaker_entry.train_command(container(tmp_path, SM_NUM_GPUS="1"), folder)
    assert "--multi_gpu" not in one
    assert "--cpu" not in one
    hosts = {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2", "SM_NUM_GPUS": "4"}
    both = " ".join(sagemaker_entry.train_command(container(tmp_path, **hosts), folder))
    assert "--num_processes 8 --num_machines 2" in both
    assert "--multi_gpu" in both
    assert "--machine_rank 1 --main_process_ip algo-1 --main_process_port 29500" in both
    assert not sagemaker_entry.is_first(container(tmp_path, **hosts))


def test_the_entry_resumes_from_checkpoints_and_uses_the_data_channel(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/x"
    (folder / "checkpoint-1").mkdir(parents=True)
    command = sagemaker_entry.train_command(container(tmp_path, SM_CHANNEL_TRAINING="/data"), folder)
    assert command[-2:] == ["--resume_from_checkpoint", "true"]
    assert command[command.index("--dataset") + 1] == "/data"


def test_a_finished_run_of_an_earlier_attempt_is_delivered_without_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/x"
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    assert sagemaker_entry.main(container(tmp_path)) == 0
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    "lines, reason",
    [
        (["Traceback", "  File", "KeyError: 3", "run_train.py: not found", ""], "run_train.py: not found"),
        (["configs/x.json: unknown key 'a'", "subprocess.CalledProcessError: ..."], "configs/x.json: unknown key 'a'"),
        (["Traceback", "torch.OutOfMemoryError: no memory", "  more"], "torch.OutOfMemoryError: no memory"),
        (["Killed"], "Killed"),
        ([], "no message"),
    ],
)  # fmt: skip
def test_the_failure_reason_is_the_line_with_the_error(lines: list[str], reason: str) -> None:
    assert sagemaker_entry.reason(lines) == reason
