"""Old pickles: data come out as they went in."""

import io
import pickle
import pickletools
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_datasets.tunein import pickle_machine as legacy_pickle
from hf_datasets.tunein.pickle_machine import OPERATIONS, LegacyPickleError, Machine
from hf_datasets.tunein.pickles import load_legacy_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = {
    "float32": np.arange(6, dtype="f4").reshape(2, 3),
    "big endian": np.arange(6, dtype=">f8").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype="i2").reshape(2, 3)),
    "transposed": np.arange(24, dtype="u1").reshape(2, 3, 4).transpose(1, 0, 2),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j], "c8"),
    "half": np.array([0.5, 2], "f2"),
    "no axes": np.array(3.0),
    "empty": np.empty((0, 384), "f4"),
    "text": np.array(["12", "112"]),
    "bytes": np.array([b"12", b"112"]),
    "objects": np.array(["12", None, 3], object),
}


def same(a: object, b: object) -> bool:
    """Whether two values are equal in type and content, arrays in them included; NaN is NaN."""
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_numpy_arrays_come_out_as_they_went_in(name, protocol):
    assert same(load_legacy_pickle(pickle.dumps([ARRAYS[name]] * 2, protocol)), [ARRAYS[name]] * 2)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_either_numpy_generation_and_their_scalars(protocol):
    value = {"a": ARRAYS["float32"], "b": np.float32(0.5), "c": np.int64(12), "d": np.bool_(True)}
    data = pickle.dumps(value, protocol)
    other = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") if protocol < 4 else data
    if protocol >= 4:  # their length stands before names
        for module in (b"multiarray", b"numeric"):
            new, old = b"numpy._core." + module, b"numpy.core." + module
            other = other.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
        other = b"\x80" + bytes([protocol]) + other[11:]  # without the frame, whose length is another
    assert other != data
    assert b"_core" not in other
    assert same(load_legacy_pickle(data), value)
    assert same(load_legacy_pickle(other), value)


def test_an_array_that_python_2_pickled():
    data = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\n"
        b"tR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb."
    )
    assert same(load_legacy_pickle(data), np.array([1, 2], "f4"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_torch_tensors_and_storages_come_out_as_numpy_arrays(protocol):
    base = torch.arange(12, dtype=torch.float32)
    tensors = {
        "plain": base,
        "shared": base[2:8].reshape(2, 3),
        "transposed": base.reshape(3, 4).t(),
        "ints": torch.tensor([1, -2]),
        "bool": torch.tensor([True, False]),
        "number": torch.tensor(0.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    loaded = load_legacy_pickle(pickle.dumps(tensors, protocol))
    for name, tensor in tensors.items():
        assert same(loaded[name], tensor.detach().numpy().copy()), name
    half = torch.tensor([1.5, -2, 3e38]).to(torch.bfloat16)
    assert same(load_legacy_pickle(pickle.dumps(half, protocol)), half.float().numpy())
    storage = load_legacy_pickle(pickle.dumps(base.untyped_storage(), protocol))
    assert storage.tobytes() == base.numpy().tobytes()


def test_a_file_of_torch_save_and_that_torch_would_not_have_read_a_plain_pickle(tmp_path):
    value = {"ids": ["12"], "embeddings": [torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.bfloat16)]}
    torch.save(value, tmp_path / "x.pt")
    loaded = load_legacy_pickle(tmp_path / "x.pt")
    assert same(loaded, {"ids": ["12"], "embeddings": [np.arange(6, dtype="f4").reshape(2, 3), np.ones(2, "f4")]})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(pickle.dumps(value)), weights_only=True)


MANY_ARRAYS = pickle.dumps(
    {
        "id": [str(i) for i in range(300)],  # so that the memo's places need four bytes
        "few": [np.full((3, i % 7), i, "f4") for i in range(20)],
        "big": [np.full((2, 300 + i), i, "f8") for i in range(10)],
        "ints": [np.arange(i, dtype="i8") for i in (1, 300, 70_000)],
        "axes": [ARRAYS["transposed"], np.zeros((2, 1, 3), "u1"), np.zeros((1, 1, 1, 1)), ARRAYS["objects"]],
        "same": [ARRAYS["float32"]] * 3,
    }
)


def outcome(data: bytes) -> object:
    """What a pickle gives, or that it is refused."""
    try:
        return load_legacy_pickle(data)
    except LegacyPickleError:
        return LegacyPickleError


def test_arrays_that_are_taken_whole_are_what_their_operations_make(monkeypatch):
    whole = load_legacy_pickle(MANY_ARRAYS)
    assert whole["same"][0] is whole["same"][2]
    assert same(whole, pickle.loads(MANY_ARRAYS))
    taken = []
    take = Machine.whole_array
    monkeypatch.setattr(Machine, "whole_array", lambda machine: taken.append(take(machine)) or taken[-1])
    load_legacy_pickle(MANY_ARRAYS)
    assert sum(taken) >= 25, "most arrays should be taken whole, or this tests nothing"
    monkeypatch.setattr(legacy_pickle, "ARRAY", re.compile(b"(?!)"))
    assert same(load_legacy_pickle(MANY_ARRAYS), whole)


@settings(max_examples=400)
@given(st.data())
def test_a_damaged_array_is_refused_or_the_same_whether_it_is_taken_whole_or_not(data):
    damaged = bytearray(pickle.dumps([np.full((2, 200), i, "f4") for i in range(4)]))
    heads = [at for at, code in enumerate(damaged) if code in b"hK\x94\x85\x86\x87R(\x89Btb"]
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.sampled_from(heads))] = data.draw(st.integers(0, 255))
    with pytest.MonkeyPatch.context() as patched:
        whole = outcome(bytes(damaged))
        patched.setattr(legacy_pickle, "ARRAY", re.compile(b"(?!)"))
        assert same(outcome(bytes(damaged)), whole)


def test_the_content_of_an_array_is_not_copied_and_cannot_be_had_by_itself():
    data = pickle.dumps([np.zeros((2, 300), "f4")] * 2)
    (array, _) = load_legacy_pickle(data)
    root = array
    while isinstance(root, np.ndarray):
        root = root.base
    assert isinstance(root, memoryview)
    assert root.obj is data
    assert not array.flags.writeable
    data = pickle.dumps(np.zeros((2, 300), "f4"))
    codes = [code.name for code, _, _ in pickletools.genops(data)]
    place = codes[: codes.index("BINBYTES")].count("MEMOIZE")  # of the content in the memo
    with pytest.raises(LegacyPickleError, match="holds memoryview itself"):
        load_legacy_pickle(data[:-1] + b"h" + bytes([place]) + b"\x86.")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
KEYS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary() | st.floats(allow_nan=False)
HASHED = KEYS | st.tuples(KEYS, KEYS)
VALUES = st.recursive(
    SCALARS | st.sets(HASHED) | st.frozensets(HASHED) | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHED, inner)
        | st.dictionaries(KEYS, inner).map(OrderedDict)
    ),
    max_leaves=20,
)


@given(VALUES, st.sampled_from(PROTOCOLS))
def test_every_value_that_is_taken_comes_out_as_it_went_in(value, protocol):
    assert same(load_legacy_pickle(pickle.dumps(value, protocol)), value)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=60).map(bytes))
def test_no_bytes_lead_to_another_error(data):
    try:
        load_legacy_pickle(data + b".")
    except LegacyPickleError as error:
        assert "\n" not in str(error)
        assert "a pickle may hold" in str(error)
