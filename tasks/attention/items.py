"""Creatives as training items: stored embeddings of each modality, as many as there are, and a number to predict."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from evaluation.embedding_baselines import pooled
from training.streaming import StreamedRows, arrow_rows, is_streamed, of_all_ranks, own_blocks

# T embeddings of an item, E numbers of one, N creatives


SCALED_ON = 2  # shards that tell level and spread of streamed embeddings: some 1,000 creatives, a step's delay


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
        self.read_rows = arrow_rows(self.rows, [*self.modalities, *has, "target"])

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

    def files_of(self, item: int | tuple[int, int]) -> list[str]:
        """The shard that an item is read from, so that it can be fetched ahead; nothing where rows are local."""
        index = item[0] if isinstance(item, tuple) else item
        return [self.read_rows.url_of(index)] if is_streamed(self.rows) else []

    def targets(self) -> np.ndarray:
        """(N,)."""
        return column_of(self.rows, "target").to_numpy().astype(np.float64)

    def present(self, name: str) -> np.ndarray:
        """Which creatives have a modality, (N,) bool."""
        return column_of(self.rows, f"has_{name}").to_numpy()

    def embeddings(self, most_shards: int | None = None) -> Iterator[tuple[np.ndarray, dict[str, list[np.ndarray]]]]:
        """Places of creatives, as `own_blocks` gives them, and their embeddings (T, E); (0, E) where one has none."""
        has = [f"has_{name}" for name in self.modalities]
        for places, table in own_blocks(self.rows, [*self.modalities, *has], most_shards):
            yield places, {name: embeddings_of(table, name, self.sizes[name]) for name in self.modalities}

    def moments(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation (E,) of each modality's embeddings; of streamed rows, of the first shards."""
        found = {name: (0, np.zeros(size), np.zeros(size)) for name, size in self.sizes.items()}
        for _, block in self.embeddings(SCALED_ON):
            for name, values in block.items():
                frames = np.concatenate(values).astype(np.float64)  # (T, E)
                if len(frames):
                    found[name] = merged(found[name], (len(frames), frames.mean(0), frames.var(0) * len(frames)))
        ranks = of_all_ranks(self.rows, found)
        total = {name: functools.reduce(merged, [rank[name] for rank in ranks]) for name in found}
        return {name: (mean, np.sqrt(spread / max(count, 1))) for name, (count, mean, spread) in total.items()}

    def means(self) -> dict[str, np.ndarray]:
        """The mean of each modality's embeddings over the frames of each creative (N, E); zeros where it has none."""
        present = {name: self.present(name) for name in self.modalities}
        parts = []
        for places, block in self.embeddings():
            pools = {name: pooled(block[name], present[name][places], self.sizes[name]) for name in block}
            parts.append((places, pools))
        found = {name: np.zeros((len(self), size)) for name, size in self.sizes.items()}
        for rank in of_all_ranks(self.rows, parts):
            for places, block in rank:
                for name, values in block.items():
                    found[name][places] = values
        return found


def embeddings_of(table: pa.Table, name: str, size: int) -> list[np.ndarray]:
    """A modality's embeddings (T, E) of each row; (0, E) where it has none."""
    return [
        numbers_of(value).reshape(-1, size) if there.as_py() else np.zeros((0, size), np.float32)
        for value, there in zip(table[name], table[f"has_{name}"], strict=True)
    ]


Moments = tuple[int, np.ndarray, np.ndarray]  # how many, their mean (E,), and the sum of squares about it (E,)


def merged(one: Moments, other: Moments) -> Moments:
    """The moments of two lots together (Chan et al. 1979); exact for numbers that never vary."""
    (count, mean, spread), (more, mean_of_more, spread_of_more) = one, other
    total, apart = count + more, mean_of_more - mean
    if not count:
        return other
    if not more:
        return one
    return total, mean + apart * more / total, spread + spread_of_more + apart**2 * count * more / total


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
        there = name in rows.column_names or is_streamed(rows)
        if not there or f"has_{name}" not in rows.column_names:
            raise ValueError(f"modalities: the data set has no {name!r}; it has {', '.join(rows.column_names)}")
        has = column_of(rows, f"has_{name}").to_numpy()
        if has.any():
            first = int(has.argmax())
            value = StreamedRows(rows, [name]).peek(first, name) if is_streamed(rows) else rows[first][name]
            frames = f"{name}_frames"
            sizes[name] = len(value) // (rows[first][frames] if frames in rows.column_names else 1)
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
