"""AudioSet's ontology: a graph in which a sound may have several parents, and which labels are near a target."""

import json
from dataclasses import dataclass


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
