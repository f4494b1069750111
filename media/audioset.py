"""AudioSet's labels and ontology: a graph in which a sound may have several parents, and what is near a target."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Labels:
    """A vocabulary: MIDs in their published order, and what people call them."""

    mids: tuple[str, ...]
    names: tuple[str, ...]

    def find(self, wanted: str) -> str:
        """The MID of a label given by MID or by name, whatever its case; ValueError names the nearest ones."""
        if wanted in self.mids:
            return wanted
        lowered = [name.lower() for name in self.names]
        if wanted.lower() in lowered:
            return self.mids[lowered.index(wanted.lower())]
        near = [name for name in self.names if wanted.lower() in name.lower()][:5]
        raise ValueError(
            f"there is no label {wanted!r}; " + (f"there are {near}" if near else "give a MID or its name")
        )


@dataclass(frozen=True)
class Ontology:
    """Children and parents of every MID, and names."""

    names: dict[str, str]
    children: dict[str, tuple[str, ...]]
    parents: dict[str, tuple[str, ...]]

    def descendants(self, mid: str) -> set[str]:
        """Everything that is a kind of this sound, without itself."""
        found: set[str] = set()
        coming = list(self.children.get(mid, ()))
        while coming:
            child = coming.pop()
            if child not in found:
                found.add(child)
                coming += self.children.get(child, ())
        return found

    def related(self, mid: str) -> set[str]:
        """Labels under which the sound itself may be heard: its kinds, and what it is directly a kind of.

        Siblings are not among them: they are the confusers that make good negatives.
        """
        return self.descendants(mid) | set(self.parents.get(mid, ()))

    def siblings(self, mid: str) -> set[str]:
        """Other children of its parents."""
        return {child for parent in self.parents.get(mid, ()) for child in self.children[parent]} - {mid}


def read_ontology(data: bytes, where: str) -> Ontology:
    """`ontology.json`; ValueError when it is not that, or names a child that it does not have."""
    try:
        nodes = json.loads(data)
        names = {node["id"]: node["name"] for node in nodes}
        children = {node["id"]: tuple(node["child_ids"]) for node in nodes}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{where} is no ontology of AudioSet ({type(error).__name__}: {error})") from None
    parents: dict[str, list[str]] = {mid: [] for mid in names}
    for mid, found in children.items():
        for child in found:
            if child not in names:
                raise ValueError(f"{where}: {mid} has the child {child}, which is not there; fetch the file again")
            parents[child].append(mid)
    return Ontology(names, children, {mid: tuple(found) for mid, found in parents.items()})


def ontology_from_labels(record: dict[str, Any], where: str = "labels.json") -> tuple[Labels, Ontology]:
    """The vocabulary and the graph of a prepared data set's `labels.json`.

    Args:
        record: `{"num_labels": 2, "labels": [{"mid": ..., "name": ..., "parents": [...]}, ...]}`: the first
            `num_labels` entries are the data's labels in the order of their codes, the others nodes that are no label.
    """
    try:
        entries = [(str(entry["mid"]), str(entry["name"]), tuple(entry["parents"])) for entry in record["labels"]]
        count = int(record["num_labels"])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{where} is no list of labels ({type(error).__name__}: {error})") from None
    parents = {mid: above for mid, _, above in entries}
    if len(parents) != len(entries) or not 0 < count <= len(entries):
        raise ValueError(
            f"{where}: {len(entries)} entries of {len(parents)} MIDs, num_labels {count}; prepare it again"
        )
    children: dict[str, list[str]] = {mid: [] for mid in parents}
    for mid, above in parents.items():
        for parent in above:
            if parent not in children:
                raise ValueError(f"{where}: {mid} has the parent {parent}, which is not there; prepare it again")
            children[parent].append(mid)
    mids, names, _ = zip(*entries[:count], strict=True)
    graph = {mid: tuple(found) for mid, found in children.items()}
    return Labels(mids, names), Ontology({mid: name for mid, name, _ in entries}, graph, parents)


# A weak table has ytid and labels (list of int16, positions in the vocabulary)


TRIMS = ("any", "only_head", "floor")
WEIGHTS = ("panns", "ast", "sqrt")
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROWS_AT_ONCE = 2**16  # ids that are hashed at once


def id_uniforms(ytids: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each id (rows,), evenly spread and the same wherever the id stands.

    Splitmix64's finaliser over the seed and one after the other 8 bytes of the id, at least 16.
    """
    chunks = ytids.chunks if isinstance(ytids, pa.ChunkedArray) else [ytids]
    drawn = [
        _uniforms(chunk[i : i + ROWS_AT_ONCE], seed) for chunk in chunks for i in range(0, len(chunk), ROWS_AT_ONCE)
    ]
    return np.concatenate(drawn or [np.zeros(0)])


def _uniforms(ytids: pa.StringArray, seed: int) -> np.ndarray:
    """The same for rows that are few enough to be copied."""
    _, edges, text = ytids.cast(pa.string()).buffers()
    edges = np.frombuffer(edges, np.int32)[ytids.offset : ytids.offset + len(ytids) + 1]
    characters, lengths = np.frombuffer(text or b"", np.uint8), np.diff(edges)
    if lengths.min() == lengths.max():  # nearly always
        return _uniforms_of_same_length(characters[edges[0] : edges[-1]].reshape(len(ytids), -1), seed)
    drawn = np.empty(len(ytids))
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        drawn[rows] = _uniforms_of_same_length(characters[edges[rows][:, None] + np.arange(length)], seed)
    return drawn


def _uniforms_of_same_length(characters: np.ndarray, seed: int) -> np.ndarray:
    """The same for ids as bytes, (rows, length)."""
    rows, length = characters.shape
    if length < 8:
        characters, length = np.pad(characters, ((0, 0), (0, 8 - length))), 8
    mixed = np.uint64(seed * int(GOLDEN) % 2**64)
    for place in range(0, max(16, length), 8):
        at = min(place, length - 8)  # the last whole word; what it has of the word before is shifted out
        word = np.ndarray((rows,), "<u8", np.ascontiguousarray(characters), at, (length,))
        word = word >> np.uint64(8 * (place - at)) if place - at < 8 else np.zeros(rows, np.uint64)
        with np.errstate(over="ignore"):
            mixed = mix(word + mixed) if place == 0 else mix(mixed ^ (word + GOLDEN))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def mix(x: np.ndarray) -> np.ndarray:
    """Splitmix64's finaliser: every bit of a number spread over all of its bits, uint64."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def label_lists(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The labels of all rows one after the other (pairs,), and where each row's begin (rows + 1,)."""
    lists = table["labels"].combine_chunks()
    edges = lists.offsets.to_numpy()
    return lists.values.to_numpy()[edges[0] : edges[-1]], edges - edges[0]


def class_counts(table: pa.Table, num_labels: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Clips of each label (labels,), of the kept ones only where `keep` (rows,) is given."""
    codes, edges = label_lists(table)
    return np.bincount(codes if keep is None else codes[np.repeat(keep, np.diff(edges))], minlength=num_labels)


def trim_heads(
    table: pa.Table, heads: Sequence[int], keep_fraction: float, mode: str, seed: int, num_labels: int, floor: int = 0
) -> np.ndarray:
    """Which rows to keep (rows,) bool, so that the most common sounds do not fill the data.

    Args:
        heads: labels that are too common, such as Speech and Music.
        mode: "only_head" thins clips that hold nothing but head labels; "any" those that hold one at all, and so the
            rarer sounds in them too; "floor" as "any", but takes clips back until each label has `floor` again, or all
            that it had.
    """
    if mode not in TRIMS:
        raise ValueError(f"head trimming {mode!r} is not known; it takes one of {', '.join(TRIMS)}")
    if not 0 <= keep_fraction <= 1:
        raise ValueError(f"keep_fraction = {keep_fraction}: give 0 to 1")
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
    """Take dropped rows back, those with the smallest draw first, until each label has `floor` clips; in place."""
    rows = np.repeat(np.arange(len(keep)), np.diff(edges))
    order = np.argsort(codes, kind="stable")
    begins = np.searchsorted(codes[order], np.arange(num_labels + 1))
    counts = np.bincount(codes[keep[rows]], minlength=num_labels)
    for label in np.argsort(counts, kind="stable"):  # rarest first: what it takes back helps the others
        members = rows[order[begins[label] : begins[label + 1]]]
        lacking = floor - np.count_nonzero(keep[members])
        if lacking > 0:
            dropped = members[~keep[members]]
            keep[dropped[np.argsort(drawn[dropped])[:lacking]]] = True


def label_weights(counts: np.ndarray, scheme: str) -> np.ndarray:
    """Weights that labels add to their clips (labels,), by the number of clips of each (labels,).

    "panns": a class is drawn evenly, then one of its clips, as PANNs' balanced sampler does; "ast": 1000 / (count +
    0.01), as AST's published weights; "sqrt": 1 / sqrt(count), by which a class is drawn in proportion to the root of
    its size.
    """
    if scheme not in WEIGHTS:
        raise ValueError(f"weights {scheme!r} are not known; it takes one of {', '.join(WEIGHTS)}")
    counts = counts.astype(np.float64)
    present = np.maximum(counts, 1)
    by_label = {"panns": 1 / present / max(np.count_nonzero(counts), 1), "ast": 1000 / (counts + 0.01)}
    return (by_label | {"sqrt": 1 / np.sqrt(present)})[scheme]


def clips_with(
    labels: Iterable[str], weak: Iterable[tuple[pa.Table, Sequence[str]]], strong: Iterable[pa.Table]
) -> set[str]:
    """Ids of clips in which any of these MIDs is heard by any table: such a clip is no negative for them.

    Half of the clips with a strong "Baby cry" event lack the weak label, so one kind of table is not enough.

    Args:
        weak: tables with the vocabulary that their labels are positions in.
        strong: tables with `label` and `present`; rows that say NOT_PRESENT do not count.
    """
    wanted, found = set(labels), set()
    for table, mids in weak:
        positions = [place for place, mid in enumerate(mids) if mid in wanted]
        codes, edges = label_lists(table)
        hit = np.unique(np.searchsorted(edges, np.flatnonzero(np.isin(codes, positions)), side="right") - 1)
        found |= set(table["ytid"].take(pa.array(hit)).to_pylist())
    for table in strong:
        hit = np.isin(table["label"].to_numpy(), list(wanted)) & table["present"].to_numpy()
        found |= set(table["ytid"].filter(pa.array(hit)).to_pylist())
    return found
