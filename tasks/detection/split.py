"""The split of a data set as a record that can be compared; it follows from ids, tables and settings."""

from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np

from evaluation.splits import SIDES, digest_of_sides
from tasks.detection.pools import ClipPools, PoolSettings

# R rows of the data set


LISTED = 100_000  # maximum clips of a split whose ids are recorded; larger splits are recorded by hash only


@dataclass(frozen=True)
class ClipSplit:
    """The clips of each split."""

    settings: PoolSettings
    members: dict[str, list[str]]  # ids, sorted
    sides: dict[str, dict[str, int]]  # split -> counts of clips, and of clips with the target

    @classmethod
    def of(cls, rows: datasets.Dataset, pools: ClipPools, settings: PoolSettings) -> "ClipSplit":
        """Make the split of pools; `rows` are those that the pools were built from."""
        ids = rows.select_columns(["clip_id"]).data.table["clip_id"]
        items = pools.items
        positives = np.unique(items.clip[pools.positives])
        clips_of = {"train": (np.unique(items.clip), positives)}
        clips_of |= {side: (clips.rows, clips.rows[clips.targets]) for side, clips in pools.sides.items()}
        members = {side: sorted(ids.take(clips_of[side][0]).to_pylist()) for side in SIDES}
        sides = {
            side: {"clips": len(clips_of[side][0]), "with_target": len(clips_of[side][1])}
            | ({"ambiguous": pools.sides[side].ambiguous} if side in pools.sides else {"items": len(items)})
            for side in SIDES
        }
        return cls(settings, members, sides)

    @property
    def sha256(self) -> str:
        """Digest of the members of each split; independent of the order of the data."""
        return digest_of_sides(self.members)

    def record(self) -> dict[str, Any]:
        """Return the record saved next to a model: settings, hash, counts, and the clips of splits up to LISTED."""
        return {
            "settings": asdict(self.settings),
            "sha256": self.sha256,
            "counts": {side: counts["clips"] for side, counts in self.sides.items()},
            "warning": None,
            "trials": {side: ids if len(ids) <= LISTED else [] for side, ids in self.members.items()},
        }
