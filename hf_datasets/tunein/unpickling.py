"""The child process that opens pickles, which are untrusted, within limits of memory and CPU time.

pickles.py starts it as a script. It imports only numpy (and torch for an archive of torch.save). Each line of its
input is a request for the columns of one file; each line of its output is the answer. It ends when its input ends, so
also when the program that started it is killed.

A pickle may call only the functions in ALLOWED, which make numbers, text, bytes, lists, dicts, sets and numpy arrays.
It can neither replace them nor make instances of them. Tensors of torch become numpy arrays. Even so, a small pickle
can ask for a lot of memory or time, which is why there are limits.
"""

import contextlib
import io
import json
import math
import os
import pickle
import re
import resource
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

BASE_BYTES, TIMES = 64 << 20, 16  # memory limit of a file: 64 MiB plus 16 times its size
BASE_SECONDS, BYTES_PER_SECOND = 5, 4 << 20  # CPU limit of a file: 5 s plus 1 s per 4 MiB
DEEPEST = 32  # levels of nested lists
DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|O8?|[SU]\d{1,6}")
ZIP = b"PK\x03\x04"  # first bytes of an archive of torch.save
# First values of torch.save's older format, in which tensors inside a plain pickle are still stored
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
TYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}
NUMBERS = {int, float, bool} | {
    kind for kind in np.sctypeDict.values() if issubclass(kind, np.integer | np.floating | np.bool_)
}


class Refused(pickle.UnpicklingError):
    """The pickle contains something other than data. The message continues a sentence about the file."""


def most_bytes(size: int) -> int:
    """Return the memory limit in bytes for the values of a file of `size` bytes."""
    return BASE_BYTES + TIMES * size


def most_seconds(size: int) -> int:
    """Return the CPU limit in s for a file of `size` bytes."""
    return BASE_SECONDS + size // BYTES_PER_SECOND


# Functions that a pickle may call


class Function:
    """A stand-in for a function or class that a pickle names. A pickle can neither change nor instantiate it."""

    __slots__ = ("name", "call")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self.name, self.call = name, call

    def __call__(self, *arguments: Any) -> Any:
        if self.call is None:
            raise Refused(f"calls {self.name}")
        return self.call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"sets the state of {self.name}")


class DType:
    """A dtype. A pickle first calls it with a type code and then sets the byte order as its state."""

    __slots__ = ("value",)

    def __init__(self, code: Any, *flags: Any) -> None:
        code = code.decode("ascii") if type(code) is bytes else code
        if type(code) is not str or not DTYPE.fullmatch(code):
            raise Refused(f"has an array of type {code!r:.80}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order, *structure = state[1:5]  # of (version, order, subdtype, names, fields, ...)
        if order not in ("<", ">", "|", "=") or any(part is not None for part in structure):
            raise Refused("has an array of records")
        if order in "<>":
            self.value = self.value.newbyteorder(order)


class Array(np.ndarray):
    """An array. A pickle makes an empty one (`_reconstruct`), then sets shape, dtype and content as its state."""

    __slots__ = ()

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, content = state[-4:]  # without the version, which numpy before 1.0 did not write
        # numpy checks the number of bytes against the shape, but not the number of objects in a list.
        if self.size or type(dtype) is not DType or not _is_shape(shape):
            raise Refused(f"has an array of shape {shape!r:.80}")
        if dtype.value.hasobject and (type(content) is not list or len(content) != math.prod(shape)):
            raise Refused(f"has an array of shape {shape!r:.80} with another number of values")
        super().__setstate__((1, shape, dtype.value, fortran, content))


def _is_shape(shape: Any) -> bool:
    return type(shape) is tuple and len(shape) <= 64 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if type(kind) is not Function or kind.name != "ndarray":
        raise Refused("has an array of a class that is not numpy's own")
    return Array((0,))


def _scalar(dtype: Any, content: Any) -> Any:
    if type(dtype) is not DType or type(content) is not bytes or len(content) != dtype.value.itemsize:
        raise Refused("has a numpy scalar that is neither a number nor text")
    return np.frombuffer(content, dtype.value)[0]


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    if type(dtype) is not DType or not _is_shape(shape) or type(content) not in (bytes, bytearray):
        raise Refused(f"has an array of shape {shape!r:.80}")
    numbers = np.frombuffer(content, dtype.value)
    return numbers.reshape(shape).transpose(axes) if axes is not None else numbers.reshape(shape, order=order)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("encodes something other than bytes")
    return text.encode("latin-1")


def _bytes(content: Any = b"", *encoding: Any) -> bytes:
    return content if type(content) is bytes else _encode(content, *encoding)


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise Refused("has a complex number that is not made of two floats")
    return complex(real, imaginary)


def _of_items(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise Refused(f"has a {kind.__name__} of something that is not a list")
        return kind(items)

    return make


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
    """Return the numbers of a tensor, a read-only view of its storage."""
    if type(storage) is not np.ndarray or not _is_shape(shape) or not _is_shape(strides) or not _is_shape((offset,)):
        raise Refused(f"has a tensor of shape {shape!r:.80} and strides {strides!r:.80}")
    # as_strided does not check bounds: without this check, a pickle could read memory outside the storage.
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    if last >= len(storage):
        raise Refused(f"has a tensor of shape {shape!r:.80} beyond its {len(storage):,} numbers")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _storage(content: Any) -> np.ndarray:
    """Return the numbers (n,) of a storage in torch.save's older format: five pickles, then the raw numbers."""
    if type(content) is not bytes:
        raise Refused("has a storage that is not bytes")
    file = io.BytesIO(content)
    start = [Unpickler(file).load() for _ in range(3)]
    if start[:2] != [MAGIC, VERSION] or start[2].get("little_endian") is not True:
        raise Refused("has a storage of an unknown format")
    key, code, _ = StorageUnpickler(file).load()
    if Unpickler(file).load() != [key]:
        raise Refused("does not have exactly one storage")
    count, numbers = int.from_bytes(file.read(8), "little"), file.read()
    size = 2 if code == "bf16" else np.dtype(code).itemsize
    if count * size != len(numbers):
        raise Refused(f"has a storage of {count:,} numbers of {size} bytes in {len(numbers):,} bytes")
    if code == "bf16":  # numpy does not have this type; it is the upper half of a float32
        return (np.frombuffer(numbers, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(numbers, code)


# By module and name, as pickles give them. The names are only looked up in this table and never imported.
ALLOWED = {
    (f"numpy.{core}.{module}", name): Function(name, call)
    for core in ("core", "_core")
    for module, name, call in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}
ALLOWED |= {("numpy", "ndarray"): Function("ndarray"), ("numpy", "dtype"): Function("dtype", DType)}
ALLOWED |= {
    (module, name): Function(name, call)
    for module in ("builtins", "__builtin__")
    for name, call in (
        ("set", _of_items(set)),
        ("frozenset", _of_items(frozenset)),
        ("bytes", _bytes),
        ("bytearray", lambda *arguments: bytearray(_bytes(*arguments))),
        ("complex", _complex),
    )
}
ALLOWED |= {
    ("collections", "OrderedDict"): Function("OrderedDict", _of_items(OrderedDict)),
    ("_codecs", "encode"): Function("encode", _encode),
    ("torch._utils", "_rebuild_tensor_v2"): Function("_rebuild_tensor_v2", _tensor),
    ("torch._utils", "_rebuild_tensor"): Function("_rebuild_tensor", _tensor),
    ("torch._utils", "_rebuild_parameter"): Function("_rebuild_parameter", lambda tensor, *rest: tensor),
    ("torch.storage", "_load_from_bytes"): Function("_load_from_bytes", _storage),
    ("torch.storage", "UntypedStorage"): Function("ByteStorage"),
    ("torch", "Size"): Function("Size", _of_items(tuple)),
}
ALLOWED |= {("torch", name): Function(name) for name in TYPES}


class Unpickler(pickle.Unpickler):
    """Python's unpickler, except that it looks up names in ALLOWED instead of importing them."""

    def __init__(self, file: BinaryIO | io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # for the str of Python 2, which can contain any bytes

    def find_class(self, module: str, name: str) -> Function:
        function = ALLOWED.get((module, name))
        if function is None:
            raise Refused(f"asks for {f'{module}.{name}'[:100]!r}")
        return function


class StorageUnpickler(Unpickler):
    """Unpickler for the description of a storage in the older format of torch.save."""

    def persistent_load(self, identity: Any) -> tuple[str, str, int]:
        """Return the key, type and size of a storage."""
        tag, kind, key, _, count, *part = identity
        if tag != "storage" or type(kind) is not Function or kind.name not in TYPES or part not in ([], [None]):
            raise Refused("has a storage of an unknown type")
        return key, TYPES[kind.name], count


def load(file: BinaryIO) -> Any:
    """Return the value in a pickle or in an archive of torch.save, with tensors as numpy arrays."""
    if file.read(4) == ZIP:
        # `sys.modules` instead of an import: `answer_to` has imported torch, before the memory was limited.
        return _without_tensors(sys.modules["torch"].load(file.name, "cpu", weights_only=True))
    file.seek(0)
    value = Unpickler(file).load()
    if file.read(1):
        raise Refused("continues after its end")
    return value


def _without_tensors(value: Any) -> Any:
    torch = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if type(value) in (list, tuple):
        return type(value)(map(_without_tensors, value))
    if isinstance(value, dict):
        return {key: _without_tensors(part) for key, part in value.items()}
    return value


# Columns


def as_id(value: Any) -> str:
    """Return an id as text that UTF-8 can encode; 12, 12.0, numpy's 12 and ' 12 ' are the same id."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes | bytearray):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, int) and value.bit_length() > 10_000:
        value = hex(value)  # Python refuses to convert integers this long to decimal
    if not isinstance(value, str | int | float | complex | None):
        value = f"<{type(value).__name__}>"
    return str(value).encode("utf-8", "backslashreplace").decode().strip()


def as_numbers(value: Any, most: int) -> tuple[np.ndarray | None, str, float | None]:
    """Return an entry as float32, or None with the kind and size of its defect; MemoryError above `most` bytes."""
    if value is None:
        return None, "empty_embedding", None
    if not _holds_numbers(value):
        return None, "not_numbers", None
    try:
        numbers = np.asarray(value)
    except (ValueError, OverflowError):  # lists of different lengths, or a number that is too large
        return None, "not_numbers", None
    if numbers.size == 0:
        return None, "empty_embedding", None
    if numbers.dtype.kind not in "iuf":
        return None, "not_numbers", None
    if 4 * numbers.size > most:
        raise MemoryError
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is a defect
        numbers = numbers.astype(np.float32, copy=False)
    finite = np.isfinite(numbers)
    if finite.all():
        return numbers, "", None
    return None, "not_finite", int(numbers.size - finite.sum())


def _holds_numbers(value: Any, depth: int = 0) -> bool:
    """Return whether nested lists contain only numbers."""
    # Checked before `np.asarray`: among texts, numpy would give every entry the size of the longest one.
    if isinstance(value, np.ndarray):
        return value.size == 0 or value.dtype.kind in "biuf"
    if not isinstance(value, list | tuple) or depth > DEEPEST:
        return False
    return set(map(type, value)) <= NUMBERS or all(
        type(part) in NUMBERS or _holds_numbers(part, depth + 1) for part in value
    )


def read_columns(path: str, ids: str, columns: dict[str, str]) -> dict:
    """Return the ids, and the entries of each column: [frames, width] or [kind of defect, how much].

    Args:
        path: the pickle.
        ids: key of the list of ids.
        columns: keys of the other lists, with the .npy file to which the column's numbers are written.
    """
    with open(path, "rb") as file:
        value = load(file)
    most = most_bytes(os.path.getsize(path))
    names = [ids, *columns]
    if not isinstance(value, dict):
        raise Refused(f"contains {type(value).__name__}, not a dict of lists {names}")
    missing = [name for name in names if not _is_list(value.get(name))]
    if missing:
        raise Refused(f"has no lists {missing}; it contains {str(list(value))[:100]}")
    lengths = [len(value[name]) for name in names]
    if len(set(lengths)) > 1:
        raise Refused(f"its lists {names} have different lengths {lengths}")
    id_list = value[ids].tolist() if isinstance(value[ids], np.ndarray) else value[ids]
    answer: dict[str, Any] = {"ids": [as_id(each) for each in id_list], "columns": {}}
    for name, target in columns.items():
        parts, entries = [], []
        for each in value.pop(name):  # popped, so that the column is freed before the next one is converted
            numbers, what, how_much = as_numbers(each, most)
            if numbers is None:
                entries.append([what, how_much])
                continue
            parts.append(numbers)
            most -= numbers.nbytes
            frames = len(numbers) if numbers.ndim > 1 else 1
            entries.append([frames, numbers.size // frames])
        _save(target, parts)
        answer["columns"][name] = entries
    return answer


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or isinstance(value, np.ndarray) and value.ndim > 0


def _save(path: str, parts: list[np.ndarray]) -> None:
    shape = (sum(part.size for part in parts),)
    try:
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for part in parts:
                file.write(np.ascontiguousarray(part, "<f4").data)
    except OSError as error:
        # A write error, such as a full disk, has no file name. `answer_to` needs it to see that the pickle is not at
        # fault.
        raise OSError(error.errno, error.strerror, path) from None


# Limits


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Limit memory (MemoryError) and CPU time (SIGXCPU ends the process) to those of a file of `size` bytes."""
    limits = {resource.RLIMIT_CPU: math.ceil(time.process_time()) + most_seconds(size)}
    if sys.platform == "linux":  # other systems do not report the memory in use, or do not enforce the limit
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = used + most_bytes(size)
    before = {kind: resource.getrlimit(kind) for kind in limits}
    for kind, limit in limits.items():
        _, hard = before[kind]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        for kind, both in before.items():
            resource.setrlimit(kind, both)


def answer_to(path: str, ids: str, columns: dict[str, str]) -> str:
    """Return as JSON the columns of a file, or {"refused": reason}, or {"failed": reason} if the disk is at fault."""
    kind, size = "refused", 0
    try:
        with open(path, "rb") as file:
            if file.read(4) == ZIP:
                import torch  # noqa: F401  before the memory is limited: its import needs more than most files
        size = os.path.getsize(path)
        with limited(size):
            return json.dumps(read_columns(path, ids, columns))
    except Refused as error:
        reason = str(error)
    except MemoryError:
        reason = f"its values would need more than {most_bytes(size):,} bytes of memory"
    except OSError as error:
        kind, reason = "refused" if error.filename in (None, path) else "failed", str(error)
    except Exception as error:  # a damaged pickle can raise almost anything
        reason = f"is damaged or not a pickle ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return json.dumps({kind: reason.encode("ascii", "backslashreplace").decode()})


def main() -> None:
    """Answer one request per line until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program that started this one decides when it ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump when a limit kills the process
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            sys.stdout.write(answer_to(**json.loads(line)) + "\n")
            sys.stdout.flush()
    os._exit(0)  # a normal exit would flush stdout, and complain if nobody reads it any more


if __name__ == "__main__":
    main()
