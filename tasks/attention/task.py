"""Predict the attention that an advertisement gets from stored embeddings."""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModel

from modeling import FusionConfig, FusionForRegression
from tasks.attention import card, report, study
from tasks.attention.data import AttentionData, prepare
from tasks.attention.evaluate import evaluate
from tasks.attention.records import AttentionDataRecord, AttentionTrainingRecord
from tasks.attention.settings import AttentionTaskSettings
from training.collators import PaddingCollator
from training.fusion_trainer import FusionTrainer, order_of_training
from training.samplers import LengthGroupedSampler, ShardedSampler
from training.streaming import shards_of
from training.task import Evaluation, Run, Task

SMALLEST_DEVIATION = 1e-6  # of a number of an embedding; one that varies less is a constant, and is only centred


class AttentionTask(Task[AttentionTaskSettings, AttentionData]):
    name = "attention"
    settings = AttentionTaskSettings
    columns = ("creative_id", "target", "defects", "synthetic")
    auto_model = AutoModel
    model_configs = (FusionConfig,)
    auto_extractor = None
    trainer = FusionTrainer
    simple_baseline = "ridge on all"
    study = study.TABLES
    data_record = AttentionDataRecord
    training_record = AttentionTrainingRecord

    def features(self, run: Run[AttentionTaskSettings]) -> None:
        """Return nothing: stored embeddings are the inputs."""

    def prepare(
        self,
        rows: datasets.Dataset,
        extractor: None,
        run: Run[AttentionTaskSettings],
        saved: dict[str, Any] | None = None,
    ) -> AttentionData:
        return prepare(rows, run, saved)

    def model_settings(self, data: AttentionData, extractor: None, run: Run[AttentionTaskSettings]) -> dict[str, Any]:
        if run.base_config is not None:  # a saved model keeps its own scaling of the target
            return {"embedding_sizes": data.train.sizes}
        targets = data.train.targets()
        if not targets.std() > 0:
            raise ValueError(f"all {len(targets)} training targets are {targets[0]}: there is nothing to learn")
        settings = {
            "embedding_sizes": data.train.sizes,
            "target_mean": float(targets.mean()),
            "target_std": float(targets.std()),
            "target_unit": data.settings.target_unit,
        }
        if "modalities" not in run.arguments.model_config:
            settings["modalities"] = list(data.train.modalities)
        return settings

    def initialise(self, model: FusionForRegression, data: AttentionData, new: bool, resumed: bool) -> None:
        """Scale the inputs of a new model by the embeddings that it is trained on; a checkpoint has the scaling."""
        if new and not resumed:
            for name, (mean, deviation) in data.train.moments().items():
                deviation = np.where(deviation < SMALLEST_DEVIATION, 1.0, deviation)
                model.set_input_scaling(name, torch.from_numpy(mean), torch.from_numpy(deviation))

    def collator(self, extractor: None, run: Run[AttentionTaskSettings]) -> PaddingCollator:
        return PaddingCollator()

    def sampler(
        self, data: AttentionData, run: Run[AttentionTaskSettings]
    ) -> Callable[[int], LengthGroupedSampler | ShardedSampler]:
        return order_of_training([1] * len(data.train), run, shards_of(data.train.rows))

    def trainer_settings(self, data: AttentionData, run: Run[AttentionTaskSettings]) -> dict[str, Any]:
        return {"learning_rates": data.settings.learning_rates, "streamed": run.arguments.streaming}

    def evaluate(self, trainer: FusionTrainer, data: AttentionData, side: str) -> Evaluation:
        return evaluate(trainer, data, side)

    def about_training(self, trainer: FusionTrainer, data: AttentionData) -> dict[str, Any]:
        return {"trainable": trainer.model.part_sizes()}

    def results_table(self, results: dict[str, Any]) -> str:
        return card.results_table(results)

    def conclusion(self, results: dict[str, Any]) -> str:
        return card.conclusion(results)

    def model_card(self, facts: dict[str, Any]) -> str:
        return card.model_card(facts)

    def report_files(
        self, facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table
    ) -> dict[str, str | bytes]:
        return report.report_files(facts, config, predictions)


TASK = AttentionTask()
