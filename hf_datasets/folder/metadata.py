"""Read metadata.csv: one row per recording, with its sound, its signal and its listener.

A row that cannot be used is left out and becomes an `unusable_recording` defect with its line, so that one run reports
all problems. `prepare` refuses these defects by default. A ValueError means that the whole table cannot be read.
"""

import math
import posixpath
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from system.text import plural

from ..defects import make_defect
from ..ratings import RATINGS
from ..raw_files import SYNTHETIC_MARKER, RawFolder
from .tables import read_number, read_rows

METADATA = "metadata.csv"
REQUIRED = ("audio", "signal", "listener")
SONG_COLUMNS = ("title", "artist", *RATINGS)  # properties of the song: equal in all its rows, or empty
COLUMNS = (*REQUIRED, "song_id", "trial", "column", "rate", "offset_seconds", *SONG_COLUMNS)
IGNORED_PREFIX = "x_"  # columns with this prefix are the user's own and are not read


@dataclass
class Recording:
    """One listener's signal during one song."""

    line: int  # of metadata.csv
    song_id: str
    audio: str  # path below the root, as the file system has it
    signal: str  # the same
    listener: str
    trial: str | None  # as in the table; after grouping the unique <song_id>_<listener>_<trial>
    column: str | None
    rate: float | None  # Hz
    offset_seconds: float | None
    song_values: dict[str, str | float | None]


@dataclass
class Song:
    """One sound and all recordings of its listeners."""

    song_id: str
    audio: str
    song_values: dict[str, str | float | None]
    recordings: list[Recording] = field(default_factory=list)


@dataclass
class Folder:
    """The content of a folder."""

    root: RawFolder  # only the files that are used
    songs: list[Song]  # in the order of metadata.csv
    defects: list[dict]  # of no song
    synthetic: bool
    digest: str  # of the path, size and content of every file used
    size: int  # bytes of every file used


def read_folder(raw_dir: str | Path) -> Folder:
    """Read metadata.csv, and list and hash the files that it names, without reading sounds and signals."""
    root = RawFolder.open(raw_dir, f"folder that holds {METADATA}").below("")
    present = list(root.files)
    if METADATA not in present:
        elsewhere = [name for name in present if name.lower().endswith(METADATA)][:3]
        remedy = f"Give the folder of {', '.join(elsewhere)}" if elsewhere else "See hf_datasets/folder/README.md"
        raise ValueError(f"--raw_dir={root.location}: no {METADATA}. {remedy}.")
    try:
        rows = read_rows(root.read(METADATA))
        header, lines = _read_header(rows)
    except ValueError as error:
        raise ValueError(f"{root.where(METADATA)}: {error}") from None
    files, recordings, problems = _Files(present), [], []
    for line, cells in lines:
        recording, row_problems = _read_row(header, line, cells, files)
        problems += [(line, problem) for problem in row_problems]
        recordings += [recording] if recording else []
    songs, contradictions = _group(recordings)
    defects = [
        make_defect("unusable_recording", None, detail=f"{METADATA} line {line}: {problem}")
        for line, problem in sorted(problems + contradictions, key=lambda pair: pair[0])
    ]
    if not songs:
        details = (
            " ".join(defect["detail"] for defect in defects) or f"{METADATA}: no rows below the header. Add rows."
        )
        raise ValueError(f"{root.location}: no usable recording: {details}")
    # Files of unusable rows are named but not used: they are neither hashed nor reported as unexpected.
    used = {METADATA, *(name for song in songs for r in song.recordings for name in (r.audio, r.signal))}
    synthetic = SYNTHETIC_MARKER in present
    named = {METADATA, SYNTHETIC_MARKER, *files.named}
    defects += [make_defect("unexpected_file", detail=name) for name in present if name not in named]
    used |= {SYNTHETIC_MARKER} if synthetic else set()
    return Folder(root.only(used), songs, defects, synthetic, *root.digest(used))


class _Files:
    """Look up the files of a folder by a path with / or \\, in any Unicode normal form."""

    def __init__(self, present: list[str]) -> None:
        # macOS stores an umlaut in a file name as two characters (NFD), while tables usually have one (NFC).
        self.by_path = {unicodedata.normalize("NFC", name): name for name in present}
        self.by_name = {posixpath.basename(path).lower(): name for path, name in self.by_path.items()}
        self.named: set[str] = set()

    def find(self, cell: str) -> str:
        """Return the file of a cell, as the file system has it; raise ValueError if it is not in the folder."""
        path = posixpath.normpath(unicodedata.normalize("NFC", cell).replace("\\", "/"))
        if path in self.by_path:
            self.named.add(self.by_path[path])
            return self.by_path[path]
        if path.startswith(("/", "../")) or path[1:2] == ":":
            raise ValueError(f"{cell!r}: outside the folder. Give a path relative to {METADATA}.")
        similar = self.by_name.get(posixpath.basename(path).lower())
        raise ValueError(
            f"{cell!r}: not in the folder. " + (f"Is it {similar!r}?" if similar else "Check the spelling.")
        )


def _read_header(rows: list[tuple[int, list[str]]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and the rows below that are not blank."""
    filled = [(line, cells) for line, cells in rows if any(cells)]
    header = filled[0][1] if filled else []
    while header and not header[-1]:  # spreadsheets write empty cells after the last column
        header.pop()
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise ValueError(f"no columns {missing}, only {header}. Add them; all columns are {list(COLUMNS)}.")
    unknown = [name for name in header if name not in COLUMNS and not name.startswith(IGNORED_PREFIX)]
    if unknown:
        raise ValueError(
            f"unknown columns {unknown}. Rename them to any of {list(COLUMNS)}, remove them, or let their names begin "
            f"with {IGNORED_PREFIX}."
        )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"repeated columns {repeated}. Keep one of each.")
    return header, filled[1:]


def _read_row(header: list[str], line: int, cells: list[str], files: _Files) -> tuple[Recording | None, list[str]]:
    """Return the recording of a row, or None and all problems of the row."""
    if len(cells) < len(header) or any(cells[len(header) :]):
        return None, [f"{plural(len(cells), 'cell')}, but the header has {len(header)}. Quote text with separators."]
    row = dict.fromkeys(COLUMNS, "") | dict(zip(header, cells, strict=False))
    problems = [f"{name}='': empty. Fill in the cell." for name in REQUIRED if not row[name]]
    paths, numbers = dict.fromkeys(("audio", "signal"), ""), {}
    for name in paths:
        try:
            paths[name] = files.find(row[name]) if row[name] else ""
        except ValueError as error:
            problems.append(f"{name}={error}")  # the message begins with the value
    for name in ("rate", "offset_seconds", *RATINGS):
        try:
            value = read_number(row[name])
            numbers[name] = None if math.isnan(value) else value
        except ValueError as error:
            problems.append(f"{name}={error}")
    rate = numbers.get("rate")
    if rate is not None and rate <= 0:
        problems.append(f"rate={row['rate']}: must be above 0. Give samples per second (Hz).")
    if problems:
        return None, problems
    texts = {name: row[name] or None for name in ("song_id", "trial", "column", "title", "artist")}
    return Recording(
        line=line,
        song_id=texts["song_id"] or posixpath.splitext(unicodedata.normalize("NFC", paths["audio"]))[0],
        listener=row["listener"],
        trial=texts["trial"],
        column=texts["column"],
        rate=rate,
        offset_seconds=numbers["offset_seconds"],
        song_values={name: numbers[name] if name in RATINGS else texts[name] for name in SONG_COLUMNS},
        **paths,
    ), []


def _group(recordings: list[Recording]) -> tuple[list[Song], list[tuple[int, str]]]:
    """Group recordings by song, without those that contradict an earlier row.

    Returns the songs, and the line and problem of each contradiction.
    """
    songs: dict[str, Song] = {}
    by_audio: dict[str, Recording] = {}
    by_signal: dict[tuple[str, str | None], list[Recording]] = {}
    problems = []
    for new in recordings:
        song = songs.get(new.song_id) or Song(new.song_id, new.audio, dict.fromkeys(SONG_COLUMNS))
        before = sum(old.listener == new.listener for old in song.recordings)
        new.trial = f"{new.song_id}_{new.listener}_{before if new.trial is None else new.trial}"
        same_signal = by_signal.setdefault((new.signal, new.column), [])
        contradictions = _contradictions(new, song, by_audio.get(new.audio), same_signal)
        if contradictions:
            problems += [(new.line, problem) for problem in contradictions]
            continue
        song.song_values.update({name: value for name, value in new.song_values.items() if value is not None})
        song.recordings.append(new)
        songs[new.song_id] = song
        by_audio.setdefault(new.audio, new)
        same_signal.append(new)
    return list(songs.values()), problems


def _contradictions(
    new: Recording, song: Song, same_audio: Recording | None, same_signal: list[Recording]
) -> list[str]:
    """Return all contradictions between a recording and earlier ones.

    Args:
        new: the recording to check.
        song: its song, with the recordings of earlier rows.
        same_audio: the first recording with the same sound.
        same_signal: earlier recordings with the same signal.
    """
    problems = [
        f"listener={new.listener!r}: same song and trial as in line {old.line}. Number the trials in `trial`."
        for old in song.recordings
        if old.trial == new.trial
    ]
    if song.audio != new.audio:
        line = song.recordings[0].line
        problems.append(
            f"audio={new.audio!r}: song {new.song_id!r} has {song.audio!r} in line {line}. Give it its own `song_id`."
        )
    if same_audio and same_audio.song_id != new.song_id:
        # Splits go by song_id: with two of them, the same sound could be in both training and test.
        problems.append(
            f"song_id={new.song_id!r}: the same sound has {same_audio.song_id!r} in line {same_audio.line}. Give each "
            "sound one `song_id`."
        )
    for name, value in new.song_values.items():
        if None not in (value, song.song_values[name]) and value != song.song_values[name]:
            problems.append(
                f"{name}={value!r}: {song.song_values[name]!r} in an earlier row of the song. Give the same value."
            )
    # One long recording of a listener may span several songs, at a different offset for each.
    reused = [
        old
        for old in same_signal
        if old.listener != new.listener or old.audio == new.audio or old.offset_seconds == new.offset_seconds
    ]
    if reused:
        problems.append(
            f"signal={new.signal!r}: already used in line {reused[0].line}. Name another file or `column`."
        )
    return problems
