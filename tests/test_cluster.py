"""Runs where a cluster would run them: several processes, two nodes, a rank that dies, a machine taken back."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

ATTENTION = ("configs/tunein_attention.json", "--num_train_epochs", "3", "--ablations", "false")
EDA = ("configs/eda_tcn.json", "--max_steps", "6", "--model_config.dropout", "0", "--per_device_train_batch_size", "2")
QUIET = ("--report_to", "none", "--logging_steps", "1", "--disable_tqdm", "true", "--num_threads", "1")
RENDEZVOUS = [sys.executable, "-m", "torch.distributed.run"]
DRIFT = 1e-4  # of losses near 1: sums over ranks come in another order


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(processes: int, *command: str | Path, nodes: str = "1", rank: int = 0, port: int = 0) -> subprocess.Popen:
    """run_train.py in so many processes; several are started as torchrun does, by gloo on the CPU."""
    start = [sys.executable]
    if processes > 1 or nodes != "1":
        start = [*RENDEZVOUS, "--nproc_per_node", str(processes), "--nnodes", nodes, "--node_rank", str(rank),
                 "--master_addr", "127.0.0.1", "--master_port", str(port or free_port())]  # fmt: skip
    command = [*start, "run_train.py", *map(str, command), *QUIET, "--use_cpu", "true"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONUNBUFFERED": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, env=environment, **streams)


def ended(process: subprocess.Popen, code: int = 0) -> str:
    """What a process said to its end."""
    said = process.stdout.read()
    assert process.wait(timeout=600) == code, said[-4000:]
    return said


def losses(said: str) -> np.ndarray:
    """The training losses that were logged, in order."""
    return np.array([float(loss) for loss in re.findall(r"'loss': '([\d.e+-]+)'", said)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, start to end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended(launch(1, *ATTENTION, "--output_dir", folder))
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in two processes of one machine."""
    folder = tmp_path_factory.mktemp("two") / "run"
    ended(launch(2, *ATTENTION, "--output_dir", folder))
    return folder


def test_sigterm_saves_a_checkpoint_from_which_the_run_goes_on_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = launch(1, *ATTENTION, "--output_dir", folder)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if len(losses(line)) and len(losses("".join(lines))) == 3:
            process.send_signal(signal.SIGTERM)
            break
    said = "".join(lines) + ended(process, code=128 + signal.SIGTERM)
    stopped = int(re.search(r"SIGTERM: stopped after step (\d+) with a checkpoint", said)[1])
    assert (folder / f"checkpoint-{stopped}" / "trainer_state.json").is_file()
    assert not (folder / "metrics.json").exists() and not (folder / "model.safetensors").exists()
    ended(launch(1, *ATTENTION, "--output_dir", folder, "--resume_from_checkpoint", "true"))
    one, other = (load_file(run / "model.safetensors") for run in (whole, folder))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_two_processes_score_each_row_once_and_write_once(whole: Path, two_processes: Path) -> None:
    tables = [pq.read_table(run / "predictions.parquet") for run in (whole, two_processes)]
    assert tables[0]["creative_id"].to_pylist() == tables[1]["creative_id"].to_pylist()
    records = [json.loads((run / "metrics.json").read_text()) for run in (whole, two_processes)]
    assert [record["training"]["processes"] for record in records] == [1, 2]
    assert records[0]["test"]["rows"] == records[1]["test"]["rows"] == len(tables[0])
    assert not list(two_processes.glob(".*"))


def test_two_nodes_that_meet_at_a_rendezvous_train_what_two_processes_do(two_processes: Path, tmp_path: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    nodes = [launch(1, *ATTENTION, "--output_dir", folder, nodes="2", rank=rank, port=port) for rank in (0, 1)]
    for node in nodes:
        ended(node)
    one, other = (load_file(run / "model.safetensors") for run in (two_processes, folder))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_two_processes_learn_what_one_does_with_the_same_batches_a_step(tmp_path: Path) -> None:
    """Without dropout, and without a BatchNorm: the items of a step are the same, so its loss is, to rounding."""
    found = {}
    for processes, accumulation in ((1, 2), (2, 1)):
        folder = tmp_path / f"{processes}"
        command = (*EDA, "--gradient_accumulation_steps", str(accumulation), "--output_dir", folder)
        found[processes] = losses(ended(launch(processes, *command)))
    assert len(found[1]) == len(found[2]) == 6
    drift = np.abs(found[1] - found[2])
    print(f"drift of the loss: max {drift.max():.2e}, mean {drift.mean():.2e}")  # noqa: T201
    assert drift.max() < DRIFT, (found, drift)


def test_a_rank_that_dies_takes_the_others_with_it(tmp_path: Path) -> None:
    process = launch(2, *ATTENTION, "--output_dir", tmp_path / "run", "--num_train_epochs", "2000")
    for line in process.stdout:
        if len(losses(line)):
            break
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    begin = time.monotonic()
    said = process.stdout.read()
    process.wait(timeout=120)
    assert process.returncode != 0 and "exitcode  : -9" in said.replace("exitcode : ", "exitcode  : "), said[-3000:]
    assert time.monotonic() - begin < 100
    assert not (tmp_path / "run" / "metrics.json").exists()
