"""Creatives as training items: stored embeddings of each modality, as many as there are, and a number to predict."""

# T embeddings of an item, E numbers of one, N creatives

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from evaluation.splits import SIDES, SplitSettings, digest_of_sides, side_of


@dataclass(frozen=True)
class CreativeSplitSettings:
    """How creatives are divided: by a hash of their id, so that one that is added moves no other."""

    split_seed: int = field(default=0, metadata={"help": "Seed of the split; the sides of all ids follow from it."})
    validation_fraction: float = field(default=0.15, metadata={"help": "Share of ids that checkpoints are chosen on."})
    test_fraction: float = field(default=0.15, metadata={"help": "Share of ids that is scored once, at the end."})

    def __post_init__(self) -> None:
        held_out = self.validation_fraction + self.test_fraction
        if not (0 < self.validation_fraction and 0 < self.test_fraction and held_out < 1):
            raise ValueError(
                f"validation_fraction = {self.validation_fraction} and test_fraction = {self.test_fraction} must be "
                "above 0 and leave something to train on (together below 1)"
            )


@dataclass(frozen=True)
class CreativeSplit:
    """The creatives of each side."""

    settings: CreativeSplitSettings
    places: dict[str, np.ndarray]  # side -> rows of the data set
    members: dict[str, list[str]]  # side -> ids, sorted

    @classmethod
    def of(cls, ids: Sequence[str], settings: CreativeSplitSettings) -> "CreativeSplit":
        """The sides of some ids: the lowest hashes are the test, those after them the validation."""
        rule = SplitSettings(**asdict(settings))
        side = np.array([side_of(name, rule) for name in ids])
        places = {name: np.flatnonzero(side == code) for code, name in enumerate(SIDES)}
        return cls(settings, places, {name: sorted(ids[i] for i in where) for name, where in places.items()})

    @property
    def sha256(self) -> str:
        """A digest of who is where; it does not depend on the order of the data."""
        return digest_of_sides(self.members)

    def record(self) -> dict[str, Any]:
        """What is saved beside a model."""
        return {
            "settings": asdict(self.settings),
            "sha256": self.sha256,
            "counts": {side: len(ids) for side, ids in self.members.items()},
            "warning": None,
            "trials": self.members,
        }


@dataclass
class CreativeDataset(Dataset):
    """Some creatives of a data set as items, (index, seed) or index; the seed has nothing to decide.

    Args:
        rows: of the data set, with a column a modality (all of its frames in one list), `has_<modality>` and `target`.
        modalities: what is read; of these, `hidden` is what is kept from the model.
        sizes: numbers of an embedding, by modality.
    """

    rows: datasets.Dataset
    modalities: Sequence[str]
    sizes: dict[str, int]
    hidden: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        has = [f"has_{name}" for name in self.modalities]
        self.read_rows = self.rows.select_columns([*self.modalities, *has, "target"]).with_format("arrow")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """`<modality>_embeddings` (T, E) and `<modality>_mask` (T,) of each modality, and `labels` ()."""
        row = self.read_rows[item[0] if isinstance(item, tuple) else item]
        values: dict[str, torch.Tensor] = {"labels": torch.tensor(row["target"][0].as_py())}
        for name in self.modalities:
            size = self.sizes[name]
            there = row[f"has_{name}"][0].as_py() and name not in self.hidden
            embeddings = numbers_of(row[name][0]).reshape(-1, size) if there else np.zeros((1, size), np.float32)
            values[f"{name}_embeddings"] = torch.from_numpy(embeddings)
            values[f"{name}_mask"] = torch.full((len(embeddings),), int(there))
        return values

    def targets(self) -> np.ndarray:
        """(N,)."""
        return column_of(self.rows, "target").to_numpy().astype(np.float64)

    def present(self, name: str) -> np.ndarray:
        """Which creatives have a modality, (N,) bool."""
        return column_of(self.rows, f"has_{name}").to_numpy()

    def embeddings(self, name: str) -> list[np.ndarray]:
        """A modality's embeddings (T, E) of each creative; (0, E) where it has none."""
        column, size = column_of(self.rows, name), self.sizes[name]
        return [
            numbers_of(value).reshape(-1, size) if there else np.zeros((0, size), np.float32)
            for value, there in zip(column, self.present(name), strict=True)
        ]


def column_of(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A column of the rows that are selected, without reading any other."""
    return rows.select_columns([name]).with_format("arrow")[:][name]


def numbers_of(value: pa.Scalar) -> np.ndarray:
    """The float32 numbers of a list, a copy: frames stand in it one after the other."""
    return np.array(value.values, np.float32)


def embedding_sizes(
    rows: datasets.Dataset, modalities: Sequence[str], taken: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Numbers of an embedding of each modality, from the first creative that has it; all of a modality are alike.

    Args:
        taken: those that a saved model takes: others are refused, and what no creative has is masked throughout.
    """
    sizes = {}
    for name in modalities:
        if name not in rows.column_names or f"has_{name}" not in rows.column_names:
            raise ValueError(f"modalities: the data set has no {name!r}; it has {', '.join(rows.column_names)}")
        has = column_of(rows, f"has_{name}").to_numpy()
        if has.any():
            first = rows[int(has.argmax())]
            sizes[name] = len(first[name]) // first.get(f"{name}_frames", 1)
        elif taken is None:
            raise ValueError(f"modalities: no creative has {name!r}; leave it out of model_config.modalities")
        else:
            sizes[name] = taken[name]
        if taken is not None and sizes[name] != taken[name]:
            raise ValueError(
                f"{name}: an embedding of the data set has {sizes[name]} numbers and the model takes {taken[name]}; "
                "give it those of the encoder that it was trained on"
            )
    return sizes
