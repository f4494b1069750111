"""Creatives as training items: stored embeddings of each modality, with masks, and the target."""

# T embeddings of an item, E numbers of one, N creatives

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from evaluation.embedding_baselines import mean_embeddings
from training.streaming import StreamedRows, arrow_rows, is_streamed, of_all_ranks, own_blocks

SCALED_ON = 2  # shards that give the mean and deviation of streamed embeddings: about 1,000 creatives, one step's time


@dataclass
class CreativeDataset(Dataset):
    """Creatives of a data set as items, by (index, seed) or index. Nothing is random, so the seed is not used.

    Args:
        rows: with a column per modality (all of its embeddings in one list), `has_<modality>` and `target`.
        sizes: modality -> numbers of an embedding.
        hidden: modalities that look absent to the model.
    """

    rows: datasets.Dataset
    sizes: dict[str, int]
    hidden: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.modalities = tuple(self.sizes)
        self.columns = [*self.sizes, *(f"has_{name}" for name in self.sizes)]
        self.read_rows = arrow_rows(self.rows, [*self.columns, "target"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return `<modality>_embeddings` (T, E) and `<modality>_mask` (T,) per modality, and `labels` ()."""
        row = self.read_rows[item[0] if isinstance(item, tuple) else item]
        values: dict[str, torch.Tensor] = {"labels": torch.tensor(row["target"][0].as_py())}
        for name, size in self.sizes.items():
            present = row[f"has_{name}"][0].as_py() and name not in self.hidden
            embeddings = float32_array(row[name][0]).reshape(-1, size) if present else np.zeros((1, size), np.float32)
            values[f"{name}_embeddings"] = torch.from_numpy(embeddings)
            values[f"{name}_mask"] = torch.full((len(embeddings),), int(present))
        return values

    def files_of(self, item: int | tuple[int, int]) -> list[str]:
        """Return the shard that an item is read from, so that it can be fetched ahead; none where rows are local."""
        index = item[0] if isinstance(item, tuple) else item
        return [self.read_rows.url_of(index)] if is_streamed(self.rows) else []

    def targets(self) -> np.ndarray:
        """Return the targets (N,)."""
        return column_of(self.rows, "target").to_numpy().astype(np.float64)

    def present(self, name: str) -> np.ndarray:
        """Tell which creatives have a modality, (N,) bool."""
        return column_of(self.rows, f"has_{name}").to_numpy()

    def blocks(self, most_shards: int | None = None) -> Iterator[tuple[np.ndarray, dict[str, list[np.ndarray]]]]:
        """Yield the positions of some creatives, and their embeddings (T, E) by modality; (0, E) of an absent one."""
        for positions, table in own_blocks(self.rows, self.columns, most_shards):
            yield positions, {name: embeddings_of(table, name, size) for name, size in self.sizes.items()}

    def moments(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return mean and deviation (E,) of each modality's embeddings; of streamed rows, of the first shards."""
        own: dict[str, Moments] = {name: (0, np.zeros(size), np.zeros(size)) for name, size in self.sizes.items()}
        for _, block in self.blocks(SCALED_ON):
            for name, embeddings in block.items():
                frames = np.concatenate(embeddings).astype(np.float64)  # (T, E)
                if len(frames):
                    of_block = len(frames), frames.mean(0), frames.var(0) * len(frames)
                    own[name] = combine_moments(own[name], of_block)
        ranks = of_all_ranks(self.rows, own)
        total = {name: functools.reduce(combine_moments, [rank[name] for rank in ranks]) for name in own}
        return {name: (mean, np.sqrt(squares / max(count, 1))) for name, (count, mean, squares) in total.items()}

    def means(self) -> dict[str, np.ndarray]:
        """Return each modality's embeddings averaged over time, (N, E); zeros where a creative has none."""
        present = {name: self.present(name) for name in self.sizes}
        own = [
            (
                positions,
                {name: mean_embeddings(block[name], present[name][positions], self.sizes[name]) for name in block},
            )
            for positions, block in self.blocks()
        ]
        means = {name: np.zeros((len(self), size)) for name, size in self.sizes.items()}
        for rank in of_all_ranks(self.rows, own):
            for positions, block in rank:
                for name, values in block.items():
                    means[name][positions] = values
        return means


Moments = tuple[int, np.ndarray, np.ndarray]  # count, mean (E,), and sum of squared distances from the mean (E,)


def combine_moments(one: Moments, other: Moments) -> Moments:
    """Return the moments of two sets of numbers together (Chan et al. 1979); exact for numbers that never vary."""
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
    """Return a modality's embeddings (T, E) of each row; (0, E) where it has none."""
    return [
        float32_array(value).reshape(-1, size) if present.as_py() else np.zeros((0, size), np.float32)
        for value, present in zip(table[name], table[f"has_{name}"], strict=True)
    ]


def float32_array(cell: pa.Scalar) -> np.ndarray:
    """Copy the numbers of a list."""
    return np.array(cell.values, np.float32)


def column_of(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """Read a column of the selected rows, and no other."""
    return rows.select_columns([name]).with_format("arrow")[:][name]


def embedding_sizes(
    rows: datasets.Dataset, modalities: Sequence[str], model_sizes: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the numbers of an embedding of each modality, from the first creative that has it.

    Args:
        model_sizes: of a saved model: other sizes are refused, and a modality that no creative has is masked.
    """
    sizes = {}
    for name in modalities:
        known = name in rows.column_names or is_streamed(rows)
        if not known or f"has_{name}" not in rows.column_names:
            raise ValueError(f"modalities: the data set has no {name!r}; it has {', '.join(rows.column_names)}")
        present = column_of(rows, f"has_{name}").to_numpy()
        if present.any():
            sizes[name] = embedding_size(rows, name, int(present.argmax()))
        elif model_sizes is None:
            raise ValueError(f"modalities: no creative has {name!r}; leave it out of model_config.modalities")
        else:
            sizes[name] = model_sizes[name]
        if model_sizes is not None and sizes[name] != model_sizes[name]:
            raise ValueError(
                f"{name}: an embedding of the data set has {sizes[name]} numbers and the model takes "
                f"{model_sizes[name]}; give it those of the encoder that it was trained on"
            )
    return sizes


def embedding_size(rows: datasets.Dataset, name: str, index: int) -> int:
    """Return the numbers of an embedding in one row."""
    row = rows[index]
    cell = StreamedRows(rows, [name]).peek(index, name) if is_streamed(rows) else row[name]
    return len(cell) // row.get(f"{name}_frames", 1)
