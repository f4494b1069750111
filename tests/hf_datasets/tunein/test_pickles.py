"""Pickles of data: values are read as they were written, and columns as ids and float32."""

import io
import os
import pickle
import pickletools
import re
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_datasets.raw_files import FetchError
from hf_datasets.tunein import pickles
from hf_datasets.tunein.pickles import LegacyPickleError, map_numbers
from hf_datasets.tunein.unpickling import load
from tests.conftest import REPOSITORY
from tests.helpers.raw_trees.tunein import small_tree

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
OPERATIONS = sorted(ord(op.code) for op in pickletools.opcodes)
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


def loaded(data: bytes) -> object:
    """Return the value of a trusted pickle, without a child process."""
    return load(io.BytesIO(data))


def same(a: object, b: object) -> bool:
    """Return whether two values are equal in type and content, also of arrays in them."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and same(a.tolist(), b.tolist())
    if isinstance(a, np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_numpy_arrays_are_read_as_they_were_written(name, protocol):
    data = pickle.dumps([ARRAYS[name]] * 2, protocol)
    # Compared with pickle itself, which converts big-endian numbers to native ones up to protocol 4.
    assert same(loaded(data), pickle.loads(data))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_scalars_of_numpy_1_and_2(protocol):
    value = {"a": ARRAYS["float32"], "b": np.float32(0.5), "c": np.int64(12), "d": np.bool_(True)}
    data = pickle.dumps(value, protocol)
    other = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") if protocol < 4 else data
    if protocol >= 4:  # names are preceded by their length
        for module in (b"multiarray", b"numeric"):
            new, old = b"numpy._core." + module, b"numpy.core." + module
            other = other.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
        other = b"\x80" + bytes([protocol]) + other[11:]  # without the frame, whose length would be wrong
    assert other != data
    assert b"_core" not in other
    assert same(loaded(data), value)
    assert same(loaded(other), value)


def test_an_array_pickled_by_python_2():
    data = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\n"
        b"tR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb."
    )
    assert same(loaded(data), np.array([1, 2], "f4"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_torch_tensors_and_storages_are_read_as_numpy_arrays(protocol):
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
    arrays = loaded(pickle.dumps(tensors, protocol))
    for name, tensor in tensors.items():
        assert same(arrays[name], tensor.detach().numpy().copy()), name
    half = torch.tensor([1.5, -2, 3e38]).to(torch.bfloat16)
    assert same(loaded(pickle.dumps(half, protocol)), half.float().numpy())
    storage = loaded(pickle.dumps(base.untyped_storage(), protocol))
    assert storage.tobytes() == base.numpy().tobytes()


MANY_ARRAYS = pickle.dumps(
    {
        "id": [str(i) for i in range(300)],  # more than 255 objects, so that indices of the memo need four bytes
        "few": [np.full((3, i % 7), i, "f4") for i in range(20)],
        "big": [np.full((2, 300 + i), i, "f8") for i in range(10)],
        "ints": [np.arange(i, dtype="i8") for i in (1, 300, 70_000)],
        "axes": [ARRAYS["transposed"], np.zeros((2, 1, 3), "u1"), np.zeros((1, 1, 1, 1)), ARRAYS["objects"]],
        "same": [ARRAYS["float32"]] * 3,
    }
)


def test_many_arrays_of_all_kinds_are_read_as_by_pickle():
    value = loaded(MANY_ARRAYS)
    assert value["same"][0] is value["same"][2]
    assert same(value, pickle.loads(MANY_ARRAYS))


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
def test_every_accepted_value_is_read_as_it_was_written(value, protocol):
    assert same(loaded(pickle.dumps(value, protocol)), value)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.lists(st.sampled_from(OPERATIONS), max_size=60).map(bytes))
def test_random_bytes_are_a_legacy_pickle_error_in_one_line(read, data):
    with pytest.raises(LegacyPickleError, match=r"^x\.pkl: ") as error:
        read(data + b".")
    assert "\n" not in str(error.value)


# Columns


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_columns_have_ids_as_text_and_numbers_as_float32(read, protocol):
    frames = np.arange(6, dtype="f4").reshape(2, 3)
    values = {
        "float32": (frames, frames),
        "big endian": (frames.astype(">f8"), frames),
        "fortran": (np.asfortranarray(frames), frames),
        "ints": (np.arange(3), [[0, 1, 2]]),
        "list": ([0.5, 1], [[0.5, 1]]),
        "lists": ([[0.25, 1], [2, 3]], [[0.25, 1], [2, 3]]),
        "arrays in a list": ([np.float32(3), 4], [[3, 4]]),
        "more axes": (np.arange(8).reshape(2, 2, 2), [[0, 1, 2, 3], [4, 5, 6, 7]]),
        "tensor": (torch.arange(6.0).reshape(3, 2).t(), [[0, 2, 4], [1, 3, 5]]),
        "a number": (np.array(0.5), [[0.5]]),
        "none": (None, "empty_embedding"),
        "nothing": ([], "empty_embedding"),
        "no frames": (np.empty((0, 384), "f4"), "empty_embedding"),
        "text": ("noise", "not_numbers"),
        "lists of two lengths": ([[1], [2, 3]], "not_numbers"),
        "one number": (0.5, "not_numbers"),
        "truths": ([True], "not_numbers"),
        "complex": ([1j], "not_numbers"),
        "a dict": ({"a": 1}, "not_numbers"),
        "objects": (np.array([1.0], object), "not_numbers"),
        "a number too large": ([1 << 80, 0.5, 10**400], "not_numbers"),
        "infinite": ([1.0, np.inf], "not_finite"),
        "infinite as float32": ([1e300], "not_finite"),
    }
    inputs = [value for value, _ in values.values()]
    ids, entries = read(pickle.dumps({"id": [*values], "e": inputs}, protocol))
    assert ids == [*values]
    for name, entry, (_, expected) in zip(values, entries, values.values(), strict=True):
        if isinstance(expected, str):
            assert str(entry) == expected, name
        else:
            assert entry.dtype == np.float32, name
            np.testing.assert_array_equal(entry, np.float32(expected), name)


def test_the_child_reads_archives_of_torch_and_imports_torch_only_for_them(read, tmp_path):
    def loaded_libraries() -> str:
        return Path(f"/proc/{pickles._child.process.pid}/maps").read_text()

    if pickles._child.process:  # another test may have read an archive; the next child starts without torch
        pickles._child.process.kill()
        pickles._child.process.wait()
    read(pickle.dumps({"id": [12], "e": [torch.ones(2)]}))
    assert "numpy" in loaded_libraries()
    assert not re.search("torch|arrow", loaded_libraries())
    tensors = [torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.bfloat16)]
    torch.save({"id": ["12", 5], "e": tensors}, tmp_path / "x.pt")
    ids, entries = read((tmp_path / "x.pt").read_bytes())
    assert ids == ["12", "5"]
    assert [entry.tolist() for entry in entries] == [[[0, 1, 2], [3, 4, 5]], [[1, 1]]]
    assert "libtorch" in loaded_libraries()


def test_odd_ids_are_escaped_and_the_others_are_read(read):
    odd = [b"\xff", "\udce9", 10**5000, None, [1], float("nan"), "a\nb", " 12 ", b"12", 12.0]
    ids, entries = read(pickle.dumps({"id": odd, "e": [[1.0]] * len(odd)}))
    assert ids == [r"\xff", r"\udce9", hex(10**5000), "None", "<list>", "nan", "a\nb", "12", "12", "12"]
    assert len(entries) == len(odd)


@pytest.mark.parametrize(
    "value",
    [
        {"id": np.array("x"), "e": np.array(1.0)},
        {"id": np.frombuffer(b"\xff" * 32, "U2"), "e": [[1.0]] * 4},
        {"id": ["a"], "e": []},
        {"id": "a", "e": [1]},
        {"id": ["a"]},
        ["a"],
    ],
    ids=["no axes", "beyond Unicode", "two lengths", "not a list", "one column", "not a dict"],
)
def test_the_error_for_anything_but_a_dict_of_lists_names_the_file(read, value):
    with pytest.raises(LegacyPickleError, match=r"^raw/y\.pkl: ") as error:
        read(pickle.dumps(value), "raw/y.pkl")
    assert "\n" not in str(error.value)


def test_texts_are_a_defect_and_do_not_all_get_the_memory_of_the_longest(read):
    ids, entries = read(pickle.dumps({"id": ["a", "b"], "e": [["x" * 1_000_000] + [""] * 4000, [1.0]]}))
    assert isinstance(entries[0], str)
    assert entries[0] == "not_numbers"
    assert entries[1].tolist() == [[1.0]]


def test_a_full_disk_is_a_fetch_error_and_not_a_damaged_pickle(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"id": ["a"], "e": [[1.0]]}))
    for target in (Path("/dev/full"), tmp_path / "no folder" / "e.npy"):
        with pytest.raises(FetchError, match=re.escape(str(target))):
            pickles.unpickle_columns(tmp_path / "x.pkl", "x", "id", {"e": target})
    with pytest.raises(LegacyPickleError, match=r"^x: .*Is a directory"):
        pickles.unpickle_columns(tmp_path, "x", "id", {"e": tmp_path / "e.npy"})


@pytest.mark.slow
def test_lower_limits_of_the_program_itself_are_respected(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"id": ["a"], "e": [[1.0]]}))
    script = """
import resource, sys
from pathlib import Path
for kind, most in ((resource.RLIMIT_AS, 4 << 30), (resource.RLIMIT_CPU, 600)):
    resource.setrlimit(kind, (most, most))
from hf_datasets.tunein import pickles
print(pickles.unpickle_columns(Path(sys.argv[1]), "x", "id", {"e": Path(sys.argv[1] + ".npy")})[0])
"""
    command = [sys.executable, "-c", script, str(tmp_path / "x.pkl")]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert finished.stdout == "['a']\n"


def test_several_threads_get_their_own_answers(tmp_path):
    for number in range(8):
        value = {"id": [number], "e": [np.full((1, number + 1), number, "f4")]}
        (tmp_path / f"{number}.pkl").write_bytes(pickle.dumps(value))

    def read(task: int) -> tuple[list[str], list[float]]:
        target = tmp_path / f"{task}.npy"
        ids, _ = pickles.unpickle_columns(tmp_path / f"{task % 8}.pkl", "x", "id", {"e": target})
        return ids, map_numbers(target).tolist()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(read, range(40)))
    assert answers == [([str(n)], [float(n)] * (n + 1)) for n in range(8)] * 5


def test_a_forked_process_starts_another_child(read, tmp_path):
    data = pickle.dumps({"id": ["a"], "e": [[1.0]]})
    read(data)
    child = pickles._child.process.pid
    pid = os.fork()
    if pid == 0:
        read(data)
        os._exit(int(pickles._child.process.pid == child))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    read(data)
    assert pickles._child.process.pid == child


GOOD = pickle.dumps({"id": ["a"], "e": [[1.0]]})


@pytest.fixture
def signals(monkeypatch) -> list[int | None]:
    """Return a list of signals for the next children, None for no signal; PATIENCE is short for a stopped child."""
    sent: list[int | None] = []
    start = pickles._start

    def start_and_signal() -> subprocess.Popen:
        process = start()
        number = sent.pop(0)
        monkeypatch.setattr(pickles, "PATIENCE", 0.01 if number == signal.SIGSTOP else 24)
        if number is not None:
            process.send_signal(number)
        return process

    child = pickles._Child()
    monkeypatch.setattr(pickles, "_start", start_and_signal)
    monkeypatch.setattr(pickles, "_child", child)
    yield sent
    if child.process:
        child.process.kill()
        child.process.wait()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_file_is_read_again_if_its_child_was_killed_or_stopped(end, signals, read):
    signals += [end, None]
    ids, (values,) = read(GOOD)
    assert ids == ["a"]
    assert values.tolist() == [[1.0]]
    assert signals == []


@pytest.mark.parametrize(
    ("end", "reason"), [(signal.SIGKILL, "SIGKILL, twice"), (signal.SIGSTOP, r"within 0\.05 s, twice")]
)
def test_a_file_whose_child_ends_twice_is_refused_with_the_reason(end, reason, signals, read):
    signals += [end, end]
    with pytest.raises(LegacyPickleError, match=f"^x.pkl: .*{reason}"):
        read(GOOD)
    assert signals == []


def test_a_file_that_exceeds_the_cpu_limit_is_not_tried_again(signals, read):
    signals += [signal.SIGXCPU]
    with pytest.raises(LegacyPickleError, match=r"^x\.pkl: .*\b5 s\b"):
        read(GOOD)
    assert signals == []


PARENT = """
import sys, time
from hf_datasets.tunein import pickles, raw
tree = raw.read_tree(sys.argv[1])
print(pickles._child.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_the_child_ends_when_its_parent_is_killed(tmp_path):
    raw = small_tree().write(tmp_path / "raw")
    command = [sys.executable, "-c", PARENT, str(raw)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child = Path("/proc", parent.stdout.readline().strip())
        assert "unpickling.py" in (child / "cmdline").read_text()
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while child.exists() and "unpickling.py" in (child / "cmdline").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
