"""Rows of a small data set of the attention task."""

from typing import Any

import datasets
import numpy as np

SIZES = {"text": 6, "video": 5, "audio": 4, "back_audio": 3}
SOUNDS = ("audio", "back_audio")


def make_rows(count: int = 60, seed: int = 0) -> datasets.Dataset:
    """Return creatives with all modalities, sounds of 1 to 4 frames, and a target that is text's first number."""
    dice = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        frames = {name: int(dice.integers(1, 5)) if name in SOUNDS else 1 for name in SIZES}
        found = {name: dice.standard_normal(frames[name] * size).astype(np.float32) for name, size in SIZES.items()}
        rows.append(
            {"creative_id": f"c{place}", "target": float(found["text"][0]), "defects": [], "synthetic": True}
            | found
            | {f"has_{name}": True for name in SIZES}
            | {f"{name}_frames": frames[name] for name in SOUNDS}
        )
    return datasets.Dataset.from_list(rows)


def changed(rows: datasets.Dataset, places: list[int], **cells: Any) -> datasets.Dataset:
    """Return the rows, some of them with other cells."""
    table = [dict(row) | (cells if place in places else {}) for place, row in enumerate(rows)]
    return datasets.Dataset.from_list(table, features=rows.features)


def without(rows: datasets.Dataset, name: str, places: list[int]) -> datasets.Dataset:
    """Return the rows, some of them without a modality, as the data set stores that."""
    frames = {f"{name}_frames": 0} if name in SOUNDS else {}
    return changed(rows, places, **{name: None, f"has_{name}": False}, **frames)
