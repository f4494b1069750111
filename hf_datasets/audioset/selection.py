"""Which clips of AudioSet are taken: fewer of the most common sounds, no negative that holds the target, and weights.

Whether a clip is kept depends on its id and the seed alone: not on the order of rows, on other clips that are missing,
or on the number of processes. All of it works on whole columns: two million clips take about a second.
"""

# A weak table has ytid and labels (list of int16, positions in the vocabulary); see metadata.py

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

TRIMS = ("any", "only_head", "floor")
WEIGHTS = ("panns", "ast", "sqrt")
ID_LENGTH = 11  # characters of an id, all ASCII


def id_uniforms(ytids: pa.Array | pa.ChunkedArray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each id (rows,), evenly spread and the same wherever the id stands.

    Two rounds of splitmix64's finaliser over the id's 11 bytes and the seed.
    """
    ytids = ytids.combine_chunks() if isinstance(ytids, pa.ChunkedArray) else ytids
    characters = "".join(ytids.to_pylist()).encode()
    if len(characters) != ID_LENGTH * len(ytids):
        raise ValueError(f"ids of AudioSet have {ID_LENGTH} characters each")
    padded = np.zeros((len(ytids), 16), np.uint8)
    padded[:, :ID_LENGTH] = np.frombuffer(characters, np.uint8).reshape(-1, ID_LENGTH)
    words = padded.view("<u8")  # (rows, 2)
    with np.errstate(over="ignore"):
        mixed = _mix(words[:, 0] + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15))
        mixed = _mix(mixed ^ (words[:, 1] + np.uint64(0x9E3779B97F4A7C15)))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def label_lists(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The labels of all rows one after the other (pairs,), and the row of each (pairs,)."""
    lists = table["labels"].combine_chunks()
    offsets = lists.offsets.to_numpy()
    return lists.values.to_numpy()[offsets[0] : offsets[-1]], np.repeat(np.arange(len(table)), np.diff(offsets))


def class_counts(table: pa.Table, num_labels: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Clips of each label (labels,), of the kept ones only where `keep` (rows,) is given."""
    codes, rows = label_lists(table)
    return np.bincount(codes if keep is None else codes[keep[rows]], minlength=num_labels)


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
    codes, rows = label_lists(table)
    is_head = np.isin(codes, np.asarray(heads))
    has_head, has_other = np.zeros(len(table), bool), np.zeros(len(table), bool)
    has_head[rows[is_head]] = True
    has_other[rows[~is_head]] = True
    thinned = has_head & ~has_other if mode == "only_head" else has_head
    drawn = id_uniforms(table["ytid"], seed)
    keep = ~thinned | (drawn < keep_fraction)
    if mode == "floor":
        _restore(keep, codes, rows, drawn, num_labels, floor)
    return keep


def _restore(
    keep: np.ndarray, codes: np.ndarray, rows: np.ndarray, drawn: np.ndarray, num_labels: int, floor: int
) -> None:
    """Take dropped rows back, those with the smallest draw first, until each label has `floor` clips; in place."""
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(num_labels + 1))
    counts = np.bincount(codes[keep[rows]], minlength=num_labels)
    for label in np.argsort(counts, kind="stable"):  # rarest first: what it takes back helps the others
        members = rows[order[edges[label] : edges[label + 1]]]
        lacking = floor - np.count_nonzero(keep[members])
        if lacking > 0:
            dropped = members[~keep[members]]
            keep[dropped[np.argsort(drawn[dropped])[:lacking]]] = True


def clip_weights(table: pa.Table, num_labels: int, scheme: str) -> np.ndarray:
    """How often to draw each clip (rows,), in proportion.

    "panns": a class is drawn evenly, then one of its clips, as PANNs' balanced sampler does; "ast": the sum over a
    clip's labels of 1000 / (count + 0.01), as AST's published weights; "sqrt": the sum of 1 / sqrt(count), by which a
    class is drawn in proportion to the root of its size.
    """
    counts = class_counts(table, num_labels).astype(np.float64)
    present = np.maximum(counts, 1)
    by_label = {"panns": 1 / present / max(np.count_nonzero(counts), 1), "ast": 1000 / (counts + 0.01)}
    by_label["sqrt"] = 1 / np.sqrt(present)
    if scheme not in WEIGHTS:
        raise ValueError(f"weights {scheme!r} are not known; it takes one of {', '.join(WEIGHTS)}")
    codes, rows = label_lists(table)
    return np.bincount(rows, weights=by_label[scheme][codes], minlength=len(table))


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
        codes, rows = label_lists(table)
        hit = np.unique(rows[np.isin(codes, positions)])
        found |= set(table["ytid"].take(pa.array(hit)).to_pylist())
    for table in strong:
        hit = np.isin(table["label"].to_numpy(), list(wanted)) & table["present"].to_numpy()
        found |= set(table["ytid"].filter(pa.array(hit)).to_pylist())
    return found
