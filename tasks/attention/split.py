"""Split creatives by a hash of their ids."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evaluation.splits import SIDES, SplitSettings, digest_of_sides, side_of


@dataclass(frozen=True)
class CreativeSplitSettings:
    """Settings of the split, which hashes creative ids: a new creative never moves another to a different split."""

    split_seed: int = field(
        default=0, metadata={"help": "Seed of the split. The same seed always gives the same split."}
    )
    validation_fraction: float = field(
        default=0.15, metadata={"help": "Share of ids in the validation split, which selects the checkpoint."}
    )
    test_fraction: float = field(
        default=0.15, metadata={"help": "Share of ids in the test split, which is scored once, at the end."}
    )

    def __post_init__(self) -> None:
        held_out = self.validation_fraction + self.test_fraction
        if not (0 < self.validation_fraction and 0 < self.test_fraction and held_out < 1):
            raise ValueError(
                f"validation_fraction={self.validation_fraction}, test_fraction={self.test_fraction}: a split would "
                "be empty. Give two numbers above 0 whose sum is below 1."
            )


@dataclass(frozen=True)
class CreativeSplit:
    """The creatives of each split."""

    settings: CreativeSplitSettings
    indices: dict[str, np.ndarray]  # split -> row indices of the data set
    members: dict[str, list[str]]  # split -> creative ids, sorted

    @classmethod
    def of(cls, ids: Sequence[str], settings: CreativeSplitSettings) -> "CreativeSplit":
        """Assign each creative to a split: the lowest hashes to test, the next to validation, the rest to train."""
        rule = SplitSettings(**asdict(settings))
        sides = np.array([side_of(creative, rule) for creative in ids])
        indices = {name: np.flatnonzero(sides == code) for code, name in enumerate(SIDES)}
        members = {name: sorted(ids[row] for row in rows.tolist()) for name, rows in indices.items()}
        return cls(settings, indices, members)

    @property
    def sha256(self) -> str:
        """The hash of the ids of each split. `members` is sorted, so the order of the data does not matter."""
        return digest_of_sides(self.members)

    def record(self) -> dict[str, Any]:
        """Return the content of splits.json."""
        return {
            "settings": asdict(self.settings),
            "sha256": self.sha256,
            "counts": {side: len(ids) for side, ids in self.members.items()},
            "warning": None,
            # All tasks use this key, so here it holds creative ids.
            "trials": self.members,
        }
