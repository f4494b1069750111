"""Read the pickles of TuneIn without running anything in them."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from .pickle_machine import BASE_BYTES, DEEPEST, PLAIN, TAKEN, TIMES, ZIP, Budget, LegacyPickleError, Machine, Meaning
from .torch_storages import read_storage, read_zip


def load_legacy_pickle(
    source: bytes | str | os.PathLike, name: str | None = None, max_bytes: int | None = None
) -> Any:
    """The value in a pickle (or in a file that torch.save wrote); tensors and storages as numpy arrays.

    Arrays may be read-only, not aligned, and views of the pickle, which is then in memory as long as one of them;
    `np.array` makes a new one. `name` is what errors call it; `max_bytes` is the most memory that its values may take
    (bytes, an upper estimate), None for 32 MiB and 32 times the pickle's own size.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = name or ("the pickle" if isinstance(source, bytes) else str(source))
    budget = Budget(BASE_BYTES + TIMES * len(data) if max_bytes is None else max_bytes)
    try:
        if data.startswith(ZIP):
            value = read_zip(data, budget)
        else:
            machine = Machine(data, budget, read_storage=read_storage)
            value = machine.run()
            if machine.at != len(data):
                raise LegacyPickleError(f"goes on for {len(data) - machine.at} bytes after its end")
        check_tree(value, budget)
    except LegacyPickleError as error:
        raise LegacyPickleError(f"{name}: {error}; a pickle may hold {TAKEN}; write its data anew as these") from None
    except Exception as error:  # whatever a damaged program leads to; it is the machine's own code that stumbles
        said = " ".join(str(error).split())[:200]
        raise LegacyPickleError(
            f"{name}: is damaged or no pickle ({type(error).__name__}: {said}); a pickle may hold {TAKEN}; get it anew"
        ) from None
    return value


def check_tree(value: Any, budget: Budget) -> None:
    """Refuse what is no data, holds itself, or is far bigger to walk through than it is in memory."""
    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def walk(value: Any) -> int:
        kind = type(value)
        if kind in PLAIN:
            return 1
        if kind is np.ndarray and not value.dtype.hasobject:
            return 1
        identity = id(value)
        if identity in sizes:
            return sizes[identity]
        if identity in inside:
            raise LegacyPickleError(f"has a {kind.__name__} that holds itself")
        if len(inside) >= DEEPEST:
            raise LegacyPickleError(f"has containers more than {DEEPEST} deep in one another")
        if kind in (list, tuple, set, frozenset):
            items = value
        elif kind in (dict, OrderedDict):
            items = value.values()
        elif kind is np.ndarray:
            items = value.ravel().tolist()
        elif kind is bytearray or isinstance(value, np.generic) and kind is not np.void:
            return 1
        else:
            word = value.word if kind is Meaning else kind.__name__
            raise LegacyPickleError(f"holds {word} itself, which is no data")
        inside.add(identity)
        total = 1
        for item in items:
            total += 1 if type(item) in PLAIN else walk(item)
            if 8 * total > budget.limit:
                raise LegacyPickleError("holds one list many times over: walked through, it would not end")
        inside.discard(identity)
        sizes[identity] = total
        return total

    walk(value)
