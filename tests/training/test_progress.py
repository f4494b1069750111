"""The progress bar and the log lines of training in a terminal."""

import logging
import re
from pathlib import Path

import pytest
from transformers import ProgressCallback

from tests.helpers.tiny_trainer import ToyTrials, tiny_trainer
from training.progress import HandlerAroundBars, ProgressBar, log_line


def test_training_shows_one_bar_and_one_line_per_loss_and_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_trainer(tmp_path, disable_tqdm=False, per_device_train_batch_size=8)
    bars = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, ProgressBar)]
    assert len(bars) == 1
    assert not any(isinstance(callback, ProgressCallback) for callback in trainer.callback_handler.callbacks)
    trainer.train()
    trainer.predict(ToyTrials())
    output = capsys.readouterr()
    lines = [line for line in output.out.splitlines() if line]
    assert [line.split(",")[0] for line in lines if line.startswith("step")] == [
        "step 1", "step 2", "step 2", "step 3", "step 4", "step 4",
    ]  # fmt: skip
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [float(value) for value in re.findall(r"validation: loss ([\d.]+)", output.out)] == pytest.approx(
        logged, rel=1e-2
    )
    assert len([line for line in lines if line.startswith("trained in ")]) == 1
    assert max(map(len, lines)) <= 100  # columns of a terminal
    assert "\x1b[A" not in output.err  # a second bar would move the cursor up
    assert {line.split(":")[0].strip() for line in re.split(r"[\r\n]", output.err)} <= {"training", "scoring", ""}


def test_without_bars_the_lines_are_those_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SageMaker reads its metrics from these lines."""
    trainer = tiny_trainer(tmp_path, disable_tqdm=True, per_device_train_batch_size=8)
    trainer.train()
    output = capsys.readouterr()
    assert output.out.count("{'loss':") == 4
    assert output.out.count("{'eval_loss':") == 2
    assert output.err == ""


def test_a_log_message_starts_on_its_own_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("tests.progress")
    handler = HandlerAroundBars()
    logger.addHandler(handler)
    logger.propagate = False
    trainer = tiny_trainer(tmp_path, disable_tqdm=False, per_device_train_batch_size=8)
    try:
        step = trainer.training_step
        trainer.training_step = lambda *inputs: logger.warning("lagging") or step(*inputs)
        trainer.train()
    finally:
        logger.removeHandler(handler)
    lines = re.split(r"[\r\n]", capsys.readouterr().err)
    assert lines.count("lagging") == 4
    assert not any("lagging" in line for line in lines if line != "lagging")


@pytest.mark.parametrize(
    "logs, line",
    [
        ({"loss": 1.23456, "learning_rate": 3e-5, "epoch": 0.5}, "step 7, epoch 0.5, loss 1.23, learning_rate 3e-05"),
        (
            {"eval_loss": 2.0, "eval_r2": -0.98765, "eval_runtime": 3.0, "eval_steps_per_second": 1.0, "epoch": 2},
            "step 7, epoch 2, validation: loss 2, r2 -0.988",
        ),
        ({"train_runtime": 61.2, "train_loss": 0.45678, "epoch": 2}, "trained in 61 s, mean loss 0.457"),
    ],
)
def test_log_lines_show_the_logged_values(logs: dict[str, float], line: str) -> None:
    assert log_line(logs, step=7) == line
