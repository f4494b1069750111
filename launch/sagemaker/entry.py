"""Entry script in the SageMaker container: start or resume the run that the hyperparameters describe.

SageMaker's training toolkit starts this script with SM_* variables set. The run's folder is inside `checkpoints`,
which SageMaker copies to S3 during the job and restores after an interruption.
"""

# Import only the standard library, so that a broken installation fails in the run, whose message is then reported.

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
PORT = 29500  # of the first machine, for the rendezvous of all machines
LONGEST_REASON = 1024  # SageMaker shows this many characters of a failure reason


def main(environment: Mapping[str, str]) -> int:
    """Train unless an earlier attempt has finished, and deliver the model; return the exit status."""
    base = Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    folder = run_folder(environment, base)
    if (folder / "metrics.json").exists():
        print(f"{folder} contains the finished run of an earlier attempt; delivering it", flush=True)
    else:
        status, stderr_lines = run(train_command(environment, folder), environment)
        if status:
            write_failure(base, f"exit status {status}: {reason(stderr_lines)}")
            return status
    if is_first(environment):
        deliver(folder, Path(environment["SM_MODEL_DIR"]))
    return 0


def run_folder(environment: Mapping[str, str], base: Path) -> Path:
    """Return the output folder of the run. It is named after the config, because the model card shows its name."""
    return base / "checkpoints" / Path(json.loads(environment["SM_HPS"])["config"]).stem


def is_first(environment: Mapping[str, str]) -> bool:
    """Return whether the main process, which writes the files of the run, is on this machine."""
    return environment["SM_CURRENT_HOST"] == json.loads(environment["SM_HOSTS"])[0]


def train_command(environment: Mapping[str, str], folder: Path) -> list[str]:
    """Return the command for this machine: `accelerate launch run_train.py <config> --key value ...`."""
    hosts = json.loads(environment["SM_HOSTS"])
    gpus = int(environment.get("SM_NUM_GPUS", "0"))
    processes = max(1, gpus) * len(hosts)
    # All options are given here, because the container has no Accelerate config file.
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
        command += ["--disable_tqdm", "true"]  # progress bars fill the CloudWatch log, which costs money per byte
    if folder.is_dir() and any(folder.iterdir()):
        command += ["--resume_from_checkpoint", "true"]
    return command


def run(command: list[str], environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run a command; return its exit status and the last lines of its stderr, which is also passed on."""
    print(" ".join(command), flush=True)
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    # start_new_session makes the child the leader of a process group, which can be signalled as a whole.
    child = subprocess.Popen(
        command, cwd=CODE, env=dict(environment) | quiet, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    # SIGTERM announces that the machine will be reclaimed. `accelerate launch` does not pass it on to the training
    # processes, so signal their whole process group.
    signal.signal(signal.SIGTERM, lambda number, frame: os.killpg(child.pid, number))
    lines = collections.deque(maxlen=200)
    assert child.stderr is not None  # because of stderr=PIPE
    for line in child.stderr:
        sys.stderr.write(line)
        sys.stderr.flush()
        lines.append(line.rstrip())
    status = child.wait()
    # A process killed by signal N has status -N here, but 128 + N in a shell.
    return (128 - status if status < 0 else status), list(lines)


def reason(stderr_lines: list[str]) -> str:
    """Return the line that explains a failure: the last error of our programs, else of Python, else the last line."""
    lines = [line.strip() for line in stderr_lines if line.strip()]
    for pattern in (r"(run_train\.py|\S+\.json): ", r"[\w.]*(Error|Exception|Interrupt|Exit)\b"):
        matches = [line for line in lines if re.match(pattern, line)]
        if matches:
            return matches[-1]
    return lines[-1] if lines else "no message"


def write_failure(base: Path, text: str) -> None:
    """Write the failure reason to the file that SageMaker reads."""
    output = base / "output"
    output.mkdir(parents=True, exist_ok=True)
    (output / "failure").write_text(text[:LONGEST_REASON], encoding="utf-8")


def deliver(folder: Path, model: Path) -> None:
    """Copy the finished run, without checkpoints, to the folder that SageMaker packs into model.tar.gz."""
    shutil.copytree(folder, model, ignore=shutil.ignore_patterns("checkpoint-*", ".*"), dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main(os.environ))
