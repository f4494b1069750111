"""`FusionTrainer`: learning rates and sizes of parts, unreadable clips, and the order of streamed rows."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from launch.run import parse_run
from tests.helpers.tiny_fusion import tiny_model
from training.collators import PaddingCollator
from training.fusion_trainer import FusionTrainer
from training.samplers import LengthGroupedSampler
from training.trainer_arguments import RunTrainingArguments

ITEMS = 12
PARTS = ("text", "video", "audio", "fusion", "emotion", "sentiment")


def items() -> list[dict[str, torch.Tensor]]:
    """Return utterances with random inputs, every third of which is marked as undecodable."""
    torch.manual_seed(1)
    return [
        {
            "input_ids": torch.randint(5, 100, (5,)), "attention_mask": torch.ones(5).long(),
            "pixel_values": torch.randn(3, 4, 16, 16), "frame_mask": torch.ones(4).long(),
            "input_features": torch.randn(9, 8), "features_mask": torch.ones(9).long(),
            "labels": torch.tensor([place % 7, place % 3]), "undecodable": torch.tensor(place % 3 == 0),
        }
        for place in range(ITEMS)
    ]  # fmt: skip


class Utterances(torch.utils.data.Dataset):
    """These items, by index or by (index, seed)."""

    def __init__(self) -> None:
        self.items = items()

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        return self.items[item[0] if isinstance(item, tuple) else item]


def make_trainer(
    folder: Path, learning_rates: dict[str, float], model: dict[str, Any] | None = None, **settings: Any
) -> FusionTrainer:
    """Return a trainer for two epochs of three steps."""
    defaults = {
        "metric_for_best_model": "loss", "greater_is_better": False, "report_to": "none", "use_cpu": True,
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "disable_tqdm": True,
        "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "prefetch_batches": 0,
        "learning_rate": 1e-3, "weight_decay": 0.1,
    }  # fmt: skip
    unfrozen = {"freeze_text": False, "freeze_video": False, "text_pooling": "mean", "learned_absent": True}
    return FusionTrainer(
        model=tiny_model(**unfrozen | (model or {})),
        args=RunTrainingArguments(output_dir=str(folder), **defaults | settings),
        train_dataset=Utterances(),
        eval_dataset=Utterances(),
        data_collator=PaddingCollator(0),
        sampler=lambda size: LengthGroupedSampler([1] * ITEMS, size, 0, 2),
        validation_metrics=lambda output: {"labels": output.label_ids.tolist()},
        learning_rates=learning_rates,
    )


def test_each_part_has_its_own_rate_and_each_weight_is_in_one_group(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, {"text": 8e-6, "video": 8e-5}, optim="adam")
    groups = trainer.create_optimizer().param_groups
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert {group["name"] for group in groups} == set(PARTS)
    for group in groups:
        assert group["lr"] == {"text": 8e-6, "video": 8e-5}.get(group["name"], 1e-3)
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.1}
    trainable = [id(parameter) for parameter in trainer.model.parameters() if parameter.requires_grad]
    in_groups = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(in_groups) == sorted(trainable)


def test_frozen_weights_do_not_change(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, {}, {"freeze_text": True, "freeze_video": True})
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(".text.encoder." in name or ".video.encoder." in name for name in changed)
    assert any(".text.projection." in name for name in changed)
    assert any(".audio.encoder." in name for name in changed)


def test_a_schedule_scales_all_rates_by_the_same_factor(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, {"text": 1e-5, "audio": 1e-4}, lr_scheduler_type="exponential",
                           lr_scheduler_kwargs={"gamma": 0.5})  # fmt: skip
    trainer.train()
    for group in trainer.optimizer.param_groups:
        first = {"text": 1e-5, "audio": 1e-4}.get(group["name"], 1e-3)
        assert group["lr"] == pytest.approx(first * 0.5**6), group["name"]


def test_each_part_is_trained_with_its_own_rate(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, {"text": 1e-9}, lr_scheduler_type="constant", weight_decay=0.0)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {
        name: float((value.detach() - before[name]).abs().max()) for name, value in trainer.model.named_parameters()
    }
    text = [change for name, change in moved.items() if name.startswith("fusion.branches.text.")]
    head = [change for name, change in moved.items() if name.startswith("emotion.")]
    assert max(text) < 1e-6
    assert max(head) > 1e-3


def test_a_rate_for_an_unknown_part_is_rejected(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, {"head": 0.1, "txt": 0.1})
    with pytest.raises(ValueError, match="learning_rates=head, txt: .*text, video, audio"):
        trainer.train()


def test_undecodable_items_are_counted_and_the_count_does_not_reach_the_model(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, {})
    trainer.train()
    assert trainer.undecodable == 2 * ITEMS // 3  # in two epochs
    output = trainer.predict(Utterances())
    assert trainer.undecodable == 3 * ITEMS // 3
    assert [len(part) for part in output.predictions] == [ITEMS] * 3  # emotion, sentiment, present modalities
    assert output.label_ids.shape == (ITEMS, 2)


def test_training_logs_the_trainable_and_frozen_parameters_of_each_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, {}, {"freeze_text": True}, max_steps=1)
    with caplog.at_level(logging.INFO, logger="training.trainer"):
        trainer.train()
    matches = re.findall(r"(\w+) ([\d,]+) trainable, ([\d,]+) frozen", caplog.text)
    logged = {name: tuple(int(count.replace(",", "")) for count in counts) for name, *counts in matches}
    frozen = sum(parameter.numel() for parameter in trainer.model.fusion.branches["text"].encoder.parameters())
    assert {name: counts[0] for name, counts in logged.items()} == trainer.model.part_sizes()
    assert {name: counts[1] for name, counts in logged.items()} == {name: 0 for name in PARTS} | {"text": frozen}
    assert sum(map(sum, logged.values())) == trainer.model.num_parameters()


def test_streamed_rows_are_scored_once_and_in_their_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path, {})
    local, validation = trainer.predict(Utterances()), trainer.evaluate()
    # Another order, with some rows twice, as if they were read shard by shard on several ranks.
    order = [7, 3, 3, 0, 11, 1, 2, 4, 5, 11, 6, 10, 9, 8]
    monkeypatch.setattr(trainer, "by_ranks", lambda dataset: Subset(dataset, order))
    streamed = trainer.predict(Utterances())
    assert np.array_equal(streamed.label_ids, local.label_ids)
    for one, other in zip(streamed.predictions, local.predictions, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert trainer.evaluate()["eval_labels"] == validation["eval_labels"] == local.label_ids.tolist()


def test_rates_in_the_config_and_on_the_command_line_are_merged() -> None:
    run = parse_run(["configs/meld_fusion.json", "--learning_rates.text", "1e-6", "--learning_rates.emotion=0.01"])
    rates = run.settings.emotion.learning_rates
    assert rates == {"text": 1e-6, "video": 8e-5, "audio": 8e-5, "emotion": 0.01}
    assert run.resolved()["learning_rates"] == rates
    with pytest.raises(SystemExit, match="learning_rates.*task 'eda'"):
        parse_run(["configs/eda_tcn.json", "--learning_rates.text", "1e-6"])
