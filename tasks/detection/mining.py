"""Hard-negative mining: a bounded table of the items that the model mistakes for the target, kept over epochs.

The scores of an epoch are applied at its end and change the draws of the next one, so the plan of an epoch depends
only on earlier epochs. A negative with a very high score in several epochs is probably an unlabelled target: it is
quarantined, not drawn more often, and listed for people to review.
"""

import json
import os
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from media.audioset import Labels
from system.text import csv_text, plural, reason_of
from tasks.detection.items import Kind
from tasks.detection.pools import ClipPools
from tasks.detection.settings import MiningSettings

# N items of the data set, T entries of the table, S scores


STATE_VERSION = 1
FIXED_POINT = 2**32  # scores are summed as integers, so that the sum does not depend on their order
YOUTUBE = "https://www.youtube.com/watch?v={}&t={:d}s"
ID_LENGTH = 11  # characters of a YouTube id; clips with other ids get no link
ENTRY_DTYPES = (np.int32, np.float32, np.uint16, np.uint8)  # of the columns of Entries
NAMED = 5  # items named in an error message


@dataclass(frozen=True)
class Entries:
    """The remembered negatives, sorted by item; columns (T,)."""

    item: np.ndarray  # int32
    score: np.ndarray  # float32, moving average of its scores over epochs
    last_epoch: np.ndarray  # uint16, epoch of its latest score
    suspicious: np.ndarray  # uint8, epochs with a score above the suspect threshold, at most 255

    @classmethod
    def empty(cls) -> "Entries":
        """Return an empty table."""
        return cls(*(np.zeros(0, dtype) for dtype in ENTRY_DTYPES))

    def take(self, which: np.ndarray) -> "Entries":
        """Select entries by position or mask."""
        return Entries(*(getattr(self, column.name)[which] for column in fields(self)))

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class MinedEpoch:
    """Counts of scored, hard and quarantined negatives of one epoch."""

    epoch: int
    scored: int
    mean_score: float | None  # None: no negative was scored
    hard: int
    quarantined: int


class MiningTable:
    """Hard negatives and suspects of a training run.

    `apply` adds scores of an epoch, all at once or in parts; the resulting table is the same. `hardest` ends the
    epoch and returns the items that the next one should draw.

    The score of an item in one epoch is the highest one. Its table score is `score_memory` times the old one plus
    the rest times the new one. An item enters the table with a score above `hard_threshold`. If the table is full,
    the lowest scores are dropped, those of suspects last.
    """

    def __init__(self, settings: MiningSettings, pools: ClipPools) -> None:
        self.settings, self.pools = settings, pools
        self.entries = Entries.empty()  # without the running epoch
        self.history: list[MinedEpoch] = []
        self.running = -1  # epoch whose scores are being added, -1 for none
        self.scored, self.total = 0, 0  # negatives of the running epoch, sum of their scores in fixed point
        self.new_items, self.new_scores = np.zeros(0, np.int32), np.zeros(0, np.float32)  # of the running epoch

    def __len__(self) -> int:
        return len(self.with_running_epoch())

    def apply(self, epoch: int, items: np.ndarray, scores: np.ndarray) -> MinedEpoch:
        """Add scores (S,) of items (S,), ignoring positives; returns the record of the epoch so far.

        Raises ValueError for an epoch that has ended, scores outside [0, 1] and unknown items.
        """
        items, scores = np.asarray(items, np.int64), np.asarray(scores, np.float32)
        self._check(epoch, items, scores)
        if epoch != self.running:
            self._finish()
            self.running = epoch
        negative = self.pools.items.kind[items] != Kind.POSITIVE
        items, scores = items[negative].astype(np.int32), scores[negative]
        self.scored += len(items)
        self.total += int(np.rint(scores.astype(np.float64) * FIXED_POINT).astype(np.int64).sum())
        self._remember(np.concatenate([self.new_items, items]), np.concatenate([self.new_scores, scores]))
        return self._record()

    def hardest(self) -> tuple[np.ndarray, np.ndarray]:
        """Return hard items without suspects, hardest first, and how often each may come in an epoch.

        Ends the running epoch, because later scores of that epoch would have changed the result.
        """
        self._finish()
        chosen = self.entries.take(self._is_hard(self.entries))
        chosen = chosen.take(_hardest_first(chosen))
        return chosen.item.astype(np.int64), self._uses(chosen.score)

    def review_list(self) -> dict[str, np.ndarray]:
        """Return suspects, highest score first: `item`, `score`, `epochs` as a suspect, `last_epoch`."""
        entries = self.with_running_epoch()
        suspects = entries.take(self._is_suspect(entries))
        suspects = suspects.take(_hardest_first(suspects))
        columns = {"item": suspects.item.astype(np.int64), "score": suspects.score}
        return columns | {"epochs": suspects.suspicious, "last_epoch": suspects.last_epoch}

    def with_running_epoch(self) -> Entries:
        """Return the table including the scores of the running epoch so far."""
        if self.running < 0 or not len(self.new_items):
            return self.entries
        old, memory = self.entries, np.float32(self.settings.score_memory)
        item = np.union1d(old.item, self.new_items)
        score, last_epoch, suspicious = (np.zeros(len(item), dtype) for dtype in ENTRY_DTYPES[1:])
        old_at, new_at = np.searchsorted(item, old.item), np.searchsorted(item, self.new_items)
        score[old_at], last_epoch[old_at], suspicious[old_at] = old.score, old.last_epoch, old.suspicious
        in_table = np.zeros(len(item), bool)
        in_table[old_at] = True
        seen = in_table[new_at]  # new scores of items that are in the table
        score[new_at[seen]] = memory * score[new_at[seen]] + (1 - memory) * self.new_scores[seen]
        score[new_at[~seen]] = self.new_scores[~seen]
        last_epoch[new_at] = self.running
        # uint8: 255 must not wrap around to 0.
        suspicious[new_at] += (self.new_scores > self.settings.suspect_threshold) & (suspicious[new_at] < 255)
        entries = Entries(item, score, last_epoch, suspicious)
        # Suspects first: dropping one would forget its count, and it would be drawn as a hard negative again.
        kept = np.lexsort((item, -score, ~self._is_suspect(entries)))[: self.settings.mining_capacity]
        return entries.take(np.sort(kept))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the state as arrays that np.savez can store without pickle."""
        return {
            "version": np.array(STATE_VERSION),
            "pools": np.array(self.pools.digest),
            "history": np.array(json.dumps([asdict(epoch) for epoch in self.history])),
            "running": np.array(self.running),
            "scored": np.array(self.scored),
            "total": np.array(self.total),
            "new_items": self.new_items,
            "new_scores": self.new_scores,
            **{column.name: getattr(self.entries, column.name) for column in fields(Entries)},
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state from `state_dict`; raises ValueError if it belongs to another version or other data."""
        if int(state["version"]) != STATE_VERSION:
            raise ValueError(
                f"version={state['version']}: hard negatives are stored in version {STATE_VERSION}. Resume with the "
                "code that wrote the checkpoint, or start again."
            )
        if str(state["pools"]) != self.pools.digest:
            raise ValueError(
                f"pools={state['pools']}: the hard negatives belong to other items than {self.pools.digest}; the data "
                "or the settings of the pools have changed. Use those of the checkpoint, or start again."
            )
        self.entries = Entries(*(state[column.name] for column in fields(Entries)))
        self.history = [MinedEpoch(**epoch) for epoch in json.loads(str(state["history"]))]
        self.running, self.scored, self.total = (int(state[name]) for name in ("running", "scored", "total"))
        self.new_items, self.new_scores = state["new_items"], state["new_scores"]

    def _check(self, epoch: int, items: np.ndarray, scores: np.ndarray) -> None:
        last = max([self.running, *(mined.epoch + 1 for mined in self.history[-1:])])
        if epoch < last:
            raise ValueError(
                f"epoch={epoch}: too late, hard negatives after epoch {last - 1} are in use. Apply the scores of an "
                "epoch before calling `hardest`."
            )
        wrong = ~((scores >= 0) & (scores <= 1))
        count = int(np.count_nonzero(wrong))
        if count:
            named = ", ".join(
                f"{item} ({score})" for item, score in zip(items[wrong][:NAMED], scores[wrong][:NAMED], strict=True)
            )
            raise ValueError(
                f"epoch={epoch}: {plural(count, 'score')} outside 0 to 1, items {named}; the model "
                "returns no probabilities or has diverged. Lower learning_rate."
            )
        unknown = (items < 0) | (items >= len(self.pools.items))
        if unknown.any():
            raise ValueError(
                f"item={items[unknown][0]}: unknown in epoch {epoch}; the pools have {len(self.pools.items)} items. "
                "Use the pools that the scores belong to."
            )

    def _remember(self, items: np.ndarray, scores: np.ndarray) -> None:
        """Keep the highest score of each item of the running epoch, for items that can end up in the table."""
        order = np.lexsort((-scores, items))
        items, first = np.unique(items[order], return_index=True)
        scores = scores[order][first]
        # Items in the table are kept with any score, because a low one lowers their average.
        in_table = np.isin(items, self.entries.item)
        hard = np.flatnonzero(~in_table & (scores > self.settings.hard_threshold))
        hard = hard[np.lexsort((items[hard], -scores[hard]))[: self.settings.mining_capacity]]
        kept = np.sort(np.concatenate([np.flatnonzero(in_table), hard]))
        self.new_items, self.new_scores = items[kept], scores[kept]

    def _finish(self) -> None:
        """Move the scores of the running epoch into the table and its record into the history."""
        if self.running >= 0:
            self.history.append(self._record())
            self.entries = self.with_running_epoch()
        self.running, self.scored, self.total = -1, 0, 0
        self.new_items, self.new_scores = np.zeros(0, np.int32), np.zeros(0, np.float32)

    def _record(self) -> MinedEpoch:
        entries = self.with_running_epoch()
        return MinedEpoch(
            epoch=self.running,
            scored=self.scored,
            mean_score=self.total / FIXED_POINT / self.scored if self.scored else None,
            hard=int(self._is_hard(entries).sum()),
            quarantined=int(self._is_suspect(entries).sum()),
        )

    def _is_hard(self, entries: Entries) -> np.ndarray:
        return (entries.score > self.settings.hard_threshold) & ~self._is_suspect(entries)

    def _is_suspect(self, entries: Entries) -> np.ndarray:
        """Return which entries (T,) bool are suspects; items confirmed negative by an annotator never are."""
        checked = self.pools.items.kind[entries.item] == Kind.EXPLICIT
        return (entries.suspicious >= self.settings.suspect_epochs) & ~checked

    def _uses(self, scores: np.ndarray) -> np.ndarray:
        """Return the allowed uses (S,): 1 just above the threshold, `max_uses` at score 1, equal steps between."""
        low, max_uses = self.settings.hard_threshold, self.settings.max_uses
        # 1e-9 avoids a division by 0 at hard_threshold=1.
        share = (scores.astype(np.float64) - low) / max(1 - low, 1e-9)
        return np.clip(1 + np.floor(share * max_uses), 1, max_uses).astype(np.int64)


def _hardest_first(entries: Entries) -> np.ndarray:
    """Return positions by falling score; ties by item, so that the order is deterministic."""
    return np.lexsort((entries.item, -entries.score))


def review_csv(mining: MiningTable, table: pa.Table, labels: Labels) -> str:
    """Format the suspects as CSV for review, one line per clip: id, YouTube link, scores and labels.

    Args:
        table: rows of the data set, with clip_id, start_seconds and labels.
    """
    suspects = mining.review_list()
    items = mining.pools.items.take(suspects["item"])
    rows = table.select(["clip_id", "start_seconds", "labels"]).take(pa.array(items.clip)).to_pylist()
    header = ["clip_id", "link", "file_seconds", "score", "epochs", "last_epoch", "kind", "event", "labels"]
    lines: list[list] = [header]
    for i, row in enumerate(rows):
        offset = 0.0 if np.isnan(items.start[i]) else float(items.start[i])
        has_link = row["start_seconds"] is not None and len(row["clip_id"]) == ID_LENGTH
        link = YOUTUBE.format(row["clip_id"], int(row["start_seconds"] + offset)) if has_link else ""
        anywhere = np.isnan(items.start[i])
        lines.append(
            [
                row["clip_id"],
                link,
                "" if anywhere else f"{items.start[i]:.2f}-{items.end[i]:.2f}",
                f"{suspects['score'][i]:.4f}",
                int(suspects["epochs"][i]),
                int(suspects["last_epoch"][i]),
                "clip" if anywhere else "event",
                "" if anywhere else labels.names[items.label[i]],
                "; ".join(labels.names[code] for code in row["labels"] or []),
            ]
        )
    return csv_text(lines)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to an .npz file atomically and without pickle."""
    partial_path = path.with_name(f".{path.name}.part")
    try:
        with open(partial_path, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(partial_path, path)
    finally:
        partial_path.unlink(missing_ok=True)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of `write_arrays`; raises ValueError if the file is missing, damaged or holds objects."""
    if not path.is_file():
        raise ValueError(f"{path}: missing, so the checkpoint has no plan. Resume from another one, or start again.")
    try:
        # Without pickle, because a checkpoint may come from somebody else and unpickling runs its code.
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read ({reason_of(error)}). Use an older checkpoint.") from None
