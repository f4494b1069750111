"""Hard negatives: which items a model takes for the target, remembered over epochs in a table of bounded size.

Scores of an epoch are applied at its end and change what the next epoch draws, so that a plan stays a pure function of
what was known when its epoch began. A negative with a very high score in epoch after epoch is more likely a target
that nobody labelled: it is put aside, not trained on harder, and listed for people to hear.
"""

import json
import os
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from media.audioset import Labels
from system.text import csv_text, reason_of
from tasks.detection.items import Kind
from tasks.detection.pools import ClipPools
from tasks.detection.settings import MiningSettings

# N items of the data set, T entries of the table


STATE_VERSION = 1
FIXED_POINT = 2**32  # scores are summed as whole numbers, so that the sum does not depend on their order
YOUTUBE = "https://www.youtube.com/watch?v={}&t={:d}s"
ID_LENGTH = 11  # characters of YouTube's ids
KINDS_OF_ENTRIES = (np.int32, np.float32, np.uint16, np.uint8)
NAMED = 5  # items that an error names


@dataclass(frozen=True)
class Entries:
    """What is remembered of negatives, sorted by item; columns (T,)."""

    item: np.ndarray  # int32
    score: np.ndarray  # float32, its scores over the epochs, newer ones weighing more
    last_epoch: np.ndarray  # uint16, in which it was scored last
    suspicious: np.ndarray  # uint8, epochs in which its score was above the suspect threshold, 255 for more

    @classmethod
    def empty(cls) -> "Entries":
        """None."""
        return cls(*(np.zeros(0, kind) for kind in KINDS_OF_ENTRIES))

    def take(self, which: np.ndarray) -> "Entries":
        """Some of them, by place or by a mask."""
        return Entries(*(getattr(self, column.name)[which] for column in fields(self)))

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class MinedEpoch:
    """How many negatives were scored in an epoch, and how many were hard after it."""

    epoch: int
    scored: int
    mean_score: float | None  # None: nothing was scored
    hard: int
    quarantined: int


class MiningTable:
    """Hard negatives and suspects of a training.

    `apply` takes the scores of an epoch, all at once or in parts as they come: the table is the same. `hardest` gives
    what the next epoch shall draw, which ends the epoch.

    An item's score of an epoch is the highest that it had; its score in the table is `score_memory` of the old one and
    the rest of the new one. An item comes in with a score above `hard_threshold`; where there is no room the lowest
    scores go, those of suspects last.
    """

    def __init__(self, settings: MiningSettings, pools: ClipPools) -> None:
        self.settings, self.pools = settings, pools
        self.entries = Entries.empty()  # without what the running epoch has brought
        self.history: list[MinedEpoch] = []
        self.running = -1  # epoch whose scores come in, -1 for none
        self.scored, self.total = 0, 0  # negatives of the running epoch, and the sum of their scores in fixed point
        self.new_items, self.new_scores = np.zeros(0, np.int32), np.zeros(0, np.float32)  # of the running epoch

    def __len__(self) -> int:
        return len(self.folded())

    def apply(self, epoch: int, items: np.ndarray, scores: np.ndarray) -> MinedEpoch:
        """Take in scores (S,) of items (S,) and return the epoch's record so far.

        Positives are left out.
        """
        items, scores = np.asarray(items, np.int64), np.asarray(scores, np.float32)
        self._check(epoch, items, scores)
        if epoch != self.running:
            self._finish()
            self.running = epoch
        kept = self.pools.items.kind[items] != Kind.POSITIVE
        items, scores = items[kept].astype(np.int32), scores[kept]
        self.scored += len(items)
        self.total += int(np.rint(scores.astype(np.float64) * FIXED_POINT).astype(np.int64).sum())
        self._remember(np.concatenate([self.new_items, items]), np.concatenate([self.new_scores, scores]))
        return self._record()

    def hardest(self) -> tuple[np.ndarray, np.ndarray]:
        """Items, the hardest first, and how often each may come in an epoch; suspects are not among them.

        Ends the running epoch: scores that came in later for it would have changed what is given here.
        """
        self._finish()
        chosen = self.entries.take(
            ~self._put_aside(self.entries) & (self.entries.score > self.settings.hard_threshold)
        )
        chosen = chosen.take(_hardest_first(chosen))
        return chosen.item.astype(np.int64), self._uses(chosen.score)

    def review_list(self) -> dict[str, np.ndarray]:
        """Suspects, the highest score first: `item`, `score`, `epochs` above the suspect threshold, `last_epoch`."""
        entries = self.folded()
        suspects = entries.take(self._put_aside(entries))
        suspects = suspects.take(_hardest_first(suspects))
        columns = {"item": suspects.item.astype(np.int64), "score": suspects.score}
        return columns | {"epochs": suspects.suspicious, "last_epoch": suspects.last_epoch}

    def folded(self) -> Entries:
        """The table with what the running epoch has brought so far."""
        if self.running < 0 or not len(self.new_items):
            return self.entries
        old, memory = self.entries, np.float32(self.settings.score_memory)
        item = np.union1d(old.item, self.new_items)
        score, last_epoch, suspicious = (np.zeros(len(item), kind) for kind in KINDS_OF_ENTRIES[1:])
        before, now = np.searchsorted(item, old.item), np.searchsorted(item, self.new_items)
        score[before], last_epoch[before], suspicious[before] = old.score, old.last_epoch, old.suspicious
        known = np.zeros(len(item), bool)
        known[before] = True
        both = known[now]
        score[now[both]] = memory * score[now[both]] + (1 - memory) * self.new_scores[both]
        score[now[~both]] = self.new_scores[~both]
        last_epoch[now] = self.running
        suspicious[now] += (self.new_scores > self.settings.suspect_threshold) & (suspicious[now] < 255)
        entries = Entries(item, score, last_epoch, suspicious)
        kept = np.lexsort((item, -score, ~self._put_aside(entries)))[: self.settings.mining_capacity]
        return entries.take(np.sort(kept))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays from which `load_state_dict` goes on; np.savez takes them without pickle."""
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
        """Go on where `state_dict` was called; ValueError when that was with other data."""
        if int(state["version"]) != STATE_VERSION:
            raise ValueError(f"hard negatives of version {state['version']}, this is version {STATE_VERSION}")
        if str(state["pools"]) != self.pools.digest:
            raise ValueError(
                f"the hard negatives are of the items {state['pools']}, these are {self.pools.digest}: the data or "
                "the settings of its pools have changed; take those of the checkpoint, or start again"
            )
        self.entries = Entries(*(state[column.name] for column in fields(Entries)))
        self.history = [MinedEpoch(**epoch) for epoch in json.loads(str(state["history"]))]
        self.running, self.scored, self.total = (int(state[name]) for name in ("running", "scored", "total"))
        self.new_items, self.new_scores = state["new_items"], state["new_scores"]

    def _check(self, epoch: int, items: np.ndarray, scores: np.ndarray) -> None:
        last = max([self.running, *(mined.epoch + 1 for mined in self.history[-1:])])
        if epoch < last:
            raise ValueError(f"scores of epoch {epoch} come when the hard negatives of {last - 1} were given out")
        wrong = ~((scores >= 0) & (scores <= 1))
        if wrong.any():
            named = ", ".join(
                f"{item} ({score})" for item, score in zip(items[wrong][:5], scores[wrong][:5], strict=True)
            )
            raise ValueError(
                f"epoch {epoch}: {np.count_nonzero(wrong)} scores are not within 0 to 1, of items {named}: the model "
                "gives no probabilities, or has diverged; lower the learning rate"
            )
        unknown = (items < 0) | (items >= len(self.pools.items))
        if unknown.any():
            raise ValueError(f"epoch {epoch}: there is no item {items[unknown][0]}, there are {len(self.pools.items)}")

    def _remember(self, items: np.ndarray, scores: np.ndarray) -> None:
        """Keep the highest score of each item of the running epoch, of those that can end up in the table."""
        order = np.lexsort((-scores, items))
        items, first = np.unique(items[order], return_index=True)
        scores = scores[order][first]
        known = np.isin(items, self.entries.item)
        hard = np.flatnonzero(~known & (scores > self.settings.hard_threshold))
        hard = hard[np.lexsort((items[hard], -scores[hard]))[: self.settings.mining_capacity]]
        kept = np.sort(np.concatenate([np.flatnonzero(known), hard]))
        self.new_items, self.new_scores = items[kept], scores[kept]

    def _finish(self) -> None:
        """End the running epoch: its scores become part of the table, and its record of the history."""
        if self.running >= 0:
            self.history.append(self._record())
            self.entries = self.folded()
        self.running, self.scored, self.total = -1, 0, 0
        self.new_items, self.new_scores = np.zeros(0, np.int32), np.zeros(0, np.float32)

    def _record(self) -> MinedEpoch:
        entries = self.folded()
        return MinedEpoch(
            epoch=self.running,
            scored=self.scored,
            mean_score=self.total / FIXED_POINT / self.scored if self.scored else None,
            hard=int(self._hard(entries).sum()),
            quarantined=int(self._put_aside(entries).sum()),
        )

    def _hard(self, entries: Entries) -> np.ndarray:
        return (entries.score > self.settings.hard_threshold) & ~self._put_aside(entries)

    def _put_aside(self, entries: Entries) -> np.ndarray:
        """Which entries (T,) bool are suspects: never those of which a person said that they are negatives."""
        checked = self.pools.items.kind[entries.item] == Kind.EXPLICIT
        return (entries.suspicious >= self.settings.suspect_epochs) & ~checked

    def _uses(self, scores: np.ndarray) -> np.ndarray:
        """1 just above the threshold, `max_uses` at the top, in equal steps between."""
        low, most = self.settings.hard_threshold, self.settings.max_uses
        share = (scores.astype(np.float64) - low) / max(1 - low, 1e-9)
        return np.clip(1 + np.floor(share * most), 1, most).astype(np.int64)


def _hardest_first(entries: Entries) -> np.ndarray:
    """Places of entries by falling score; equal ones by item, so that the order is one."""
    return np.lexsort((entries.item, -entries.score))


def review_csv(mining: MiningTable, table: pa.Table, labels: Labels) -> str:
    """Suspects for people to hear, a line each: the clip, where to find it on YouTube, its scores and its labels.

    Args:
        table: the rows of the data set, with clip_id, start_seconds and labels.
    """
    found = mining.review_list()
    items = mining.pools.items.take(found["item"])
    rows = table.select(["clip_id", "start_seconds", "labels"]).take(pa.array(items.clip)).to_pylist()
    header = ["clip_id", "link", "file_seconds", "score", "epochs", "last_epoch", "kind", "event", "labels"]
    lines: list[list] = [header]
    for i, row in enumerate(rows):
        inside = 0.0 if np.isnan(items.start[i]) else float(items.start[i])
        known = row["start_seconds"] is not None and len(row["clip_id"]) == ID_LENGTH
        link = YOUTUBE.format(row["clip_id"], int(row["start_seconds"] + inside)) if known else ""
        anywhere = np.isnan(items.start[i])
        lines.append(
            [
                row["clip_id"],
                link,
                "" if anywhere else f"{items.start[i]:.2f}-{items.end[i]:.2f}",
                f"{found['score'][i]:.4f}",
                int(found["epochs"][i]),
                int(found["last_epoch"][i]),
                "clip" if anywhere else "event",
                "" if anywhere else labels.names[items.label[i]],
                "; ".join(labels.names[code] for code in row["labels"] or []),
            ]
        )
    return csv_text(lines)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays under a name only when all of them are there; never with pickle."""
    draft = path.with_name(f".{path.name}.part")
    try:
        with open(draft, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote; ValueError when it is not whole, or holds anything but arrays."""
    if not path.is_file():
        raise ValueError(f"{path} is not there: the checkpoint has no state of its plan; it cannot be gone on from")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({reason_of(error)}); take an older checkpoint") from None
