"""Hostile and damaged pickles are refused with the name of their file, and no code in them runs."""

import codecs
import collections
import contextlib
import copyreg
import datetime
import decimal
import fractions
import functools
import io
import os
import pathlib
import pickle
import subprocess
import types
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_datasets.tunein import pickles
from hf_datasets.tunein.pickles import LegacyPickleError
from hf_datasets.tunein.unpickling import ALLOWED, ZIP, Function
from tests.helpers.raw_trees.pickle_programs import Runs, in_columns, program, text

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


# Hostile pickles


class Plain:
    pass


def in_an_array(value: object) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = value
    return array


def calls(marker: Path) -> dict[str, bytes]:
    """Return pickles that call functions of Python, in every way that pickles can."""
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
    """Return pickles with arrays, tensors and functions of numpy and torch that are more than numbers."""
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
    """Return pickles with operations that make, change or look up objects."""
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
    """Return pickles of values of built-in types that are not accepted as data."""
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
    """Return hostile pickles by name. Those that run code create the file `marker`."""
    return calls(marker) | objects_of_libraries(marker) | operations(marker) | other_types()


ATTACKS = list(attacks(Path("x")))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_pickle_is_refused_and_no_code_runs(name, read, tmp_path):
    marker = tmp_path / "ran"
    data = attacks(marker)[name]
    with pytest.raises(LegacyPickleError, match=r"^raw/hostile\.pkl: ") as error:
        read(data, "raw/hostile.pkl")
    assert "\n" not in str(error.value)
    assert not marker.exists()
    if not data.startswith(ZIP):
        # Inside a column, the file is refused too, or the value is not usable as an embedding.
        with contextlib.suppress(LegacyPickleError):
            _, (before, entry, after) = read(in_columns(data))
            assert before.tolist() == after.tolist() == [[0.5]]
            assert isinstance(entry, str)
            assert entry == "not_numbers"
    assert not marker.exists()


def test_a_value_in_columns_is_reached(read):
    """Otherwise the part of the test above with columns would prove nothing."""
    ids, entries = read(in_columns(pickle.dumps([0.25])))
    assert ids == ["1", "2", "3"]
    assert [entry.tolist() for entry in entries] == [[[0.5]], [[0.25]], [[0.5]]]


def test_the_attacks_run_code_when_pickle_loads_them(tmp_path):
    """Otherwise the test above would prove nothing."""
    assert len({*attacks(tmp_path).values()}) == len(ATTACKS)
    marker = tmp_path / "ran"
    for name in ("os.system", "posix.system by name", "eval", "exec", "numpy objects", "INST", "torch storage"):
        pickle.loads(attacks(marker)[name])
        assert marker.exists(), name
        marker.unlink()


def test_the_error_names_the_function_that_the_pickle_asks_for(read):
    with pytest.raises(LegacyPickleError, match=r"x\.pkl: .*'posix\.system'"):
        read(pickle.dumps(Runs(os.system, "true")))


def test_allowed_functions_are_no_classes_and_a_pickle_cannot_change_them(read):
    """If a pickle could set attributes of a function, it could change how the next file is read."""
    assert {type(allowed) for allowed in ALLOWED.values()} == {Function}
    assert not hasattr(Function("x"), "__dict__")
    good = pickle.dumps({"id": ["a"], "e": [np.ones((1, 2), "f4")]})
    for module, name in ALLOWED:
        function = f"c{module}\n{name}\n".encode()
        states = (b"}", text("call"), b"Ns"), (b"N}", text("call"), b"Ns\x86"), (b"N}", text("__class__"), b"Ns\x86")
        for state in states:
            with pytest.raises(LegacyPickleError):
                read(in_columns(program(function, *state, b"b")))
        with pytest.raises(LegacyPickleError):
            read(in_columns(program(function, b")\x81")))  # NEWOBJ
        assert read(good)[1][0].tolist() == [[1, 1]]


# Damaged pickles


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_is_cut_off_anywhere_or_continues_is_refused(read, protocol):
    value = {
        "id": ["12", 112, "3", "4"],
        "e": [np.arange(6, dtype="f4").reshape(2, 3), [], torch.ones(2), np.float32(1)],
    }
    data = pickle.dumps(value, protocol)
    assert read(data)[0] == ["12", "112", "3", "4"]
    for length in range(len(data)):
        with pytest.raises(LegacyPickleError):
            read(data[:length])
    with pytest.raises(LegacyPickleError, match=r"^x\.pkl: "):
        read(data + b"x")


def archive() -> bytes:
    file = io.BytesIO()
    torch.save({"id": ["a"], "e": [torch.ones(2)]}, file)
    return file.getvalue()


def test_an_archive_of_torch_that_is_cut_off_anywhere_is_refused(read):
    data = archive()
    assert read(data)[1][0].tolist() == [[1, 1]]
    for length in range(0, len(data), 3):
        with pytest.raises(LegacyPickleError):
            read(data[:length])


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_flipped_byte_is_refused_or_gives_data(read, protocol):
    data = pickle.dumps({"id": ["12", 3], "e": [np.ones((2, 3), "f4"), torch.ones(2)]}, protocol)
    rng = np.random.default_rng(0)
    refused, accepted = 0, 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        try:
            ids, entries = read(bytes(damaged))
        except LegacyPickleError:
            refused += 1
        else:
            accepted += 1
            assert len(ids) == len(entries) == 2
            for entry in entries:
                assert isinstance(entry, str) or entry.dtype == np.float32 and np.isfinite(entry).all()
    assert refused > len(data) / 2
    assert accepted > 20  # at least the bytes of numbers


def test_a_list_that_occurs_several_times_is_data(read):
    shared = [1.0, 2.0]
    _, (entry,) = read(pickle.dumps({"id": [1], "e": [[shared, shared]]}))
    assert entry.tolist() == [[1, 2], [1, 2]]


def test_a_missing_file_is_not_a_damaged_pickle(tmp_path):
    with pytest.raises(FileNotFoundError):
        pickles.unpickle_columns(tmp_path / "none.pkl", "x", "id", {"e": tmp_path / "e.npy"})
