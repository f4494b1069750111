"""Split creatives by a hash of their ids."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evaluation.splits import SIDES, SplitSettings, digest_of_sides, side_of


@dataclass(frozen=True)
class CreativeSplitSettings:
    """How creatives are divided: by a hash of their id, so that a new one moves no other."""

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
        """Divide creatives: the lowest hashes are the test, those after them the validation."""
        rule = SplitSettings(**asdict(settings))
        side = np.array([side_of(creative, rule) for creative in ids])
        places = {name: np.flatnonzero(side == code) for code, name in enumerate(SIDES)}
        members = {name: sorted(ids[place] for place in where.tolist()) for name, where in places.items()}
        return cls(settings, places, members)

    @property
    def sha256(self) -> str:
        """The hash of the ids of each side, which does not depend on the order of the data."""
        return digest_of_sides(self.members)

    def record(self) -> dict[str, Any]:
        """Return what `splits.json` holds."""
        return {
            "settings": asdict(self.settings),
            "sha256": self.sha256,
            "counts": {side: len(ids) for side, ids in self.members.items()},
            "warning": None,
            "trials": self.members,
        }
