"""Predict the attention that an advertisement gets from stored embeddings."""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import AutoConfig, AutoModel, EvalPrediction, Trainer

from evaluation.embedding_baselines import mean_baseline, ridge, side_by_side
from evaluation.regression import assess, point_scores
from evaluation.splits import SIDES
from modeling import FusionConfig, FusionForRegression
from tasks.attention import study
from tasks.attention.items import CreativeDataset, column_of, embedding_sizes
from tasks.attention.split import CreativeSplit, CreativeSplitSettings
from training.collators import PaddingCollator
from training.fusion_trainer import ONE_LEFT, FusionTrainer, order_of_training, part_rates
from training.samplers import LengthGroupedSampler, ShardedSampler
from training.settings import Run
from training.streaming import shards_of

logger = logging.getLogger(__name__)

MODALITIES = ("text", "video", "audio", "back_audio")
SMALLEST_DEVIATION = 1e-6  # of a number of an embedding; one that varies less is a constant, and is centred only
IN_SAMPLE = "The model was fitted, or its checkpoint chosen, on creatives that are scored here, which flatters it."


@dataclass(frozen=True)
class AttentionSettings:
    """How it is learnt and scored."""

    learning_rates: dict = field(
        default_factory=dict,
        metadata={"help": "Learning rates by part of the model (the modalities, fusion, regression)."},
    )
    ablations: bool = field(
        default=True, metadata={"help": "Score the test with each modality alone, and without each, too."}
    )
    target_unit: str = field(default="attention", metadata={"help": "What the target is called, and its unit."})

    def __post_init__(self) -> None:
        part_rates(self.learning_rates)


NAME = "attention"
ARGUMENTS = (CreativeSplitSettings, AttentionSettings)
COLUMNS = ("creative_id", "target", "defects", "synthetic")
STREAMED = MODALITIES
AUTO_MODEL, MODELS, AUTO_EXTRACTOR = AutoModel, (FusionConfig,), None
SUFFIXES, OUTPUT_SUFFIX = (), ".csv"
PREDICTION_OPTIONS: tuple[str, ...] = ()  # of run_predict.py, beside those of every task
TRAINER = FusionTrainer
STUDY = study
VALIDATION_METRICS = {"spearman": True, "pearson": True, "r2": True, "mae": False, "rmse": False, "loss": False}


@dataclass(frozen=True)
class AttentionData:
    """A data set's creatives, divided."""

    sides: dict[str, CreativeDataset]
    split: CreativeSplit
    settings: AttentionSettings
    left_out: dict[str, int]  # reason -> creatives

    @property
    def train(self) -> CreativeDataset:
        """What weights are fitted on."""
        return self.sides["train"]

    @property
    def validation(self) -> CreativeDataset:
        """What checkpoints are chosen on."""
        return self.sides["validation"]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Correlations, R2 and MAE: to choose a checkpoint by; one that is not defined is left out."""
        found = point_scores(output.label_ids, output.predictions[0])
        return {name: value for name, value in found.items() if value is not None}

    def record(self) -> dict[str, Any]:
        """What each side holds and lacks."""
        sides = {
            name: {
                "creatives": len(side),
                "without": {modality: int((~side.present(modality)).sum()) for modality in side.modalities},
            }
            for name, side in self.sides.items()
            if name in SIDES
        }
        return {"sides": sides, "left_out": self.left_out, "split_warning": None, "control": None}


def features(run: Run) -> None:
    """Nothing is made of embeddings: they come as they are stored."""


def prepare(rows: datasets.Dataset, extractor: None, run: Run, saved: dict[str, Any] | None = None) -> AttentionData:
    """The sides, by a hash of the ids."""
    name, taken = run.arguments.model_name_or_path, None
    if name:
        config = AutoConfig.from_pretrained(name)
        modalities, taken = list(config.modalities), config.embedding_sizes
    else:
        modalities = list(run.arguments.model_config.get("modalities", MODALITIES))
    known = np.flatnonzero(np.isfinite(column_of(rows, "target").to_numpy()))
    left_out = {"no target": len(rows) - len(known)} if len(known) < len(rows) else {}
    rows = rows.select(known)
    sizes = embedding_sizes(rows, modalities, taken)
    split = CreativeSplit.of(rows["creative_id"][:], run.settings(CreativeSplitSettings))
    places = split.places | {"all": np.arange(len(rows))}
    sides = {side: CreativeDataset(rows.select(where), modalities, sizes) for side, where in places.items()}
    empty = [side for side in SIDES if len(sides[side]) < ONE_LEFT]
    if empty and saved is None:
        raise ValueError(
            f"the split leaves {' and '.join(empty)} with fewer than {ONE_LEFT} of {len(rows)} creatives; change the "
            "fractions, or split_seed"
        )
    logger.info("creatives: %s", {side: len(sides[side]) for side in SIDES})
    return AttentionData(sides, split, run.settings(AttentionSettings), left_out)


def model_settings(data: AttentionData, extractor: None, run: Run) -> dict[str, Any]:
    """What of a model follows from the data."""
    if run.arguments.model_name_or_path:
        return {"embedding_sizes": data.train.sizes}
    targets = data.train.targets()
    if not targets.std() > 0:
        raise ValueError(f"all {len(targets)} training targets are {targets[0]}: there is nothing to learn")
    asked = "modalities" in run.arguments.model_config
    return ({} if asked else {"modalities": list(data.train.modalities)}) | {
        "embedding_sizes": data.train.sizes,
        "target_mean": float(targets.mean()),
        "target_std": float(targets.std()),
        "target_unit": data.settings.target_unit,
    }


def initialise(model: FusionForRegression, data: AttentionData, new: bool, resumed: bool = False) -> None:
    """Give a new model the level and spread of the embeddings that it is trained on; a checkpoint has them."""
    if new and not resumed:
        for name, (mean, deviation) in data.train.moments().items():
            model.set_input_scaling(name, mean, np.where(deviation < SMALLEST_DEVIATION, 1.0, deviation))
    model.trainable_parameters()


def collator(extractor: None, run: Run) -> PaddingCollator:
    """How items become a batch."""
    return PaddingCollator()


def sampler(data: AttentionData, run: Run) -> Callable[[int], LengthGroupedSampler | ShardedSampler]:
    """The order of training, for a batch size that the trainer knows."""
    return order_of_training(np.ones(len(data.train), np.int64), run, shards_of(data.train.rows))


def trainer_settings(data: AttentionData, run: Run) -> dict[str, Any]:
    """The parts' learning rates, and how rows are read."""
    return {"learning_rates": data.settings.learning_rates, "streamed": run.arguments.streaming}


def about_training(trainer: Trainer, data: AttentionData) -> dict[str, Any]:
    """What is learnt, by part."""
    return {"trainable": trainer.model.part_sizes()}


def extra_pages(trainer: Trainer, data: AttentionData) -> dict[str, str]:
    """Files that this task leaves beside card and report: none."""
    return {}


def evaluate(trainer: Trainer, data: AttentionData, side: str) -> tuple[dict[str, Any], pa.Table]:
    """The assessment of one side, beside baselines and with modalities left out, and the predictions behind it."""
    dataset = data.sides[side]
    if not len(dataset):
        raise ValueError(f"nothing to score: the {side} side has no creative")
    made = trainer.predict(dataset, metric_key_prefix=side).predictions[0].astype(np.float64)
    less = trainer.predict_with_less(dataset, side) if data.settings.ablations else {}
    left_out = {name: output.predictions[0].astype(np.float64) for name, output in less.items()}
    ids, targets = dataset.rows["creative_id"][:], dataset.targets()
    present = {name: dataset.present(name) for name in dataset.modalities}
    results = assess(ids, targets, made, baselines(data, dataset), left_out, present, data.settings.target_unit)
    results["note"] = IN_SAMPLE if side in ("train", "validation", "all") else None
    table = pa.table({"creative_id": ids, "target": targets, "prediction": made})
    return results, table


def baselines(data: AttentionData, dataset: CreativeDataset) -> dict[str, np.ndarray]:
    """The mean of training, and ridge regressions on each modality and on all, (N,) each."""
    sides = (data.train, data.validation, dataset)
    means = [side.means() for side in sides]  # (N, E) by modality
    present = [{name: side.present(name) for name in side.modalities} for side in sides]
    train, validation = data.train.targets(), data.validation.targets()

    def fitted(names: Sequence[str]) -> np.ndarray:
        x = [
            side_by_side({name: mean[name] for name in names}, {name: has[name] for name in names})
            for mean, has in zip(means, present, strict=True)
        ]
        return ridge(x[0], train, x[1], validation, x[2])

    found = {"mean": mean_baseline(train, len(dataset))}
    found |= {f"ridge on {name}": fitted([name]) for name in dataset.modalities}
    return found | ({"ridge on all": fitted(dataset.modalities)} if len(dataset.modalities) > 1 else {})


def predict(
    model: FusionForRegression, extractor: None, files: Sequence[Path], arguments: argparse.Namespace
) -> tuple[list[Any], list[str], str]:
    """Embeddings are no recordings: whoever has them scores them as a data set."""
    raise ValueError(
        "a model of embeddings takes no recordings; prepare them as a data set, then run_eval.py scores it"
    )
