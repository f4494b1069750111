"""Programs of this repository, run as from a shell but for their imports: forks of one process that has made them.

A start costs a core 0.2 s in place of 7. Each program still is a process of its own, with its arguments, streams,
signals and exit code. What is read from the environment while modules are imported (HF_HOME, HF_ENDPOINT,
OMP_NUM_THREADS) is that of the tests, so a program that needs another, or none of ours imported, takes `subprocess`.
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
# What programs import at their start, and what they import later.
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


def start(*command: str | Path, said: Path, cwd: Path = REPOSITORY, **environment: str) -> ForkServerProcess:
    """Start `run_x.py ...` or `-m package.module ...`; its streams go to `said` and `said`.err."""
    streams = [said, said.with_name(f"{said.name}.err")]
    for path in streams:
        path.touch()  # a test may look into them at once
    given = ([*map(str, command)], str(cwd), os.environ | environment, [*map(str, streams)])
    process = FORKS.Process(target=become, args=given)
    process.start()
    return process


def held(name: str, count: int, seconds: float = TIMEOUT) -> dict[str, str]:
    """An environment in which each process of a program stops when it has finished `count` files of a name.

    So a test sees a moment that would pass. Files count that a program writes under another name and then renames.
    """
    return {"PYTHONPATH": str(Path(__file__).parent / "held"), "HOLD": f"{name} {count} {seconds}"}


def become(command: list[str], cwd: str, environment: dict[str, str], streams: list[str]) -> None:
    """Be that program, from the first line of its file."""
    os.setsid()  # a group of its own, which a test may kill
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is off where the tests run in the background
    multiprocessing.set_start_method(None, force=True)  # the default, for processes that it starts itself
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if "HOLD" in environment:
        import_module("tests.helpers.held.sitecustomize")  # which a new interpreter imports by itself
    for stream, path in zip((sys.stdout, sys.stderr), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream.fileno())
        stream.reconfigure(line_buffering=True)
    sys.argv = command[command[0] == "-m" :]
    if command[0] == "-m":
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[0], run_name="__main__")


def run(*command: str | Path, cwd: Path = REPOSITORY, fails: bool = False) -> subprocess.CompletedProcess:
    """Run a command to its end; both streams are kept."""
    command = [*map(str, command)]
    if command[0] == sys.executable and (command[1] == "-m" or Path(command[1]).name.startswith("run_")):
        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder) / "said"
            process = start(*command[1:], said=said, cwd=cwd)
            try:
                process.join(TIMEOUT)
                if process.is_alive():
                    raise subprocess.TimeoutExpired(command, TIMEOUT)
            finally:
                process.kill()
            streams = (Path(path).read_text() for path in (said, f"{said}.err"))
            done = subprocess.CompletedProcess(command, process.exitcode, *streams)
    else:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def last_line(done: subprocess.CompletedProcess) -> str:
    """Return the last line of a failed program, without accelerate's own report of the failure."""
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(" ")]
    return lines[-1]


def kill_at(checkpoint: Path, *command: str | Path) -> None:
    """Start a program, and kill it and its workers with SIGKILL once a checkpoint is whole."""
    process = start(*command, said=checkpoint.parent.with_suffix(".said"))
    deadline = time.monotonic() + TIMEOUT
    while not (checkpoint / "trainer_state.json").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def free_port() -> int:
    """A port that nobody listens to; below those that the system gives to connections, one of which may take it."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", secrets.choice(range(20_000, 32_000))))
            return listener.getsockname()[1]


def start_ranks(processes: int, said: Path, *command: str | Path) -> list[ForkServerProcess]:
    """A program in so many processes of this machine; `{rank}` in an argument is the rank."""
    cluster = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true"}
    cluster |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(processes):
        own = [str(part).replace("{rank}", str(rank)) for part in command]
        variables = cluster | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        started.append(start(*own, said=said.with_name(f"{said.name}{rank}"), **variables))
    return started


def end_ranks(started: list[ForkServerProcess], said: Path, code: int = 0) -> str:
    """What rank 0 said to its end, where all end with a code."""
    try:
        for rank, process in enumerate(started):
            process.join(TIMEOUT)
            assert process.exitcode == code, said.with_name(f"{said.name}{rank}.err").read_text()[-4000:]
    finally:
        for process in started:
            process.kill()  # where one failed the others wait for it
    return "".join(said.with_name(name).read_text() for name in (f"{said.name}0", f"{said.name}0.err"))
