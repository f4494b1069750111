"""Score predicted skin conductance against baselines, a null and a ceiling."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import Trainer

from evaluation.controls import detrended_correlation
from evaluation.descriptors import DESCRIPTORS
from evaluation.explanations import occluded_bands, occluded_moments, temporal_response
from evaluation.signal_baselines import HEARS, HEARS_NOTHING, Heard, mean_of_others
from evaluation.signals import assess, longest_of_song
from evaluation.trials import Trials, pad_rows
from media.scaling import Scaling
from modeling.layers import IGNORE_LABEL
from tasks.eda.data import EdaData, means_of
from tasks.eda.items import SignalTables, TrialDataset, ragged_column
from training.task import Evaluation

IN_SAMPLE = "The baselines were fitted on trials that are scored here, which flatters them; the test side has no such."


def evaluate(trainer: Trainer, data: EdaData, side: str) -> Evaluation:
    """The assessment of one side, a channel at a time, and the predictions behind it."""
    dataset = data.sides[side]
    if not len(dataset):
        raise ValueError(f"nothing to score: the {side} side has no trial; change split_seed, the fractions or data")
    output = trainer.predict(dataset, metric_key_prefix=side)
    predictions = [row[: len(labels)] for row, labels in zip(means_of(output), dataset.labels, strict=True)]  # scaled
    results = {
        "unit": data.scaling.unit,
        "trials": len(dataset),
        "songs": len(set(dataset.song_ids)),
        "listeners": len(set(dataset.listeners)),
        "note": IN_SAMPLE if side in ("all", "train") else None,
        "channels": {
            name: assess_channel(data, dataset, predictions, channel)
            for channel, name in enumerate(data.tables.channels)
        },
    }
    if data.explain:
        for channel, found in enumerate(results["channels"].values()):
            found["explanations"] = explain_channel(trainer, data, dataset, channel, found["interval_over"])
    return Evaluation(results, prediction_table(data, dataset, predictions))


def explain_channel(trainer: Trainer, data: EdaData, dataset: TrialDataset, channel: int, over: str) -> dict[str, Any]:
    """The ridge's response over lag, and what the model loses without a band or a moment of sound."""

    def predict(sounds: list[np.ndarray]) -> list[np.ndarray]:
        """One channel (T,) of what the model says of each sound (T, F), scaled."""
        blank = [np.zeros((len(sound), len(data.tables.channels)), np.float32) for sound in sounds]
        items = [{"input_features": sound, "labels": none} for sound, none in zip(sounds, blank, strict=True)]
        means = means_of(trainer.predict(items, metric_key_prefix="explain"))
        return [row[: len(sound), channel].astype(np.float64) for row, sound in zip(means, sounds, strict=True)]

    train, test = (heard(data.tables, each, channel, data.frame_rate) for each in (data.train, dataset))
    fill = np.concatenate(data.train.input_features).mean(axis=0)  # (F,)
    sounds = dataset.input_features
    by_song = list(dict(zip(dataset.song_ids, sounds, strict=True)).values())
    bands = occluded_bands(predict, sounds, fill, test.targets, test.masks, dataset.song_ids, dataset.listeners, over)
    names = trainer.processing_class.feature_names
    for band in bands:
        band["name"] = f"{names[band['first']]} to {names[band['last']]}"
    return {
        "response": temporal_response(train),
        "bands": bands,
        "absence": occluded_moments(predict, by_song, fill, data.frame_rate),
    }


def assess_channel(
    data: EdaData, dataset: TrialDataset, predictions: list[np.ndarray], channel: int
) -> dict[str, Any]:
    """Fit the baselines on the training side, and put the model (scaled predictions (T, C)) beside them."""

    def back(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One channel (T,) of each trial in the unit of the target."""
        return [in_unit(data.scaling, row, who, channel) for row, who in zip(rows, dataset.listeners, strict=True)]

    train, test = (heard(data.tables, each, channel, data.frame_rate) for each in (data.train, dataset))
    made = {name: fit(train)(test) for name, fit in (HEARS_NOTHING | HEARS).items()} | {"others": mean_of_others(test)}
    scaled = [prediction[:, channel].astype(np.float64) for prediction in predictions]
    masked = [np.where(mask, target, 0.0) for target, mask in zip(test.targets, test.masks, strict=True)]
    constant = [np.full(1, data.training_mean[channel])] * len(dataset)
    model = Trials.pad(
        back(scaled), back(masked), test.masks, dataset.song_ids, dataset.listeners, data.frame_rate, data.scaling.unit
    )
    return assess(
        model,
        {name: pad_rows(back(rows), np.float64) for name, rows in made.items()},
        np.concatenate(back(constant)),
        longest_of_song(scaled, dataset.song_ids),
        pad_rows(masked, np.float64),
    )


def heard(tables: SignalTables, dataset: TrialDataset, channel: int, frame_rate: float) -> Heard:
    """One channel of some trials with the describable sound of their songs, for the baselines."""
    width = len(DESCRIPTORS)
    labels = [trial[:, channel].astype(np.float64) for trial in dataset.labels]
    return Heard(
        targets=labels,
        masks=[trial != IGNORE_LABEL for trial in labels],
        songs=dataset.songs,
        descriptors=[flat.reshape(-1, width) for flat in ragged_column(tables.songs, "descriptors")],
        frame_rate=frame_rate,
    )


def in_unit(scaling: Scaling, values: np.ndarray, listener: str, channel: int) -> np.ndarray:
    """Scaled values (T,) of a channel in the unit that the scaling promises; per-trial units stay, and say so."""
    if scaling.scope == "trial":
        return values
    wide = np.zeros((len(values), len(scaling.channels)))
    wide[:, channel] = values
    return scaling.invert(wide, listener)[:, channel]


def prediction_table(data: EdaData, dataset: TrialDataset, predictions: list[np.ndarray]) -> pa.Table:
    """A row a trial and channel: who heard what, target (null where it does not count), prediction, scores."""
    records = []
    for index, (labels, prediction) in enumerate(zip(dataset.labels, predictions, strict=True)):
        listener = dataset.listeners[index]
        for channel, name in enumerate(data.tables.channels):
            target = in_unit(data.scaling, labels[:, channel], listener, channel)
            scored = labels[:, channel] != IGNORE_LABEL
            made = in_unit(data.scaling, prediction[:, channel], listener, channel)
            (r,) = detrended_correlation(made[None], target[None], scored[None])
            records.append(
                {
                    "song_id": dataset.song_ids[index],
                    "listener": listener,
                    "trial": dataset.trials[index],
                    "channel": name,
                    "unit": data.scaling.unit,
                    "frame_rate": data.frame_rate,
                    "target": [value if keep else None for value, keep in zip(target.tolist(), scored, strict=True)],
                    "prediction": made.tolist(),
                    "rmse": float(np.sqrt(np.mean((made - target)[scored] ** 2))) if scored.any() else None,
                    "detrended_pearson": float(r) if np.isfinite(r) else None,
                }
            )
    return pa.Table.from_pylist(records)
