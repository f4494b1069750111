"""Which clips are on which side, as a record that can be compared: the sides follow from ids, tables and settings."""

from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np

from evaluation.splits import SIDES, digest_of_sides
from tasks.detection.pools import ClipPools, PoolSettings

# R rows of the data set


LISTED = 100_000  # clips of a side whose ids are in the record; of more, only the hash is recorded


@dataclass(frozen=True)
class ClipSplit:
    """The clips of each side."""

    settings: PoolSettings
    members: dict[str, list[str]]  # ids, sorted
    sides: dict[str, dict[str, int]]  # side -> clips, and those with the target

    @classmethod
    def of(cls, rows: datasets.Dataset, pools: ClipPools, settings: PoolSettings) -> "ClipSplit":
        """The split that pools stand for; rows are those that the pools were built from."""
        ids = rows.select_columns(["clip_id"]).data.table["clip_id"]
        items = pools.items
        positives = np.unique(items.clip[pools.positives])
        found = {"train": (np.unique(items.clip), positives)}
        found |= {side: (clips.rows, clips.rows[clips.targets]) for side, clips in pools.sides.items()}
        members = {side: sorted(ids.take(found[side][0]).to_pylist()) for side in SIDES}
        sides = {
            side: {"clips": len(found[side][0]), "with_target": len(found[side][1])}
            | ({"ambiguous": pools.sides[side].ambiguous} if side in pools.sides else {"items": len(items)})
            for side in SIDES
        }
        return cls(settings, members, sides)

    @property
    def sha256(self) -> str:
        """A digest of who is where; it does not depend on the order of the data."""
        return digest_of_sides(self.members)

    def record(self) -> dict[str, Any]:
        """What is saved next to a model: settings, hash, and the clips of each side that are not too many."""
        return {
            "settings": asdict(self.settings),
            "sha256": self.sha256,
            "counts": {side: counts["clips"] for side, counts in self.sides.items()},
            "warning": None,
            "trials": {side: ids if len(ids) <= LISTED else [] for side, ids in self.members.items()},
        }
