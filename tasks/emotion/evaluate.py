"""Score predicted emotion and sentiment, and compare them with baselines and with fewer modalities."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers.trainer_utils import PredictionOutput

from evaluation.classification import Utterances, assess
from modeling.configuration_fusion import MODALITIES
from tasks.emotion.data import EmotionData
from tasks.emotion.items import HEADS, UtteranceDataset
from tasks.emotion.records import EmotionResults
from training.fusion_trainer import FusionTrainer
from training.task import Evaluation

FITTED_HERE = (
    "The baselines were fitted on utterances that are scored here, and so was the model if it was trained on this "
    "data set. Their scores are optimistic."
)
CHOSEN_HERE = "The checkpoint was selected on utterances that are scored here, so the scores are optimistic."
IN_SAMPLE = {"train": FITTED_HERE, "all": FITTED_HERE, "validation": CHOSEN_HERE}  # split -> caveat


def probabilities_of(output: PredictionOutput) -> dict[str, np.ndarray]:
    """Return the probabilities (N, classes) of each head."""
    # `predictions` holds one array of logits per head, then the mask of received modalities.
    logits = [torch.from_numpy(output.predictions[index]).double() for index in range(len(HEADS))]
    return {head: scores.softmax(-1).numpy() for head, scores in zip(HEADS, logits, strict=True)}


def scored_utterances(side: UtteranceDataset) -> Utterances:
    """Return the columns that scoring reads. `present` is what the rows claim, whether or not it can be decoded."""
    columns = side.rows.select_columns(["utterance_id", "dialogue", "text", *HEADS, *(f"has_{m}" for m in MODALITIES)])
    table = columns.with_format("arrow")[:]
    return Utterances(
        ids=table["utterance_id"].to_pylist(),
        dialogues=table["dialogue"].to_pylist(),
        texts=[text or "" for text in table["text"].to_pylist()],
        labels={head: table[head].to_numpy() for head in HEADS},
        present={name: table[f"has_{name}"].to_numpy() for name in side.modalities},
    )


def evaluate(trainer: FusionTrainer, data: EmotionData, side: str) -> Evaluation:
    """Score the trained model on one split, or on "all"."""
    dataset = data.sides[side]
    if not len(dataset):
        raise ValueError(f"side={side}: no utterance to score. Choose another split, or other data.")
    output = trainer.predict(dataset, metric_key_prefix=side)
    probabilities, expected = probabilities_of(output), scored_utterances(dataset)
    # Score by the modalities that the model received: a clip that cannot be decoded counts as missing.
    received = output.predictions[len(HEADS)].astype(bool)  # (N, modalities)
    test = replace(expected, present=dict(zip(dataset.modalities, received.T, strict=True)))
    undecodable = np.any([expected.present[name] & ~test.present[name] for name in dataset.modalities], axis=0)
    ablated = trainer.predict_ablations(dataset, side) if data.settings.ablations else {}
    ablations = {name: probabilities_of(output) for name, output in ablated.items()}
    scores = assess(data.names, scored_utterances(data.train), test, probabilities, ablations)
    results = EmotionResults(**vars(scores), undecodable=int(undecodable.sum()), note=IN_SAMPLE.get(side))
    return Evaluation(results, prediction_table(data, test, probabilities))


def prediction_table(data: EmotionData, test: Utterances, probabilities: dict[str, np.ndarray]) -> pa.Table:
    """Return one row per utterance, with true labels, predicted labels and the probability of each class."""
    columns: dict[str, Any] = {"utterance_id": test.ids, "dialogue": test.dialogues}
    for head, names in data.names.items():
        scores = probabilities[head]
        columns[head] = [names[label] for label in test.labels[head]]
        columns[f"predicted_{head}"] = [names[label] for label in scores.argmax(1)]
        columns |= {f"p_{head}_{name}": scores[:, index] for index, name in enumerate(names)}
    return pa.table(columns)
