"""AudioSet's labels and ontology, a graph in which a label may have several parents; sampling by label."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Labels:
    """A vocabulary: MIDs in their published order, and their display names."""

    mids: tuple[str, ...]
    names: tuple[str, ...]

    def find(self, label: str) -> str:
        """Return the MID of a label given by MID or by name (in any case). ValueError lists the nearest names."""
        if label in self.mids:
            return label
        lowered = [name.lower() for name in self.names]
        if label.lower() in lowered:
            return self.mids[lowered.index(label.lower())]
        near = [name for name in self.names if label.lower() in name.lower()][:5]
        remedy = f"Did you mean one of {near}?" if near else "Give a MID or its name."
        raise ValueError(f"label={label!r}: unknown. {remedy}")


@dataclass(frozen=True)
class Ontology:
    """Children, parents and names of every MID."""

    names: dict[str, str]
    children: dict[str, tuple[str, ...]]
    parents: dict[str, tuple[str, ...]]

    def descendants(self, mid: str) -> set[str]:
        """Return all subtypes of this label, without itself."""
        descendants: set[str] = set()
        queue = list(self.children.get(mid, ()))
        while queue:
            child = queue.pop()
            if child not in descendants:
                descendants.add(child)
                queue += self.children.get(child, ())
        return descendants

    def related(self, mid: str) -> set[str]:
        """Return labels whose clips may contain this sound: its descendants and its parents."""
        # Siblings are left out on purpose: similar sounds that are not the target make good negatives.
        return self.descendants(mid) | set(self.parents.get(mid, ()))

    def siblings(self, mid: str) -> set[str]:
        """Return the other children of its parents."""
        return {child for parent in self.parents.get(mid, ()) for child in self.children[parent]} - {mid}


def read_ontology(data: bytes, where: str) -> Ontology:
    """Parse `ontology.json`. Raise ValueError for other content, or for a child that is not defined."""
    try:
        nodes = json.loads(data)
        names = {node["id"]: node["name"] for node in nodes}
        children = {node["id"]: tuple(node["child_ids"]) for node in nodes}
    except (ValueError, TypeError, KeyError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}: not an ontology of AudioSet ({problem}). Fetch the file again.") from None
    parents: dict[str, list[str]] = {mid: [] for mid in names}
    for mid, child_mids in children.items():
        for child in child_mids:
            if child not in names:
                raise ValueError(f"{where}: {mid} has an undefined child {child}. Fetch the file again.")
            parents[child].append(mid)
    return Ontology(names, children, {mid: tuple(above) for mid, above in parents.items()})


def ontology_from_labels(record: dict[str, Any], where: str = "labels.json") -> tuple[Labels, Ontology]:
    """Parse the vocabulary and the graph from a prepared data set's `labels.json`.

    Args:
        record: `{"num_labels": 2, "labels": [{"mid": ..., "name": ..., "parents": [...]}, ...]}`. The first
            `num_labels` entries are the data's labels in the order of their codes. The others are nodes without label.
        where: name of the file in errors.
    """
    try:
        entries = [(str(entry["mid"]), str(entry["name"]), tuple(entry["parents"])) for entry in record["labels"]]
        count = int(record["num_labels"])
    except (TypeError, KeyError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}: not a list of labels ({problem}). Prepare the data set again.") from None
    parents = {mid: above for mid, _, above in entries}
    if len(parents) != len(entries) or not 0 < count <= len(entries):
        raise ValueError(
            f"{where}: {len(entries)} entries of {len(parents)} MIDs, num_labels={count}. Prepare the data set again."
        )
    children: dict[str, list[str]] = {mid: [] for mid in parents}
    for mid, above in parents.items():
        for parent in above:
            if parent not in children:
                raise ValueError(f"{where}: {mid} has an undefined parent {parent}. Prepare the data set again.")
            children[parent].append(mid)
    mids, names, _ = zip(*entries[:count], strict=True)
    graph = {mid: tuple(below) for mid, below in children.items()}
    return Labels(mids, names), Ontology({mid: name for mid, name, _ in entries}, graph, parents)


# A table of weak labels has the columns ytid and labels (list of int16, indices into the vocabulary).


TRIMS = ("any", "only_head", "floor")
WEIGHTS = ("panns", "ast", "sqrt")
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the increment of Splitmix64
ROWS_AT_ONCE = 2**16  # ids hashed at once, to limit memory


def id_uniforms(ytids: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    """Hash each id (rows,) with the seed to a uniform number in [0, 1), independent of the id's position."""
    # Splitmix64's finalizer over the seed and successive 8-byte words of the id, at least two.
    chunks = ytids.chunks if isinstance(ytids, pa.ChunkedArray) else [ytids]
    drawn = [
        _uniforms(chunk[i : i + ROWS_AT_ONCE], seed) for chunk in chunks for i in range(0, len(chunk), ROWS_AT_ONCE)
    ]
    return np.concatenate(drawn or [np.zeros(0)])


def _uniforms(ytids: pa.StringArray, seed: int) -> np.ndarray:
    """Hash few rows, whose bytes may be copied."""
    _, edges, text = ytids.cast(pa.string()).buffers()
    edges = np.frombuffer(edges, np.int32)[ytids.offset : ytids.offset + len(ytids) + 1]
    characters, lengths = np.frombuffer(text or b"", np.uint8), np.diff(edges)
    if lengths.min() == lengths.max():  # the usual case: YouTube ids have 11 characters
        return _uniforms_of_same_length(characters[edges[0] : edges[-1]].reshape(len(ytids), -1), seed)
    drawn = np.empty(len(ytids))
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        drawn[rows] = _uniforms_of_same_length(characters[edges[rows][:, None] + np.arange(length)], seed)
    return drawn


def _uniforms_of_same_length(characters: np.ndarray, seed: int) -> np.ndarray:
    """Hash ids given as bytes (rows, length)."""
    rows, length = characters.shape
    if length < 8:
        characters, length = np.pad(characters, ((0, 0), (0, 8 - length))), 8
    mixed = np.uint64(seed * int(GOLDEN) % 2**64)
    for start in range(0, max(16, length), 8):
        at = min(start, length - 8)  # the last word overlaps the one before; the overlap is shifted out
        word = np.ndarray((rows,), "<u8", np.ascontiguousarray(characters), at, (length,))
        word = word >> np.uint64(8 * (start - at)) if start - at < 8 else np.zeros(rows, np.uint64)
        with np.errstate(over="ignore"):
            mixed = mix(word + mixed) if start == 0 else mix(mixed ^ (word + GOLDEN))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def mix(x: np.ndarray) -> np.ndarray:
    """Apply Splitmix64's finalizer to uint64: every input bit affects all output bits."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def label_lists(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of all rows in one array (pairs,), and the start of each row in it (rows + 1,)."""
    lists = table["labels"].combine_chunks()
    edges = lists.offsets.to_numpy()
    return lists.values.to_numpy()[edges[0] : edges[-1]], edges - edges[0]


def class_counts(table: pa.Table, num_labels: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Count the clips of each label (labels,), only those in `keep` (rows,) if it is given."""
    codes, edges = label_lists(table)
    return np.bincount(codes if keep is None else codes[np.repeat(keep, np.diff(edges))], minlength=num_labels)


def trim_heads(
    table: pa.Table, heads: Sequence[int], keep_fraction: float, mode: str, seed: int, num_labels: int, floor: int = 0
) -> np.ndarray:
    """Return which rows to keep (rows,) bool, so that the most common labels do not dominate the data.

    Args:
        heads: indices of labels that are too common, for example Speech and Music.
        keep_fraction: share of the clips selected by `mode` that is kept.
        mode: "only_head" thins out clips that have only head labels. "any" thins out clips that have any head label,
            and so their rarer labels too. "floor" is like "any", but restores clips until each label has `floor` clips
            again, or all that it had.
        floor: minimum number of clips per label, for mode "floor".
    """
    if mode not in TRIMS:
        raise ValueError(f"mode={mode!r}: unknown head trimming. Give one of {', '.join(TRIMS)}.")
    if not 0 <= keep_fraction <= 1:
        raise ValueError(f"keep_fraction={keep_fraction}: not in [0, 1]. Give 0 to 1.")
    codes, edges = label_lists(table)
    is_head = np.isin(np.arange(num_labels), np.asarray(heads))[codes]
    heads_before = np.zeros(len(codes) + 1, np.int32)
    np.cumsum(is_head, out=heads_before[1:])
    heads_in = np.diff(heads_before[edges])
    thinned = heads_in > 0
    if mode == "only_head":
        thinned &= heads_in == np.diff(edges)
    drawn = np.zeros(len(table))
    drawn[thinned] = id_uniforms(table["ytid"].filter(pa.array(thinned)), seed)
    keep = ~thinned | (drawn < keep_fraction)
    if mode == "floor":
        _restore(keep, codes, edges, drawn, num_labels, floor)
    return keep


def _restore(
    keep: np.ndarray, codes: np.ndarray, edges: np.ndarray, drawn: np.ndarray, num_labels: int, floor: int
) -> None:
    """Restore dropped rows in place, smallest draw first, until each label has `floor` clips."""
    rows = np.repeat(np.arange(len(keep)), np.diff(edges))
    order = np.argsort(codes, kind="stable")
    begins = np.searchsorted(codes[order], np.arange(num_labels + 1))
    counts = np.bincount(codes[keep[rows]], minlength=num_labels)
    for label in np.argsort(counts, kind="stable"):  # rarest first: its clips also count for other labels
        members = rows[order[begins[label] : begins[label + 1]]]
        lacking = floor - np.count_nonzero(keep[members])
        if lacking > 0:
            dropped = members[~keep[members]]
            keep[dropped[np.argsort(drawn[dropped])[:lacking]]] = True


def label_weights(counts: np.ndarray, scheme: str) -> np.ndarray:
    """Return the weight that each label adds to its clips (labels,), from the number of clips per label (labels,).

    "panns": draw a class evenly, then one of its clips, like PANNs' balanced sampler. "ast": 1000 / (count + 0.01),
    AST's published weights. "sqrt": 1 / sqrt(count), so that a class is drawn in proportion to the square root of its
    size.
    """
    if scheme not in WEIGHTS:
        raise ValueError(f"scheme={scheme!r}: unknown weights. Give one of {', '.join(WEIGHTS)}.")
    counts = counts.astype(np.float64)
    present = np.maximum(counts, 1)
    by_label = {"panns": 1 / present / max(np.count_nonzero(counts), 1), "ast": 1000 / (counts + 0.01)}
    return (by_label | {"sqrt": 1 / np.sqrt(present)})[scheme]


def clips_with(
    labels: Iterable[str], weak: Iterable[tuple[pa.Table, Sequence[str]]], strong: Iterable[pa.Table]
) -> set[str]:
    """Return the ids of clips for which any table has one of these MIDs. These clips are no negatives for them.

    Args:
        labels: MIDs.
        weak: tables, each with the vocabulary of its labels.
        strong: tables with `label` and `present`; rows with NOT_PRESENT do not count.
    """
    # One kind of table is not enough: half of the clips with a strong "Baby cry" event lack the weak label.
    mids, ytids = set(labels), set()
    for table, vocabulary in weak:
        positions = [index for index, mid in enumerate(vocabulary) if mid in mids]
        codes, edges = label_lists(table)
        rows = np.unique(np.searchsorted(edges, np.flatnonzero(np.isin(codes, positions)), side="right") - 1)
        ytids |= set(table["ytid"].take(pa.array(rows)).to_pylist())
    for table in strong:
        rows = np.isin(table["label"].to_numpy(), list(mids)) & table["present"].to_numpy()
        ytids |= set(table["ytid"].filter(pa.array(rows)).to_pylist())
    return ytids
