"""A toy task: predict the loudness of a tone, from 0 to 1. One line in `tasks/__init__.py` registers it."""

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset
from transformers import AutoFeatureExtractor, AutoModel, EvalPrediction

from evaluation.splits import SIDES, Split, split_trials
from evaluation.validation import validation_scores
from media.audio import read_audio
from modeling import SIGNAL_MODELS
from reporting.card import CardMetadata
from reporting.sections import Notice, Section, Table
from reporting.texts import SHARED
from tasks.toyloudness import study
from tasks.toyloudness.settings import ToySettings
from training.build import build_extractor
from training.collators import PaddingCollator
from training.prediction import OF_SYNTHETIC_DATA, SUFFIXES
from training.samplers import LengthGroupedSampler
from training.task import Evaluation, Predicted, Run, Task


@dataclass(frozen=True)
class ToyResults:
    """The scores of a run in metrics.json."""

    tones: int
    rmse: float
    baselines: dict[str, float]  # "chance": the RMSE of the mean rating, the best guess without audio


class Tones(Dataset):
    """Tones as items. Training requests (index, seed); the seed is for data sets with random items."""

    def __init__(self, rows: Sequence[dict[str, Any]], extractor: Any) -> None:
        self.ids = [row["tone_id"] for row in rows]
        self.loudness = np.array([row["loudness"] for row in rows], np.float32)
        self.spectra = [spectrum(row["audio"]["bytes"], extractor) for row in rows]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        index = item[0] if isinstance(item, tuple) else item
        return {"input_features": self.spectra[index], "labels": torch.tensor([[self.loudness[index]]])}


@dataclass(frozen=True)
class ToyData:
    split: Split
    parts: dict[str, Tones]

    @property
    def train(self) -> Tones:
        return self.parts["train"]

    @property
    def validation(self) -> Tones:
        return self.parts["validation"]

    def record(self) -> dict[str, Any]:
        return {}  # nothing in addition to the record of every task

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        predictions, labels = (np.reshape(values, (1, -1)) for values in (output.predictions, output.label_ids))
        mask = np.ones(labels.shape, bool)  # the module scores trials; here all tones are one trial
        return validation_scores(["rmse"], predictions=predictions, references=labels, mask=mask)


class ToyTask(Task[ToySettings, ToyData]):
    name = "toyloudness"
    settings = ToySettings
    columns = ("tone_id", "audio", "loudness", "defects", "synthetic")
    auto_model = AutoModel
    model_configs = tuple(config for config, _ in SIGNAL_MODELS)
    auto_extractor = AutoFeatureExtractor
    simple_baseline = "chance"
    suffixes = SUFFIXES
    study = study.TABLES

    def features(self, run: Run[ToySettings]) -> Any:
        return build_extractor(run.arguments)

    def prepare(
        self, rows: datasets.Dataset, extractor: Any, run: Run[ToySettings], saved: dict[str, Any] | None = None
    ) -> ToyData:
        usable = [row for row in rows.to_list() if not row["defects"]]  # without unreadable sounds
        ids = [row["tone_id"] for row in usable]
        nobody = [""] * len(ids)  # tones have no listeners and no artists
        split = split_trials(ids, nobody, ids, nobody, run.settings.split)
        parts = {part: [usable[i] for i in split.indices(part)] for part in SIDES} | {"all": usable}
        return ToyData(split, {part: Tones(rows_of_part, extractor) for part, rows_of_part in parts.items()})

    def model_settings(self, data: ToyData, extractor: Any, run: Run[ToySettings]) -> dict[str, Any]:
        return {"input_size": extractor.feature_size, "output_size": 1}

    def initialise(self, model: Any, data: ToyData, new: bool, resumed: bool) -> None:
        if new:  # scale the features so that none outweighs the others
            spectra = torch.cat(data.train.spectra)
            model.set_input_scaling(spectra.mean(0), spectra.std(0) + 1e-3)

    def collator(self, extractor: Any, run: Run[ToySettings]) -> PaddingCollator:
        return PaddingCollator()

    def sampler(self, data: ToyData, run: Run[ToySettings]) -> Callable[[int], LengthGroupedSampler]:
        return lambda batch_size: LengthGroupedSampler([1] * len(data.train), batch_size, run.training.seed)

    def evaluate(self, trainer: Any, data: ToyData, side: str) -> Evaluation:
        tones = data.parts[side]
        predicted = trainer.predict(tones, metric_key_prefix=side).predictions.ravel()
        results = ToyResults(len(tones), rmse(predicted, tones.loudness), {"chance": float(tones.loudness.std())})
        table = pa.table({"tone_id": tones.ids, "target": tones.loudness, "prediction": predicted})
        return Evaluation(results, table)

    def predict(self, model: Any, extractor: Any, files: Sequence[Path], arguments: argparse.Namespace) -> Predicted:
        with torch.inference_mode():
            inputs = {str(file): spectrum(file, extractor)[None].to(model.device) for file in files}
            predicted = [(file, model(features).predictions.item()) for file, features in inputs.items()]
        with open(arguments.output, "w", newline="", encoding="utf-8") as table:
            rows = [("file", "loudness", OF_SYNTHETIC_DATA), *((*row, "true") for row in predicted)]
            csv.writer(table).writerows(row[: 3 if arguments.synthetic else 2] for row in rows)
        return Predicted(predicted, [], "loudness")

    def results_table(self, results: dict[str, Any]) -> str:
        return score_table(results).markdown()

    def conclusion(self, results: dict[str, Any]) -> str:
        return f"RMSE {results['rmse']:.3f}; chance: {results['baselines']['chance']:.3f}"

    def sections(self, facts: dict[str, Any], predictions: pa.Table | None) -> list[Section]:
        notices = [Notice(SHARED("synthetic_notice"))] if facts["data"]["synthetic"] else []
        rows = [] if predictions is None else predictions.to_pylist()
        tones = [[tone["tone_id"], f"{tone['target']:.2f}", f"{tone['prediction']:.2f}"] for tone in rows]
        return [
            Section("", notices),
            Section("Scores", [score_table(facts["test"])]),
            Section("Tones", [Table(["tone", "rating", "prediction"], tones)], in_card=False),
        ]

    def card_metadata(self, facts: dict[str, Any]) -> CardMetadata:
        return CardMetadata(["loudness"])


def score_table(results: dict[str, Any]) -> Table:
    rows = [["model", f"{results['rmse']:.3f}"], ["chance", f"{results['baselines']['chance']:.3f}"]]
    return Table([f"{results['tones']} tones", "RMSE"], rows)


def spectrum(sound: Path | bytes, extractor: Any) -> torch.Tensor:
    """Return the features of a sound, averaged over time to one frame (1, F)."""
    samples, rate = read_audio(sound, extractor.sampling_rate)
    return extractor(samples, sampling_rate=rate, return_tensors="pt")["input_features"][0].mean(0, keepdim=True)


def rmse(predicted: Any, rated: Any) -> float:
    return float(np.sqrt(np.mean((np.ravel(predicted) - np.ravel(rated)) ** 2)))


TASK = ToyTask()
