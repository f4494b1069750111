"""Rows of the emotion task's sample, and runs on them."""

import datasets
import torch

from launch.run import parse_run
from modeling import FusionForEmotion, FusionProcessor
from tasks.emotion.data import EmotionData
from tasks.emotion.items import UtteranceDataset
from tasks.emotion.task import TASK
from training.task import Run

MODALITIES = ("text", "video", "audio")
CONFIG = "configs/meld_sample.json"


def changed(rows: datasets.Dataset, index: int, **cells: object) -> datasets.Dataset:
    """Return the rows, with other cells in the row with this index."""
    table = [dict(row) for row in rows]
    table[index] |= cells
    return datasets.Dataset.from_list(table, features=rows.features)


def in_three(rows: datasets.Dataset) -> datasets.Dataset:
    """Return the rows with new splits: one row for validation, one for test, and one dialogue per split."""
    sides = ["train"] * (len(rows) - 2) + ["dev", "test"]
    dialogues = [f"{side}_dia0" for side in sides]
    rows = rows.remove_columns(["split", "dialogue"])
    return rows.add_column("split", sides).add_column("dialogue", dialogues)


def dataset_of(rows: datasets.Dataset, processor: FusionProcessor, **settings: object) -> UtteranceDataset:
    """Return the items of some rows."""
    return UtteranceDataset(rows, processor, **{"modalities": MODALITIES, "max_text_tokens": 32} | settings)


def prepare(rows: datasets.Dataset, *settings: str) -> tuple[Run, FusionProcessor, EmotionData]:
    """Return a run of the sample's config, its processor and its data."""
    run = parse_run([CONFIG, *settings])
    processor = TASK.features(run)
    return run, processor, TASK.prepare(rows, processor, run)


def logits_of(model: FusionForEmotion, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits (B, emotions + sentiments) of a batch of items."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "undecodable")}
    with torch.inference_mode():
        output = model.eval()(**inputs)
    return torch.cat([output.emotion_logits, output.sentiment_logits], 1)
