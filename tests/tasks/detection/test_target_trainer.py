"""Planned batches under the real Trainer: any number of ranks, workers and accumulated steps, whole and resumed."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.detection.baselines import PlainWindows, WindowDescriptors
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler
from tasks.detection.trainer import planned_length
from tasks.detection.windows import AudioSetWindows
from tests.helpers.programs import end_ranks, start_ranks
from tests.helpers.target_run import EPOCHS, make_trainer
from tests.helpers.toy_clips import POSITIVES, RATE, toy_clips, toy_side
from training.trainer_arguments import RunTrainingArguments


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[list[dict]]]:
    """Run all arrangements with 1, 2 and 3 ranks; returns the record of every rank by world size."""
    records = {}
    for world in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"world{world}")
        end_ranks(start_ranks(world, folder / "output", "-m", "tests.helpers.target_run", folder), folder / "output")
        records[world] = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]
    return records


def assert_same_history(actual: list[dict], expected: list[dict], exact: bool) -> None:
    """Compare mining records; with several ranks gradients are summed in no fixed order, which moves last bits."""
    for record, wanted in zip(actual, expected, strict=True):
        mean = wanted["mean_score"]
        assert record["mean_score"] == (mean if exact else pytest.approx(mean, rel=1e-6))
        assert {**record, "mean_score": None} == {**wanted, "mean_score": None}


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_resumed_run_is_served_the_same_windows(ranks: dict, world: int) -> None:
    for rank in ranks[world]:
        for run in rank:
            for resumed in run["resumed"]:
                skipped = resumed["step"] * run["accumulation"]
                if (
                    run["accumulation"] == 2 and len(run["served"]) // EPOCHS % 2
                ):  # the last step of an epoch has one batch
                    batches = len(run["served"]) // EPOCHS
                    epochs, steps = divmod(resumed["step"], -(-batches // 2))
                    skipped = epochs * batches + min(2 * steps, batches)
                assert resumed["served"] == run["served"][skipped:], (run["workers"], run["accumulation"])
                assert resumed["counts"] == run["counts"]
                assert_same_history(resumed["history"], run["history"], exact=world == 1)


@pytest.mark.slow
def test_resumed_run_has_bitwise_equal_weights(ranks: dict) -> None:
    assert all(resumed["same_weights"] for run in ranks[1][0] for resumed in run["resumed"])


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_have_equally_many_batches_and_share_no_negative_in_a_step(ranks: dict, world: int) -> None:
    for runs in zip(*ranks[world], strict=True):  # one arrangement, all ranks
        assert len({len(run["served"]) for run in runs}) == 1
        steps = [
            [pair for batch in batches for pair in batch] for batches in zip(*(r["served"] for r in runs), strict=True)
        ]
        for step in steps:
            assert len({seed for _, seed in step}) == len(step)
        for epoch in np.array_split(np.arange(len(steps)), EPOCHS):
            negatives = [Counter(item for item, _ in steps[step] if item >= POSITIVES) for step in epoch]
            # An item repeats in a step only if an epoch draws it more often than it has steps, and then as rarely as
            # possible.
            for item, times in sum(negatives, Counter()).items():
                assert max(step[item] for step in negatives) == -(-times // len(epoch)), (item, times)
        positives = Counter(item for run in runs for batch in run["served"] for item, _ in batch if item < POSITIVES)
        assert max(positives.values()) - min(positives.values()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_change_nothing_and_hard_negatives_come_again(ranks: dict, world: int) -> None:
    for rank in ranks[world]:
        by_arrangement = {(run["workers"], run["accumulation"]): run for run in rank}
        for accumulation in (1, 2):
            alone, helped = by_arrangement[0, accumulation], by_arrangement[2, accumulation]
            assert alone["served"] == helped["served"]
            assert alone["counts"] == helped["counts"]
        assert all(run["hard"] > 0 for run in rank)
    histories = [rank[0]["history"] for rank in ranks[world]]
    assert all(history == histories[0] for history in histories)  # every rank has the same table


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_loudness_is_in_window_order_on_all_ranks(ranks: dict, world: int) -> None:
    windows, describe = PlainWindows(toy_side()), WindowDescriptors(RATE)
    sounds = torch.stack([windows[window] for window in range(len(windows))])
    expected = describe(sounds)[:, 0].double().tolist()
    assert all(run["loudness"] == expected for rank in ranks[world] for run in rank)


@pytest.mark.slow
def test_log_mel_head_does_not_depend_on_the_number_of_processes(ranks: dict) -> None:
    expected = ranks[1][0][0]["logmel"]
    assert np.std(expected) > 0
    for world in ranks.values():
        for run in (run for rank in world for run in rank):
            np.testing.assert_allclose(run["logmel"], expected, rtol=0, atol=1e-5)


def test_served_windows_have_the_planned_composition(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, workers=0, accumulation=1, max_steps=-1)
    trainer.train()
    counts, batches = trainer.served.counts, EPOCHS * len(trainer.plan)
    planned = Counter(trainer.plan.tier_names)
    served = {name: counts[name] for name in planned}
    assert sum(served.values()) + counts["mixed"] == 8 * batches
    assert all(served[name] <= planned[name] * batches for name in planned)
    assert trainer.served.seen[1:4].all()


@pytest.mark.parametrize(
    ("settings", "min_steps", "world", "accumulated", "expected"),
    [
        # 14 positives, 2 per batch of a rank: steps, per epoch, positives per step, passes
        ({"num_train_epochs": 3}, 1, 1, 1, (21, 7, 2, 3.0)),
        ({"num_train_epochs": 3}, 16, 1, 1, (63, 21, 2, 9.0)),  # two passes are 14 steps, so an epoch has three
        ({"num_train_epochs": 3}, 16, 1, 4, (54, 18, 8, 30.0)),  # ten passes are 70 batches, 17.5 steps of 4
        ({"num_train_epochs": 3}, 16, 2, 1, (54, 18, 4, 216 / 14)),  # five passes are 17.5 steps of two ranks
        ({"num_train_epochs": 0.5}, 1, 1, 1, (4, 7, 2, 4 / 7)),
        ({"max_steps": 10}, 16, 1, 1, (10, 21, 2, 10 / 7)),
        ({"max_steps": 10}, 1, 3, 2, (10, 2, 12, 10 / 2 * 18 / 14)),  # three steps of three ranks, two by two
    ],
)
def test_length_counts_steps_passes_and_positives(
    tmp_path: Path, settings: dict, min_steps: int, world: int, accumulated: int, expected: tuple
) -> None:
    args = RunTrainingArguments(
        output_dir=str(tmp_path), gradient_accumulation_steps=accumulated, use_cpu=True, report_to="none", **settings
    )
    plan = TwoTierBatchSampler.from_pools(
        toy_clips()[1], SamplerSettings(min_epoch_steps=min_steps), 8, 7, world, accumulated
    )
    length = planned_length(args, plan, world)
    actual = length.steps, length.steps_per_epoch, length.positives_per_step, length.passes
    assert actual == pytest.approx(expected)
    assert length.positives == POSITIVES
    drawn = sum((plan.plan(epoch)[0][:, : plan.composition[0]].size for epoch in range(3)), 0)
    if settings.get("num_train_epochs") == 3:
        assert length.passes == pytest.approx(drawn / POSITIVES)


@pytest.mark.parametrize(("accumulation", "settings"), [(1, {}), (2, {}), (3, {"max_steps": 5})])
def test_length_is_logged_before_the_first_step_and_matches_trainer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, accumulation: int, settings: dict
) -> None:
    caplog.set_level("INFO")
    trainer = make_trainer(tmp_path, workers=0, accumulation=accumulation, **settings)
    seen = []
    compute_loss = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: seen.append(caplog.text) or compute_loss(*args, **kwargs)
    trainer.train()
    length = trainer.length
    assert f"training: {length}" in seen[0]
    assert f"{length.steps} optimizer steps" in seen[0]
    assert length.steps == trainer.state.max_steps == trainer.state.global_step
    served = sum(sum(item < POSITIVES for item, _ in batch) for batch in trainer.noted)
    planned = settings.get("max_steps", EPOCHS * length.steps_per_epoch)
    assert planned == length.steps
    if not settings:
        assert length.passes == served / POSITIVES


def test_waiting_for_kept_audio_does_not_suggest_more_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    trainer = make_trainer(tmp_path, workers=2, accumulation=1)
    assert trainer.waiting_remedy.startswith("Increase dataloader_num_workers")
    trainer.train_dataset.sounds.keep = True
    assert trainer.waiting_remedy.startswith("Lower dataloader_num_workers=2")
    trainer.args.dataloader_num_workers = 0
    assert "dataloader_num_workers" not in trainer.waiting_remedy


def test_substitutes_of_bad_files_are_counted(tmp_path: Path) -> None:
    rows, _ = toy_clips(broken=(2, 20))
    trainer = make_trainer(tmp_path, workers=0, accumulation=1)
    trainer.train_dataset = AudioSetWindows(rows, trainer.pools.items, 0.25, 4000)
    trainer.train()
    assert set(trainer.served.substituted) == {2, 20}
    assert trainer.served.counts["substituted"] == sum(trainer.served.substituted.values()) > 0


def test_checkpoint_of_another_plan_is_rejected(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, workers=0, accumulation=1, max_steps=2)
    trainer.train()
    other = make_trainer(tmp_path / "other", workers=0, accumulation=1)
    other.plan.seed = 8
    with pytest.raises(ValueError, match="seed=8: .* 7"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_checkpoint_of_an_older_version_is_rejected(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, workers=0, accumulation=1, max_steps=2)
    trainer.train()
    state = trainer.served.state_dict(trainer.accelerator.gather)
    del state["version"]
    with pytest.raises(ValueError, match="version=1: .* 2"):
        trainer.served.load_state_dict(state)


def test_scores_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, workers=0, accumulation=1, max_grad_norm=0.0)
    with torch.no_grad():
        trainer.model.head.classifier.bias.fill_(np.nan)
    with pytest.raises(ValueError, match=r"epoch=0: \d+ scores .*nan"):
        trainer.train()
