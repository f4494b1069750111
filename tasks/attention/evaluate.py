"""Score predicted attention against baselines and with modalities left out."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from transformers import Trainer

from evaluation.embedding_baselines import mean_baseline, ridge, side_by_side
from evaluation.regression import assess
from tasks.attention.data import AttentionData
from tasks.attention.items import CreativeDataset
from training.task import Evaluation

IN_SAMPLE = "The model was fitted, or its checkpoint chosen, on creatives that are scored here, which flatters it."


def evaluate(trainer: Trainer, data: AttentionData, side: str) -> Evaluation:
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
    return Evaluation(results, table)


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
