"""Runs where a cluster would run them: several processes, two nodes, a rank that dies, a machine taken back.

Configs are found, not listed. The plan of training is checked for all; of each task the first that needs nothing from
the Hub is trained in one process and in two. Ranks are forks (tests.helpers.programs) with the variables that torchrun
sets; torchrun itself starts those that die or are two nodes.
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
NOT_RANDOM = {  # of a task: nothing is drawn by chance, as a plan that knows its ranks gives an item another seed
    "detection": (
        "--clip_seconds", "10", "--hop_seconds", "10", "--gain_db", "0", "--roll_probability", "0",
        "--background_probability", "0", "--spec_time_mask_frames", "0", "--spec_frequency_mask_bins", "0",
        "--per_device_train_batch_size", "20",
    ),
}  # fmt: skip
DRIFT = 1e-4  # of losses near 1: sums over ranks come in another order
ATTENTION = ("configs/tunein_attention.json", *SAMPLE, "--num_train_epochs", "4", "--ablations", "false", *QUIET)


def losses(said: str) -> list[float]:
    """The training losses that were logged, in order."""
    return [float(loss) for loss in re.findall(r"'loss': '([\d.e+-]+)'", said)]


def wait_until(happened: Callable[[], bool]) -> None:
    """Look again and again."""
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        assert time.monotonic() < deadline, f"not within {TIMEOUT} s"
        time.sleep(0.05)


def prepared(*command: str | Path) -> tuple[Run, Any]:
    """A run's settings and its data."""
    asked = parse_run([*map(str, command)])
    rows, _ = load_rows(asked.arguments, asked.task.columns)
    return asked, asked.task.prepare(rows, asked.task.features(asked), asked)


def plan(asked: Run, data: Any, processes: int, epoch: int = 0) -> list[list[tuple[int, int]]]:
    """The (item, seed) pairs of an epoch by batch; batch k * processes + r is that of step k and rank r."""
    size = asked.training.per_device_train_batch_size
    with mock.patch.object(RunTrainingArguments, "world_size", processes):
        sampler = asked.task.sampler(data, asked)(size)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    return drawn if isinstance(drawn[0], list) else [drawn[k : k + size] for k in range(0, len(drawn), size)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_served_follows_from_the_config_and_the_number_of_ranks_alone(path: Path) -> None:
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
    """The same items a step in one process and in two, each told a folder of its own."""

    command: list[str]
    folders: dict[int, Path]  # number of processes -> where they left `<rank>/` and notes `<rank>.json`

    def noted(self, processes: int, rank: int = 0) -> dict[str, Any]:
        """What tests.helpers.cluster_run noted."""
        return json.loads((self.folders[processes] / f"{rank}.json").read_text())

    def served(self, processes: int, rank: int = 0) -> list[tuple[int, int]]:
        """The (item, seed) pairs of a rank."""
        return [tuple(pair) for pair in self.noted(processes, rank)["served"]]


@pytest.fixture(scope="module", params=[*OF_TASK.values(), *OF_THE_HUB], ids=lambda path: path.stem)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A task's run in one process and in two."""
    path = request.param
    if path in OF_THE_HUB:
        pytest.skip(f"{path.name} names a model of the Hub: its plan is checked, and it is not trained here")
    task = json.loads(path.read_text())["task"]
    command = [str(path), *SHORT, *LITTLE_SCORED.get(task, ()), *NOT_RANDOM.get(task, ()), *QUIET]
    asked = parse_run(command)
    kind = next(kind for kind in asked.task.model_configs if kind.model_type == asked.arguments.model_type)
    for name in inspect.signature(kind).parameters:
        if name.endswith(("dropout", "dropout_rate")):
            command += [f"--model_config.{name}", "0"]
    twice = ["--gradient_accumulation_steps", "2"]
    if asked.task.trainer is TargetSoundTrainer:  # its plan knows the ranks: of two, a step is one of twice the batch
        twice = ["--per_device_train_batch_size", str(2 * asked.training.per_device_train_batch_size)]
    folders = {processes: tmp_path_factory.mktemp(f"{task}{processes}") for processes in (1, 2)}
    for processes, folder in folders.items():
        own = [*command, *(twice if processes == 1 else []), "--output_dir", folder / "{rank}"]
        program = ["-m", "tests.helpers.cluster_run", folder / "{rank}.json", *own]
        end_ranks(start_ranks(processes, folder / "said", *program), folder / "said")
    return Trained(command, folders)


def test_ranks_are_served_what_is_planned_and_together_what_one_process_is(trained: Trained) -> None:
    asked, data = prepared(*trained.command)
    size, planned, alone = asked.training.per_device_train_batch_size, plan(asked, data, 2), trained.served(1)
    ranks = [trained.served(2, rank) for rank in range(2)]
    for step in range(STEPS):
        batches = [served[step * size : (step + 1) * size] for served in ranks]
        assert batches == planned[2 * step : 2 * step + 2]
        together = sorted(item for batch in batches for item, _ in batch)
        assert together == sorted(item for item, _ in alone[step * 2 * size : (step + 1) * 2 * size])


def test_two_processes_learn_what_one_does_with_the_same_items_a_step(trained: Trained) -> None:
    """Without dropout. A BatchNorm changes nothing: it norms the batch of a rank, and one of two that accumulate."""
    one, two = (np.array(trained.noted(processes)["losses"]) for processes in (1, 2))
    assert len(one) == len(two) == STEPS
    assert one[0] != one[-1]
    drift = np.abs(one - two)
    print(f"drift of the loss: max {drift.max():.2e}, mean {drift.mean():.2e}")  # noqa: T201
    assert drift.max() < DRIFT, (one, two)


def test_of_two_processes_the_first_alone_writes_and_makes_features(trained: Trained) -> None:
    left, others = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (trained.folders[2] / "0", trained.folders[2] / "1")
    )
    assert {"metrics.json", "model.safetensors", "predictions.parquet", "README.md"} <= left
    assert [name for name in left if "/." in f"/{name}"] == [".training.lock"]  # no draft is left
    assert others == {f"checkpoint-{STEPS}/rng_state_1.pth"}  # random numbers are each rank's own
    assert trained.noted(2, rank=1)["made"] == 0
    assert record(trained.folders[2] / "0")["training"]["processes"] == 2


def test_two_processes_score_each_row_once_as_one_does(trained: Trained, tmp_path: Path) -> None:
    folder, asked = trained.folders[2] / "0", parse_run(trained.command)
    run(sys.executable, "run_eval.py", folder, asked.arguments.dataset, *SAMPLE, "--output_dir", tmp_path)
    two, one = (pq.read_table(place / "predictions.parquet") for place in (folder, tmp_path))
    assert len(two) % (2 * asked.training.per_device_eval_batch_size)  # the last batches are not full
    ids = [name for name in two.column_names if name.endswith("_id") or name in ("listener", "trial")]
    keys = two.select(ids).to_pylist()
    assert keys == one.select(ids).to_pylist()
    assert len({tuple(key.items()) for key in keys}) == len(keys)
    scores = [record(place)["test"] for place in (folder, tmp_path)]
    assert numbers(scores[0]) == pytest.approx(numbers(scores[1]), rel=1e-4, abs=1e-4)


def test_what_frozen_encoders_make_is_made_once_for_all_ranks(tmp_path: Path) -> None:
    frozen = ["--cache_features", "true", "--model_config.freeze_text", "true", "--model_config.freeze_video", "true"]
    own = [*SHORT, *LITTLE_SCORED["emotion"], *QUIET, *frozen, "--output_dir", tmp_path / "{rank}"]
    program = ["-m", "tests.helpers.cluster_run", tmp_path / "{rank}.json", OF_TASK["emotion"], *own]
    end_ranks(start_ranks(2, tmp_path / "said", *program), tmp_path / "said")
    notes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    sides = record(tmp_path / "0")["data"]["sides"]
    assert [note["made"] for note in notes] == [sum(side["utterances"] for side in sides.values()), 0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of processes -> a run that nobody stopped."""
    folders = {processes: tmp_path_factory.mktemp("whole") for processes in (1, 2)}
    for processes, folder in folders.items():
        program = ["run_train.py", *ATTENTION, "--output_dir", folder / "run"]
        end_ranks(start_ranks(processes, folder / "said", *program), folder / "said")
    return {processes: folder / "run" for processes, folder in folders.items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_to_one_rank_saves_a_checkpoint_from_which_all_go_on_to_the_same_bits(
    processes: int, whole: dict[int, Path], tmp_path: Path
) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    program = ["run_train.py", *ATTENTION, "--output_dir", folder]
    started = start_ranks(processes, said, *program)
    wait_until(lambda: len(losses(Path(f"{said}0").read_text())) >= 3)
    os.kill(started[-1].pid, signal.SIGTERM)
    heard = end_ranks(started, said, code=128 + signal.SIGTERM)
    stopped = int(re.search(r"SIGTERM: stopped after step (\d+) with a checkpoint", heard)[1])
    assert (folder / f"checkpoint-{stopped}" / "trainer_state.json").is_file()
    assert not (folder / "metrics.json").exists()
    assert not (folder / "model.safetensors").exists()
    end_ranks(start_ranks(processes, said, *program, "--resume_from_checkpoint", "true"), said)
    assert_same_weights(folder, whole[processes])


def torchrun(*command: str | Path, processes: int = 1, nodes: int = 1, rank: int = 0, port: int) -> subprocess.Popen:
    """run_train.py in so many processes of a node, by gloo on the CPU."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--nnodes", str(nodes),
             "--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", str(port)]  # fmt: skip
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONUNBUFFERED": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(
        [*start, "run_train.py", *map(str, command)], cwd=REPOSITORY, text=True, env=environment, **streams
    )


def test_two_nodes_that_meet_at_a_rendezvous_train_what_two_processes_do(
    whole: dict[int, Path], tmp_path: Path
) -> None:
    folder, port = tmp_path / "run", free_port()
    nodes = [torchrun(*ATTENTION, "--output_dir", folder, nodes=2, rank=rank, port=port) for rank in (0, 1)]
    for node in nodes:
        said = node.stdout.read()
        assert node.wait(TIMEOUT) == 0, said[-4000:]
    assert_same_weights(folder, whole[2])


def test_a_rank_that_dies_takes_the_others_with_it(tmp_path: Path) -> None:
    endless = (*ATTENTION, "--num_train_epochs", "2000", "--output_dir", tmp_path / "run")
    process = torchrun(*endless, processes=2, port=free_port())
    for line in process.stdout:
        if losses(line):
            break
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    said, _ = process.communicate(timeout=TIMEOUT)  # alone, the other would wait for half an hour
    assert process.returncode != 0, said[-3000:]
    assert re.search(r"exitcode +: -9", said), said[-3000:]
    assert not (tmp_path / "run" / "metrics.json").exists()
