"""Inside a SageMaker container: the run that hyperparameters describe, begun or gone on with, and its model delivered.

SageMaker's training toolkit starts this script with SM_* variables set; only the standard library is used here. The
run's folder is below `checkpoints`, which SageMaker copies to S3 as it grows and restores after an interruption.
"""

import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

CODE = Path(__file__).resolve().parents[2]
PORT = 29500  # of the first machine, where the others meet
LONGEST_REASON = 1024  # characters of a failure's reason that SageMaker shows


def main(environment: Mapping[str, str]) -> int:
    """Train, or find that an earlier attempt has; give back the exit status."""
    base = Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    folder = run_folder(environment, base)
    if (folder / "metrics.json").exists():
        print(f"{folder} holds the finished run of an earlier attempt; delivering it", flush=True)
    else:
        status, said = run(train_command(environment, folder), environment)
        if status:
            write_failure(base, f"exit status {status}: {reason(said)}")
            return status
    if is_first(environment):
        deliver(folder, Path(environment["SM_MODEL_DIR"]))
    return 0


def run_folder(environment: Mapping[str, str], base: Path) -> Path:
    """Where the run keeps its checkpoints; named like the config, for the card says the name."""
    return base / "checkpoints" / Path(json.loads(environment["SM_HPS"])["config"]).stem


def is_first(environment: Mapping[str, str]) -> bool:
    """Whether this is the machine whose process 0 writes the run's files."""
    return environment["SM_CURRENT_HOST"] == json.loads(environment["SM_HOSTS"])[0]


def train_command(environment: Mapping[str, str], folder: Path) -> list[str]:
    """`accelerate launch run_train.py <config> --key value ...` for this machine of the job."""
    hosts = json.loads(environment["SM_HOSTS"])
    gpus = int(environment.get("SM_NUM_GPUS", "0"))
    processes = max(1, gpus) * len(hosts)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", str(processes)]
    command += ["--num_machines", str(len(hosts)), "--dynamo_backend", "no", "--mixed_precision", "no"]
    if not gpus:
        command.append("--cpu")
    elif processes > 1:
        command.append("--multi_gpu")
    if len(hosts) > 1:
        rank = hosts.index(environment["SM_CURRENT_HOST"])
        command += ["--machine_rank", str(rank), "--main_process_ip", hosts[0], "--main_process_port", str(PORT)]
    settings = json.loads(environment["SM_HPS"])
    command += ["run_train.py", settings.pop("config")]
    for key, value in settings.items():
        command += [f"--{key}", *(value if isinstance(value, list) else [value])]
    if "SM_CHANNEL_TRAINING" in environment:
        command += ["--dataset", environment["SM_CHANNEL_TRAINING"]]
    command += ["--output_dir", str(folder)]
    if "disable_tqdm" not in settings:
        command += ["--disable_tqdm", "true"]  # a log of bars is hard to read, and each of its lines is paid for
    if folder.is_dir() and any(folder.iterdir()):
        command += ["--resume_from_checkpoint", "true"]
    return command


def run(command: list[str], environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run a command; its exit status, and the last lines that it wrote to stderr, which are passed on.

    SIGTERM, by which a machine is announced to go, reaches all of its processes: `accelerate launch` keeps it.
    """
    print(" ".join(command), flush=True)
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    child = subprocess.Popen(
        command, cwd=CODE, env=dict(environment) | quiet, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(signal.SIGTERM, lambda number, frame: os.killpg(child.pid, number))
    said = collections.deque(maxlen=200)
    assert child.stderr is not None  # a pipe
    for line in child.stderr:
        sys.stderr.write(line)
        sys.stderr.flush()
        said.append(line.rstrip())
    status = child.wait()
    return (128 - status if status < 0 else status), list(said)


def reason(said: list[str]) -> str:
    """The line that says why: that of our own programs, else the last error, else the last line."""
    lines = [line.strip() for line in said if line.strip()]
    for pattern in (r"(run_train\.py|\S+\.json): ", r"[\w.]*(Error|Exception|Interrupt|Exit)\b"):
        found = [line for line in lines if re.match(pattern, line)]
        if found:
            return found[-1]
    return lines[-1] if lines else "no message"


def write_failure(base: Path, text: str) -> None:
    """Leave the reason where SageMaker looks for it."""
    output = base / "output"
    output.mkdir(parents=True, exist_ok=True)
    (output / "failure").write_text(text[:LONGEST_REASON], encoding="utf-8")


def deliver(folder: Path, model: Path) -> None:
    """Copy the finished run, without its checkpoints, to where SageMaker makes model.tar.gz from."""
    shutil.copytree(folder, model, ignore=shutil.ignore_patterns("checkpoint-*", ".*"), dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main(os.environ))
