"""metadata.csv: a row a recording, which sound, whose signal. Every row is checked, and every problem has its line.

A row that cannot be used is left out and noted as `unusable_recording`, which `prepare` refuses; so one run names
all that is to be mended. A ValueError says that the table as a whole cannot be understood.
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
NEEDED = ("audio", "signal", "listener")
OF_A_SONG = ("title", "artist", *RATINGS)  # the same in all rows of a song, or empty
COLUMNS = (*NEEDED, "song_id", "trial", "column", "rate", "offset_seconds", *OF_A_SONG)
OWN = "x_"  # starts the names of columns that are the owner's and not read


@dataclass
class Recording:
    """One listener's signal during one song."""

    line: int  # of metadata.csv
    song_id: str
    audio: str  # path below the root, as found there
    signal: str  # the same
    listener: str
    trial: str | None  # as given; once grouped <song_id>_<listener>_<trial>, which no other recording has
    column: str | None
    rate: float | None  # Hz
    offset_seconds: float | None
    of_the_song: dict[str, str | float | None]


@dataclass
class Song:
    """One sound and all recordings of those who heard it."""

    song_id: str
    audio: str
    of_the_song: dict[str, str | float | None]
    recordings: list[Recording] = field(default_factory=list)


@dataclass
class Folder:
    """A whole folder: songs in the order of metadata.csv, and what belongs to none of them."""

    root: RawFolder
    songs: list[Song]
    defects: list[dict]
    synthetic: bool
    digest: str  # of the path, size and content of every file used
    size: int  # bytes of every file used


def read_folder(raw_dir: str | Path) -> Folder:
    """Read metadata.csv, and list and hash every file that it names; sounds and signals are read later."""
    root = RawFolder.open(raw_dir, f"folder that holds {METADATA}").below("")
    present = list(root.files)
    if METADATA not in present:
        seen = [name for name in present if name.lower().endswith(METADATA)][:3]
        hint = f"{seen} is there: give its folder" if seen else "the card of hf_datasets/folder says what it holds"
        raise ValueError(f"--raw_dir {root.location} has no {METADATA}; {hint}")
    try:
        rows = read_rows(root.read(METADATA))
        header, lines = _read_header(rows)
    except ValueError as error:
        raise ValueError(f"{root.where(METADATA)}: {error}") from None
    files, recordings, problems = _Files(present), [], []
    for line, cells in lines:
        recording, found = _read_row(header, line, cells, files)
        problems += [(line, problem) for problem in found]
        recordings += [recording] if recording else []
    songs, found = _group(recordings)
    defects = [
        make_defect("unusable_recording", None, detail=f"{METADATA} line {line}: {problem}")
        for line, problem in sorted(problems + found, key=lambda pair: pair[0])  # by line, else as found
    ]
    if not songs:
        said = "; ".join(defect["detail"] for defect in defects) or f"{METADATA} has no rows below its header"
        raise ValueError(f"{root.location} has no recording that can be used: {said}")
    used = {METADATA, *(name for song in songs for r in song.recordings for name in (r.audio, r.signal))}
    synthetic = SYNTHETIC_MARKER in present
    named = {METADATA, SYNTHETIC_MARKER, *files.named}
    defects += [make_defect("unexpected_file", detail=name) for name in present if name not in named]
    used |= {SYNTHETIC_MARKER} if synthetic else set()
    return Folder(root.only(used), songs, defects, synthetic, *root.digest(used))


class _Files:
    """The files of a folder, found whatever way a path was typed: composed or not, with / or \\."""

    def __init__(self, present: list[str]) -> None:
        self.by_path = {unicodedata.normalize("NFC", name): name for name in present}
        self.by_name = {posixpath.basename(path).lower(): name for path, name in self.by_path.items()}
        self.named: set[str] = set()

    def find(self, cell: str) -> str:
        """The file that a cell means; ValueError when there is none in the folder."""
        path = posixpath.normpath(unicodedata.normalize("NFC", cell).replace("\\", "/"))
        if path in self.by_path:
            self.named.add(self.by_path[path])
            return self.by_path[path]
        if path.startswith(("/", "../")) or path[1:2] == ":":
            raise ValueError(f"{cell!r} is not below the folder; paths start at {METADATA}")
        near = self.by_name.get(posixpath.basename(path).lower())
        raise ValueError(f"{cell!r} is not in the folder" + (f"; {near!r} is" if near else "; check its spelling"))


def _read_header(rows: list[tuple[int, list[str]]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows below that are not blank."""
    filled = [(line, cells) for line, cells in rows if any(cells)]
    header = filled[0][1] if filled else []
    while header and not header[-1]:
        header.pop()
    lacking = [name for name in NEEDED if name not in header]
    if lacking:
        raise ValueError(f"lacks the columns {lacking}; it has {header}, and it takes {list(COLUMNS)}")
    unknown = [name for name in header if name not in COLUMNS and not name.startswith(OWN)]
    if unknown:
        raise ValueError(
            f"has the columns {unknown}, which nothing reads; it takes {list(COLUMNS)}. Rename them, remove them, or "
            f"begin the names of your own columns with {OWN}"
        )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"has the columns {repeated} more than once; keep one of each")
    return header, filled[1:]


def _read_row(header: list[str], line: int, cells: list[str], files: _Files) -> tuple[Recording | None, list[str]]:
    """One recording, or all that is wrong with its row."""
    if len(cells) < len(header) or any(cells[len(header) :]):
        return None, [
            f"{plural(len(cells), 'cell')} where the header has {len(header)}; quote text that holds a separator"
        ]
    row = dict.fromkeys(COLUMNS, "") | dict(zip(header, cells, strict=False))
    problems = [f"`{name}` is empty; it is needed" for name in NEEDED if not row[name]]
    paths, numbers = dict.fromkeys(("audio", "signal"), ""), {}
    for name in paths:
        try:
            paths[name] = files.find(row[name]) if row[name] else ""
        except ValueError as error:
            problems.append(f"`{name}` {error}")
    for name in ("rate", "offset_seconds", *RATINGS):
        try:
            value = read_number(row[name])
            numbers[name] = None if math.isnan(value) else value
        except ValueError as error:
            problems.append(f"`{name}` {error}")
    rate = numbers.get("rate")
    if rate is not None and rate <= 0:
        problems.append(f"`rate` is {row['rate']}; it takes samples a second (Hz), above 0")
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
        of_the_song={name: numbers[name] if name in RATINGS else texts[name] for name in OF_A_SONG},
        **paths,
    ), []


def _group(recordings: list[Recording]) -> tuple[list[Song], list[tuple[int, str]]]:
    """Recordings by song, those left out that contradict an earlier row; (line, problem) of each of these."""
    songs: dict[str, Song] = {}
    by_audio: dict[str, Recording] = {}
    by_signal: dict[tuple[str, str | None], list[Recording]] = {}
    problems = []
    for new in recordings:
        song = songs.get(new.song_id) or Song(new.song_id, new.audio, dict.fromkeys(OF_A_SONG))
        before = sum(old.listener == new.listener for old in song.recordings)
        new.trial = f"{new.song_id}_{new.listener}_{before if new.trial is None else new.trial}"
        alike = by_signal.setdefault((new.signal, new.column), [])
        found = _contradictions(new, song, by_audio.get(new.audio), alike)
        if found:
            problems += [(new.line, problem) for problem in found]
            continue
        song.of_the_song.update({name: value for name, value in new.of_the_song.items() if value is not None})
        song.recordings.append(new)
        songs[new.song_id] = song
        by_audio.setdefault(new.audio, new)
        alike.append(new)
    return list(songs.values()), problems


def _contradictions(new: Recording, song: Song, same_audio: Recording | None, alike: list[Recording]) -> list[str]:
    """What is wrong with a recording beside those before it: `alike` have the same signal."""
    found = [
        f"listener {new.listener!r} has this trial of the song in line {old.line} already; number them in `trial`"
        for old in song.recordings
        if old.trial == new.trial
    ]
    if song.audio != new.audio:
        line = song.recordings[0].line
        found.append(f"song {new.song_id!r} has the sound {song.audio!r} in line {line}; a song has one sound")
    if same_audio and same_audio.song_id != new.song_id:
        found.append(
            f"the sound is song {same_audio.song_id!r} in line {same_audio.line} and {new.song_id!r} here; under two "
            "names it would be trained on and tested on"
        )
    for name, value in new.of_the_song.items():
        if None not in (value, song.of_the_song[name]) and value != song.of_the_song[name]:
            found.append(f"`{name}` is {value!r} here and {song.of_the_song[name]!r} above, for one song")
    # one long recording may span several songs, which begin at different times of it
    again = [
        old
        for old in alike
        if old.listener != new.listener or old.audio == new.audio or old.offset_seconds == new.offset_seconds
    ]
    if again:
        found.append(f"the signal {new.signal!r} is that of line {again[0].line}; name another file or `column`")
    return found
