"""Small pickles that ask for a lot of memory or time are refused within the limits of their file."""

import copy
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_datasets.tunein.unpickling import ZIP, most_bytes
from tests.conftest import REPOSITORY
from tests.helpers.raw_trees.pickle_programs import Runs, in_columns, program, text


def laughs(depth: int, begin: bytes, end: bytes) -> bytes:
    """Return a program for `depth` nested containers ("billion laughs").

    Each container has the next inner one twice, from the memo; the innermost one is ().
    """
    parts = [b")\x940"]
    for level in range(depth):
        inner = b"h" + bytes([level])  # from the memo
        parts.append(begin + inner + (b"K\x01" if end == b"d" else b"") + inner + end + b"\x940")
    return b"".join(parts) + b"h" + bytes([depth])


def zip_bomb() -> bytes:
    file = io.BytesIO()
    torch.save([torch.ones(2)], file)
    bomb = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1 << 28) if name.endswith("data/0") else old.read(name))
    return bomb.getvalue()


def tensor_of(shape: tuple, strides: tuple) -> bytes:
    return pickle.dumps(Runs(torch._utils._rebuild_tensor_v2, torch.ones(2).storage(), 0, shape, strides, False, {}))


def array_of(shape: tuple, content: bytes, code: str = "f4") -> bytes:
    return program(
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01",
        pickle.dumps(shape, 2)[2:-1], b"cnumpy\ndtype\n", text(code), b"\x85R\x89B",
        struct.pack("<I", len(content)), content, b"tb",
    )  # fmt: skip


HUGE = struct.pack("<Q", 1 << 62)


def int_of_one_hash(number: int) -> bytes:
    return b"\x8a\x0f" + ((number + (1 << 52)) * (2**61 - 1)).to_bytes(15, "little") + b"N"


U4 = struct.Struct("<I").pack
SCALAR = (
    b"B", U4(999_999), b"a" * 999_999, b"r", U4(1), b"0cnumpy.core.multiarray\nscalar\nr", U4(2),
    b"0cnumpy\ndtype\nX", U4(7), b"S999999\x85Rr", U4(4), b"0",
)  # fmt: skip
STORAGE = torch.zeros(1 << 18).untyped_storage().__reduce__()[1][0]


def calls_with_one(function: bytes, content: bytes) -> bytes:
    """Return a program for a list of 3000 results of a function, each called with the same bytes."""
    start = b"B", U4(len(content)), content, b"r", U4(1), b"0c", function, b"\nr", U4(2)
    return program(*start, b"0](", b"h\x02h\x01\x85R" * 3000, b"e")


def complex_of_one_hash(i: int) -> bytes:
    return b"h\x01G" + struct.pack(">d", (1 << 52) - 1000003.0 * i) + b"G" + struct.pack(">d", float(i)) + b"\x86RN"


def pair_of_one_hash(i: int) -> bytes:
    """Return a tuple of two ints. All have the same hash: the second int cancels the effect of the first."""
    mask, p1, p2, p5 = (1 << 64) - 1, 11400714785074694791, 14029467366897019727, 2870177450012600261

    def rotate(x: int) -> int:
        return (x << 31 | x >> 33) & mask

    def back(x: int) -> int:
        return (x >> 31 | x << 33) & mask

    first = rotate((p5 + i * p2) & mask) * p1 & mask
    second = (back(12345 * pow(p1, -1, 1 << 64) & mask) - first) * pow(p2, -1, 1 << 64) & mask
    second -= (second >> 63) << 64
    return b"J" + struct.pack("<i", i) + b"\x8a\x08" + struct.pack("<q", second) + b"\x86N"


def overlapping_zip() -> bytes:
    """Return an archive of torch whose 300 storages are the same bytes of the file."""
    tensors = io.BytesIO()
    torch.save({"id": [1] * 300, "e": [torch.zeros(1 << 18) for _ in range(300)]}, tensors)
    bomb = io.BytesIO()
    with zipfile.ZipFile(tensors) as old, zipfile.ZipFile(bomb, "w") as new:
        for name in old.namelist():
            if "data/" not in name or name.endswith("data/0"):
                new.writestr(name, old.read(name))
        (first,) = (info for info in new.infolist() if info.filename.endswith("data/0"))
        for number in range(1, 300):
            other = copy.copy(first)
            other.filename = other.orig_filename = first.filename[:-1] + str(number)
            new.filelist.append(other)
            new.NameToInfo[other.filename] = other
        new._didModify = True
    return bomb.getvalue()


def array_program(shape: bytes) -> bytes:
    return program(
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01", shape,
        b"cnumpy\ndtype\n", text("f4"), b"\x85R\x89C\x041234tb",
    )  # fmt: skip


BOMBS = {
    "BINBYTES8": lambda: program(b"\x8e" + HUGE),
    "BYTEARRAY8": lambda: program(b"\x96" + HUGE),
    "BYTEARRAY8 of 8 GB": lambda: program(b"\x96" + struct.pack("<Q", 8 << 30)),
    "BINUNICODE8": lambda: program(b"\x8d" + HUGE),
    "BINBYTES": lambda: program(b"B\xff\xff\xff\xff"),
    "BINSTRING": lambda: program(b"T\xff\xff\xff\x7f"),
    "BINSTRING of negative length": lambda: program(b"T\xff\xff\xff\xff"),
    "LONG4": lambda: program(b"\x8b\xff\xff\xff\x7f"),
    "LONG4 of negative length": lambda: program(b"\x8b\xff\xff\xff\xff"),
    "FRAME": lambda: program(b"\x95" + HUGE),
    "digits": lambda: program(b"L" + b"9" * 2_000_000 + b"L\n"),
    "memo index by PUT": lambda: program(b"]p" + b"9" * 5000 + b"\n"),
    "nested lists": lambda: program(laughs(60, b"(", b"l")),
    "nested tuples": lambda: program(laughs(60, b"", b"\x86")),
    "nested dicts": lambda: program(laughs(60, b"(K\x00", b"d")),
    "key of tuples": lambda: program(b"}", laughs(60, b"", b"\x86"), b"K\x01s"),
    "set of tuples": lambda: program(b"\x8f(", laughs(60, b"", b"\x86"), b"\x90"),
    "frozenset of tuples": lambda: program(b"(", laughs(60, b"", b"\x86"), b"\x91"),
    "a list in itself": lambda: program(b"]\x94h\x00a"),
    "a dict in itself": lambda: program(b"}\x94K\x01h\x00s"),
    "depth": lambda: program(b"]" * 500_000 + b"a" * 499_999),
    "sets of one byte": lambda: program(b"\x8f" * 3_000_000),
    "ints of one hash": lambda: program(b"}(", *map(int_of_one_hash, range(5000)), b"u"),
    "array of a huge shape": lambda: array_of((1 << 40,), b"1234"),
    "array of a huge shape of empty items": lambda: array_of((1 << 40,), b"", "S0"),
    "array of a negative shape": lambda: array_of((-1, -1), b"1234"),
    "array of too many axes": lambda: array_of((1,) * 100, b"1234"),
    "array of a shape that overflows": lambda: array_of((1 << 40, 1 << 40), b""),
    "array of a huge item": lambda: array_of((1,), b"", "S2147483647"),
    "objects of a huge shape": lambda: array_of((1 << 40,), b"", "O8"),
    "tensor of a huge shape": lambda: tensor_of((1 << 40,), (1,)),
    "tensor of stride 0": lambda: tensor_of((1 << 40,), (0,)),
    "tensor of negative stride": lambda: tensor_of((2,), (-1,)),
    "storage of a huge size": lambda: pickle.dumps(torch.ones(2)).replace(
        struct.pack("<Q", 2) + struct.pack("<2f", 1, 1), struct.pack("<Q", 1 << 40) + struct.pack("<2f", 1, 1)
    ),
    "zip": zip_bomb,
    "overlapping zip": overlapping_zip,
    "str in arrays": lambda: program(
        b"X",
        U4(1 << 20),
        b"a" * (1 << 20),
        b"r",
        U4(1),
        b"0cnumpy.core.multiarray\n_reconstruct\nr",
        U4(2),
        b"0cnumpy\nndarray\nr",
        U4(3),
        b"0cnumpy\ndtype\nX",
        U4(2),
        b"u1\x85Rr",
        U4(4),
        b"0J",
        U4(1 << 20),
        b"\x85r",
        U4(5),
        b"0](",
        b"h\x02h\x03K\x00\x85C\x01b\x87R(K\x01h\x05h\x04\x89h\x01tb" * 3000,
        b"e",
    ),
    "bytearray": lambda: calls_with_one(b"builtins\nbytearray", b"a" * (1 << 20)),
    "scalars of text": lambda: program(*SCALAR, b"](", b"h\x02h\x04h\x01\x86R" * 3000, b"e"),
    "scalars that are dropped": lambda: program(*SCALAR, b"h\x02h\x04h\x01\x86R0" * 200_000, b"]"),
    "storages of one content": lambda: calls_with_one(b"torch.storage\n_load_from_bytes", STORAGE),
    "memo of one hash": lambda: program(b"N", *(b"p%d\n" % ((2**61 - 1) * (k + 1)) for k in range(50_000))),
    "complex keys of one hash": lambda: program(
        b"cbuiltins\ncomplex\nr", U4(1), b"0}(", *map(complex_of_one_hash, range(200_000)), b"u"
    ),
    "pairs of one hash": lambda: program(b"}(", *map(pair_of_one_hash, range(60_000)), b"u"),
    "a shape of long numbers": lambda: array_program(
        b"(\x8b" + U4(4 << 20) + b"\x7f" * (4 << 20) + b"r" + U4(9) + (b"j" + U4(9)) * 30 + b"t"
    ),
    "a tensor of 200,000 axes": lambda: tensor_of((2**47 - 1,) * 200_000, (0,) * 200_000),
    "a far memo index": lambda: program(b"K\x01r\xff\xff\xff\xff0]j\xff\xff\xff\xffa"),
    "an array many times over": lambda: program(
        pickle.dumps(np.ones(1 << 16))[2:-1], b"r", U4(1), b"0](", b"h\x01" * 400_000, b"e"
    ),
    "a text many times over": lambda: program(
        b"X", U4(1 << 20), b"a" * (1 << 20), b"r", U4(1), b"0](", b"h\x01" * 4000, b"e"
    ),
}
CHILD = """
import json, resource, sys
from pathlib import Path
from hf_datasets.tunein import pickles
for path in sys.argv[1:]:
    try:
        ids, columns = pickles.unpickle_columns(Path(path), path, "id", {"e": Path(path + ".npy")})
        print(json.dumps([entry.what for entry in columns["e"]]))
    except pickles.LegacyPickleError as error:
        print(error)
pickles._child.process.stdin.close()
pickles._child.process.wait()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def read_bombs(paths: list[Path]) -> tuple[list[str], int]:
    """Read files in child processes, and return the answer to each and the most memory of a child in KiB."""
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout.splitlines()
    return lines[:-1], int(lines[-1])


@pytest.mark.slow
def test_bombs_are_refused_within_the_memory_limit(tmp_path):
    paths = [tmp_path / "good.pkl"]
    paths[0].write_bytes(pickle.dumps({"id": [1], "e": [[0.5]]}))
    (_, baseline) = read_bombs(paths)  # KiB
    zips, largest = [], 0
    for number, (name, make) in enumerate(BOMBS.items()):
        data = make()
        largest = max(largest, len(data))
        path = tmp_path / f"{number:02d}-{name.replace(' ', '-')}.pkl"
        path.write_bytes(data if data.startswith(ZIP) else in_columns(data))
        (zips if data.startswith(ZIP) else paths).append(path)
    lines, most = read_bombs(paths)
    assert lines[0] == json.dumps([""])
    for path, line in zip(paths[1:], lines[1:], strict=True):
        assert line.startswith(f"{path}: ") or json.loads(line)[1] in ("not_numbers", "empty_embedding"), line
    assert 1024 * (most - baseline) < most_bytes(largest)
    for path, line in zip(zips, read_bombs(zips)[0], strict=True):
        assert line.startswith(f"{path}: "), line
