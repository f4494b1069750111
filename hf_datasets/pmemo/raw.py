"""Read the raw PMEmo tree: find its root, assign files to songs, and parse the tables and EDA files.

    PMEmo2019/                       found at any depth below the given folder, by metadata.csv next to EDA/
      metadata.csv                   musicId,fileName,title,artist,album,duration,chorus_start_time,chorus_end_time
      chorus/<fileName>              also chorus/wav/<same stem>.wav
      EDA/<musicId>_EDA.csv          time(s),<listener>,<listener>,...       50 Hz, microsiemens
      annotations/{static,dynamic}_annotations{,_std}.csv       in some copies next to metadata.csv

Names of columns are compared without case and without blanks around them. Anything odd becomes a defect; a file that
cannot be parsed raises a ValueError that names it.
"""

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from system.text import plural

from ..csv_tables import blank_defects, fit_row, parse_number, read_rows, read_table
from ..defects import make_defect
from ..raw_files import SYNTHETIC_MARKER, RawFolder

AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg", ".opus")  # in order of preference
EDA_NAME = re.compile(r"(?:.*/)?([^/]+)_EDA\.csv")
MEANT = "folder that PMEmo2019 was unpacked to"


@dataclass
class RawSong:
    """A song of the tree. Paths are relative to the root; None if the file is missing."""

    song_id: str
    title: str | None = None
    artist: str | None = None
    chorus_seconds: float | None = None  # length by metadata.csv
    audio: str | None = None
    eda: str | None = None
    ratings: dict[str, float | None] = field(default_factory=dict)
    dynamic: dict[float, dict[str, float | None]] = field(default_factory=dict)  # by time in s
    defects: list[dict] = field(default_factory=list)


@dataclass
class RawTree:
    """A tree: its songs, ordered by id, its defects that belong to no song, and a digest of its files."""

    root: RawFolder  # with the used files only
    songs: list[RawSong]
    defects: list[dict]
    synthetic: bool
    digest: str  # of the path, size and content of all used files
    size: int  # bytes of all used files


def find_root(raw_dir: str | Path) -> RawFolder:
    """Return the only folder at or below `raw_dir` with metadata.csv and EDA/; ValueError for none or several."""
    folder = RawFolder.open(raw_dir, MEANT)
    tables = sorted(
        name.removesuffix("metadata.csv").rstrip("/") for name in folder.files if name.split("/")[-1] == "metadata.csv"
    )
    roots = [root for root in tables if folder.names(_join(root, "EDA"))]
    if len(roots) > 1:
        raise ValueError(f"--raw_dir={raw_dir}: several trees ({_first_paths(folder, roots)}). Give one of them.")
    if not folder.files:
        raise ValueError(f"--raw_dir={raw_dir}: the folder is empty. Give the {MEANT}.")
    if not roots and tables and _join(tables[0], "EDA") in folder.files:
        path = folder.where(_join(tables[0], "EDA"))
        raise ValueError(f"{path}: is a file. It should be the folder of the <musicId>_EDA.csv files.")
    if not roots:
        problem = "no metadata.csv and no EDA/ at any depth"
        if tables:
            problem = f"metadata.csv is in {_first_paths(folder, tables)} without files in EDA/ next to it"
        raise ValueError(f"--raw_dir={raw_dir}: {problem}. Give the {MEANT}.")
    root = folder.below(roots[0])
    for name in ("chorus", "annotations"):
        if name in root.files:
            raise ValueError(f"{root.where(name)}: is a file. It should be a folder; the card shows the layout.")
    return root


def read_tree(raw_dir: str | Path) -> RawTree:
    """Read the tables, and list and hash all used files; the builder reads sounds and EDA later, song by song."""
    root = find_root(raw_dir)
    tree_defects: list[dict] = []
    songs = _read_metadata(root, tree_defects)
    listed = set(songs)
    used = ["metadata.csv"]

    def song_of(song_id: str, source: str) -> RawSong:
        if song_id not in songs:
            songs[song_id] = RawSong(song_id)
        if song_id not in listed and not any(d["what"] == "not_in_metadata" for d in songs[song_id].defects):
            songs[song_id].defects.append(make_defect("not_in_metadata", detail=source))
        return songs[song_id]

    used += _assign_audio(root.names("chorus"), songs, song_of, tree_defects)
    # By depth: a copy in a subfolder must not replace the file in EDA/ itself.
    for name in sorted(root.names("EDA"), key=lambda name: name.count("/")):
        match = EDA_NAME.fullmatch(name.removeprefix("EDA/"))
        song = song_of(match[1].strip(), name) if match else None
        if song is None or song.eda is not None:  # not an EDA file by its name, or a second one for the song
            tree_defects.append(make_defect("unexpected_file", detail=name))
        else:
            song.eda = name
            used.append(name)
    used += _read_annotations(root, song_of, tree_defects)
    synthetic = SYNTHETIC_MARKER in root.files
    used += [SYNTHETIC_MARKER] if synthetic else []
    ordered = sorted(songs.values(), key=lambda song: _id_order(song.song_id))
    return RawTree(root.only(used), ordered, tree_defects, synthetic, *root.digest(used))


def read_eda(data: bytes) -> tuple[list[str], np.ndarray, list[dict]]:
    """Parse an EDA file. ValueError if it is not a header above rows of equal length.

    Returns:
        The names of the listeners, the numbers (rows, 1 + listeners) with the time in s first and NaN for text, and
        the defects.
    """
    head, _, body = data.partition(b"\n")
    rows = read_rows(head)
    names = rows[0][1] if rows else []
    if len(rows) > 1:
        # Line ends of old Mac OS; the code above and below splits at \n.
        raise ValueError("line 1 ends with a carriage return. Save the file with Unix or Windows line ends.")
    if len(names) < 2:
        raise ValueError(f"{plural(len(names), 'column')}. There should be time and listeners, separated by commas.")
    if not names[0].strip().lower().startswith("time"):
        raise ValueError(f"the first column is {names[0][:40]!r}. It should be time(s).")
    if not body.strip():
        raise ValueError("no rows below the header")
    defects = blank_defects(names, "")
    columns, text_cells = _parse_numbers(data, len(names))
    stripped = [name.strip() for name in names]
    for name, cells in zip(stripped, text_cells, strict=True):
        if cells:
            defects.append(make_defect("non_numeric_cell", len(cells), name, f"first: {cells[0][:40]!r}"))
    return stripped[1:], columns, defects


def _parse_numbers(data: bytes, width: int) -> tuple[np.ndarray, list[list[str]]]:
    """Return the numbers below the header, (rows, width), and the text cells of each column."""
    # pyarrow is fast and reads all good files. The slow path below finds out what is wrong with the others.
    try:
        if b'"' in data:
            raise pa.ArrowInvalid("a quote can merge lines, and pyarrow does not report that")
        names = [str(i) for i in range(width)]
        table = pa.csv.read_csv(
            io.BytesIO(data),
            read_options=pa.csv.ReadOptions(column_names=names, skip_rows=1, use_threads=False),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.float64()), null_values=["", "NaN", "nan", "NA", "null"]
            ),
        )
        numbers = np.column_stack([column.to_numpy() for column in table.columns])
        if not np.isinf(numbers).any():  # pyarrow accepts inf, `parse_number` does not
            return numbers, [[]] * width
    except pa.ArrowInvalid:
        pass  # text in a cell, or rows of different lengths
    rows = [fit_row(line, cells, width) for line, cells in read_rows(data)[1:] if cells]
    columns, text_cells = np.full((len(rows), width), np.nan), [[] for _ in range(width)]
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            try:
                columns[row, column] = parse_number(cell)
            except ValueError:
                text_cells[column].append(cell)
    return columns, text_cells


def parse_clock(cell: str) -> float | None:
    """Return the seconds of "75.5", "1:15.5" or "0:01:15.5"; None for an empty cell, ValueError for text."""
    parts = [parse_number(part) for part in cell.split(":")]
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    return None if math.isnan(seconds) else seconds


def _read_metadata(root: RawFolder, tree_defects: list[dict]) -> dict[str, RawSong]:
    songs: dict[str, RawSong] = {}
    repeats: dict[str, int] = {}
    for row in read_table(root, "metadata.csv", ("musicId", "fileName"), tree_defects):
        song_id = _song_id(row["musicid"])
        if song_id in songs:
            repeats[song_id] = repeats.get(song_id, 1) + 1
            continue
        song = RawSong(song_id, row.get("title") or None, row.get("artist") or None, audio=row["filename"] or None)
        try:
            start, end = (parse_clock(row.get(f"chorus_{edge}_time", "")) for edge in ("start", "end"))
            song.chorus_seconds = None if start is None or end is None else end - start
        except ValueError:
            song.defects.append(make_defect("non_numeric_cell", 1, detail="metadata.csv: chorus times"))
        songs[song_id] = song
    for song_id, count in repeats.items():
        songs[song_id].defects.append(make_defect("duplicate_metadata_row", count))
    return songs


def _assign_audio(
    names: list[str], songs: dict[str, RawSong], song_of: Callable[[str, str], RawSong], tree_defects: list[dict]
) -> list[str]:
    """Set the sound file of each song and return the used files.

    It is the file that metadata.csv names, else one with the same stem: mp3 first, then the least deep.
    """
    sounds = [name for name in names if Path(name).suffix.lower() in AUDIO_SUFFIXES]
    tree_defects += [make_defect("unexpected_file", detail=name) for name in names if name not in set(sounds)]
    by_stem: dict[str, list[str]] = {}
    for name in sorted(sounds, key=lambda n: (AUDIO_SUFFIXES.index(Path(n).suffix.lower()), len(Path(n).parts), n)):
        by_stem.setdefault(Path(name).stem, []).append(name)
    used, stems, present = [], set(), set(sounds)
    for song in songs.values():
        file_name = song.audio or song.song_id
        stem = Path(file_name).stem
        exact = f"chorus/{file_name}"
        song.audio = exact if exact in present else next(iter(by_stem.get(stem, [])), None)
        stems.add(stem)
        used += [song.audio] if song.audio else []
    for stem in sorted(by_stem.keys() - stems):
        song = song_of(stem, by_stem[stem][0])
        song.audio = song.audio or by_stem[stem][0]
        used.append(song.audio)
    return used


def _read_annotations(root: RawFolder, song_of: Callable[[str, str], RawSong], tree_defects: list[dict]) -> list[str]:
    used = []
    for timing in ("static", "dynamic"):
        for kind in ("mean", "std"):
            name = f"{timing}_annotations{'_std' if kind == 'std' else ''}.csv"
            paths = [path for path in (f"annotations/{name}", name) if path in root.files]
            if not paths:
                tree_defects.append(make_defect("missing_annotation_file", detail=f"annotations/{name}"))
                continue
            used.append(paths[0])
            _read_annotation_file(root, paths[0], timing, kind, song_of, tree_defects)
    return used


def _read_annotation_file(
    root: RawFolder,
    name: str,
    timing: str,
    kind: str,
    song_of: Callable[[str, str], RawSong],
    tree_defects: list[dict],
) -> None:
    columns = {f"{scale.lower()}_{kind}": f"{scale}({kind})" for scale in ("Arousal", "Valence")}
    needed = ("musicId", *(("frameTime",) if timing == "dynamic" else ()), *columns.values())
    for row in read_table(root, name, needed, tree_defects):
        song = song_of(_song_id(row["musicid"]), name)
        time = _cell(row, "frameTime", name, song) if timing == "dynamic" else 0.0  # s
        if time is None:
            continue
        target = song.dynamic.setdefault(time, {}) if timing == "dynamic" else song.ratings
        if columns.keys() & target.keys():
            song.defects.append(make_defect("duplicate_annotation_row", 2, detail=f"{name}: time {time:g} s"))
            continue
        target.update({key: _cell(row, column, name, song) for key, column in columns.items()})


def _cell(row: dict[str, str], column: str, name: str, song: RawSong) -> float | None:
    try:
        value = parse_number(row[column.lower()])
    except ValueError:
        song.defects.append(make_defect("non_numeric_cell", 1, detail=f"{name} {column}: {row[column.lower()]!r}"))
        return None
    return None if math.isnan(value) else value


def _song_id(cell: str) -> str:
    """Return a musicId as in file names: pandas saves 7 as 7.0 if a cell of the column is empty."""
    return re.sub(r"(?<=\d)\.0+$", "", cell)


def _id_order(song_id: str) -> tuple[int, int, str]:
    return (0, int(song_id), "") if song_id.isdecimal() else (1, 0, song_id)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _first_paths(folder: RawFolder, names: list[str]) -> str:
    paths = [folder.where(name).rstrip("/") for name in names[:3]]
    return ", ".join(paths) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
