"""Run programs of this repository as from a shell, but forked from one process that has done their imports.

A start takes 0.2 s of a core instead of 7 s. Each program still is a separate process with its own arguments, streams,
signals and exit code. Variables that are read while modules are imported (HF_HOME, HF_ENDPOINT, OMP_NUM_THREADS) have
the values of the tests. A program that needs other values, or a clean interpreter, must be started by `subprocess`.
"""

import contextlib
import multiprocessing
import os
import runpy
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tasks import TASKS
from tests.conftest import REPOSITORY

FORKS = multiprocessing.get_context("forkserver")
# Imports of the programs at their start, followed by imports that they do later.
PRELOADED = ["run_train", "run_eval", "run_predict", "run_study", *TASKS.values()] + [
    "librosa.onset",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "scipy.stats",
    "torch.utils.tensorboard",
]
FORKS.set_forkserver_preload(PRELOADED)
TIMEOUT = 600  # s

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
CPU = ["--config_file", "accelerate_configs/cpu.yaml"]


def start(*command: str | Path, log: Path, cwd: Path = REPOSITORY, **environment: str) -> ForkServerProcess:
    """Start `run_x.py ...` or `-m package.module ...`; stdout goes to `log`, stderr to `log`.err."""
    streams = [log, log.with_name(f"{log.name}.err")]
    for path in streams:
        path.touch()  # a test may read them before the program has started
    arguments = ([*map(str, command)], str(cwd), os.environ | environment, [*map(str, streams)])
    process = FORKS.Process(target=run_in_fork, args=arguments)
    process.start()
    return process


def paused_after(name: str, count: int, seconds: float = TIMEOUT) -> dict[str, str]:
    """Return an environment in which each process of a program pauses after it has finished `count` files of a name.

    This gives a test time to look at a short-lived state. A file is finished when the program renames it to its name.
    """
    return {"PYTHONPATH": str(Path(__file__).parent / "pausing"), "PAUSE_AFTER": f"{name} {count} {seconds}"}


def run_in_fork(command: list[str], cwd: str, environment: dict[str, str], streams: list[str]) -> None:
    """Run a program in this process, with its own environment and streams."""
    os.setsid()  # a new process group, which a test may kill
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore SIGINT in background jobs such as tests
    multiprocessing.set_start_method(None, force=True)  # the default, for processes that the program starts
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if "PAUSE_AFTER" in environment:
        import_module("tests.helpers.pausing.sitecustomize")  # a new interpreter imports it by itself
    for stream, path in zip((sys.stdout, sys.stderr), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream.fileno())
        stream.reconfigure(line_buffering=True)
    sys.argv = command[command[0] == "-m" :]
    if command[0] == "-m":
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[0], run_name="__main__")


def run(*command: str | Path, cwd: Path = REPOSITORY, fails: bool = False) -> subprocess.CompletedProcess:
    """Run a command to its end; assert that it succeeds, or with `fails` that it fails."""
    command = [*map(str, command)]
    if command[0] == sys.executable and (command[1] == "-m" or Path(command[1]).name.startswith("run_")):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            process = start(*command[1:], log=log, cwd=cwd)
            try:
                process.join(TIMEOUT)
                if process.is_alive():
                    raise subprocess.TimeoutExpired(command, TIMEOUT)
            finally:
                process.kill()
            streams = (Path(path).read_text() for path in (log, f"{log}.err"))
            done = subprocess.CompletedProcess(command, process.exitcode, *streams)
    else:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def last_line(done: subprocess.CompletedProcess) -> str:
    """Return the last line of a failed program, without the report that accelerate adds."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(" ")]
    return lines[-1]


def kill_after_checkpoint(checkpoint: Path, *command: str | Path) -> None:
    """Start a program, and kill it and its workers with SIGKILL when a checkpoint is complete."""
    process = start(*command, log=checkpoint.parent.with_suffix(".log"))
    deadline = time.monotonic() + TIMEOUT
    while not (checkpoint / "trainer_state.json").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def free_port() -> int:
    """Return a port that is not in use."""
    # Below the range that the system uses for outgoing connections, one of which could take the port meanwhile.
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", secrets.choice(range(20_000, 32_000))))
            return listener.getsockname()[1]


def start_ranks(processes: int, log: Path, *command: str | Path) -> list[ForkServerProcess]:
    """Start a program in several processes of this machine; `{rank}` in an argument is replaced by the rank."""
    cluster = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true"}
    cluster |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(processes):
        arguments = [str(part).replace("{rank}", str(rank)) for part in command]
        variables = cluster | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        started.append(start(*arguments, log=log.with_name(f"{log.name}{rank}"), **variables))
    return started


def end_ranks(started: list[ForkServerProcess], log: Path, code: int = 0) -> str:
    """Wait for all ranks, assert their exit code, and return the output of rank 0."""
    try:
        for rank, process in enumerate(started):
            process.join(TIMEOUT)
            assert process.exitcode == code, log.with_name(f"{log.name}{rank}.err").read_text()[-4000:]
    finally:
        for process in started:
            process.kill()  # if one has failed, the others wait for it for ever
    return "".join(log.with_name(name).read_text() for name in (f"{log.name}0", f"{log.name}0.err"))
