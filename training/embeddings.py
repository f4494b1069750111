"""Embeddings of windows of sound by a frozen encoder: computed once, kept on the disk, read window by window.

    <cache of datasets>/embeddings/<key>/part-00000.npy ...    PART_RECORDS records each

Parts get their names when they are whole. A run that was killed continues after its last part. Processes, of one run
or of several, share the parts: each computes those whose lock no other process holds.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets.config
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

# N records, K frames of embeddings, D numbers of an embedding

PART_RECORDS = 2048
AT_ONCE, LATER = 0.0, -1.0  # s that a lock is waited for; below 0: without end


@dataclass(frozen=True)
class StoredRecords:
    """Records (N,) in a folder, which stay on the disk; each process opens the files for itself."""

    folder: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> np.void:
        if not 0 <= place < self.count:
            raise IndexError(f"record {place} of {self.count}")
        return opened(self.folder, place // PART_RECORDS)[place % PART_RECORDS]

    def column(self, name: str) -> np.ndarray:
        """One field of all records, in memory."""
        parts = range(0, self.count, PART_RECORDS)
        return np.concatenate([opened(self.folder, number)[name] for number in range(len(parts))])


@dataclass(frozen=True)
class WindowEmbeddings:
    """Stored windows of items, `views` of each: their embeddings, and the items that were served."""

    records: StoredRecords
    views: int

    def of(self, item: int, seed: int) -> tuple[np.ndarray, int]:
        """Embeddings (1 + K, D) float16 of the view that a seed chooses, and the item whose sound it is."""
        record = self.records[item * self.views + seed % self.views]
        return record["embeddings"], int(record["served"])


@functools.lru_cache(maxsize=4096)
def opened(folder: Path, number: int) -> np.ndarray:
    """The records of one part, mapped to memory."""
    return np.load(part_file(folder, number), mmap_mode="r")


def part_file(folder: Path, number: int) -> Path:
    """Where a part lies."""
    return folder / f"part-{number:05d}.npy"


def key_of(settings: Any) -> str:
    """A name for records by all that they depend on, as JSON can write it."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:32]


def array_digest(*arrays: np.ndarray) -> str:
    """A digest of some arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def stored_records(key: str, count: int, compute: Callable[[range], np.ndarray]) -> StoredRecords:
    """The records of a key, after computing those that are not there yet.

    Args:
        compute: records (N,) of some places, of one structured dtype.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "embeddings" / key
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        n: range(first, min(first + PART_RECORDS, count)) for n, first in enumerate(range(0, count, PART_RECORDS))
    }
    missing = [number for number in parts if not part_file(folder, number).exists()]
    with tqdm(total=count, desc="frozen encoder", unit="window", disable=not missing) as bar:
        bar.update(count - sum(len(parts[number]) for number in missing))
        for patience in (AT_ONCE, LATER):  # first what no other process computes, then what those have not finished
            for number in list(missing):
                if computed(part_file(folder, number), functools.partial(compute, parts[number]), patience):
                    missing.remove(number)
                    bar.update(len(parts[number]))
    return StoredRecords(folder, count)


def computed(file: Path, compute: Callable[[], np.ndarray], patience: float) -> bool:
    """Write a part that is not there yet; False where another process does, for longer than `patience` s."""
    lock, draft = file.with_suffix(".lock"), file.with_suffix(".draft")
    try:
        with FileLock(lock, timeout=patience):
            if not file.exists():
                with open(draft, "wb") as stream:
                    np.save(stream, compute())
                os.replace(draft, file)
            lock.unlink(missing_ok=True)  # a process that waits for it will find the part
    except Timeout:
        return False
    return True
