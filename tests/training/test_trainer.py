"""`SignalTrainer`: schedules, accumulation, checkpoints and resuming, on a tiny model."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState

from tests.helpers.tiny_trainer import tiny_trainer
from training.callbacks import StopWithoutProgress
from training.environment import available_cores
from training.trainer import SignalTrainer


def losses(trainer: SignalTrainer) -> np.ndarray:
    """Return the training loss of each logged step."""
    return np.array([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def rates(trainer: SignalTrainer) -> list[float]:
    """Return the learning rate of each logged step."""
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


def test_trainer_uses_our_sampler(tmp_path: Path) -> None:
    # `_get_train_sampler` is private to transformers. If it is renamed, training would silently use another order.
    trainer = tiny_trainer(tmp_path, per_device_train_batch_size=4)
    assert trainer.get_train_dataloader().batch_sampler.sampler is trainer.sampler
    assert trainer.sampler.batch_size == 4


@pytest.mark.parametrize(
    ("above_cores", "threads", "key"),
    [(0, 2, "dataloader_num_workers"), (1, 2, "num_threads"), (1, 1, "load ")],
)
def test_more_workers_are_not_suggested_on_a_busy_machine(
    above_cores: float, threads: int, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = available_cores()
    load = max(cores, threads) + above_cores
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    trainer = tiny_trainer(tmp_path)
    assert key in trainer.waiting_remedy
    assert ("dataloader_num_workers" in trainer.waiting_remedy) is (above_cores == 0)
    trainer.args.dataloader_num_workers = cores + 2  # now our own workers may cause the load
    assert "dataloader_num_workers" in trainer.waiting_remedy


def test_evaluation_is_in_the_order_of_the_data(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    assert list(trainer.get_eval_dataloader().batch_sampler.sampler) == list(range(len(trainer.eval_dataset)))


def test_each_epoch_has_its_own_order(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    seen: list[list] = []
    plan = trainer.sampler.plan
    trainer.sampler.plan = lambda: seen.append(trainer.sampler.epoch) or plan()
    trainer.train()
    assert seen == [0, 1]


def test_gradient_accumulation_is_equivalent_to_a_larger_batch(tmp_path: Path) -> None:
    """Also if trials differ in length and in masked frames."""
    same = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "num_train_epochs": 4}
    whole = tiny_trainer(tmp_path, per_device_train_batch_size=8, **same)
    parts = tiny_trainer(tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=8, **same)
    # Grouping by length depends on the batch size, so give both the same order.
    parts.sampler = whole.sampler
    whole.train()
    parts.train()
    difference = losses(parts) - losses(whole)
    assert len(difference) == 8
    assert np.abs(difference).max() < 1e-5
    assert abs(difference.mean()) < 1e-6  # a dropped factor would drift to one side
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 2 epochs of 4 steps. The logged rate of a step is the one that the step used.
        ({"lr_scheduler_type": "constant"}, [1.0] * 8),
        ({"lr_scheduler_type": "linear"}, [1 - step / 8 for step in range(8)]),
        ({"lr_scheduler_type": "cosine"}, [0.5 + 0.5 * np.cos(np.pi * step / 8) for step in range(8)]),
        (
            {"lr_scheduler_type": "step", "lr_scheduler_kwargs": {"step_size": 3, "gamma": 0.5}},
            [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25],
        ),
        (
            {"lr_scheduler_type": "exponential", "lr_scheduler_kwargs": {"gamma": 0.5}},
            [0.5**step for step in range(8)],
        ),
        (
            {"lr_scheduler_type": "exponential", "lr_scheduler_kwargs": {"gamma": 0.5}, "warmup_steps": 4},
            [0.001, 0.25075, 0.5005, 0.75025, 1, 0.5, 0.25, 0.125],
        ),
        (
            {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_kwargs": {"T_max": 4, "eta_min": 0.5}},
            [0.75 + 0.25 * np.cos(np.pi * step / 4) for step in range(8)],
        ),
        (  # from 1 / 4 to 1 in half of the steps, then down to 1 / 4 / 25
            {
                "lr_scheduler_type": "OneCycleLR",
                "lr_scheduler_kwargs": {
                    "pct_start": 0.5, "div_factor": 4, "final_div_factor": 25, "anneal_strategy": "linear",
                },
            },
            [*np.linspace(0.25, 1, 4), *np.linspace(1, 0.01, 5)[1:]],
        ),
    ],
)  # fmt: skip
def test_schedules_give_the_expected_learning_rates(tmp_path: Path, settings: dict, expected: list[float]) -> None:
    quiet = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = tiny_trainer(
        tmp_path, per_device_train_batch_size=4, learning_rate=1.0, max_grad_norm=1e-9, **quiet, **settings
    )
    trainer.train()
    assert rates(trainer) == pytest.approx(expected, abs=1e-6)


def test_reduce_on_plateau_lowers_the_rate_when_validation_does_not_improve(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "factor": 0.1, "threshold": 0.9},  # the loss must fall to a tenth
        learning_rate=1e-4,
        num_train_epochs=4,
    )
    trainer.train()
    assert rates(trainer)[0] == pytest.approx(1e-4)
    assert rates(trainer)[-1] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("more_is_better", "scores", "last_rate"),
    [
        (True, [0.1, 0.3, 0.5, 0.7], 1e-4),
        (True, [0.7, 0.5, 0.3, 0.1], 1e-7),
        (False, [0.7, 0.5, 0.3, 0.1], 1e-4),
        (False, [0.1, 0.3, 0.5, 0.7], 1e-7),
    ],
)
def test_reduce_on_plateau_follows_the_direction_of_the_metric(
    tmp_path: Path, more_is_better: bool, scores: list[float], last_rate: float
) -> None:
    trainer = tiny_trainer(
        tmp_path,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "factor": 0.1},
        learning_rate=1e-4,
        num_train_epochs=4,
        metric_for_best_model="goodness",
        greater_is_better=more_is_better,
    )
    trainer.validation_metrics = lambda _: {"goodness": scores[round(trainer.state.epoch) - 1]}
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(last_rate)
    assert trainer.state.best_metric == (max if more_is_better else min)(scores)


def test_one_cycle_reaches_max_lr_and_cycles_the_momentum(tmp_path: Path) -> None:
    trainer = tiny_trainer(
        tmp_path, lr_scheduler_type="OneCycleLR", lr_scheduler_kwargs={"max_lr": 0.02}, per_device_train_batch_size=1
    )
    trainer.train()
    assert max(rates(trainer)) == pytest.approx(0.02, rel=0.01)
    assert trainer.optimizer.param_groups[0]["betas"][0] == pytest.approx(0.95, abs=1e-3)


def test_a_scheduler_argument_that_torch_rejects_is_reported_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lr_scheduler_kwargs=.*'anneal_strategy': 'x'"):
        tiny_trainer(tmp_path, lr_scheduler_type="OneCycleLR", lr_scheduler_kwargs={"anneal_strategy": "x"}).train()


def test_the_best_checkpoint_on_validation_is_loaded_at_the_end(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, learning_rate=0.3, num_train_epochs=5)
    trainer.train()
    validations = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(validations) == 5
    assert trainer.state.best_metric == min(validations)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(validations))


@pytest.mark.parametrize(
    "model_config",
    [
        {"loss": "l1", "norm": "layer"},
        {"loss": "huber", "norm": "none"},
        {"loss": {"mse": 0.5, "ccc": 0.5}},
        {"loss": "ccc", "causal": True},
        {"loss": {"gaussian": 1.0, "mse": 0.1}, "gaussian_head": True},
    ],
    ids=str,
)
def test_every_loss_and_norm_learns(tmp_path: Path, model_config: dict) -> None:
    settings = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = tiny_trainer(tmp_path, model_config, num_train_epochs=15, learning_rate=1e-2, **settings)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.1
    assert np.isfinite(losses(trainer)).all()


def test_training_stops_early_when_validation_does_not_improve(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, learning_rate=0.0, num_train_epochs=50, weight_decay=0.0)
    trainer.add_callback(StopWithoutProgress(2))
    trainer.train()
    assert trainer.state.epoch == 3  # the first is the best, and the next two are not better


@pytest.mark.parametrize(
    ("scores", "losses", "stops_after"),
    [
        ([1.0] * 8, [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.4], 7),  # the score is saturated, the loss is not
        ([0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 6),  # only the score improves
        ([0.5] * 4, [0.5] * 4, 3),
        ([0.5] * 4, [np.nan] * 4, 3),
        ([0.5, 0.6, 0.5, 0.5, 0.5], [0.5, 0.6, 0.4, 0.5, 0.5], 5),
        ([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], None),
    ],
)
@pytest.mark.parametrize("more_is_better", [True, False])
def test_patience_counts_validations_without_a_better_score_or_loss(
    tmp_path: Path, scores: list[float], losses: list[float], stops_after: int | None, more_is_better: bool
) -> None:
    args = tiny_trainer(tmp_path, metric_for_best_model="goodness", greater_is_better=more_is_better).args
    sign = 1 if more_is_better else -1
    log = [{"eval_goodness": sign * score, "eval_loss": loss} for score, loss in zip(scores, losses, strict=True)]
    stopped = []
    for count in range(1, len(log) + 1):
        control = TrainerControl()
        StopWithoutProgress(2).on_evaluate(args, TrainerState(log_history=[{"loss": 1.0}, *log[:count]]), control)
        stopped.append(control.should_training_stop)
    assert (stopped.index(True) + 1 if True in stopped else None) == stops_after


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.5, 0.7, 0.7, 0.6], 3), ([1.0, 1.0, 1.0, 1.0], 4), ([0.5, 0.4, 0.3, 0.5], 4), ([0.4, 0.3, 0.2, 0.1], 1)],
)
@pytest.mark.parametrize("more_is_better", [True, False])
def test_of_equally_good_checkpoints_the_latest_is_kept(
    tmp_path: Path, scores: list[float], best: int, more_is_better: bool
) -> None:
    """The final weights are those of the recorded step. Each epoch has one optimizer step."""
    trainer = tiny_trainer(
        tmp_path,
        num_train_epochs=len(scores),
        per_device_train_batch_size=16,
        metric_for_best_model="goodness",
        greater_is_better=more_is_better,
    )
    sign = 1 if more_is_better else -1
    weights = []

    def record_weights(_: object) -> dict[str, float]:
        weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return {"goodness": sign * scores[len(weights) - 1]}

    trainer.validation_metrics = record_weights
    trainer.train()
    assert trainer.loaded_step == trainer.state.best_global_step == best
    assert trainer.state.best_metric == sign * scores[best - 1]
    for name, value in weights[best - 1].items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("settings", "loaded"),
    [
        ({"save_steps": 2}, 4),  # step 3 is better, but has no checkpoint
        ({"save_steps": 1}, 3),
        ({"save_strategy": "best"}, 3),
        ({"save_steps": 2, "load_best_model_at_end": False}, None),
    ],
)
def test_the_recorded_step_is_that_of_the_loaded_checkpoint(
    tmp_path: Path, settings: dict, loaded: int | None
) -> None:
    scores = [0.1, 0.2, 0.9, 0.8, 0.4, 0.3]
    trainer = tiny_trainer(
        tmp_path,
        max_steps=6,
        per_device_train_batch_size=16,
        metric_for_best_model="goodness",
        greater_is_better=True,
        **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"} | settings,
    )
    trainer.validation_metrics = lambda _: {"goodness": scores[trainer.state.global_step - 1]}
    trainer.train()
    assert trainer.loaded_step == loaded
    if loaded:
        assert trainer.state.best_metric == scores[loaded - 1]


@pytest.mark.parametrize(
    ("dropout", "schedule"),
    [
        (0.0, {}),
        (0.5, {}),
        (0.5, {"lr_scheduler_type": "OneCycleLR"}),
        (0.5, {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_kwargs": {"T_max": 7}, "warmup_steps": 3}),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, dropout: float, schedule: dict) -> None:
    """Resume in the middle of the second epoch. The final weights are equal bit by bit."""
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 5}
    settings |= schedule
    settings |= {"eval_strategy": "steps", "eval_steps": 5, "load_best_model_at_end": False, "save_total_limit": None}
    whole = tiny_trainer(tmp_path / "whole", {"dropout": dropout}, **settings)
    whole.train()
    resumed = tiny_trainer(tmp_path / "resumed", {"dropout": dropout}, **settings)
    torch.manual_seed(99)  # the result must not depend on the random state of the new process
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    assert rates(resumed) == rates(whole)  # a checkpoint contains the log of the steps before it


def test_a_run_killed_after_its_last_step_takes_no_extra_step(tmp_path: Path) -> None:
    settings = {"max_steps": 10, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 5}
    settings |= {"eval_strategy": "no", "load_best_model_at_end": False, "save_total_limit": None}
    whole = tiny_trainer(tmp_path / "whole", **settings)
    whole.train()
    resumed = tiny_trainer(tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    assert resumed.state.global_step == 10
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
