"""Training items of creatives: the stored embeddings of each modality with masks, and the target."""

# Shapes: N creatives, T embeddings of one creative, E dimensions of an embedding.

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from evaluation.embedding_baselines import mean_embeddings
from training.streaming import StreamedRows, arrow_rows, gather_over_ranks, is_streamed, own_blocks

# Number of shards that the input scaling of streamed embeddings is estimated from. Two shards hold about 1,000
# creatives and are read in the time of one training step; a pass over all shards would delay training.
SCALING_SHARDS = 2


@dataclass
class CreativeDataset(Dataset):
    """Creatives as items, indexed by `index` or by `(index, seed)`. Nothing is random, so the seed is ignored.

    Args:
        rows: with the columns `target`, `<modality>` (its embeddings, flattened to one list) and `has_<modality>`.
        sizes: modality -> embedding size E.
        hidden: modalities that are masked as if every creative lacked them.
    """

    rows: datasets.Dataset
    sizes: dict[str, int]
    hidden: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.modalities = tuple(self.sizes)
        self.columns = [*self.sizes, *(f"has_{name}" for name in self.sizes)]
        # One view for all items. Arrow, because the Python format converts every number of an embedding.
        self.read_rows = arrow_rows(self.rows, [*self.columns, "target"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return `<modality>_embeddings` (T, E) and `<modality>_mask` (T,) per modality, and `labels` ()."""
        row = self.read_rows[item[0] if isinstance(item, tuple) else item]
        values: dict[str, torch.Tensor] = {"labels": torch.tensor(row["target"][0].as_py())}
        for name, size in self.sizes.items():
            present = row[f"has_{name}"][0].as_py() and name not in self.hidden
            # An absent modality is one masked zero vector, because a batch needs at least one step per item.
            embeddings = float32_array(row[name][0]).reshape(-1, size) if present else np.zeros((1, size), np.float32)
            values[f"{name}_embeddings"] = torch.from_numpy(embeddings)
            values[f"{name}_mask"] = torch.full((len(embeddings),), int(present))
        return values

    def files_of(self, item: int | tuple[int, int]) -> list[str]:
        """Return the shard that an item is read from, for prefetching. Local rows have none."""
        index = item[0] if isinstance(item, tuple) else item
        return [self.read_rows.url_of(index)] if is_streamed(self.rows) else []

    def targets(self) -> np.ndarray:
        return column_of(self.rows, "target").to_numpy().astype(np.float64)

    def present(self, name: str) -> np.ndarray:
        """Return whether each creative has a modality, (N,) bool."""
        return column_of(self.rows, f"has_{name}").to_numpy()

    def blocks(self, most_shards: int | None = None) -> Iterator[tuple[np.ndarray, dict[str, list[np.ndarray]]]]:
        """Yield the row indices of a block of creatives, and their embeddings by modality, each (T, E) with T >= 0."""
        for indices, table in own_blocks(self.rows, self.columns, most_shards):
            yield indices, {name: embeddings_of(table, name, size) for name, size in self.sizes.items()}

    def moments(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the mean and standard deviation (E,) per modality. Streamed rows use only the first shards."""
        own: dict[str, Moments] = {name: (0, np.zeros(size), np.zeros(size)) for name, size in self.sizes.items()}
        for _, block in self.blocks(SCALING_SHARDS):
            for name, embeddings in block.items():
                frames = np.concatenate(embeddings).astype(np.float64)  # (T, E)
                if len(frames):
                    block_moments = len(frames), frames.mean(0), frames.var(0) * len(frames)
                    own[name] = combine_moments(own[name], block_moments)
        # Each rank reads its own shards only, so the moments of all ranks are combined.
        ranks = gather_over_ranks(self.rows, own)
        total = {name: functools.reduce(combine_moments, [rank[name] for rank in ranks]) for name in own}
        return {name: (mean, np.sqrt(squares / max(count, 1))) for name, (count, mean, squares) in total.items()}

    def means(self) -> dict[str, np.ndarray]:
        """Return the mean embedding of each creative by modality, (N, E), with zeros if it lacks the modality."""
        present = {name: self.present(name) for name in self.sizes}
        own = [
            (
                indices,
                {name: mean_embeddings(block[name], present[name][indices], self.sizes[name]) for name in block},
            )
            for indices, block in self.blocks()
        ]
        means = {name: np.zeros((len(self), size)) for name, size in self.sizes.items()}
        for rank in gather_over_ranks(self.rows, own):
            for indices, block in rank:
                for name, values in block.items():
                    means[name][indices] = values
        return means


Moments = tuple[int, np.ndarray, np.ndarray]  # count, mean (E,), sum of squared deviations (E,)


def combine_moments(one: Moments, other: Moments) -> Moments:
    """Return the moments of the union of two sets (Chan et al. 1979)."""
    # Sums of squares would be simpler, but they cancel: a constant dimension would get a deviation above 0.
    (count, mean, squares), (other_count, other_mean, other_squares) = one, other
    if not count:
        return other
    if not other_count:
        return one
    total, difference = count + other_count, other_mean - mean
    return (
        total,
        mean + difference * other_count / total,
        squares + other_squares + difference**2 * count * other_count / total,
    )


def embeddings_of(table: pa.Table, name: str, size: int) -> list[np.ndarray]:
    """Return the embeddings (T, E) of each row. T is 0 if the row lacks the modality."""
    return [
        float32_array(value).reshape(-1, size) if present.as_py() else np.zeros((0, size), np.float32)
        for value, present in zip(table[name], table[f"has_{name}"], strict=True)
    ]


def float32_array(cell: pa.Scalar) -> np.ndarray:
    # A copy: torch warns about arrays that view read-only Arrow memory.
    return np.array(cell.values, np.float32)


def column_of(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """Read one column without decoding the others, which hold the large embeddings."""
    return rows.select_columns([name]).with_format("arrow")[:][name]


def embedding_sizes(
    rows: datasets.Dataset, modalities: Sequence[str], model_sizes: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the embedding size of each modality, read from the first creative that has it.

    Args:
        model_sizes: sizes that a saved model expects. Other sizes raise ValueError. A modality that no creative has
            keeps the model's size and is masked.
    """
    sizes = {}
    for name in modalities:
        # The embedding columns of streamed rows stay in the shards, so `column_names` lacks them.
        has_column = name in rows.column_names or is_streamed(rows)
        if not has_column or f"has_{name}" not in rows.column_names:
            columns = ", ".join(rows.column_names)
            raise ValueError(f"modalities={name!r}: the data set has no column of this name. Its columns: {columns}.")
        present = column_of(rows, f"has_{name}").to_numpy()
        if present.any():
            sizes[name] = embedding_size(rows, name, int(present.argmax()))
        elif model_sizes is None:
            raise ValueError(
                f"modalities={name!r}: no creative has this modality. Remove it from model_config.modalities."
            )
        else:
            sizes[name] = model_sizes[name]
        if model_sizes is not None and sizes[name] != model_sizes[name]:
            raise ValueError(
                f"{name}: embedding size {sizes[name]}, but the model expects {model_sizes[name]}. Use embeddings of "
                "the encoder that the model was trained with."
            )
    return sizes


def embedding_size(rows: datasets.Dataset, name: str, index: int) -> int:
    """Return the embedding size in one row, whose embeddings are stored as one flat list."""
    row = rows[index]
    cell = StreamedRows(rows, [name]).peek(index, name) if is_streamed(rows) else row[name]
    return len(cell) // row.get(f"{name}_frames", 1)
