"""Cache the embeddings of a frozen encoder on disk: computed once, then read window by window.

    <cache of datasets>/embeddings/<key>/part-00000.npy ...    PART_RECORDS records each

A part is renamed to its final name when it is complete, so a killed run continues after its last part. Processes of
one run or of several runs share the work: each computes the parts whose lock no other process holds.
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

# Shape suffixes: N records, K frames, D embedding size.

PART_RECORDS = 2048  # records per file; at most this many are computed again after a run is killed
DO_NOT_WAIT, WAIT_FOREVER = 0.0, -1.0  # timeouts of FileLock in s; a negative one means no limit


@dataclass(frozen=True)
class StoredRecords:
    """A sequence of N records that stay on disk and are memory-mapped by each process."""

    folder: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.void:
        if not 0 <= index < self.count:
            raise IndexError(f"record {index} of {self.count}")
        return open_part(self.folder, index // PART_RECORDS)[index % PART_RECORDS]

    def column(self, name: str) -> np.ndarray:
        """Load one field (N, ...) of all records into memory."""
        parts = range(0, self.count, PART_RECORDS)
        return np.concatenate([open_part(self.folder, number)[name] for number in range(len(parts))])


@dataclass(frozen=True)
class WindowEmbeddings:
    """Stored embeddings of windows, with `views` random windows per item."""

    records: StoredRecords
    views: int

    def of(self, item: int, seed: int) -> tuple[np.ndarray, int]:
        """Return the embeddings (1 + K, D) float16 of the view selected by `seed`, and the item it was cut from.

        That item differs from `item` if the sound of `item` could not be read.
        """
        record = self.records[item * self.views + seed % self.views]
        return record["embeddings"], int(record["served"])


# Mapping a file costs far more than reading one record, so keep the maps open: 4096 parts are 8 million windows.
@functools.lru_cache(maxsize=4096)
def open_part(folder: Path, number: int) -> np.ndarray:
    """Return the memory-mapped records of one part."""
    return np.load(part_file(folder, number), mmap_mode="r")


def part_file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npy"


def key_of(settings: Any) -> str:
    """Return a cache key for JSON-serializable settings. Include everything that the records depend on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:32]


def array_digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of the types, shapes and values of the arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        # Without type and shape, arrays with the same bytes would have the same digest.
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def stored_records(key: str, count: int, compute: Callable[[range], np.ndarray]) -> StoredRecords:
    """Return `count` cached records, computing the missing ones.

    Args:
        compute: returns the records (N,) at a range of N places, as a structured array.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "embeddings" / key
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        n: range(first, min(first + PART_RECORDS, count)) for n, first in enumerate(range(0, count, PART_RECORDS))
    }
    missing = [number for number in parts if not part_file(folder, number).exists()]
    with tqdm(total=count, desc="frozen encoder", unit="window", disable=not missing) as bar:
        bar.update(count - sum(len(parts[number]) for number in missing))
        # First pass: the parts that no other process is computing. Second pass: wait for those processes, and compute
        # the parts of any that were killed.
        for timeout in (DO_NOT_WAIT, WAIT_FOREVER):
            for number in list(missing):
                if compute_part(part_file(folder, number), functools.partial(compute, parts[number]), timeout):
                    missing.remove(number)
                    bar.update(len(parts[number]))
    return StoredRecords(folder, count)


def compute_part(file: Path, compute: Callable[[], np.ndarray], timeout: float) -> bool:
    """Write a part unless it exists; return False if another process holds its lock for longer than `timeout` s."""
    lock, draft = file.with_suffix(".lock"), file.with_suffix(".draft")
    try:
        with FileLock(lock, timeout=timeout):
            if not file.exists():
                with open(draft, "wb") as stream:
                    np.save(stream, compute())
                os.replace(draft, file)
            # Safe although others may wait for this lock: they check for the part after they get it.
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
