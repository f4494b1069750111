"""Iterate over recordings: those in a folder, or the sounds or clips of a prepared data set."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from media.audio import AudioError, read_audio_blocks
from media.video import read_clip
from system.storage import S3FileManager, is_remote
from system.text import mask_secrets, printable
from training.prediction import find_sounds
from training.rows import file_states, local_rows
from training.settings import RunArguments

SOUND, CLIP = "audio", "clip"  # columns of data sets; from a clip, only the sound is read


@dataclass(frozen=True)
class SoundFolder:
    """The recordings in a folder, or a single recording. The id of a recording is its path within the folder."""

    root: Path
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def part(self, first: int, count: int) -> "SoundFolder":
        return SoundFolder(self.root, self.files[first : first + count])

    def ids(self) -> list[str]:
        if self.root.is_file():
            return [printable(self.root.name)]
        return [printable(file.relative_to(self.root).as_posix()) for file in self.files]

    def synthetic(self) -> list[bool]:
        """Return whether each recording is synthetic. A folder does not record this, so the result is all False."""
        return [False] * len(self)

    def state(self) -> list[Any]:
        """Return a JSON-serializable value that changes when a recording changes."""
        stats = [file.stat() for file in self.files]
        # Reading all sounds for a digest would take as long as embedding them.
        return [[stat.st_size, stat.st_mtime_ns] for stat in stats]

    def blocks(self, index: int, rate: int, name: str) -> Iterator[np.ndarray]:
        """Yield one recording in blocks (samples,) at `rate` Hz. Error messages call it `name`."""
        return read_audio_blocks(str(self.files[index]), rate, name)


@dataclass(frozen=True)
class SoundRows:
    """The recordings in a column of a prepared data set. The id of a recording is its value in the first column."""

    rows: datasets.Dataset
    column: str  # SOUND or CLIP
    digests: list[str]  # of the files of the data set
    first: int = 0  # index of the first row in the whole data set

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, first: int, count: int) -> "SoundRows":
        selected = self.rows.select(range(first, min(first + count, len(self))))
        return SoundRows(selected, self.column, self.digests, self.first + first)

    def values(self, name: str) -> list[Any]:
        # Select the column first: indexing the rows alone would read all sounds too.
        return self.rows.select_columns([name])[:][name]

    def ids(self) -> list[str]:
        return [printable(name) for name in self.values(self.rows.column_names[0])]

    def synthetic(self) -> list[bool]:
        """Return whether each recording is synthetic; False if the data set does not record it."""
        return self.values("synthetic") if "synthetic" in self.rows.column_names else [False] * len(self)

    def state(self) -> list[Any]:
        """Return a JSON-serializable value that changes when a recording changes."""
        return [self.digests, self.first, len(self), *file_states(self.files())[0]]

    def files(self) -> list[str]:
        """Return the paths of the recordings that are stored as separate files rather than in the Parquet files."""
        table = self.rows.select_columns([self.column]).with_format("arrow")[:]
        return [
            path.as_py()
            for chunk in table[self.column].chunks
            for data, path in zip(chunk.field("bytes"), chunk.field("path"), strict=True)
            if path.is_valid and not data.is_valid
        ]

    def blocks(self, index: int, rate: int, name: str) -> Iterator[np.ndarray]:
        """Yield one recording in blocks (samples,) at `rate` Hz; a clip is one block. Errors call it `name`."""
        with self.open(index) as source:
            if self.column == SOUND:
                yield from read_audio_blocks(source, rate, name)
                return
            sound = read_clip(source, num_frames=0, audio_rate=rate, name=name).audio
            assert sound is not None  # read_clip raises for a clip without sound
            yield sound

    @contextmanager
    def open(self, index: int) -> Iterator[str | bytes]:
        """Yield the bytes or the local path of a recording. The copy of a remote file may be deleted afterwards."""
        sound = self.rows[index][self.column] or {}
        path = sound.get("path")
        if sound.get("bytes") is not None:
            yield sound["bytes"]
        elif path is None:
            raise AudioError("has no sound")
        elif is_remote(path):
            with S3FileManager.shared().lease(path) as local:
                yield str(local)
        else:
            yield path


Recordings = SoundFolder | SoundRows


def find_recordings(name: str, config: str | None) -> Recordings:
    """Find the recordings in a folder of sounds or in a data set.

    Args:
        name: a folder, a file, an s3:// prefix or a Hub name. A folder with Parquet files is a data set.
        config: configuration of the data set.
    """
    path = Path(name)
    # A folder is a data set if it contains Parquet.
    if path.is_file() or (path.is_dir() and not any(path.rglob("*.parquet"))):
        if config is not None:
            raise ValueError(f"--dataset_config={config}: --input={name} is not a data set. Remove the option.")
        return SoundFolder(path, find_sounds([path]))
    if not path.exists() and not is_remote(name) and name.count("/") != 1:
        raise ValueError(f"--input={name}: neither a folder nor a Hub name (user/name). Give one of the two.")
    try:
        rows, digests = local_rows(RunArguments(dataset=name, dataset_config=config))
    except (OSError, ValueError) as error:
        raise ValueError(f"--input={name}: {mask_secrets(str(error))}") from error
    column = next((column for column in (SOUND, CLIP) if column in rows.column_names), None)
    cell_type = rows.features.arrow_schema.field(column).type if column else None
    if column is None or not holds_files(cell_type):
        problem = (
            f"column {column!r} has type {cell_type}" if column else f"columns are {', '.join(rows.column_names)}"
        )
        raise ValueError(
            f"--input={name}: {problem}. Give a data set with recordings in {SOUND!r}, or clips in {CLIP!r}."
        )
    columns = [rows.column_names[0], column, *({"synthetic"} & {*rows.column_names})]
    # decode=False gives bytes or a path. `datasets` would decode whole recordings, where blocks are enough.
    rows = rows.select_columns(list(dict.fromkeys(columns))).cast_column(column, datasets.Audio(decode=False))
    return SoundRows(rows, column, sorted(digests.values()))


def holds_files(cell_type: pa.DataType | None) -> bool:
    """Return whether cells of this type can hold files, or paths of files."""
    if cell_type is not None and pa.types.is_struct(cell_type):
        return {"bytes", "path"} <= {cell_type.field(index).name for index in range(cell_type.num_fields)}
    return cell_type in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
