"""Rows of a small data set of the attention task."""

from typing import Any

import datasets
import numpy as np

SIZES = {"text": 6, "video": 5, "audio": 4, "back_audio": 3}
SOUNDS = ("audio", "back_audio")


def make_rows(count: int = 60, seed: int = 0) -> datasets.Dataset:
    """Return creatives with all modalities and sounds of 1 to 4 frames; the target is the first number of the text."""
    dice = np.random.default_rng(seed)
    rows = []
    for row in range(count):
        frames = {name: int(dice.integers(1, 5)) if name in SOUNDS else 1 for name in SIZES}
        values = {name: dice.standard_normal(frames[name] * size).astype(np.float32) for name, size in SIZES.items()}
        rows.append(
            {"creative_id": f"c{row}", "target": float(values["text"][0]), "defects": [], "synthetic": True}
            | values
            | {f"has_{name}": True for name in SIZES}
            | {f"{name}_frames": frames[name] for name in SOUNDS}
        )
    return datasets.Dataset.from_list(rows)


def changed(rows: datasets.Dataset, indices: list[int], **cells: Any) -> datasets.Dataset:
    """Return the rows, with other cells in the rows with these indices."""
    table = [dict(row) | (cells if index in indices else {}) for index, row in enumerate(rows)]
    return datasets.Dataset.from_list(table, features=rows.features)


def without(rows: datasets.Dataset, name: str, indices: list[int]) -> datasets.Dataset:
    """Return the rows, without a modality in the rows with these indices, as the data set stores that."""
    frames = {f"{name}_frames": 0} if name in SOUNDS else {}
    return changed(rows, indices, **{name: None, f"has_{name}": False}, **frames)
