"""Find AudioSet's tables below a folder or URL, read them, and build the vocabulary.

Tables may be at any depth, also compressed as .xz or .gz:

    unbalanced_train_segments.csv (or its ..._partNN.csv), balanced_train_segments.csv, eval_segments.csv
    class_labels_indices.csv, mid_to_display_name.tsv, ontology.json
    audioset_train_strong.tsv, audioset_eval_strong.tsv     every event of their clips
    audioset_eval_strong_framed_posneg.tsv                  frames in which a sound is present or not
    <any>_train.tsv, <any>_eval.tsv, <any>_framed.tsv       strong rows of some labels only, for example of one target
"""

import gzip
import lzma
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from media.audioset import Labels, Ontology, read_ontology

from ..defects import make_defect
from ..raw_files import RawFolder
from .own_lists import OwnLists
from .sound_files import SUBSETS
from .table_formats import read_labels, read_strong, read_weak

LABELS_TABLE, NAMES_TABLE, ONTOLOGY = "class_labels_indices.csv", "mid_to_display_name.tsv", "ontology.json"
WEAK = re.compile(r"(unbalanced_train|balanced_train|eval)_segments(?:_part(\d+))?\.csv")
WHOLE_STRONG = re.compile(r"audioset_(train|eval)_strong\.tsv")
PARTIAL_STRONG = re.compile(r".+_(train|eval|framed|framed_posneg)\.tsv")
PACKED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}


@dataclass(frozen=True)
class WeakTable:
    """The rows of one weak table."""

    where: str
    subset: int  # position in SUBSETS, by the file's name
    part: int | None  # by the file's name
    rows: pa.Table  # see table_formats.read_weak


@dataclass(frozen=True)
class StrongTable:
    """The rows of one strong table."""

    where: str
    in_eval: bool
    whole: bool  # holds every event of its clips
    framed: bool  # rows are frames of a fixed length, in which a person heard the sound or did not
    rows: pa.Table  # see table_formats.read_strong


@dataclass
class RawTables:
    """Paths of the tables in a folder, by file name without the suffix of a compression."""

    folder: RawFolder
    weak: dict[str, str] = field(default_factory=dict)
    strong: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)  # the two tables of labels and the ontology
    defects: list[dict] = field(default_factory=list)
    ahead: dict[str, Future[bytes]] = field(default_factory=dict)  # contents being unpacked in the background, by path

    def unpack_ahead(self, pool: Executor) -> None:
        """Start to read and decompress the weak tables in the background."""
        self.ahead = {path: pool.submit(self._unpack, path) for path in self.weak.values()}

    def paths(self) -> list[str]:
        """Return the paths of all tables."""
        return [path for tables in (self.weak, self.strong, self.named) for path in tables.values()]

    def read_weak(self, labels: Labels) -> list[WeakTable]:
        """Read the weak tables, in the order of SUBSETS and parts."""
        tables = []
        for name in sorted(self.weak, key=_weak_order):
            subset, part = WEAK.fullmatch(name).groups()
            rows = read_weak(self._read(self.weak[name]), labels, self._where(self.weak[name]))
            part = None if part is None else int(part)
            tables.append(WeakTable(self._where(self.weak[name]), SUBSETS.index(subset), part, rows))
        return tables

    def read_strong(self) -> list[StrongTable]:
        """Read the strong tables, in the order of their names."""
        tables = []
        for name in sorted(self.strong):
            match = WHOLE_STRONG.fullmatch(name) or PARTIAL_STRONG.fullmatch(name)
            where = self._where(self.strong[name])
            data = self._read(self.strong[name])
            framed = data.partition(b"\n")[0].rstrip().endswith(b"present")  # the last column of the header
            whole = match.re is WHOLE_STRONG and not framed
            tables.append(StrongTable(where, match[1] != "train", whole, framed, read_strong(data, where)))
        return tables

    def read_named(self) -> tuple[Labels | None, Labels | None, Ontology | None]:
        """Read the weak labels, the strong labels and the ontology, each None if its file is missing."""
        readers = {LABELS_TABLE: read_labels, NAMES_TABLE: read_labels, ONTOLOGY: read_ontology}
        contents = {name: readers[name](self._read(path), self._where(path)) for name, path in self.named.items()}
        return tuple(contents.get(name) for name in readers)

    def _where(self, path: str) -> str:
        return self.folder.where(path)

    def _read(self, path: str) -> bytes:
        return self.ahead.pop(path).result() if path in self.ahead else self._unpack(path)

    def _unpack(self, path: str) -> bytes:
        unpack = PACKED.get(PurePosixPath(path).suffix, bytes)
        data = self.folder.read(path)
        try:
            return unpack(data)
        except (EOFError, OSError, lzma.LZMAError) as error:
            raise ValueError(f"{self._where(path)}: could not be decompressed: {error}. Download it again.") from None


def find_tables(folder: RawFolder, own: Iterable[str] = ()) -> RawTables:
    """Identify AudioSet's tables by file name.

    Args:
        folder: the files to look at.
        own: paths of the user's lists, which may be in the same folder and have similar names; they are skipped.
    """
    tables, own = RawTables(folder), set(own)
    for path in folder.files:
        suffix = PurePosixPath(path).suffix
        name = PurePosixPath(path).name.removesuffix(suffix if suffix in PACKED else "")
        if folder.where(path) in own:
            continue
        if name in (LABELS_TABLE, NAMES_TABLE, ONTOLOGY):
            _add_table(tables, tables.named, name, path)
        elif WEAK.fullmatch(name):
            _add_table(tables, tables.weak, name, path)
        elif WHOLE_STRONG.fullmatch(name) or (PARTIAL_STRONG.fullmatch(name) and name != NAMES_TABLE):
            _add_table(tables, tables.strong, name, path)
    # The parts repeat the complete table: reading both would make every id a duplicate.
    for name in [name for name in tables.weak if WEAK.fullmatch(name)[2]]:
        if f"{WEAK.fullmatch(name)[1]}_segments.csv" in tables.weak:
            detail = f"{tables.weak.pop(name)}: the complete table is used"
            tables.defects.append(make_defect("table_left_out", detail=detail))
    return tables


def find_vocabulary(
    tables: RawTables, strong: list[StrongTable], own: OwnLists, target: list[str]
) -> tuple[Labels, Ontology | None, list[str], dict[str, str]]:
    """Build the vocabulary.

    Returns the labels in the order of their codes, the ontology, the target's MIDs, and the MID of every label text in
    the target and the lists. A text that is no known name or MID becomes a new label.
    """
    weak_labels, strong_labels, ontology = tables.read_named()
    if tables.weak and weak_labels is None:
        raise ValueError(f"--raw_dir={tables.folder.location}: weak tables without {LABELS_TABLE}. Add it.")
    # Weak labels come first because published models number them in this order. Strong labels follow as listed, then
    # other labels in strong tables (sorted, so that the order does not depend on rows), then those of the lists.
    names: dict[str, str] = {}
    for labels in (weak_labels, strong_labels):
        names |= (
            {} if labels is None else {m: n for m, n in zip(labels.mids, labels.names, strict=True) if m not in names}
        )
    unlisted = sorted({mid for table in strong for mid in pc.unique(table.rows["label"]).to_pylist()} - names.keys())
    ontology_names = {} if ontology is None else ontology.names
    names |= {mid: ontology_names.get(mid, mid) for mid in unlisted}
    if ontology is None:
        if target and any(wanted in names or wanted in names.values() for wanted in target) and not own.lists:
            raise ValueError(
                f"--raw_dir={tables.folder.location}: no {ONTOLOGY}, which gives the labels related to --target "
                f"{', '.join(target)}. Add it (github.com/audioset/ontology)."
            )
        detail = f"{ONTOLOGY}: labels have no parents, so only the target itself is kept out of its negatives"
        tables.defects.append(make_defect("missing_table", detail=detail))
    ontology_only = {mid: name for mid, name in ontology_names.items() if mid not in names}
    everything = Labels((*names, *ontology_only), (*names.values(), *ontology_only.values()))
    texts = dict.fromkeys(target)
    for one in own.lists:
        texts |= dict.fromkeys(pc.unique(one.texts).to_pylist())
    meant = {text: _mid_of(text, everything, own) for text in texts}
    all_names = dict(zip(everything.mids, everything.names, strict=True))
    for mid in meant.values():
        names.setdefault(mid, all_names.get(mid, mid))
    unknown = [text for text, mid in meant.items() if mid not in all_names]
    if unknown:
        tables.defects.append(make_defect("own_label", len(unknown), detail=", ".join(unknown[:5])))
    return Labels(tuple(names), tuple(names.values())), ontology, [meant[text] for text in target], meant


def _mid_of(text: str, labels: Labels, own: OwnLists) -> str:
    try:
        return labels.find(text)
    except ValueError as error:
        # Lists may introduce new labels. Without lists, an unknown text is a typing error.
        if not own.lists:
            raise ValueError(f"--target={text!r}: not in {LABELS_TABLE} or {NAMES_TABLE}: {error}") from None
        return text


def _weak_order(name: str) -> tuple[int, int]:
    subset, part = WEAK.fullmatch(name).groups()
    return SUBSETS.index(subset), int(part or 0)


def _add_table(tables: RawTables, paths: dict[str, str], name: str, path: str) -> None:
    """Add the path of a table to `paths`.

    If a folder has a table both compressed and not, the uncompressed file is used. Raise ValueError for two copies.
    """
    other = paths.setdefault(name, path)
    if other == path:
        return
    packed = [PurePosixPath(one).name != name for one in (other, path)]
    if packed[0] == packed[1] or PurePosixPath(path).parent != PurePosixPath(other).parent:
        where = tables.folder.where
        raise ValueError(f"{where(path)}: second copy of {where(other)}. Keep one of them.")
    paths[name], left_out = (path, other) if packed[0] else (other, path)
    tables.defects.append(make_defect("table_left_out", detail=f"{left_out}: the uncompressed file is used"))
