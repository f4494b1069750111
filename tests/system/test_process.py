"""Every program ends with one line: without secrets, on Ctrl-C, and with too little memory."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoConfig

import modeling  # noqa: F401  (registers our configurations)
from hf_datasets.folder.synthesize import synthesize
from system.process import one_line_errors
from tests.conftest import REPOSITORY
from tests.helpers.configs import SAMPLE
from tests.helpers.programs import TIMEOUT, paused_after, run, start
from tests.helpers.source_files import PROGRAMS

CONFIG = "configs/eda_tcn.json"
SECRET = "Zx9qSECRETq9xZ"
QUERY = "&".join(f"{name}={SECRET}" for name in ("X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "sig"))
URL = f"https://user:{SECRET}@127.0.0.1:9/x?{QUERY}"
# Arguments of single programs, in addition to those for all programs; only SageMaker starts `entry`.
COMMANDS = {
    "run_train": [
        [CONFIG, "--dataset", URL], [CONFIG, "--model_name_or_path", URL], [CONFIG, "--s3.endpoint_url", URL],
        [CONFIG, "--resume_from_checkpoint", URL], [CONFIG, "--hub_token", SECRET, "--dataset", URL],
    ],
    "run_eval": [[URL, "hf_datasets/pmemo", "--side", "all"]],
    "run_predict": [["configs", URL], [URL, "README.md"], ["configs", "README.md", "--output", URL]],
    "run_study": [[CONFIG, "--set", URL], [CONFIG, "--dataset", URL, "--folds", "2"]],
    "run_sagemaker": [[CONFIG, "--role", URL, "--bucket", URL, "--dry_run"]],
    "hf_datasets.prepare": [["pmemo", "--raw_dir", URL], ["pmemo", "--raw_dir", "x", "--output_dir", URL]],
    "hf_datasets.push_dataset": [["pmemo", "you/x", "--folder", URL]],
    "hf_datasets.tunein.write_batches": [["--data_dir", URL, "--output_dir", URL]],
    "launch.explain_plan": [["configs/baby_cry.json", "--checkpoint", URL, "--dataset", URL]],
}  # fmt: skip


def command_of(program: str) -> list[str]:
    return [sys.executable, *(["-m", program] if "." in program else [f"{program}.py"])]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_prints_secrets_from_its_arguments(program: str, tmp_path: Path) -> None:
    argument_lists = [[URL], [URL, URL], [URL, f"--nonsense={URL}"], ["--seed", URL], *COMMANDS.get(program, [])]
    for arguments in argument_lists:
        done = run(*command_of(program), *arguments, fails=True)
        assert SECRET not in done.stdout + done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr, (arguments, done.stderr)


@pytest.mark.slow
def test_no_file_of_a_run_contains_the_secret_of_a_url(tmp_path: Path) -> None:
    # The URL is in a key that training does not need.
    settings = [*SAMPLE, "--max_steps", "1", "--report_to", "none", "--run_name", URL]
    run(*command_of("run_train"), CONFIG, *settings, "--output_dir", tmp_path / "run")
    files = [path for path in (tmp_path / "run").glob("*.*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["run/run_config.json", "run/checkpoint-2/trainer_state.json"])
def test_ctrl_c_ends_training_with_one_line(moment: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    steps = ["--max_steps", "2000", "--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "steps"]
    steps += ["--save_steps", "2", "--report_to", "none", "--dataloader_num_workers", "2"]
    command = ["run_train.py", CONFIG, *SAMPLE, *steps, "--output_dir", str(folder)]
    check_ctrl_c(command, tmp_path, moment, "run_train.py: stopped")
    assert not (folder / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["out/data/.prepare.lock", "out/data/*.tmp", "out/data/*.parquet"])
def test_ctrl_c_ends_a_preparation_with_workers_with_one_line(moment: str, tmp_path: Path) -> None:
    synthesize(tmp_path / "raw", num_songs=60, num_listeners=2)
    output = tmp_path / "out"
    command = ["-m", "hf_datasets.prepare", "folder", "--raw_dir", str(tmp_path / "raw"), "--num_proc", "2"]
    command += ["--output_dir", str(output)]
    check_ctrl_c(command, tmp_path, moment, "prepare: stopped", **paused_after("*.parquet", 1, seconds=5))
    written = {path.suffix for path in output.rglob("*") if path.is_file()}
    assert written <= {".parquet", ".yaml", ".lock"}
    assert not (output / "defects.csv").exists()


def check_ctrl_c(command: list[str], folder: Path, moment: str, last: str, **environment: str) -> None:
    """Send SIGINT to a program and its workers, like a terminal, once a file exists."""
    process = start(*command, log=folder / "said", **environment)
    stderr = folder / "said.err"
    while process.is_alive() and not any(folder.glob(moment)):
        time.sleep(0.02)
    assert process.is_alive(), stderr.read_text()
    os.killpg(process.pid, signal.SIGINT)
    process.join(TIMEOUT)
    text = stderr.read_text()
    assert process.exitcode == 130, text
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith(last), text
    assert not [path for path in folder.rglob("*") if path.suffix in (".part", ".tmp")]


@pytest.mark.slow
def test_ctrl_c_during_the_imports_ends_with_one_line() -> None:
    # Send the signal while torch is imported, which takes seconds.
    child = subprocess.Popen(
        [sys.executable, "run_train.py", CONFIG], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    maps = Path(f"/proc/{child.pid}/maps")
    while child.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.stderr.read().splitlines() == ["run_train.py: stopped"]
    assert child.wait() == 130


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [300, 1500, 3000])
def test_too_little_memory_for_the_imports_is_not_reported_as_a_wrong_installation(megabytes: int) -> None:
    done = subprocess.run(
        [sys.executable, "run_train.py", CONFIG], cwd=REPOSITORY, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20)),
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "pip install" not in done.stderr


def test_a_config_that_transformers_refuses_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "tcn", "pad_token_id": 1e400}')
    with pytest.raises(SystemExit) as ended, one_line_errors("program"):
        AutoConfig.from_pretrained(tmp_path)
    assert str(ended.value).startswith("program: ")
    assert "\n" not in str(ended.value)
