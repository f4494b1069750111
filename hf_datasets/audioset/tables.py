"""AudioSet's tables as they are found below a folder or URL: which file is which, and their vocabulary.

At any depth, each also packed as .xz or .gz:

    unbalanced_train_segments.csv (or its ..._partNN.csv), balanced_train_segments.csv, eval_segments.csv
    class_labels_indices.csv, mid_to_display_name.tsv, ontology.json
    audioset_train_strong.tsv, audioset_eval_strong.tsv     every event of their clips
    audioset_eval_strong_framed_posneg.tsv                  frames in which a sound is there, or is not
    <any>_train.tsv, <any>_eval.tsv, <any>_framed.tsv       strong rows of some labels only, as for one target
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
    """Weak rows of one file (see metadata.read_weak), and what its name says: position in SUBSETS, and the part."""

    where: str
    subset: int
    part: int | None
    rows: pa.Table


@dataclass(frozen=True)
class StrongTable:
    """Strong rows of one file (see metadata.read_strong); `whole` ones hold every event of their clips.

    The rows of `framed` ones are frames of a fixed length in which a person heard a sound, or did not.
    """

    where: str
    in_eval: bool
    whole: bool
    framed: bool
    rows: pa.Table


@dataclass
class RawTables:
    """Paths of the tables, below their folder, by file name without packing."""

    folder: RawFolder
    weak: dict[str, str] = field(default_factory=dict)
    strong: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)  # the labels, their names and the ontology
    defects: list[dict] = field(default_factory=list)
    ahead: dict[str, Future[bytes]] = field(default_factory=dict)  # tables that are being unpacked, by path

    def unpack_ahead(self, pool: Executor) -> None:
        """Begin to read and unpack the weak tables, which take longest."""
        self.ahead = {path: pool.submit(self._unpack, path) for path in self.weak.values()}

    def paths(self) -> list[str]:
        """All that is read."""
        return [path for found in (self.weak, self.strong, self.named) for path in found.values()]

    def read_weak(self, labels: Labels) -> list[WeakTable]:
        """The weak tables, in the order of SUBSETS and parts."""
        tables = []
        for name in sorted(self.weak, key=_weak_order):
            subset, part = WEAK.fullmatch(name).groups()
            rows = read_weak(self._read(self.weak[name]), labels, self._where(self.weak[name]))
            part = None if part is None else int(part)
            tables.append(WeakTable(self._where(self.weak[name]), SUBSETS.index(subset), part, rows))
        return tables

    def read_strong(self) -> list[StrongTable]:
        """The strong tables, in the order of their names."""
        tables = []
        for name in sorted(self.strong):
            match = WHOLE_STRONG.fullmatch(name) or PARTIAL_STRONG.fullmatch(name)
            where = self._where(self.strong[name])
            data = self._read(self.strong[name])
            framed = data.partition(b"\n")[0].rstrip().endswith(b"present")
            whole = match.re is WHOLE_STRONG and not framed
            tables.append(StrongTable(where, match[1] != "train", whole, framed, read_strong(data, where)))
        return tables

    def read_named(self) -> tuple[Labels | None, Labels | None, Ontology | None]:
        """The weak labels, the strong labels and the ontology, None for what is not there."""
        read = {LABELS_TABLE: read_labels, NAMES_TABLE: read_labels, ONTOLOGY: read_ontology}
        found = {name: read[name](self._read(path), self._where(path)) for name, path in self.named.items()}
        return tuple(found.get(name) for name in read)

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
            raise ValueError(f"{self._where(path)} does not unpack ({error}); fetch it again") from None


def find_tables(folder: RawFolder, own: Iterable[str] = ()) -> RawTables:
    """Which of the files are which table. `own` are paths of people's own lists, which are not taken for tables."""
    tables, own = RawTables(folder), set(own)
    for path in folder.files:
        suffix = PurePosixPath(path).suffix
        name = PurePosixPath(path).name.removesuffix(suffix if suffix in PACKED else "")
        if folder.where(path) in own:
            continue
        if name in (LABELS_TABLE, NAMES_TABLE, ONTOLOGY):
            _note(tables, tables.named, name, path)
        elif WEAK.fullmatch(name):
            _note(tables, tables.weak, name, path)
        elif WHOLE_STRONG.fullmatch(name) or (PARTIAL_STRONG.fullmatch(name) and name != NAMES_TABLE):
            _note(tables, tables.strong, name, path)
    for name in [name for name in tables.weak if WEAK.fullmatch(name)[2]]:
        if f"{WEAK.fullmatch(name)[1]}_segments.csv" in tables.weak:
            detail = f"{tables.weak.pop(name)}: the whole table is there too"
            tables.defects.append(make_defect("table_left_out", detail=detail))
    return tables


def find_vocabulary(
    tables: RawTables, strong: list[StrongTable], own: OwnLists, target: list[str]
) -> tuple[Labels, Ontology | None, list[str], dict[str, str]]:
    """The labels in the order of their codes, the ontology, the target's MIDs, and the MID of every label of a list.

    Weak labels come first, in the order of published models; then strong ones as they are listed; then others that
    strong tables hold, sorted; then those of people's own lists as they come. What a list calls by no known name or
    MID is a label of its own.
    """
    weak_labels, strong_labels, ontology = tables.read_named()
    if tables.weak and weak_labels is None:
        raise ValueError(f"--raw_dir {tables.folder.location} holds weak tables, but not {LABELS_TABLE}; add it")
    names: dict[str, str] = {}
    for known in (weak_labels, strong_labels):
        names |= (
            {} if known is None else {m: n for m, n in zip(known.mids, known.names, strict=True) if m not in names}
        )
    met = sorted({mid for table in strong for mid in pc.unique(table.rows["label"]).to_pylist()} - names.keys())
    called = {} if ontology is None else ontology.names
    names |= {mid: called.get(mid, mid) for mid in met}
    if ontology is None:
        if target and any(wanted in names or wanted in names.values() for wanted in target) and not own.lists:
            raise ValueError(
                f"what is near {', '.join(target)} is told by {ONTOLOGY}, which --raw_dir {tables.folder.location} "
                "lacks; add it (github.com/audioset/ontology)"
            )
        detail = f"{ONTOLOGY}: labels have no parents, so nothing but a target itself is kept out of its negatives"
        tables.defects.append(make_defect("missing_table", detail=detail))
    elsewhere = {mid: name for mid, name in called.items() if mid not in names}
    everything = Labels((*names, *elsewhere), (*names.values(), *elsewhere.values()))
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
        if not own.lists:
            raise ValueError(f"--target {text!r}, looked for in {LABELS_TABLE} and {NAMES_TABLE}: {error}") from None
        return text


def _weak_order(name: str) -> tuple[int, int]:
    subset, part = WEAK.fullmatch(name).groups()
    return SUBSETS.index(subset), int(part or 0)


def _note(tables: RawTables, found: dict[str, str], name: str, path: str) -> None:
    """Note where a table is; of one that is there packed and unpacked the latter is taken, two copies are refused."""
    other = found.setdefault(name, path)
    if other == path:
        return
    packed = [PurePosixPath(one).name != name for one in (other, path)]
    if packed[0] == packed[1] or PurePosixPath(path).parent != PurePosixPath(other).parent:
        where = tables.folder.where
        raise ValueError(f"{name} is there twice: {where(other)} and {where(path)}; give a folder that holds one")
    found[name], left = (path, other) if packed[0] else (other, path)
    tables.defects.append(make_defect("table_left_out", detail=f"{left}: it is there unpacked too"))
