"""Tensors in old pickles: the two formats of torch.save, read without torch; see pickle_machine.py.

Storages become numpy arrays of exactly the bytes that are there; of bfloat16, which numpy lacks, float32.
"""

import io
import zipfile
from typing import Any

import numpy as np

from .pickle_machine import STORAGES, Budget, LegacyPickleError, Machine, Meaning

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # begin the older format, into which a pickled tensor puts its storage


def read_storage(data: bytes, budget: Budget) -> np.ndarray:
    """The numbers, (n,), of one storage that torch.save wrote in its older format."""
    at = 0
    for expected in (MAGIC, VERSION):
        machine = Machine(data, budget, at)
        if machine.run() != expected:
            raise LegacyPickleError("has a storage of an unknown format")
        at = machine.at
    system = Machine(data, budget, at)
    if system.run().get("little_endian") is not True:
        raise LegacyPickleError("has a storage of a big-endian machine")
    value = Machine(data, budget, system.at, persistent=_identity)
    key, word, _ = value.run()
    keys = Machine(data, budget, value.at)
    if keys.run() != [key]:
        raise LegacyPickleError("has another number of storages than one")
    count = int.from_bytes(data[keys.at : keys.at + 8], "little")
    return _numbers(data[keys.at + 8 :], word, count, budget)


def read_zip(data: bytes, budget: Budget) -> Any:
    """What torch.save writes today: a zip, not compressed, of a pickle and a file a storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise LegacyPickleError("is a zip that torch.save did not write: it has no data.pkl")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and _stored(archive, f"{folder}byteorder", data) != b"little":
            raise LegacyPickleError("has storages of a big-endian machine")
        storages: dict[str, np.ndarray] = {}

        def read(identity: Any) -> np.ndarray:
            key, word, count = _identity(identity)
            if key not in storages:
                storages[key] = _numbers(_stored(archive, f"{folder}data/{key}", data), word, count, budget)
            return storages[key]

        return Machine(_stored(archive, names[0], data), budget, persistent=read).run()


def _stored(archive: zipfile.ZipFile, name: str, data: bytes) -> bytes:
    """A file of a zip, which is there as it is: what is compressed could grow without end."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
        raise LegacyPickleError(f"has {name[:80]!r} compressed, which torch.save never does")
    return archive.read(info)


def _identity(identity: Any) -> tuple[str, str, int]:
    """Key, what it is made of, and numbers of a storage by its persistent id."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise LegacyPickleError("asks for something kept outside of it that is no storage")
    kind, key, _, count = identity[1:5]
    if type(kind) is not Meaning or kind.word not in STORAGES or type(key) is not str or type(count) is not int:
        raise LegacyPickleError("has a storage of an unknown type")
    if identity[5:] not in ((), (None,)):
        raise LegacyPickleError("has a storage that is a part of another")
    return key, kind.word, count


def _numbers(content: bytes, word: str, count: int, budget: Budget) -> np.ndarray:
    code = STORAGES[word]
    size = 2 if code == "bf16" else np.dtype(code).itemsize
    if count < 0 or count * size != len(content):
        raise LegacyPickleError(f"has a storage of {count:,} numbers of {size} bytes in {len(content):,} bytes")
    if code == "bf16":
        budget.charge(8 * count)
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(content, code)
