"""The split of utterances that a data set brings."""

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
    """The utterances of each side."""

    places: dict[str, np.ndarray]  # side -> rows of the data set
    members: dict[str, list[str]]  # side -> ids, in order of the rows
    sides: dict[str, SideCounts]
    warning: str | None

    @classmethod
    def of(cls, rows: datasets.Dataset, names: dict[str, str]) -> "UtteranceSplit":
        """Divide by the column `split`.

        Args:
            names: side -> its name in the data.
        """
        has = [f"has_{name}" for name in MODALITIES]
        table = rows.select_columns(["utterance_id", "split", "dialogue", *has]).with_format("arrow")[:]
        which, ids = table["split"].to_numpy(), table["utterance_id"].to_numpy()
        dialogues = table["dialogue"].to_numpy()
        places = {side: np.flatnonzero(which == name) for side, name in names.items()}
        counts = {
            side: SideCounts(
                utterances=len(where),
                dialogues=len(set(dialogues[where])),
                without={name: int((~table[f"has_{name}"].to_numpy()[where]).sum()) for name in MODALITIES},
            )
            for side, where in places.items()
        }
        sides_of = Counter(dialogue for where in places.values() for dialogue in set(dialogues[where]))
        shared = sum(count > 1 for count in sides_of.values())
        warning = f"utterances of {plural(shared, 'dialogue')} are on more than one side" if shared else None
        return cls(places, {side: ids[where].tolist() for side, where in places.items()}, counts, warning)

    @property
    def sha256(self) -> str:
        """The hash of the ids of each side; the order of the data does not matter."""
        return digest_of_sides({side: sorted(ids) for side, ids in self.members.items()})

    def record(self) -> dict[str, Any]:
        """Return the content of splits.json."""
        return {
            "settings": {"split_by": "dialogue, as the data set divides them"},
            "sha256": self.sha256,
            "counts": {side: counts.utterances for side, counts in self.sides.items()},
            "warning": self.warning,
            "trials": {side: sorted(ids) for side, ids in self.members.items()},
        }
