"""Runs as on a cluster: several processes, two nodes, a rank that dies, preemption.

The plan of training is checked for all configs in configs/. The first config of each task that needs nothing from the
Hub is trained in one process and in two. Ranks are forks (tests.helpers.programs) with the variables that torchrun
sets; torchrun itself starts the ranks that die and those of two nodes.
"""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest

from launch.run import parse_run
from tasks.detection.trainer import TargetSoundTrainer
from tests.conftest import REPOSITORY
from tests.helpers.configs import CONFIGS, LITTLE_SCORED, OF_TASK, SAMPLE, WITHOUT_THE_HUB
from tests.helpers.programs import TIMEOUT, end_ranks, free_port, run, start_ranks
from tests.helpers.run_folders import assert_same_weights, numbers, record
from training.rows import load_rows
from training.task import Run
from training.trainer_arguments import RunTrainingArguments

pytestmark = pytest.mark.slow

OF_THE_HUB = [path for path in CONFIGS if path.stem in WITHOUT_THE_HUB]
QUIET = ("--disable_tqdm", "true", "--logging_steps", "1", "--num_threads", "1", "--use_cpu", "true")
STEPS = 3
SHORT = (
    *SAMPLE, "--max_steps", str(STEPS), "--save_strategy", "steps", "--save_steps", str(STEPS), "--eval_strategy",
    "steps", "--eval_steps", str(STEPS), "--load_best_model_at_end", "false", "--per_device_train_batch_size", "4",
    "--per_device_eval_batch_size", "11",
)  # fmt: skip
# Task -> settings without randomness. The plan of detection depends on the number of ranks, so an item gets another
# seed in one process than in two.
NOT_RANDOM = {
    "detection": (
        "--clip_seconds", "10", "--hop_seconds", "10", "--gain_db", "0", "--roll_probability", "0",
        "--background_probability", "0", "--spec_time_mask_frames", "0", "--spec_frequency_mask_bins", "0",
        "--per_device_train_batch_size", "20",
    ),
}  # fmt: skip
DRIFT = 1e-4  # allowed difference of losses near 1, because sums over ranks have another order
ATTENTION = ("configs/tunein_attention.json", *SAMPLE, "--num_train_epochs", "4", "--ablations", "false", *QUIET)


def losses(output: str) -> list[float]:
    """Return the logged training losses, in order."""
    return [float(loss) for loss in re.findall(r"'loss': '([\d.e+-]+)'", output)]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT} s"
        time.sleep(0.05)


def prepared(*command: str | Path) -> tuple[Run, Any]:
    """Return a run and its data."""
    parsed = parse_run([*map(str, command)])
    rows, _ = load_rows(parsed.arguments, parsed.task.columns)
    return parsed, parsed.task.prepare(rows, parsed.task.features(parsed), parsed)


def plan(parsed: Run, data: Any, processes: int, epoch: int = 0) -> list[list[tuple[int, int]]]:
    """Return the (item, seed) pairs of an epoch by batch; batch k * processes + r is for step k and rank r."""
    size = parsed.training.per_device_train_batch_size
    with mock.patch.object(RunTrainingArguments, "world_size", processes):
        sampler = parsed.task.sampler(data, parsed)(size)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    return drawn if isinstance(drawn[0], list) else [drawn[k : k + size] for k in range(0, len(drawn), size)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_plan_depends_only_on_the_config_and_the_number_of_ranks(path: Path) -> None:
    command = (path, *SAMPLE, *WITHOUT_THE_HUB.get(path.stem, ()))
    one, other = prepared(*command), prepared(*command)
    for processes in (1, 2, 3):
        first = plan(*one, processes)
        assert plan(*one, processes, epoch=1) != first
        assert plan(*other, processes) == first
        for step in range(0, len(first), processes):
            served = [pair for batch in first[step : step + processes] for pair in batch]
            assert len(set(served)) == len(served)


class Trained(NamedTuple):
    """A run in one process and in two, with the same items per step."""

    command: list[str]
    folders: dict[int, Path]  # number of processes -> folder with `<rank>/` and the records `<rank>.json`

    def recorded(self, processes: int, rank: int = 0) -> dict[str, Any]:
        """Return the record of tests.helpers.cluster_run."""
        return json.loads((self.folders[processes] / f"{rank}.json").read_text())

    def served(self, processes: int, rank: int = 0) -> list[tuple[int, int]]:
        """Return the (item, seed) pairs of a rank."""
        return [tuple(pair) for pair in self.recorded(processes, rank)["served"]]


@pytest.fixture(scope="module", params=[*OF_TASK.values(), *OF_THE_HUB], ids=lambda path: path.stem)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train a task in one process and in two."""
    path = request.param
    if path in OF_THE_HUB:
        pytest.skip(f"{path.name}: uses a model of the Hub, so only its plan is checked")
    task = json.loads(path.read_text())["task"]
    command = [str(path), *SHORT, *LITTLE_SCORED.get(task, ()), *NOT_RANDOM.get(task, ()), *QUIET]
    parsed = parse_run(command)
    config = next(each for each in parsed.task.model_configs if each.model_type == parsed.arguments.model_type)
    for name in inspect.signature(config).parameters:
        if name.endswith(("dropout", "dropout_rate")):
            command += [f"--model_config.{name}", "0"]
    twice = ["--gradient_accumulation_steps", "2"]
    if parsed.task.trainer is TargetSoundTrainer:  # its plan depends on the ranks: two equal one of twice the batch
        twice = ["--per_device_train_batch_size", str(2 * parsed.training.per_device_train_batch_size)]
    folders = {processes: tmp_path_factory.mktemp(f"{task}{processes}") for processes in (1, 2)}
    for processes, folder in folders.items():
        arguments = [*command, *(twice if processes == 1 else []), "--output_dir", folder / "{rank}"]
        program = ["-m", "tests.helpers.cluster_run", folder / "{rank}.json", *arguments]
        end_ranks(start_ranks(processes, folder / "log", *program), folder / "log")
    return Trained(command, folders)


def test_ranks_get_the_planned_items_and_together_those_of_one_process(trained: Trained) -> None:
    parsed, data = prepared(*trained.command)
    size, planned, alone = parsed.training.per_device_train_batch_size, plan(parsed, data, 2), trained.served(1)
    ranks = [trained.served(2, rank) for rank in range(2)]
    for step in range(STEPS):
        batches = [served[step * size : (step + 1) * size] for served in ranks]
        assert batches == planned[2 * step : 2 * step + 2]
        together = sorted(item for batch in batches for item, _ in batch)
        assert together == sorted(item for item, _ in alone[step * 2 * size : (step + 1) * 2 * size])


def test_two_processes_have_the_losses_of_one_with_the_same_items_per_step(trained: Trained) -> None:
    # There is no dropout. BatchNorm makes no difference: its batch is that of a rank, or one of two accumulated ones.
    one, two = (np.array(trained.recorded(processes)["losses"]) for processes in (1, 2))
    assert len(one) == len(two) == STEPS
    assert one[0] != one[-1]
    drift = np.abs(one - two)
    print(f"drift of the loss: max {drift.max():.2e}, mean {drift.mean():.2e}")  # noqa: T201
    assert drift.max() < DRIFT, (one, two)


def test_only_the_first_of_two_processes_writes_files_and_computes_features(trained: Trained) -> None:
    first, second = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (trained.folders[2] / "0", trained.folders[2] / "1")
    )
    assert {"metrics.json", "model.safetensors", "predictions.parquet", "README.md"} <= first
    assert [name for name in first if "/." in f"/{name}"] == [".training.lock"]  # no temporary files
    assert second == {f"checkpoint-{STEPS}/rng_state_1.pth"}  # each rank saves its own random state
    assert trained.recorded(2, rank=1)["mapped"] == 0
    assert record(trained.folders[2] / "0")["training"]["processes"] == 2


def test_two_processes_score_each_row_once_as_one_does(trained: Trained, tmp_path: Path) -> None:
    folder, parsed = trained.folders[2] / "0", parse_run(trained.command)
    run(sys.executable, "run_eval.py", folder, parsed.arguments.dataset, *SAMPLE, "--output_dir", tmp_path)
    two, one = (pq.read_table(path / "predictions.parquet") for path in (folder, tmp_path))
    assert len(two) % (2 * parsed.training.per_device_eval_batch_size)  # the last batches are not full
    ids = [name for name in two.column_names if name.endswith("_id") or name in ("listener", "trial")]
    keys = two.select(ids).to_pylist()
    assert keys == one.select(ids).to_pylist()
    assert len({tuple(key.items()) for key in keys}) == len(keys)
    scores = [record(path)["test"] for path in (folder, tmp_path)]
    assert numbers(scores[0]) == pytest.approx(numbers(scores[1]), rel=1e-4, abs=1e-4)


def test_features_of_frozen_encoders_are_computed_once_for_all_ranks(tmp_path: Path) -> None:
    frozen = ["--cache_features", "true", "--model_config.freeze_text", "true", "--model_config.freeze_video", "true"]
    arguments = [*SHORT, *LITTLE_SCORED["emotion"], *QUIET, *frozen, "--output_dir", tmp_path / "{rank}"]
    program = ["-m", "tests.helpers.cluster_run", tmp_path / "{rank}.json", OF_TASK["emotion"], *arguments]
    end_ranks(start_ranks(2, tmp_path / "log", *program), tmp_path / "log")
    records = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    sides = record(tmp_path / "0")["data"]["sides"]
    assert [each["mapped"] for each in records] == [sum(side["utterances"] for side in sides.values()), 0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the folder of an uninterrupted run, by number of processes."""
    folders = {processes: tmp_path_factory.mktemp("uninterrupted") for processes in (1, 2)}
    for processes, folder in folders.items():
        program = ["run_train.py", *ATTENTION, "--output_dir", folder / "run"]
        end_ranks(start_ranks(processes, folder / "log", *program), folder / "log")
    return {processes: folder / "run" for processes, folder in folders.items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_after_sigterm_to_one_rank_all_resume_from_a_checkpoint_to_the_same_weights(
    processes: int, uninterrupted: dict[int, Path], tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    program = ["run_train.py", *ATTENTION, "--output_dir", folder]
    started = start_ranks(processes, log, *program)
    wait_until(lambda: len(losses(Path(f"{log}0").read_text())) >= 3)
    os.kill(started[-1].pid, signal.SIGTERM)
    output = end_ranks(started, log, code=128 + signal.SIGTERM)
    stopped = int(re.search(r"SIGTERM: stopped after step (\d+) ", output)[1])
    assert (folder / f"checkpoint-{stopped}" / "trainer_state.json").is_file()
    assert not (folder / "metrics.json").exists()
    assert not (folder / "model.safetensors").exists()
    end_ranks(start_ranks(processes, log, *program, "--resume_from_checkpoint", "true"), log)
    assert_same_weights(folder, uninterrupted[processes])


def torchrun(*command: str | Path, processes: int = 1, nodes: int = 1, rank: int = 0, port: int) -> subprocess.Popen:
    """Start run_train.py in several processes of one node, with gloo on the CPU."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--nnodes", str(nodes),
             "--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", str(port)]  # fmt: skip
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONUNBUFFERED": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(
        [*start, "run_train.py", *map(str, command)], cwd=REPOSITORY, text=True, env=environment, **streams
    )


def test_two_nodes_get_the_weights_of_two_processes(uninterrupted: dict[int, Path], tmp_path: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    nodes = [torchrun(*ATTENTION, "--output_dir", folder, nodes=2, rank=rank, port=port) for rank in (0, 1)]
    for node in nodes:
        output = node.stdout.read()
        assert node.wait(TIMEOUT) == 0, output[-4000:]
    assert_same_weights(folder, uninterrupted[2])


def test_if_one_rank_dies_the_others_end_too(tmp_path: Path) -> None:
    endless = (*ATTENTION, "--num_train_epochs", "2000", "--output_dir", tmp_path / "run")
    process = torchrun(*endless, processes=2, port=free_port())
    for line in process.stdout:
        if losses(line):
            break
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = process.communicate(timeout=TIMEOUT)  # gloo alone would wait for half an hour
    assert process.returncode != 0, output[-3000:]
    assert re.search(r"exitcode +: -9", output), output[-3000:]
    assert not (tmp_path / "run" / "metrics.json").exists()
