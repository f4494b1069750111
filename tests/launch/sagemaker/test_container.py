"""Jobs in a local imitation of SageMaker's container."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from launch.sagemaker import follow as sagemaker_follow
from launch.sagemaker.archive import Code
from launch.sagemaker.follow import connect, fetch_model
from launch.sagemaker.job import Job, build_request, parse_job
from launch.sagemaker.limits import check_request
from tests.conftest import REPOSITORY
from tests.helpers.s3_server import FakeS3
from tests.helpers.sagemaker_host import start
from tests.helpers.sagemaker_jobs import metrics, read_metrics, words


@pytest.mark.slow
def test_a_job_trains_and_an_interrupted_job_resumes_to_the_same_model(
    tmp_path: Path, aws: FakeS3, code: Code
) -> None:
    sample = REPOSITORY / "hf_datasets/pmemo"
    for path in [sample / "README.md", *sorted((sample / "sample").rglob("*.parquet"))]:
        aws.put(f"s3://lab/pmemo/{path.relative_to(sample).as_posix()}", path.read_bytes())
    job = parse_job(
        words(
            "--spot", "--channel", "training=s3://lab/pmemo", "--dataset_config", "sample", "--max_steps", "2",
            "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps",
            "--save_steps", "1", "--environment", "OMP_NUM_THREADS=1",
        )
    )  # fmt: skip
    request = submitted(job, code)
    base = tmp_path / "opt/ml"
    done = start(request, aws.boto, base)
    assert done.returncode == 0, done.stderr[-3000:]
    folder, model = base / "checkpoints/eda_tcn", base / "model"
    assert f"--dataset {base}/input/data/training" in done.stdout
    assert {"model.safetensors", "metrics.json", "report.html"} <= {path.name for path in model.iterdir()}
    assert not list(model.glob("checkpoint-*"))
    assert list(folder.glob("checkpoint-*"))
    assert json.loads((model / "metrics.json").read_text())["training"]["steps"] == 2
    assert not (base / "output/failure").exists()

    logged = read_metrics(metrics(request), done.stdout.splitlines())
    log = json.loads((model / "metrics.json").read_text())["training"]["log"]
    assert len(logged["loss"]) == len(logged["eval_loss"]) == len(logged["eval_pearson"]) == 2
    assert logged.keys() == {definition["Name"] for definition in metrics(request)}
    validations = [entry["eval_pearson"] for entry in log if "eval_pearson" in entry]
    assert [float(value) for value in logged["eval_pearson"]] == pytest.approx(validations, rel=1e-3)

    downloaded = fetch_model(connect("us-east-1"), job, describe(request))
    assert load_file(downloaded / "model.safetensors").keys() == load_file(model / "model.safetensors").keys()

    # Remove the files that an interruption in the second step would not have written.
    weights = load_file(model / "model.safetensors")
    shutil.rmtree(folder / "checkpoint-2")
    for name in ("metrics.json", "model.safetensors", "report.html"):
        (folder / name).unlink()
    again = start(request, aws.boto, base, keep_checkpoints=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "--resume_from_checkpoint true" in again.stdout
    assert len(read_metrics(metrics(request), again.stdout.splitlines())["eval_loss"]) == 1
    resumed = load_file(model / "model.safetensors")
    assert all((resumed[name] == weights[name]).all() for name in weights)


def submitted(job: Job, code: Code) -> dict[str, Any]:
    """Send a job to moto, and return its request."""
    request = build_request(job, code)
    check_request(request)
    sagemaker_follow.submit(connect(job.region), job, code, request)
    return request


def describe(request: dict[str, Any]) -> dict[str, Any]:
    return connect("us-east-1").sagemaker.describe_training_job(TrainingJobName=request["TrainingJobName"])


@pytest.mark.slow
def test_a_failed_job_writes_its_reason_to_the_failure_file(tmp_path: Path, aws: FakeS3, code: Code) -> None:
    request = submitted(parse_job(words("--dataset", "someone/nothing", "--environment", "HF_HUB_OFFLINE=1")), code)
    base = tmp_path / "opt/ml"
    done = start(request, aws.boto, base)
    assert done.returncode == 1
    failure = (base / "output/failure").read_text()
    assert failure.startswith("exit status 1: ")
    assert "someone/nothing" in failure
    assert "\n" not in failure
    assert not list((base / "model").iterdir())


@pytest.mark.slow
def test_sigterm_reaches_the_processes_of_the_launcher(tmp_path: Path) -> None:
    # SIGTERM announces the end of a spot instance. `accelerate launch` does not pass it on.
    below = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    launcher = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {below!r}]))"
    entry = (
        f"import os, sys; sys.path.insert(0, {str(REPOSITORY)!r}); from launch.sagemaker import entry\n"
        f"print(entry.run([sys.executable, '-c', {launcher!r}], os.environ)[0])"
    )
    process = subprocess.Popen([sys.executable, "-c", entry], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    out, _ = process.communicate(timeout=600)
    assert out.splitlines()[-1] == "143"
    deadline = time.monotonic() + 600  # the last process may end a little later than the others
    while is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Return whether a process is running, and not just a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
