"""The raw TuneIn tree as it is found: its tables and pickles at any depth, and which entry belongs to which creative.

    labels.csv                        creative_id (or id), attention_data_completed: declares the creatives; without an
                                      id column its rows are those of rf_video_embeddings.pkl, in that order
    rf_text_embeddings.pkl            {"creative_id": [ids], "embeddings": [arrays]}
    rf_video_embeddings.pkl           the same
    sound_indexes.csv                 index: row r (from 1) lists the ids in batch r
    audio_embeddings/embedding_batch_<N>.pkl   {"id": [ids], "audio": [arrays], "backaudio": [arrays]}

Everything is joined by whole ids, compared as text without blanks around it, from the side of labels.csv. Creatives
are put in the order of the batches that hold their sounds, so that each batch is read once.
"""

import math
import re
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from system.storage import is_remote, scratch_folder

from ..csv_tables import QUOTE_HINT, errors_in, fit_row, parse_number, read_columns, read_rows, split_header
from ..defects import located, make_defect
from ..raw_files import SYNTHETIC_MARKER, RawFolder
from .pickles import Entry, map_numbers, unpickle_columns
from .unpickling import as_id

TABLES = ("sound_indexes.csv", "rf_video_embeddings.pkl", "labels.csv", "rf_text_embeddings.pkl")  # as they are read
BATCH_NAME = re.compile(r"embedding_batch_(\d{1,9})\.pkl")
TARGET, ID_COLUMNS = "attention_data_completed", ("creative_id", "id")
VECTORS = ("text", "video")
SOUNDS = {"audio": "audio", "back_audio": "backaudio"}  # ours and the batches'
MODALITIES = (*VECTORS, *SOUNDS)
SILENT = 64  # creatives without a batch that are taken together, about as many as a batch has
NAMED = 3  # ids named where many are counted
MEANT = "folder that holds labels.csv, sound_indexes.csv, the embeddings and audio_embeddings/"
BETWEEN = re.compile(r"[\s,;\[\](){}'\"]+")
LIST = re.compile(r"\s*\[[^\[\]]*\]\s*")
ARRAY = re.compile(r"^\s*array\(|,\s*dtype=[\w<>|']+\)\s*$")

Drop = tuple[str, str, str, int | None]  # id, modality, reason, batch of what is left out


@dataclass
class Batch:
    """Creatives whose sounds lie in one file: an input of the builder. `file` is None where there is none."""

    number: int | None
    file: str | None
    ids: list[str]
    targets: list[float | None]
    listed: set[str]  # ids that the index lists in it, declared or not
    places: dict[str, list[int | None]] = field(default_factory=dict)  # of each creative's vector, by modality
    defects: list[list[dict]] = field(default_factory=list)


@dataclass
class RawTree:
    """A whole tree: batches in the order in which they are read, and what belongs to no creative."""

    root: RawFolder  # with the batches alone
    batches: list[Batch]
    vectors: dict[str, "VectorFile"]  # by modality
    widths: dict[str, int]  # numbers a frame, by modality of SOUNDS
    dropped: list[Drop]
    defects: list[dict]
    synthetic: bool
    digest: str
    size: int  # bytes of all that is read


@dataclass
class VectorFile:
    """Vectors on this machine's disk, where they wait for their creatives' sounds; it goes with who reads the tree."""

    path: Path
    width: int  # numbers a vector, of all that are taken

    def take(self, places: Iterable[int | None]) -> list[np.ndarray | None]:
        """The vectors at these places, each (width,) float32; None where there is no place."""
        numbers = map_numbers(self.path)
        return [None if place is None else numbers[place : place + self.width] for place in places]


@dataclass
class SoundFile:
    """A batch of sounds, whose numbers are mapped; without ids where it cannot be read, and `why`."""

    ids: list[str] = field(default_factory=list)
    entries: dict[str, list[Entry]] = field(default_factory=dict)  # by modality, one for each id
    numbers: dict[str, np.ndarray] = field(default_factory=dict)  # by modality, of all entries
    why: str = ""
    size: int = 0  # bytes

    @classmethod
    def read(cls, root: RawFolder, name: str) -> "SoundFile":
        """Read one file below the root."""
        size = 0
        with tempfile.TemporaryDirectory(prefix="sounds-", dir=scratch_folder()) as folder:
            targets = {column: Path(folder, f"{column}.npy") for column in SOUNDS.values()}
            try:
                with root.local(name) as path:
                    size = path.stat().st_size
                    ids, columns = unpickle_columns(path, name, "id", targets)
            except (ValueError, OSError) as error:
                why = located(name, error).encode("utf-8", "backslashreplace").decode()
                return cls(why=why, size=size)
            entries = {kind: columns[column] for kind, column in SOUNDS.items()}
            return cls(ids, entries, {kind: map_numbers(targets[column]) for kind, column in SOUNDS.items()})


@dataclass
class Entries:
    """Where the usable vectors of one file lie, by id, and what is wrong with the others."""

    file: VectorFile
    places: dict[str, int]
    defects: dict[str, list[dict]]  # of every id, in the order in which they are listed


def read_tree(raw_dir: str | Path) -> RawTree:
    """Read the tables and vectors; batches of sounds are read later, but for the first, which tells their widths."""
    location = str(raw_dir) if is_remote(str(raw_dir)) else str(Path(raw_dir).absolute())
    root = RawFolder.open(location, MEANT).below("")
    aside = Path(tempfile.mkdtemp(prefix="vectors-", dir=scratch_folder()))
    try:
        tree = _read_tree(root, aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    weakref.finalize(tree, shutil.rmtree, aside, ignore_errors=True)
    return tree


def _read_tree(root: RawFolder, aside: Path) -> RawTree:
    names, files = _find_tables(root), _find_batches(root)
    root.fetch(names.values())
    index_name, labels_name = names["sound_indexes.csv"], names["labels.csv"]
    index = read_index(root.read(index_name), root.where(index_name))
    video = read_entries(root, names["rf_video_embeddings.pkl"], "video", aside)  # whose order labels.csv may have
    targets, defects_of = read_labels(root.read(labels_name), root.where(labels_name), list(video.defects))
    if not targets:
        raise ValueError(f"{root.where(labels_name)} has no rows")
    batches, dropped = _cut(targets, index, files)
    dropped += _join("video", video, batches, targets)
    text = read_entries(root, names["rf_text_embeddings.pkl"], "text", aside)
    dropped += _join("text", text, batches, targets)
    for batch in batches:
        for name, defects in zip(batch.ids, batch.defects, strict=True):
            defects += defects_of.get(name, [])
    markers = [name for name in root.files if name.rsplit("/", 1)[-1] == SYNTHETIC_MARKER]
    digest, size = root.digest([*names.values(), *files.values(), *markers])
    used = root.only(batch.file for batch in batches if batch.file)
    defects = _count_drops(dropped)
    defects += [make_defect("batch_not_indexed", detail=files[number]) for number in sorted(set(files) - set(index))]
    vectors = {"text": text.file, "video": video.file}
    return RawTree(used, batches, vectors, _sound_widths(used, batches), dropped, defects, bool(markers), digest, size)


def _find_tables(root: RawFolder) -> dict[str, str]:
    names = {}
    for wanted in TABLES:
        found = [name for name in root.files if name.rsplit("/", 1)[-1] == wanted]
        if len(found) != 1:
            said = f"holds several {wanted} ({', '.join(found)}); leave one" if found else f"holds no {wanted}"
            raise ValueError(f"{root.location} {said}; give the {MEANT}")
        names[wanted] = found[0]
    return names


def _find_batches(root: RawFolder) -> dict[int, str]:
    """Files of sounds by number: 2 comes before 10, whatever the order of a listing."""
    files: dict[int, str] = {}
    for name in root.files:
        if match := BATCH_NAME.fullmatch(name.rsplit("/", 1)[-1]):
            if int(match[1]) in files:
                raise ValueError(
                    f"{root.location} holds batch {int(match[1])} twice ({files[int(match[1])]}, {name}); leave one"
                )
            files[int(match[1])] = name
    return dict(sorted(files.items()))


def parse_ids(cell: str, place: str = "a cell") -> list[str]:
    """The ids in a cell: a list's or array's text, or ids with commas or blanks between them; each whole.

    A list alone may have line breaks, as numpy prints a long one; other lines are rows that a stray quote has joined.

    parse_ids("['12', '112']") == parse_ids("12,112") == parse_ids("[12 112]") == ["12", "112"]
    """
    text = ARRAY.sub("", cell)
    if "\n" in text and not LIST.fullmatch(text):
        raise ValueError(f"{place}: a cell that is no list continues in the next line; {QUOTE_HINT}")
    ids = [name for name in BETWEEN.split(text) if name]
    if "..." in ids:
        raise ValueError(f"{place}: a list of ids was cut short (...) when it was printed; write all of its ids")
    return ids


def read_index(data: bytes, where: str) -> dict[int, list[str]]:
    """The ids in each batch by its number, from 1; ValueError with the line for what is damaged, see csv_tables."""
    found = {}
    with errors_in(where):
        header, rows = split_header(read_rows(data, line_breaks=True))
        names = [name.strip() for name in header]
        if "index" not in names:
            raise ValueError(f"lacks the column 'index'; it has {names}")
        for number, (line, row) in enumerate(rows, start=1):
            # ids of an only column that nobody quoted are cells of their own
            cell = ",".join(row) if len(names) == 1 else fit_row(line, row, len(names))[names.index("index")]
            found[number] = parse_ids(cell, f"line {line}")
    return found


def read_labels(
    data: bytes, where: str, video_order: list[str]
) -> tuple[dict[str, float | None], dict[str, list[dict]]]:
    """The target of each declared creative, None for an empty cell, and what is wrong with the rows.

    A damaged line is refused, see csv_tables: without its creative, the data set would look whole.
    """
    header, rows = read_columns(data, where)
    if not header:
        raise ValueError(f"{where} is empty")
    header = [name.strip() for name in header]
    if TARGET not in header:
        raise ValueError(f"{where} lacks the column {TARGET!r}; it has {header}")
    named = next((header.index(name) for name in ID_COLUMNS if name in header), None)
    if named is None and len(rows) != len(video_order):
        raise ValueError(
            f"{where} has no id column and {len(rows)} rows, where rf_video_embeddings.pkl has {len(video_order)} "
            f"creatives: which row is whose cannot be known; add a column {ID_COLUMNS[0]!r}"
        )
    targets: dict[str, float | None] = {}
    defects: dict[str, list[dict]] = {}
    again: Counter[str] = Counter()
    for i, (line, cells) in enumerate(rows):
        name = video_order[i] if named is None else as_id(cells[named])
        if not name:
            raise ValueError(f"{where} line {line} has no id; give it one or take it out")
        cell = cells[header.index(TARGET)]
        try:
            target = parse_number(cell)
        except ValueError:
            raise ValueError(f"{where} line {line}: {TARGET} is {cell[:40]!r}, which is no number") from None
        if name in targets:
            again[name] += 1
            continue
        targets[name] = None if math.isnan(target) else target
        if targets[name] is None:
            defects.setdefault(name, []).append(make_defect("target_missing", detail=cell.strip()))
    for name, count in again.items():
        defects.setdefault(name, []).append(make_defect("duplicate_id", count, detail="target: labels.csv"))
    return targets, defects


def read_entries(root: RawFolder, name: str, kind: str, folder: Path) -> Entries:
    """Put the vectors of one file into a plain one in `folder`, each flat; usable are those of the usual width."""
    target = folder / f"{kind}.npy"
    with root.local(name) as path:
        ids, columns = unpickle_columns(path, root.where(name), "creative_id", {"embeddings": target})
    defects: dict[str, list[dict]] = {}
    again: Counter[str] = Counter()
    found: dict[str, Entry] = {}
    for own, entry in zip(ids, columns["embeddings"], strict=True):
        if own in defects:
            again[own] += 1
            continue
        defects[own] = []
        if entry.what:
            defects[own].append(make_defect(entry.what, entry.how_much, detail=kind))
        else:
            found[own] = entry
    for own, count in again.items():
        defects[own].append(make_defect("duplicate_id", count, detail=kind))
    lengths = {own: entry.frames * entry.width for own, entry in found.items()}
    width = _usual(lengths.values())
    places = {own: entry.start for own, entry in found.items() if lengths[own] == width}
    for own in found.keys() - places.keys():
        defects[own].append(make_defect("other_width", lengths[own], detail=kind))
    return Entries(VectorFile(target, width), places, defects)


def _usual(widths: Iterable[int]) -> int:
    """The most frequent width, of several the greatest; 0 if there is none."""
    counts = Counter(widths)
    return max(counts, key=lambda width: (counts[width], width), default=0)


def _cut(
    targets: dict[str, float | None], index: dict[int, list[str]], files: dict[int, str]
) -> tuple[list[Batch], list[Drop]]:
    """Declared creatives by the batch of their sounds, each in the order of labels.csv; then those without one."""
    batch_of: dict[str, int] = {}
    again: Counter[str] = Counter()
    dropped: list[Drop] = []
    for number, ids in index.items():
        for name in dict.fromkeys(ids):
            if name in batch_of:
                again[name] += 1
            elif name not in targets:
                dropped += [(name, kind, "undeclared_ids", number) for kind in SOUNDS]
            batch_of.setdefault(name, number)
    held: dict[int | None, list[str]] = {number: [] for number in index}
    silent: list[str] = []
    for name in targets:
        held[batch_of[name]].append(name) if name in batch_of else silent.append(name)
    groups = [(number, ids) for number, ids in held.items() if ids]
    groups += [(None, silent[start : start + SILENT]) for start in range(0, len(silent), SILENT)]
    batches = []
    for number, ids in groups:
        file = None if number is None else files.get(number)
        batch = Batch(number, file, ids, [targets[name] for name in ids], set(index.get(number, ())))
        batch.defects = [_listed_again(again[name]) for name in ids]
        batches.append(batch)
    return batches, dropped


def _listed_again(count: int) -> list[dict]:
    return [make_defect("duplicate_id", count, detail=f"{kind}: sound_indexes.csv") for kind in SOUNDS if count]


def _join(kind: str, found: Entries, batches: list[Batch], targets: dict[str, float | None]) -> list[Drop]:
    """Give each creative the place of its vector, by its id, and return what belongs to none."""
    for batch in batches:
        batch.places[kind] = [found.places.get(name) for name in batch.ids]
        for name, place, defects in zip(batch.ids, batch.places[kind], batch.defects, strict=True):
            defects += found.defects.get(name) or ([_not_in_file(kind)] if place is None else [])
    return [(name, kind, "undeclared_ids", None) for name in found.defects if name not in targets]


def _not_in_file(kind: str) -> dict:
    return make_defect("not_in_file", detail=kind)


def _sound_widths(root: RawFolder, batches: Iterable[Batch]) -> dict[str, int]:
    """Numbers a frame, as most entries of the first batch have that can be read; all others have to agree."""
    widths: dict[str, int] = {}
    for batch in batches:
        if batch.file is None or len(widths) == len(SOUNDS):
            continue
        for kind, entries in SoundFile.read(root, batch.file).entries.items():
            if found := _usual(entry.width for entry in entries if not entry.what):
                widths.setdefault(kind, found)
    return widths


def _count_drops(dropped: list[Drop]) -> list[dict]:
    """One defect a modality; missed_embeddings.csv has a line each."""
    by_kind: dict[str, list[str]] = {}
    for name, kind, _, _ in dropped:
        by_kind.setdefault(kind, []).append(name)
    return [
        make_defect(
            "undeclared_ids",
            len(ids),
            detail=f"{kind}: {', '.join(ids[:NAMED])}" + (", ..." if len(ids) > NAMED else ""),
        )
        for kind, ids in by_kind.items()
    ]
