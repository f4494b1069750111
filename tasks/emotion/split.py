"""Use the split that the data set defines."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from evaluation.splits import digest_of_sides
from modeling.configuration_fusion import MODALITIES
from system.text import plural
from tasks.emotion.records import SideCounts


@dataclass(frozen=True)
class UtteranceSplit:
    """The utterances of each split."""

    indices: dict[str, np.ndarray]  # split -> row indices of the data set
    members: dict[str, list[str]]  # split -> utterance ids, in the order of the rows
    sides: dict[str, SideCounts]
    warning: str | None

    @classmethod
    def of(cls, rows: datasets.Dataset, names: dict[str, str]) -> "UtteranceSplit":
        """Split the rows by their column `split`.

        Args:
            names: split -> its name in the column.
        """
        has = [f"has_{name}" for name in MODALITIES]
        table = rows.select_columns(["utterance_id", "split", "dialogue", *has]).with_format("arrow")[:]
        split_names, ids = table["split"].to_numpy(), table["utterance_id"].to_numpy()
        dialogues = table["dialogue"].to_numpy()
        indices = {side: np.flatnonzero(split_names == name) for side, name in names.items()}
        counts = {
            side: SideCounts(
                utterances=len(rows_of_side),
                dialogues=len(set(dialogues[rows_of_side])),
                without={name: int((~table[f"has_{name}"].to_numpy()[rows_of_side]).sum()) for name in MODALITIES},
            )
            for side, rows_of_side in indices.items()
        }
        splits_of_dialogue = Counter(
            dialogue for rows_of_side in indices.values() for dialogue in set(dialogues[rows_of_side])
        )
        # Utterances of one dialogue share speakers and topic, so a shared dialogue leaks into the test scores.
        shared = sum(count > 1 for count in splits_of_dialogue.values())
        warning = f"utterances of {plural(shared, 'dialogue')} are in more than one split" if shared else None
        members = {side: ids[rows_of_side].tolist() for side, rows_of_side in indices.items()}
        return cls(indices, members, counts, warning)

    @property
    def sha256(self) -> str:
        """The hash of the ids of each split. The order of the data does not matter."""
        return digest_of_sides({side: sorted(ids) for side, ids in self.members.items()})

    def record(self) -> dict[str, Any]:
        """Return the content of splits.json."""
        return {
            "settings": {"split_by": "dialogue, as the data set divides them"},
            "sha256": self.sha256,
            "counts": {side: counts.utterances for side, counts in self.sides.items()},
            "warning": self.warning,
            # All tasks use this key, so here it holds utterance ids.
            "trials": {side: sorted(ids) for side, ids in self.members.items()},
        }
