"""Old pickles: what is not data is refused by name, nothing ever runs, and nothing takes much memory."""

import codecs
import collections
import copyreg
import datetime
import decimal
import fractions
import functools
import io
import os
import pathlib
import pickle
import pickletools
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

from hf_datasets.tunein.pickle_machine import ALLOWED, OPERATIONS, REFUSED, LegacyPickleError
from hf_datasets.tunein.pickles import load_legacy_pickle
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
def test_what_is_no_data_is_refused_and_nothing_runs(name, tmp_path):
    marker = tmp_path / "ran"
    data = attacks(marker)[name]
    (tmp_path / "hostile.pkl").write_bytes(data)
    with pytest.raises(LegacyPickleError) as refused:
        load_legacy_pickle(tmp_path / "hostile.pkl")
    assert str(tmp_path / "hostile.pkl") in str(refused.value)
    assert "numpy arrays and scalars" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not marker.exists()
    hidden = pickle.dumps([1.0, "x"])[:-1]  # behind good values
    with pytest.raises(LegacyPickleError):
        load_legacy_pickle(hidden + b"0" + data.removeprefix(b"PK"))
    assert not marker.exists()


def test_the_attacks_do_run_where_pickles_run(tmp_path):
    """Or the test above would show nothing."""
    assert len({*attacks(tmp_path).values()}) == len(ATTACKS)
    marker = tmp_path / "ran"
    for name in ("os.system", "posix.system by name", "eval", "exec", "numpy objects", "INST", "torch storage"):
        pickle.loads(attacks(marker)[name])
        assert marker.exists(), name
        marker.unlink()


def test_a_refusal_says_what_was_asked_for():
    with pytest.raises(LegacyPickleError, match=r"x\.pkl: asks for 'posix\.system'"):
        load_legacy_pickle(pickle.dumps(Runs(os.system, "true")), "x.pkl")


def test_no_global_is_imported_and_every_operation_is_taken_or_refused():

    assert {ord(op.code) for op in pickletools.opcodes} == set(OPERATIONS) | set(REFUSED) | {ord(".")}
    assert not set(OPERATIONS) & set(REFUSED)
    source = (REPOSITORY / "hf_datasets" / "tunein" / "pickle_machine.py").read_text()
    assert not any(
        word in source for word in ("import pickle", "importlib", "__import__", "getattr", "eval(", "exec(")
    )
    assert all(module.split(".")[0] in {"numpy", "builtins", "__builtin__", "collections", "_codecs", "torch"}
               for module, _ in ALLOWED)  # fmt: skip


# Damaged, or too much


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_off_anywhere_is_refused(protocol):
    value = {
        "id": ["12", 112],
        "audio": [np.arange(6, dtype="f4").reshape(2, 3), []],
        "backaudio": [torch.ones(2), np.float32(1)],
    }
    data = pickle.dumps(value, protocol)
    for length in range(len(data)):
        with pytest.raises(LegacyPickleError):
            load_legacy_pickle(data[:length])
    with pytest.raises(LegacyPickleError, match="after its end"):
        load_legacy_pickle(data + b"x")


def test_a_zip_of_torch_cut_off_anywhere_is_refused():
    file = io.BytesIO()
    torch.save([torch.ones(2)], file)
    data = file.getvalue()
    for length in range(0, len(data), 3):
        with pytest.raises(LegacyPickleError):
            load_legacy_pickle(data[:length])


def is_data(value: object) -> bool:
    if isinstance(value, dict):
        return all(is_data(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_data, value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "O" or is_data(value.ravel().tolist())
    return isinstance(value, str | bytes | bytearray | int | float | complex | np.generic | None)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_flipped_byte_is_refused_or_gives_data(protocol):
    data = pickle.dumps({"id": ["12"], "audio": [np.ones((2, 3), "f4"), torch.ones(2)]}, protocol)
    rng = np.random.default_rng(0)
    refused, taken = 0, 0
    for at in range(len(data)):
        spoilt = bytearray(data)
        spoilt[at] ^= int(rng.integers(1, 256))
        try:
            value = load_legacy_pickle(bytes(spoilt))
        except LegacyPickleError:
            refused += 1
        else:
            taken += 1
            assert is_data(value), (at, value)
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


BOMBS = {
    ("BINBYTES8", "is cut off"): lambda: program(b"\x8e" + HUGE),
    ("BYTEARRAY8", "is cut off"): lambda: program(b"\x96" + HUGE),
    ("BYTEARRAY8 of 8 GB", "is cut off"): lambda: program(b"\x96" + struct.pack("<Q", 8 << 30)),
    ("BINUNICODE8", "is cut off"): lambda: program(b"\x8d" + HUGE),
    ("BINBYTES", "is cut off"): lambda: program(b"B\xff\xff\xff\xff"),
    ("BINSTRING", "is cut off"): lambda: program(b"T\xff\xff\xff\x7f"),
    ("BINSTRING of less than nothing", "is cut off"): lambda: program(b"T\xff\xff\xff\xff"),
    ("LONG4", "is cut off"): lambda: program(b"\x8b\xff\xff\xff\x7f"),
    ("LONG4 of less than nothing", "is cut off"): lambda: program(b"\x8b\xff\xff\xff\xff"),
    ("FRAME", "a frame of"): lambda: program(b"\x95" + HUGE),
    ("digits", "is damaged"): lambda: program(b"L" + b"9" * 2_000_000 + b"L\n"),
    ("memo index by PUT", "is damaged"): lambda: program(b"]p" + b"9" * 5000 + b"\n"),
    ("nested lists", "many times over"): lambda: program(laughs(60, b"(", b"l")),
    ("nested tuples", "many times over"): lambda: program(laughs(60, b"", b"\x86")),
    ("nested dicts", "many times over"): lambda: program(laughs(60, b"(K\x00", b"d")),
    ("key of tuples", "has a tuple for a key"): lambda: program(b"}", laughs(60, b"", b"\x86"), b"K\x01s"),
    ("set of tuples", "has a tuple for a key"): lambda: program(b"\x8f(", laughs(60, b"", b"\x86"), b"\x90"),
    ("frozenset of tuples", "has a tuple for a key"): lambda: program(b"(", laughs(60, b"", b"\x86"), b"\x91"),
    ("a list in itself", "holds itself"): lambda: program(b"]\x94h\x00a"),
    ("a dict in itself", "holds itself"): lambda: program(b"}\x94K\x01h\x00s"),
    ("depth", "deep in one another"): lambda: program(b"]" * 500_000 + b"a" * 499_999),
    ("sets of one byte", "of memory"): lambda: program(b"\x8f" * 3_000_000),
    ("ints of one hash", "more than 64 bits"): lambda: program(b"}(", *map(of_one_hash, range(5000)), b"u"),
    ("array of a huge shape", "in 4 bytes"): lambda: array_of((1 << 40,), b"1234"),
    ("array of a huge shape of nothing", "in 0 bytes"): lambda: array_of((1 << 40,), b"", "S0"),
    ("array of a negative shape", "of shape"): lambda: array_of((-1, -1), b"1234"),
    ("array of too many axes", "without a shape"): lambda: array_of((1,) * 100, b"1234"),
    ("array of a shape that overflows", "in 0 bytes"): lambda: array_of((1 << 40, 1 << 40), b""),
    ("array of a huge item", "of type"): lambda: array_of((1,), b"", "S2147483647"),
    ("objects of a huge shape", "without as many values"): lambda: array_of((1 << 40,), b"", "O8"),
    ("tensor of a huge shape", "beyond its 2"): lambda: tensor_of((1 << 40,), (1,)),
    ("tensor of stride 0", "of memory"): lambda: tensor_of((1 << 40,), (0,)),
    ("tensor of negative stride", "and strides"): lambda: tensor_of((2,), (-1,)),
    ("storage of a huge size", "has a storage of"): lambda: pickle.dumps(torch.ones(2)).replace(
        struct.pack("<Q", 2) + struct.pack("<2f", 1, 1), struct.pack("<Q", 1 << 40) + struct.pack("<2f", 1, 1)
    ),
    ("zip", "compressed"): zip_bomb,
}  # fmt: skip
CHILD = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
from hf_datasets.tunein.pickles import LegacyPickleError, load_legacy_pickle
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sys.argv[2:]:
    try:
        load_legacy_pickle(path)
    except LegacyPickleError as error:
        assert "MemoryError" not in str(error), (path, error)
        print("refused", error)
    else:
        print("taken", path)
"""


@pytest.mark.slow
def test_bombs_take_neither_memory_nor_time(tmp_path):
    """In a process that may take 256 MiB and 60 s for all of them."""
    paths = []
    for number, make in enumerate(BOMBS.values()):
        paths.append(tmp_path / f"{number:02d}.pkl")
        paths[-1].write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(REPOSITORY), *map(str, paths)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for (name, said), line in zip(BOMBS, done.stdout.splitlines(), strict=True):
        assert line.startswith("refused"), (name, line)
        assert said in line.split("; a pickle")[0], (name, line)


def test_a_far_memo_index_costs_nothing():
    assert load_legacy_pickle(program(b"K\x01r\xff\xff\xff\xff0]j\xff\xff\xff\xffa")) == [1]


def test_a_list_that_is_held_a_few_times_is_data():
    shared = [1.0, 2.0]
    assert load_legacy_pickle(pickle.dumps([shared, shared, (shared,)])) == [shared, shared, (shared,)]


def test_the_most_memory_can_be_said(tmp_path):
    data = pickle.dumps([[i] for i in range(10_000)])
    assert len(load_legacy_pickle(data)) == 10_000
    with pytest.raises(LegacyPickleError, match="more than 100,000 bytes of memory"):
        load_legacy_pickle(data, max_bytes=100_000)


def test_a_file_that_is_not_there_is_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_legacy_pickle(tmp_path / "none.pkl")
