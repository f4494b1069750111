"""Old pickles: what is not data is refused by name, nothing ever runs, and nothing takes much memory."""

import codecs
import collections
import contextlib
import copy
import copyreg
import datetime
import decimal
import fractions
import functools
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_datasets.tunein import pickles
from hf_datasets.tunein.pickles import LegacyPickleError
from hf_datasets.tunein.unpickling import ALLOWED, ZIP, Function, most_bytes
from tests.conftest import REPOSITORY

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


# What is not


class Runs:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


class Plain:
    pass


def program(*parts: bytes | str) -> bytes:
    return b"\x80\x04" + b"".join(part.encode() if isinstance(part, str) else part for part in parts) + b"."


def in_columns(data: bytes) -> bytes:
    """A pickle whose one embedding is what another pickle makes, among good ones."""
    start = b"\x80\x04}(\x8c\x02id](K\x01K\x02K\x03e\x8c\x01e](]G" + struct.pack(">d", 0.5) + b"a"
    return start + data[:-1] + b"]G" + struct.pack(">d", 0.5) + b"aeu."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def in_an_array(value: object) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = value
    return array


def calls(marker: Path) -> dict[str, bytes]:
    """Functions of Python, called in all ways that a pickle has."""
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch {marker}"
    return {
        "os.system": pickle.dumps(Runs(os.system, shell)),
        "posix.system by name": program(text("posix"), text("system"), b"\x93", text(shell), b"\x85R"),
        "eval": pickle.dumps(Runs(eval, touch)),
        "exec": pickle.dumps(Runs(exec, touch)),
        "compile": pickle.dumps(Runs(compile, touch, "x", "exec")),
        "__import__": pickle.dumps(Runs(__import__, "os")),
        "open": pickle.dumps(Runs(open, str(marker), "w")),
        "Path.touch": pickle.dumps(Runs(Path.touch, pathlib.PosixPath(marker))),
        "subprocess": pickle.dumps(Runs(subprocess.call, ["touch", str(marker)])),
        "getattr chain": pickle.dumps(Runs(getattr, Runs(__import__, "os"), "system")),
        "getattr of an allowed one": program(
            b"cbuiltins\ngetattr\ncnumpy\ndtype\n", text("__class__"), b"\x86R", text("x"), b"\x85R"
        ),
        "dotted name": program(text("numpy"), text("ndarray.__class__.__subclasses__"), b"\x93)R"),
        "dotted module": program(text("numpy.core.multiarray.os"), text("system"), b"\x93", text(shell), b"\x85R"),
        "partial": pickle.dumps(functools.partial(os.system, shell)),
        "map": pickle.dumps(Runs(map, os.system, [shell])),
        "codecs other than latin1": pickle.dumps(Runs(codecs.encode, shell, "rot13")),
        "codecs.decode": pickle.dumps(Runs(codecs.decode, b"x", "zlib")),
        "a call in a call": pickle.dumps({"a": [Runs(list, Runs(eval, touch))]}),
        "a call as an argument of an allowed one": pickle.dumps(Runs(OrderedDict, Runs(eval, touch))),
        "a call for a key": pickle.dumps({("x", 1): Runs(eval, touch)}),
    }


def objects_of_libraries(marker: Path) -> dict[str, bytes]:
    """Arrays, tensors and functions of numpy and torch that hold or do more than numbers."""
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch {marker}"
    call_system = Runs(os.system, shell)
    nested = io.BytesIO()
    torch.save(call_system, nested, _use_new_zipfile_serialization=False)
    zipped = io.BytesIO()
    torch.save({"x": call_system, "y": torch.ones(2)}, zipped)
    npy = io.BytesIO()
    np.save(npy, in_an_array(call_system), allow_pickle=True)
    return {
        "numpy objects": pickle.dumps(in_an_array(call_system)),
        "numpy object scalar": pickle.dumps(Runs(np.array(0.0).dtype.type.__reduce__, np.float64(0))),
        "np.load": pickle.dumps(Runs(np.load, io.BytesIO(npy.getvalue()), None, True)),
        "numpy.testing runstring": program(b"cnumpy.testing._private.utils\nrunstring\n", text(touch), b"}\x86R"),
        "numpy f2py": program(b"cnumpy.f2py.diagnose\nrun_command\n", text(shell), b"\x85R"),
        "torch.load": pickle.dumps(Runs(torch.load, io.BytesIO(nested.getvalue()))),
        "torch storage": pickle.dumps(Runs(torch.storage._load_from_bytes, nested.getvalue())),
        "torch.save": zipped.getvalue(),
        "torch hub": pickle.dumps(Runs(torch.hub.load, "x", "y")),
        "an array of a subclass": pickle.dumps(np.ma.array([1.0])),
        "a matrix": program(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy.matrixlib.defmatrix\nmatrix\n"),
        "records": pickle.dumps(np.zeros(1, [("a", "f4")])),
        "times": pickle.dumps(np.array(["2020-01-01"], "M8[D]")),
        "calls ndarray": pickle.dumps(Runs(np.ndarray, (4,))),
    }


def operations(marker: Path) -> dict[str, bytes]:
    """Operations of a pickle that make, change or look up objects."""
    shell = f"touch {marker}"
    return {
        "copyreg": pickle.dumps(Runs(copyreg._reconstructor, Plain, object, None)),
        "copyreg at protocol 1": pickle.dumps(Plain(), 1),
        "object of a class": pickle.dumps(Plain()),
        "INST": b"(S'" + shell.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + shell.encode() + b"'\no.",
        "NEWOBJ": program(b"ccollections\nOrderedDict\n)\x81"),
        "NEWOBJ_EX": program(b"ccollections\nOrderedDict\n)}\x92"),
        "BUILD a dict": program(b"}", b"}", text("__class__"), text("x"), b"sb"),
        "BUILD an OrderedDict": program(b"ccollections\nOrderedDict\n)R}", text("__setstate__"), b"Nsb"),
        "BUILD slots of an OrderedDict": program(b"ccollections\nOrderedDict\n)RN}", text("__class__"), b"Ns\x86b"),
        "BUILD a function": program(b"c_codecs\nencode\nN}", text("__defaults__"), b")s\x86b"),
        "BUILD a class": program(b"cnumpy\nndarray\n}", text("__reduce__"), b"Nsb"),
        "BUILD an array twice": program(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R2",
            b"(K\x01K\x00\x85cnumpy\ndtype\n",
            text("f4"),
            b"\x85R\x89C\x00tb(K\x01)Ntb",
        ),
        "EXT1": program(b"\x82\x01"),
        "EXT2": program(b"\x83\x01\x00"),
        "EXT4": program(b"\x84\x01\x00\x00\x00"),
        "persistent id": b"P" + shell.encode() + b"\n.",
        "binary persistent id": program(text(shell), b"Q"),
        "out of band buffer": program(b"\x97"),
        "calls a number": program(b"K\x01)R"),
        "a class itself": program(b"cnumpy\nndarray\n"),
        "a function in a list": pickle.dumps([np.ndarray]),
        "module": program(text("os"), text("path"), b"\x93"),
        "bytearray of a number": program(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R"),
        "complex of text": program(b"cbuiltins\ncomplex\n", text("1"), b"\x85R"),
    }


def other_types() -> dict[str, bytes]:
    """Values of Python's own types that are not among those of data."""
    return {
        "date": pickle.dumps(datetime.date(2020, 1, 1)),
        "Decimal": pickle.dumps(decimal.Decimal(1)),
        "Fraction": pickle.dumps(fractions.Fraction(1, 2)),
        "namespace": pickle.dumps(types.SimpleNamespace(a=1)),
        "defaultdict": pickle.dumps(defaultdict(list)),
        "deque": pickle.dumps(collections.deque([1])),
        "path": pickle.dumps(Path("x")),
        "range": pickle.dumps(range(3)),
        "slice": pickle.dumps(slice(3)),
    }


def attacks(marker: Path) -> dict[str, bytes]:
    """Return pickles that are not data, by name; those that run anything make the file `marker`."""
    return calls(marker) | objects_of_libraries(marker) | operations(marker) | other_types()


ATTACKS = list(attacks(Path("x")))


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_no_data_is_refused_and_nothing_runs(name, read, tmp_path):
    marker = tmp_path / "ran"
    data = attacks(marker)[name]
    with pytest.raises(LegacyPickleError, match=r"^raw/hostile\.pkl: ") as refused:
        read(data, "raw/hostile.pkl")
    assert "\n" not in str(refused.value)
    assert not marker.exists()
    if not data.startswith(ZIP):
        with contextlib.suppress(LegacyPickleError):  # or else what it makes is no embedding
            _, (before, found, after) = read(in_columns(data))
            assert before.tolist() == after.tolist() == [[0.5]]
            assert isinstance(found, str)
            assert found == "not_numbers"
    assert not marker.exists()


def test_a_value_in_columns_is_reached(read):
    """Or the test above would show less."""
    ids, found = read(in_columns(pickle.dumps([0.25])))
    assert ids == ["1", "2", "3"]
    assert [entry.tolist() for entry in found] == [[[0.5]], [[0.25]], [[0.5]]]


def test_the_attacks_do_run_where_pickles_run(tmp_path):
    """Or the test above would show nothing."""
    assert len({*attacks(tmp_path).values()}) == len(ATTACKS)
    marker = tmp_path / "ran"
    for name in ("os.system", "posix.system by name", "eval", "exec", "numpy objects", "INST", "torch storage"):
        pickle.loads(attacks(marker)[name])
        assert marker.exists(), name
        marker.unlink()


def test_a_refusal_says_what_was_asked_for(read):
    with pytest.raises(LegacyPickleError, match=r"x\.pkl: asks for 'posix\.system'"):
        read(pickle.dumps(Runs(os.system, "true")))


def test_what_is_allowed_is_no_class_and_cannot_be_changed_by_a_pickle(read):
    """A pickle that sets attributes of a function would change how the next file is read."""
    assert {type(allowed) for allowed in ALLOWED.values()} == {Function}
    assert not hasattr(Function("x"), "__dict__")
    good = pickle.dumps({"id": ["a"], "e": [np.ones((1, 2), "f4")]})
    for module, name in ALLOWED:
        called = f"c{module}\n{name}\n".encode()
        states = (b"}", text("call"), b"Ns"), (b"N}", text("call"), b"Ns\x86"), (b"N}", text("__class__"), b"Ns\x86")
        for state in states:
            with pytest.raises(LegacyPickleError):
                read(in_columns(program(called, *state, b"b")))
        with pytest.raises(LegacyPickleError):
            read(in_columns(program(called, b")\x81")))  # NEWOBJ
        assert read(good)[1][0].tolist() == [[1, 1]]


# Damaged, or too much


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_off_anywhere_is_refused(read, protocol):
    value = {
        "id": ["12", 112, "3", "4"],
        "e": [np.arange(6, dtype="f4").reshape(2, 3), [], torch.ones(2), np.float32(1)],
    }
    data = pickle.dumps(value, protocol)
    assert read(data)[0] == ["12", "112", "3", "4"]
    for length in range(len(data)):
        with pytest.raises(LegacyPickleError):
            read(data[:length])
    with pytest.raises(LegacyPickleError, match="after its end"):
        read(data + b"x")


def archive() -> bytes:
    file = io.BytesIO()
    torch.save({"id": ["a"], "e": [torch.ones(2)]}, file)
    return file.getvalue()


def test_a_zip_of_torch_cut_off_anywhere_is_refused(read):
    data = archive()
    assert read(data)[1][0].tolist() == [[1, 1]]
    for length in range(0, len(data), 3):
        with pytest.raises(LegacyPickleError):
            read(data[:length])


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_flipped_byte_is_refused_or_gives_data(read, protocol):
    data = pickle.dumps({"id": ["12", 3], "e": [np.ones((2, 3), "f4"), torch.ones(2)]}, protocol)
    rng = np.random.default_rng(0)
    refused, taken = 0, 0
    for at in range(len(data)):
        spoilt = bytearray(data)
        spoilt[at] ^= int(rng.integers(1, 256))
        try:
            ids, found = read(bytes(spoilt))
        except LegacyPickleError:
            refused += 1
        else:
            taken += 1
            assert len(ids) == len(found) == 2
            for entry in found:
                assert isinstance(entry, str) or entry.dtype == np.float32 and np.isfinite(entry).all()
    assert refused > len(data) / 2
    assert taken > 20  # at least the bytes of numbers


def laughs(depth: int, begin: bytes, end: bytes) -> bytes:
    """Leaves a container of two of a container of two of ... on the stack, each pickled once; () is the innermost."""
    parts = [b")\x940"]
    for level in range(depth):
        kept = b"h" + bytes([level])
        parts.append(begin + kept + (b"K\x01" if end == b"d" else b"") + kept + end + b"\x940")
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


def of_one_hash(number: int) -> bytes:
    return b"\x8a\x0f" + ((number + (1 << 52)) * (2**61 - 1)).to_bytes(15, "little") + b"N"


U4 = struct.Struct("<I").pack
SCALAR = (
    b"B", U4(999_999), b"a" * 999_999, b"r", U4(1), b"0cnumpy.core.multiarray\nscalar\nr", U4(2),
    b"0cnumpy\ndtype\nX", U4(7), b"S999999\x85Rr", U4(4), b"0",
)  # fmt: skip
STORAGE = torch.zeros(1 << 18).untyped_storage().__reduce__()[1][0]


def complex_of_one_hash(i: int) -> bytes:
    return b"h\x01G" + struct.pack(">d", (1 << 52) - 1000003.0 * i) + b"G" + struct.pack(">d", float(i)) + b"\x86RN"


def pair_of_one_hash(i: int) -> bytes:
    """Tuples of two ints whose hash is the same: the second undoes what the first does to it."""
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
    """An archive of torch whose storages are all the same bytes of the file."""
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
    "BINSTRING of less than nothing": lambda: program(b"T\xff\xff\xff\xff"),
    "LONG4": lambda: program(b"\x8b\xff\xff\xff\x7f"),
    "LONG4 of less than nothing": lambda: program(b"\x8b\xff\xff\xff\xff"),
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
    "ints of one hash": lambda: program(b"}(", *map(of_one_hash, range(5000)), b"u"),
    "array of a huge shape": lambda: array_of((1 << 40,), b"1234"),
    "array of a huge shape of nothing": lambda: array_of((1 << 40,), b"", "S0"),
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
    "bytearray": lambda: program(
        b"B",
        U4(1 << 20),
        b"a" * (1 << 20),
        b"r",
        U4(1),
        b"0cbuiltins\nbytearray\nr",
        U4(2),
        b"0](",
        b"h\x02h\x01\x85R" * 3000,
        b"e",
    ),
    "scalars of text": lambda: program(*SCALAR, b"](", b"h\x02h\x04h\x01\x86R" * 3000, b"e"),
    "scalars that are dropped": lambda: program(*SCALAR, b"h\x02h\x04h\x01\x86R0" * 200_000, b"]"),
    "storages of one content": lambda: program(
        b"B",
        U4(len(STORAGE)),
        STORAGE,
        b"r",
        U4(1),
        b"0ctorch.storage\n_load_from_bytes\nr",
        U4(2),
        b"0](",
        b"h\x02h\x01\x85R" * 3000,
        b"e",
    ),
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
    "an id many times over": lambda: program(
        b"X", U4(1 << 20), b"a" * (1 << 20), b"r", U4(1), b"0](", b"h\x01" * 4000, b"e"
    ),
}
CHILD = """
import json, resource, sys
from pathlib import Path
from hf_datasets.tunein import pickles
for path in sys.argv[1:]:
    try:
        ids, columns = pickles.read_columns(Path(path), path, "id", {"e": Path(path + ".npy")})
        print(json.dumps([entry.what for entry in columns["e"]]))
    except pickles.LegacyPickleError as error:
        print(error)
pickles._child.process.stdin.close()
pickles._child.process.wait()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def read_bombs(paths: list[Path]) -> tuple[list[str], int]:
    """The answer to each file by one child after the other; and the KiB that the largest one had."""
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout.splitlines()
    return lines[:-1], int(lines[-1])


@pytest.mark.slow
def test_bombs_take_neither_memory_nor_time(tmp_path):
    """Each ends by itself, as a file and as an entry among good ones, in memory that goes with its size."""
    paths = [tmp_path / "good.pkl"]
    paths[0].write_bytes(pickle.dumps({"id": [1], "e": [[0.5]]}))
    (_, usual) = read_bombs(paths)
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
    assert 1024 * (most - usual) < most_bytes(largest)
    for path, line in zip(zips, read_bombs(zips)[0], strict=True):
        assert line.startswith(f"{path}: "), line


def test_a_list_that_is_held_a_few_times_is_data(read):
    shared = [1.0, 2.0]
    _, (found,) = read(pickle.dumps({"id": [1], "e": [[shared, shared]]}))
    assert found.tolist() == [[1, 2], [1, 2]]


def test_a_file_that_is_not_there_is_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        pickles.read_columns(tmp_path / "none.pkl", "x", "id", {"e": tmp_path / "e.npy"})
