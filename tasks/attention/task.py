"""Predict the attention that an advertisement gets from stored embeddings."""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModel

from modeling import FusionConfig, FusionForRegression
from reporting.card import CardMetadata
from reporting.sections import Section
from tasks.attention import report, study
from tasks.attention import results as scores_of_run
from tasks.attention.data import AttentionData, prepare
from tasks.attention.evaluate import evaluate
from tasks.attention.records import AttentionDataRecord, AttentionTrainingRecord
from tasks.attention.settings import AttentionTaskSettings
from training.collators import PaddingCollator
from training.fusion_trainer import FusionTrainer, order_of_training
from training.samplers import LengthGroupedSampler, ShardedSampler
from training.streaming import shards_of
from training.task import Evaluation, Run, Task

# An embedding dimension with a smaller standard deviation is constant up to rounding: it is centred but not scaled,
# because dividing by its deviation would turn rounding errors into inputs of size 1.
SMALLEST_DEVIATION = 1e-6


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
        """Return None: the inputs are stored embeddings, so there is nothing to extract."""

    def prepare(
        self,
        rows: datasets.Dataset,
        extractor: None,
        run: Run[AttentionTaskSettings],
        saved: dict[str, Any] | None = None,
    ) -> AttentionData:
        return prepare(rows, run, saved)

    def model_settings(self, data: AttentionData, extractor: None, run: Run[AttentionTaskSettings]) -> dict[str, Any]:
        # A saved model keeps its own target scaling, because its weights depend on it.
        if run.base_config is not None:
            return {"embedding_sizes": data.train.sizes}
        targets = data.train.targets()
        if not targets.std() > 0:
            raise ValueError(
                f"target={targets[0]}: all {len(targets)} training creatives have this value, so there is nothing to "
                "learn. Check the column `target`."
            )
        settings = {
            "embedding_sizes": data.train.sizes,
            "target_mean": float(targets.mean()),
            "target_std": float(targets.std()),
            "target_unit": data.settings.target_unit,
        }
        # The default of FusionConfig lists other modalities than stored embeddings have.
        if "modalities" not in run.arguments.model_config:
            settings["modalities"] = list(data.train.modalities)
        return settings

    def initialise(self, model: FusionForRegression, data: AttentionData, new: bool, resumed: bool) -> None:
        """Set the input scaling of a new model from the training embeddings. A checkpoint already holds one."""
        if new and not resumed:
            for name, (mean, deviation) in data.train.moments().items():
                deviation = np.where(deviation < SMALLEST_DEVIATION, 1.0, deviation)
                model.set_input_scaling(name, torch.from_numpy(mean), torch.from_numpy(deviation))

    def collator(self, extractor: None, run: Run[AttentionTaskSettings]) -> PaddingCollator:
        return PaddingCollator()

    def sampler(
        self, data: AttentionData, run: Run[AttentionTaskSettings]
    ) -> Callable[[int], LengthGroupedSampler | ShardedSampler]:
        # Equal lengths give plain random batches: an item is a few vectors, so padding costs little.
        return order_of_training([1] * len(data.train), run, shards_of(data.train.rows))

    def trainer_settings(self, data: AttentionData, run: Run[AttentionTaskSettings]) -> dict[str, Any]:
        return {"learning_rates": data.settings.learning_rates, "streamed": run.arguments.streaming}

    def evaluate(self, trainer: FusionTrainer, data: AttentionData, side: str) -> Evaluation:
        return evaluate(trainer, data, side)

    def about_training(self, trainer: FusionTrainer, data: AttentionData) -> dict[str, Any]:
        return {"trainable": trainer.model.part_sizes()}

    def results_table(self, results: dict[str, Any]) -> str:
        return scores_of_run.results_table(results)

    def conclusion(self, results: dict[str, Any]) -> str:
        return scores_of_run.conclusion(results)

    def sections(self, facts: dict[str, Any], predictions: pa.Table | None) -> list[Section]:
        return report.sections(facts, predictions)

    def card_metadata(self, facts: dict[str, Any]) -> CardMetadata:
        return report.card_metadata(facts)


TASK = AttentionTask()
