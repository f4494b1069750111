"""Score predicted attention, and compare it with baselines and with the model without each modality."""

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

IN_SAMPLE = (
    "The model was trained, or its checkpoint selected, on creatives that are scored here, so its scores are "
    "optimistic."
)


def evaluate(trainer: FusionTrainer, data: AttentionData, side: str) -> Evaluation:
    """Score the trained model on one split, or on "all"."""
    dataset = data.sides[side]
    if not len(dataset):
        raise ValueError(f"side={side}: no creative to score. Choose another split, or other data.")
    predictions = predicted_attention(trainer.predict(dataset, metric_key_prefix=side))
    # An ablation hides modalities from the trained model. Nothing is trained again.
    ablations = trainer.predict_ablations(dataset, side) if data.settings.ablations else {}
    ids, targets = dataset.rows["creative_id"][:], dataset.targets()
    scores = assess(
        ids,
        targets,
        predictions,
        baselines(data, dataset),
        ablations={name: predicted_attention(output) for name, output in ablations.items()},
        present={name: dataset.present(name) for name in dataset.modalities},
        unit=data.settings.target_unit,
    )
    results = AttentionResults(**vars(scores), note=None if side == "test" else IN_SAMPLE)
    return Evaluation(results, pa.table({"creative_id": ids, "target": targets, "prediction": predictions}))


def predicted_attention(output: PredictionOutput) -> np.ndarray:
    """Return the predicted attention (N,) in float64, the precision of the targets and baselines."""
    return output.predictions[0].astype(np.float64)


def baselines(data: AttentionData, dataset: CreativeDataset) -> dict[str, np.ndarray]:
    """Predict with the training mean and with ridge regressions on each modality and on all, (N,) each."""
    # Ridge regression needs one vector per creative, so embeddings are averaged over time.
    sides = (data.train, data.validation, dataset)
    means = [side.means() for side in sides]  # modality -> (N, E)
    present = [{name: side.present(name) for name in side.modalities} for side in sides]
    train_targets, validation_targets = data.train.targets(), data.validation.targets()

    def ridge_on(names: Sequence[str]) -> np.ndarray:
        train, validation, scored = (
            join_modalities({name: features[name] for name in names}, has)
            for features, has in zip(means, present, strict=True)
        )
        return ridge(train, train_targets, validation, validation_targets, scored)

    predictions = {"mean": mean_baseline(train_targets, len(dataset))}
    # With one modality, its ridge equals "ridge on all".
    if len(dataset.modalities) > 1:
        predictions |= {f"ridge on {name}": ridge_on([name]) for name in dataset.modalities}
    return predictions | {"ridge on all": ridge_on(dataset.modalities)}
