"""Recordings to go through one by one: those of a folder, or the sounds or clips of a prepared data set."""

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

SOUND, CLIP = "audio", "clip"  # columns; of a clip the sound is read


@dataclass(frozen=True)
class SoundFolder:
    """Recordings in a folder, or one file; an id is a path within the folder."""

    root: Path
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def part(self, first: int, count: int) -> "SoundFolder":
        """Some of the recordings."""
        return SoundFolder(self.root, self.files[first : first + count])

    def ids(self) -> list[str]:
        """The name of each recording."""
        if self.root.is_file():
            return [printable(self.root.name)]
        return [printable(file.relative_to(self.root).as_posix()) for file in self.files]

    def synthetic(self) -> list[bool]:
        """Whether a program made each recording; nobody says so of a folder."""
        return [False] * len(self)

    def state(self) -> list[Any]:
        """Facts that change when a recording does, as JSON can write it."""
        found = [file.stat() for file in self.files]
        return [[stat.st_size, stat.st_mtime_ns] for stat in found]

    def blocks(self, place: int, rate: int, name: str) -> Iterator[np.ndarray]:
        """A recording at `rate` Hz, in blocks (samples,); `name` is what an error calls it."""
        return read_audio_blocks(str(self.files[place]), rate, name)


@dataclass(frozen=True)
class SoundRows:
    """Recordings in a column of a prepared data set; an id is the first column."""

    rows: datasets.Dataset
    column: str  # SOUND or CLIP
    digests: list[str]  # of the data set's files
    first: int = 0  # place of the first row in the data set

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, first: int, count: int) -> "SoundRows":
        """Some of the recordings."""
        chosen = self.rows.select(range(first, min(first + count, len(self))))
        return SoundRows(chosen, self.column, self.digests, self.first + first)

    def values(self, name: str) -> list[Any]:
        """One column, without reading the sounds."""
        return self.rows.select_columns([name])[:][name]

    def ids(self) -> list[str]:
        """The name of each recording."""
        return [printable(name) for name in self.values(self.rows.column_names[0])]

    def synthetic(self) -> list[bool]:
        """Whether a program made each recording."""
        return self.values("synthetic") if "synthetic" in self.rows.column_names else [False] * len(self)

    def state(self) -> list[Any]:
        """Facts that change when a recording does, as JSON can write it."""
        return [self.digests, self.first, len(self), *file_states(self.files())[0]]

    def files(self) -> list[str]:
        """The recordings that are files of their own."""
        table = self.rows.select_columns([self.column]).with_format("arrow")[:]
        return [
            path.as_py()
            for chunk in table[self.column].chunks
            for data, path in zip(chunk.field("bytes"), chunk.field("path"), strict=True)
            if path.is_valid and not data.is_valid
        ]

    def blocks(self, place: int, rate: int, name: str) -> Iterator[np.ndarray]:
        """A recording at `rate` Hz, in blocks (samples,), of a clip in one; `name` is what an error calls it."""
        with self.opened(place) as source:
            if self.column == SOUND:
                yield from read_audio_blocks(source, rate, name)
                return
            sound = read_clip(source, num_frames=0, audio_rate=rate, name=name).audio
            assert sound is not None  # read_clip refuses a clip without one
            yield sound

    @contextmanager
    def opened(self, place: int) -> Iterator[str | bytes]:
        """A recording's bytes or path; a remote file's copy stays for as long as the block lasts."""
        sound = self.rows[place][self.column] or {}
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
    """The recordings of a folder of sounds, or of a data set: a folder with Parquet, an s3:// prefix, a Hub name."""
    path = Path(name)
    if path.is_file() or (path.is_dir() and not any(path.rglob("*.parquet"))):
        if config is not None:
            raise ValueError(f"--dataset_config={config}: --input={name} is no data set, but sounds. Leave it out.")
        return SoundFolder(path, find_sounds([path]))
    if not path.exists() and not is_remote(name) and name.count("/") != 1:
        raise ValueError(f"--input={name}: neither a folder nor a name on the Hub (user/name)")
    try:
        rows, digests = local_rows(RunArguments(dataset=name, dataset_config=config))
    except (OSError, ValueError) as error:
        raise ValueError(f"--input={name}: {mask_secrets(str(error))}") from error
    column = next((column for column in (SOUND, CLIP) if column in rows.column_names), None)
    kind = rows.features.arrow_schema.field(column).type if column else None
    if column is None or not holds_files(kind):
        found = f"column {column!r} holds {kind}" if column else f"its columns are {', '.join(rows.column_names)}"
        raise ValueError(
            f"--input={name}: {found}. Give a data set with recordings in {SOUND!r}, or clips in {CLIP!r}."
        )
    wanted = [rows.column_names[0], column, *({"synthetic"} & {*rows.column_names})]
    rows = rows.select_columns(list(dict.fromkeys(wanted))).cast_column(column, datasets.Audio(decode=False))
    return SoundRows(rows, column, sorted(digests.values()))


def holds_files(kind: pa.DataType | None) -> bool:
    """Whether cells are files, or paths to them."""
    if kind is not None and pa.types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(place).name for place in range(kind.num_fields)}
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
