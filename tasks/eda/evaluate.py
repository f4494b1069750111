"""Score predicted skin conductance against baselines, a null distribution and a ceiling."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset
from transformers import Trainer

from evaluation.controls import detrended_correlation
from evaluation.explanations import Explanations, occluded_bands, occluded_moments, temporal_response
from evaluation.signal_baselines import BASELINES_WITH_SOUND, BASELINES_WITHOUT_SOUND, TrialsWithSound, mean_of_others
from evaluation.signals import ChannelResults, assess, longest_of_song
from evaluation.trials import Trials, pad_rows
from media.scaling import Scaling
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.layers import IGNORE_LABEL
from tasks.eda.data import EdaData, predicted_means
from tasks.eda.items import TrialDataset, array_column
from tasks.eda.records import EdaResults
from training.task import Evaluation

IN_SAMPLE = (
    "The baselines were fitted on trials that are scored here, so their scores are optimistic. This does not affect "
    "the test split."
)


def evaluate(trainer: Trainer, data: EdaData, side: str) -> Evaluation:
    """Score the trained model on one split, or on "all", channel by channel."""
    dataset = data.sides[side]
    if not len(dataset):
        raise ValueError(f"side={side}: no trial to score. Change split_seed, the fractions or the data.")
    output = trainer.predict(dataset, metric_key_prefix=side)
    # Scaled predictions (T, C) per trial, without the padding of the batches.
    means = predicted_means(output)
    predictions = [trial[: len(labels)] for trial, labels in zip(means, dataset.labels, strict=True)]
    channels = {}
    for channel, name in enumerate(data.tables.channels):
        results = assess_channel(data, dataset, predictions, channel)
        if data.explain:
            explanations = explain_channel(trainer, data, dataset, channel, results.interval_over)
            results = replace(results, explanations=explanations)
        channels[name] = results
    results = EdaResults(
        unit=data.scaling.unit,
        trials=len(dataset),
        songs=len(set(dataset.song_ids)),
        listeners=len(set(dataset.listeners)),
        note=IN_SAMPLE if side in ("all", "train") else None,
        channels=channels,
    )
    return Evaluation(results, prediction_table(data, dataset, predictions))


def explain_channel(trainer: Trainer, data: EdaData, dataset: TrialDataset, channel: int, over: str) -> Explanations:
    """Fit the response over lag, and measure the loss of the model without each band or moment of audio."""

    def predict(sounds: list[np.ndarray]) -> list[np.ndarray]:
        """Return scaled predictions (T,) of the channel for each sound (T, F)."""
        # The collator needs labels, but predictions do not depend on them.
        labels = [np.zeros((len(sound), len(data.tables.channels)), np.float32) for sound in sounds]
        items = [{"input_features": sound, "labels": zeros} for sound, zeros in zip(sounds, labels, strict=True)]
        means = predicted_means(trainer.predict(cast(Dataset, items), metric_key_prefix="explain"))
        return [row[: len(sound), channel].astype(np.float64) for row, sound in zip(means, sounds, strict=True)]

    test = trials_with_sound(data, dataset, channel)
    # Occluded features get the training mean, which carries no information about the song. Zeros would be an input
    # that the model never saw.
    fill = np.concatenate(data.train.input_features).mean(axis=0)  # (F,)
    names = cast(AudioFeatureExtractor, trainer.processing_class).feature_names
    sounds = dataset.input_features
    # One sound per song, which its listeners share.
    by_song = list(dict(zip(dataset.song_ids, sounds, strict=True)).values())
    return Explanations(
        response=temporal_response(trials_with_sound(data, data.train, channel)),
        bands=occluded_bands(
            predict, sounds, fill, names, test.targets, test.masks, dataset.song_ids, dataset.listeners, over
        ),
        absence=occluded_moments(predict, by_song, fill, data.frame_rate),
    )


def assess_channel(
    data: EdaData, dataset: TrialDataset, predictions: list[np.ndarray], channel: int
) -> ChannelResults:
    """Fit the baselines on the training split, and compare them with the scaled predictions (T, C) of the model."""

    def unscaled(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the channel (T,) of each trial in the unit of the target."""
        pairs = zip(rows, dataset.listeners, strict=True)
        return [to_unit(data.scaling, row, listener, channel) for row, listener in pairs]

    train, test = (trials_with_sound(data, side, channel) for side in (data.train, dataset))
    baselines = {name: fit(train)(test) for name, fit in (BASELINES_WITHOUT_SOUND | BASELINES_WITH_SOUND).items()}
    # The ceiling: an oracle that knows how other listeners of the test split responded to the song.
    baselines["others"] = mean_of_others(test)
    scaled = [prediction[:, channel].astype(np.float64) for prediction in predictions]
    # Masked frames hold IGNORE_LABEL, which must not be unscaled as if it were a value.
    targets = [np.where(mask, target, 0.0) for target, mask in zip(test.targets, test.masks, strict=True)]
    # One frame per trial is enough, but every trial is needed, because the unit conversion depends on the listener.
    constant = [np.full(1, data.training_mean[channel])] * len(dataset)
    model = Trials.pad(
        unscaled(scaled),
        unscaled(targets),
        test.masks,
        dataset.song_ids,
        dataset.listeners,
        data.frame_rate,
        data.scaling.unit,
    )
    return assess(
        model,
        {name: pad_rows(unscaled(rows), np.float64) for name, rows in baselines.items()},
        np.concatenate(unscaled(constant)),
        longest_of_song(scaled, dataset.song_ids),
        pad_rows(targets, np.float64),
    )


def trials_with_sound(data: EdaData, dataset: TrialDataset, channel: int) -> TrialsWithSound:
    """Return one channel of the trials with the descriptors of their songs, for the baselines."""
    labels = [trial[:, channel].astype(np.float64) for trial in dataset.labels]
    return TrialsWithSound(
        targets=labels,
        masks=[trial != IGNORE_LABEL for trial in labels],
        songs=dataset.songs,
        descriptors=array_column(data.tables.songs, "descriptors"),
        frame_rate=data.frame_rate,
    )


def to_unit(scaling: Scaling, values: np.ndarray, listener: str, channel: int) -> np.ndarray:
    """Return scaled values (T,) of a channel in the unit of the scaling."""
    # Trial scaling cannot be undone: a prediction has no statistics of its trial.
    if scaling.scope == "trial":
        return values
    # `invert` expects all channels (T, C).
    padded = np.zeros((len(values), len(scaling.channels)))
    padded[:, channel] = values
    return scaling.invert(padded, listener)[:, channel]


def prediction_table(data: EdaData, dataset: TrialDataset, predictions: list[np.ndarray]) -> pa.Table:
    """Return one row per trial and channel, with its scores. The target is null in frames that are not scored."""
    records: list[dict[str, Any]] = []
    for index, (labels, scaled) in enumerate(zip(dataset.labels, predictions, strict=True)):
        listener = dataset.listeners[index]
        for channel, name in enumerate(data.tables.channels):
            target = to_unit(data.scaling, labels[:, channel], listener, channel)
            scored = labels[:, channel] != IGNORE_LABEL
            prediction = to_unit(data.scaling, scaled[:, channel], listener, channel)
            # Detrended, because two slow drifts correlate without any response to the sound.
            (r,) = detrended_correlation(prediction[None], target[None], scored[None])
            records.append(
                {
                    "song_id": dataset.song_ids[index],
                    "listener": listener,
                    "trial": dataset.trials[index],
                    "channel": name,
                    "unit": data.scaling.unit,
                    "frame_rate": data.frame_rate,
                    "target": [value if keep else None for value, keep in zip(target.tolist(), scored, strict=True)],
                    "prediction": prediction.tolist(),
                    "rmse": float(np.sqrt(np.mean((prediction - target)[scored] ** 2))) if scored.any() else None,
                    "detrended_pearson": float(r) if np.isfinite(r) else None,
                }
            )
    return pa.Table.from_pylist(records)
