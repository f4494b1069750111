"""AudioSet's labels and ontology: a graph in which a sound may have several parents, and what is near a target."""

import json
from dataclasses import dataclass
from typing import Any


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
