"""Read the raw TuneIn tree: find its tables and pickles at any depth, and assign their entries to creatives.

    labels.csv                        creative_id (or id), attention_data_completed: one row per creative; without an
                                      id column its rows are in the order of rf_video_embeddings.pkl
    rf_text_embeddings.pkl            {"creative_id": [ids], "embeddings": [arrays]}
    rf_video_embeddings.pkl           the same
    sound_indexes.csv                 index: row r (from 1) lists the ids in batch r
    audio_embeddings/embedding_batch_<N>.pkl   {"id": [ids], "audio": [arrays], "backaudio": [arrays]}

labels.csv decides which creatives exist; everything else is joined to it by id, compared as text without blanks around
it. Creatives are ordered by the batch that has their sounds, so that each batch is read once.
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

TABLES = ("sound_indexes.csv", "rf_video_embeddings.pkl", "labels.csv", "rf_text_embeddings.pkl")  # in reading order
BATCH_NAME = re.compile(r"embedding_batch_(\d{1,9})\.pkl")
TARGET, ID_COLUMNS = "attention_data_completed", ("creative_id", "id")
VECTORS = ("text", "video")
SOUNDS = {"audio": "audio", "back_audio": "backaudio"}  # modality: key in the pickles
MODALITIES = (*VECTORS, *SOUNDS)
SILENT = 64  # creatives without sounds per batch, about as many as a batch of sounds has
NAMED = 3  # ids that a defect names
MEANT = "folder that holds labels.csv, sound_indexes.csv, the embeddings and audio_embeddings/"
BETWEEN = re.compile(r"[\s,;\[\](){}'\"]+")
LIST = re.compile(r"\s*\[[^\[\]]*\]\s*")
ARRAY = re.compile(r"^\s*array\(|,\s*dtype=[\w<>|']+\)\s*$")

Drop = tuple[str, str, str, int | None]  # id, modality, reason and batch of an embedding that no row gets


@dataclass
class Batch:
    """Creatives with their sounds in one file: an input of the builder. Number or file is None if there is none."""

    number: int | None
    file: str | None
    ids: list[str]
    targets: list[float | None]
    listed: set[str]  # ids that the index lists in it, declared or not
    # By modality: index of the first number of each creative's vector in the VectorFile
    starts: dict[str, list[int | None]] = field(default_factory=dict)
    defects: list[list[dict]] = field(default_factory=list)  # of each creative


@dataclass
class RawTree:
    """A tree: its batches in reading order, the embeddings that belong to no creative, and a digest of its files."""

    root: RawFolder  # with the batches only
    batches: list[Batch]
    vectors: dict[str, "VectorFile"]  # by modality
    widths: dict[str, int]  # numbers per frame, by modality of SOUNDS
    dropped: list[Drop]
    defects: list[dict]
    synthetic: bool
    digest: str
    size: int  # bytes of all used files


@dataclass
class VectorFile:
    """Vectors of one modality in a local temporary file, which is deleted with its RawTree."""

    path: Path
    width: int  # numbers per vector

    def take(self, starts: Iterable[int | None]) -> list[np.ndarray | None]:
        """Return the vectors (width,) float32 that begin at these indices; None for None."""
        numbers = map_numbers(self.path)
        return [None if start is None else numbers[start : start + self.width] for start in starts]


@dataclass
class SoundFile:
    """A batch of sounds with memory-mapped numbers. `why` is the problem of a file that cannot be read."""

    ids: list[str] = field(default_factory=list)
    entries: dict[str, list[Entry]] = field(default_factory=dict)  # by modality, one per id
    numbers: dict[str, np.ndarray] = field(default_factory=dict)  # by modality, of all entries
    why: str = ""
    size: int = 0  # bytes

    @classmethod
    def read(cls, root: RawFolder, name: str) -> "SoundFile":
        """Read a file below the root; errors are in `why`."""
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
            # The mapped files can be deleted with the folder: POSIX keeps their content while they are mapped.
            return cls(ids, entries, {kind: map_numbers(targets[column]) for kind, column in SOUNDS.items()})


@dataclass
class Entries:
    """The usable vectors of one file, and the defects of all of its ids."""

    file: VectorFile
    starts: dict[str, int]  # by id: index of the first number in `file`
    defects: dict[str, list[dict]]  # of every id, in the order of the file


def read_tree(raw_dir: str | Path) -> RawTree:
    """Read the tables and vectors, and the first batch for the widths; the builder reads the other batches later."""
    location = str(raw_dir) if is_remote(str(raw_dir)) else str(Path(raw_dir).absolute())
    root = RawFolder.open(location, MEANT).below("")
    vector_folder = Path(tempfile.mkdtemp(prefix="vectors-", dir=scratch_folder()))
    try:
        tree = _read_tree(root, vector_folder)
    except BaseException:
        shutil.rmtree(vector_folder, ignore_errors=True)
        raise
    weakref.finalize(tree, shutil.rmtree, vector_folder, ignore_errors=True)
    return tree


def _read_tree(root: RawFolder, vector_folder: Path) -> RawTree:
    names, files = _find_tables(root), _find_batches(root)
    root.fetch(names.values())
    index_name, labels_name = names["sound_indexes.csv"], names["labels.csv"]
    index = read_index(root.read(index_name), root.where(index_name))
    # Before the labels: a labels.csv without ids is in the order of the video file.
    video = read_entries(root, names["rf_video_embeddings.pkl"], "video", vector_folder)
    targets, defects_of = read_labels(root.read(labels_name), root.where(labels_name), list(video.defects))
    if not targets:
        raise ValueError(f"{root.where(labels_name)}: no rows. There should be one per creative.")
    batches, dropped = _group_by_batch(targets, index, files)
    dropped += _assign_vectors("video", video, batches, targets)

    text = read_entries(root, names["rf_text_embeddings.pkl"], "text", vector_folder)
    dropped += _assign_vectors("text", text, batches, targets)
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
        matches = [name for name in root.files if name.rsplit("/", 1)[-1] == wanted]
        if len(matches) > 1:
            raise ValueError(f"{root.location}: several {wanted} ({', '.join(matches)}). Keep one.")
        if not matches:
            raise ValueError(f"{root.location}: no {wanted}. Give the {MEANT}.")
        names[wanted] = matches[0]
    return names


def _find_batches(root: RawFolder) -> dict[int, str]:
    """Return the files of sounds by number, in numeric order."""
    files: dict[int, str] = {}
    for name in root.files:
        if match := BATCH_NAME.fullmatch(name.rsplit("/", 1)[-1]):
            if int(match[1]) in files:
                raise ValueError(
                    f"{root.location}: batch {int(match[1])} exists twice ({files[int(match[1])]}, {name}). Keep one."
                )
            files[int(match[1])] = name
    return dict(sorted(files.items()))


def parse_ids(cell: str, where: str = "a cell") -> list[str]:
    """Return the ids in a cell: a printed list or array, or ids separated by commas or blanks.

    parse_ids("['12', '112']") == parse_ids("12,112") == parse_ids("[12 112]") == ["12", "112"]
    """
    text = ARRAY.sub("", cell)
    # numpy breaks long lists into several lines. In any other cell, a line break means that an unclosed quote has
    # merged several rows.
    if "\n" in text and not LIST.fullmatch(text):
        raise ValueError(f"{where}: a cell that is not a list continues in the next line; {QUOTE_HINT}")
    ids = [name for name in BETWEEN.split(text) if name]
    if "..." in ids:
        raise ValueError(f"{where}: the list of ids was shortened to '...' when it was printed. Write all of its ids.")
    return ids


def read_index(data: bytes, where: str) -> dict[int, list[str]]:
    """Return the ids in each batch by its number, from 1. ValueError with the line if the table is damaged."""
    ids_of_batch = {}
    with errors_in(where):
        header, rows = split_header(read_rows(data, line_breaks=True))
        names = [name.strip() for name in header]
        if "index" not in names:
            raise ValueError(f"lacks the column 'index'; it has {names}")
        for number, (line, row) in enumerate(rows, start=1):
            # Without quotes, the ids of a table with this one column are parsed as separate cells.
            cell = ",".join(row) if len(names) == 1 else fit_row(line, row, len(names))[names.index("index")]
            ids_of_batch[number] = parse_ids(cell, f"line {line}")
    return ids_of_batch


def read_labels(
    data: bytes, where: str, video_order: list[str]
) -> tuple[dict[str, float | None], dict[str, list[dict]]]:
    """Return the target of each creative (None for an empty cell) and the defects by id.

    ValueError with the line if the table is damaged. `video_order` has the ids of a table without an id column.
    """
    header, rows = read_columns(data, where)
    if not header:
        raise ValueError(f"{where}: is empty. It should have a row per creative.")
    header = [name.strip() for name in header]
    if TARGET not in header:
        raise ValueError(f"{where}: lacks the column {TARGET!r}; it has {header}.")
    id_column = next((header.index(name) for name in ID_COLUMNS if name in header), None)
    if id_column is None and len(rows) != len(video_order):
        raise ValueError(
            f"{where}: no id column and {len(rows)} rows, but rf_video_embeddings.pkl has {len(video_order)} "
            f"creatives, so rows cannot be assigned. Add a column {ID_COLUMNS[0]!r}."
        )
    targets: dict[str, float | None] = {}
    defects: dict[str, list[dict]] = {}
    repeats: Counter[str] = Counter()
    for i, (line, cells) in enumerate(rows):
        name = video_order[i] if id_column is None else as_id(cells[id_column])
        if not name:
            raise ValueError(f"{where} line {line}: no id. Add one or delete the line.")
        cell = cells[header.index(TARGET)]
        try:
            target = parse_number(cell)
        except ValueError:
            raise ValueError(f"{where} line {line}: {TARGET}={cell[:40]!r}: not a number. Correct the cell.") from None
        if name in targets:
            repeats[name] += 1
            continue
        targets[name] = None if math.isnan(target) else target
        if targets[name] is None:
            defects.setdefault(name, []).append(make_defect("target_missing", detail=cell.strip()))
    for name, count in repeats.items():
        defects.setdefault(name, []).append(make_defect("duplicate_id", count, detail="target: labels.csv"))
    return targets, defects


def read_entries(root: RawFolder, name: str, kind: str, folder: Path) -> Entries:
    """Copy the vectors of one pickle, flat, to a file in `folder`; those of the most common width are usable."""
    target = folder / f"{kind}.npy"
    with root.local(name) as path:
        ids, columns = unpickle_columns(path, root.where(name), "creative_id", {"embeddings": target})
    defects: dict[str, list[dict]] = {}
    repeats: Counter[str] = Counter()
    entries: dict[str, Entry] = {}
    for creative, entry in zip(ids, columns["embeddings"], strict=True):
        if creative in defects:
            repeats[creative] += 1
            continue
        defects[creative] = []
        if entry.what:
            defects[creative].append(make_defect(entry.what, entry.how_much, detail=kind))
        else:
            entries[creative] = entry
    for creative, count in repeats.items():
        defects[creative].append(make_defect("duplicate_id", count, detail=kind))
    lengths = {creative: entry.frames * entry.width for creative, entry in entries.items()}
    width = _most_common_width(lengths.values())
    starts = {creative: entry.start for creative, entry in entries.items() if lengths[creative] == width}
    for creative in entries.keys() - starts.keys():
        defects[creative].append(make_defect("other_width", lengths[creative], detail=kind))
    return Entries(VectorFile(target, width), starts, defects)


def _most_common_width(widths: Iterable[int]) -> int:
    """Return the most common width, the largest of equally common ones; 0 if there is none."""
    counts = Counter(widths)
    return max(counts, key=lambda width: (counts[width], width), default=0)


def _group_by_batch(
    targets: dict[str, float | None], index: dict[int, list[str]], files: dict[int, str]
) -> tuple[list[Batch], list[Drop]]:
    """Group the creatives by the batch of their sounds, each in the order of labels.csv; those without come last."""
    batch_of: dict[str, int] = {}
    repeats: Counter[str] = Counter()
    dropped: list[Drop] = []
    for number, ids in index.items():
        for name in dict.fromkeys(ids):
            if name in batch_of:
                repeats[name] += 1
            elif name not in targets:
                dropped += [(name, kind, "undeclared_ids", number) for kind in SOUNDS]
            batch_of.setdefault(name, number)
    ids_of_batch: dict[int | None, list[str]] = {number: [] for number in index}
    silent: list[str] = []
    for name in targets:
        ids_of_batch[batch_of[name]].append(name) if name in batch_of else silent.append(name)
    groups = [(number, ids) for number, ids in ids_of_batch.items() if ids]
    groups += [(None, silent[start : start + SILENT]) for start in range(0, len(silent), SILENT)]
    batches = []
    for number, ids in groups:
        file = None if number is None else files.get(number)
        batch = Batch(number, file, ids, [targets[name] for name in ids], set(index.get(number, ())))
        batch.defects = [_index_repeats(repeats[name]) for name in ids]
        batches.append(batch)
    return batches, dropped


def _index_repeats(count: int) -> list[dict]:
    return [make_defect("duplicate_id", count, detail=f"{kind}: sound_indexes.csv") for kind in SOUNDS if count]


def _assign_vectors(kind: str, entries: Entries, batches: list[Batch], targets: dict[str, float | None]) -> list[Drop]:
    """Set the start of each creative's vector, add its defects, and return the vectors that belong to no creative."""
    for batch in batches:
        batch.starts[kind] = [entries.starts.get(name) for name in batch.ids]
        for name, start, defects in zip(batch.ids, batch.starts[kind], batch.defects, strict=True):
            defects += entries.defects.get(name) or ([_not_in_file(kind)] if start is None else [])
    return [(name, kind, "undeclared_ids", None) for name in entries.defects if name not in targets]


def _not_in_file(kind: str) -> dict:
    return make_defect("not_in_file", detail=kind)


def _sound_widths(root: RawFolder, batches: Iterable[Batch]) -> dict[str, int]:
    """Return the numbers per frame: the most common width in the first readable batch, required of all others."""
    widths: dict[str, int] = {}
    for batch in batches:
        if batch.file is None or len(widths) == len(SOUNDS):
            continue
        for kind, entries in SoundFile.read(root, batch.file).entries.items():
            if width := _most_common_width(entry.width for entry in entries if not entry.what):
                widths.setdefault(kind, width)
    return widths


def _count_drops(dropped: list[Drop]) -> list[dict]:
    """Return one defect per modality; missed_embeddings.csv has one line per embedding."""
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
