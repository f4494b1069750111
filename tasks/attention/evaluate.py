"""Score predicted attention, next to baselines and to the same model with fewer modalities."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from transformers.trainer_utils import PredictionOutput

from evaluation.embedding_baselines import join_modalities, mean_baseline, ridge
from evaluation.regression import assess
from tasks.attention.data import AttentionData
from tasks.attention.items import CreativeDataset
from tasks.attention.records import AttentionResults
from training.fusion_trainer import FusionTrainer
from training.task import Evaluation

IN_SAMPLE = "The model was fitted, or its checkpoint chosen, on creatives that are scored here, which flatters it."


def evaluate(trainer: FusionTrainer, data: AttentionData, side: str) -> Evaluation:
    """Score the trained model on one part of the data."""
    dataset = data.sides[side]
    if not len(dataset):
        raise ValueError(f"nothing to score: the {side} side has no creative")
    predictions = attention_of(trainer.predict(dataset, metric_key_prefix=side))
    ablations = trainer.predict_ablations(dataset, side) if data.settings.ablations else {}
    ids, targets = dataset.rows["creative_id"][:], dataset.targets()
    scores = assess(
        ids,
        targets,
        predictions,
        baselines(data, dataset),
        ablations={name: attention_of(output) for name, output in ablations.items()},
        present={name: dataset.present(name) for name in dataset.modalities},
        unit=data.settings.target_unit,
    )
    results = AttentionResults(**vars(scores), note=None if side == "test" else IN_SAMPLE)
    return Evaluation(results, pa.table({"creative_id": ids, "target": targets, "prediction": predictions}))


def attention_of(output: PredictionOutput) -> np.ndarray:
    """Return the predicted attention (N,) of each creative."""
    return output.predictions[0].astype(np.float64)


def baselines(data: AttentionData, dataset: CreativeDataset) -> dict[str, np.ndarray]:
    """Predict by the mean of training, and by ridge regressions on each modality and on all, (N,) each."""
    sides = (data.train, data.validation, dataset)
    means = [side.means() for side in sides]  # (N, E) by modality
    present = [{name: side.present(name) for name in side.modalities} for side in sides]
    train_targets, validation_targets = data.train.targets(), data.validation.targets()

    def ridge_on(names: Sequence[str]) -> np.ndarray:
        train, validation, scored = (
            join_modalities({name: of_side[name] for name in names}, has)
            for of_side, has in zip(means, present, strict=True)
        )
        return ridge(train, train_targets, validation, validation_targets, scored)

    predictions = {"mean": mean_baseline(train_targets, len(dataset))}
    if len(dataset.modalities) > 1:
        predictions |= {f"ridge on {name}": ridge_on([name]) for name in dataset.modalities}
    return predictions | {"ridge on all": ridge_on(dataset.modalities)}
