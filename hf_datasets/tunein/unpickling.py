"""The child process that reads pickles: foreign bytes are only opened here, within limits of memory and time.

It is started as a script by pickles.py and imports numpy alone (torch only for an archive of torch.save). Each line of
its input asks for the columns of one file; each line of its output answers. It ends when its input does, so also when
the program that started it is killed.

A pickle may call only the functions in ALLOWED, which make numbers, text, bytes, lists, dicts, sets and numpy arrays.
None of them can be replaced, and none is a class. Tensors of torch become numpy arrays. One small pickle can still ask
for a lot of memory or time: the limits end that.
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

BASE_BYTES, TIMES = 64 << 20, 16  # memory that a file may take: so much, and this many times its size
BASE_SECONDS, BYTES_PER_SECOND = 5, 4 << 20  # of processor time
DEEPEST = 32  # lists in one another
DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|O8?|[SU]\d{1,6}")
ZIP = b"PK\x03\x04"  # the start of what torch.save writes today
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # the start of its older format, which pickled tensors still use
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
    """The pickle asks for something that is no data."""


def most_bytes(size: int) -> int:
    """The memory that the values of a file of this size may take."""
    return BASE_BYTES + TIMES * size


def most_seconds(size: int) -> int:
    """The processor time that a file of this size may take."""
    return BASE_SECONDS + size // BYTES_PER_SECOND


# Functions that a pickle may call


class Function:
    """A function or class that a pickle names. No pickle can change it, or make an instance of it."""

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
    """A dtype, which gets its byte order later."""

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
    """An array, which gets its content later: exactly as many bytes or values as its shape has."""

    __slots__ = ()

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, content = state[-4:]  # numpy before 1.0 wrote no version
        if self.size or type(dtype) is not DType or not _is_shape(shape):
            raise Refused(f"has an array of shape {shape!r:.80}")
        if dtype.value.hasobject and (type(content) is not list or len(content) != math.prod(shape)):
            raise Refused(f"has an array of shape {shape!r:.80} without as many values")
        super().__setstate__((1, shape, dtype.value, fortran, content))


def _is_shape(shape: Any) -> bool:
    return type(shape) is tuple and len(shape) <= 64 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if type(kind) is not Function or kind.name != "ndarray":
        raise Refused("has an array of a class that is not numpy's own")
    return Array((0,))


def _scalar(dtype: Any, content: Any) -> Any:
    if type(dtype) is not DType or type(content) is not bytes or len(content) != dtype.value.itemsize:
        raise Refused("has a numpy scalar that is no number or text")
    return np.frombuffer(content, dtype.value)[0]


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    if type(dtype) is not DType or not _is_shape(shape) or type(content) not in (bytes, bytearray):
        raise Refused(f"has an array of shape {shape!r:.80}")
    found = np.frombuffer(content, dtype.value)
    return found.reshape(shape).transpose(axes) if axes is not None else found.reshape(shape, order=order)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("encodes something other than bytes")
    return text.encode("latin-1")


def _bytes(content: Any = b"", *encoding: Any) -> bytes:
    return content if type(content) is bytes else _encode(content, *encoding)


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise Refused("has a complex number that is not of two floats")
    return complex(real, imaginary)


def _of_items(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise Refused(f"has a {kind.__name__} of something that is no list")
        return kind(items)

    return make


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
    """The numbers of a tensor, a view of its storage."""
    if type(storage) is not np.ndarray or not _is_shape(shape) or not _is_shape(strides) or not _is_shape((offset,)):
        raise Refused(f"has a tensor of shape {shape!r:.80} and strides {strides!r:.80}")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    if last >= len(storage):
        raise Refused(f"has a tensor of shape {shape!r:.80} beyond its {len(storage):,} numbers")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _storage(content: Any) -> np.ndarray:
    """The numbers, (n,), of one storage that torch.save wrote in its older format: five pickles, then the bytes."""
    if type(content) is not bytes:
        raise Refused("has a storage that is no bytes")
    file = io.BytesIO(content)
    start = [Unpickler(file).load() for _ in range(3)]
    if start[:2] != [MAGIC, VERSION] or start[2].get("little_endian") is not True:
        raise Refused("has a storage of an unknown format")
    key, code, _ = StorageUnpickler(file).load()
    if Unpickler(file).load() != [key]:
        raise Refused("has another number of storages than one")
    count, numbers = int.from_bytes(file.read(8), "little"), file.read()
    size = 2 if code == "bf16" else np.dtype(code).itemsize
    if count * size != len(numbers):
        raise Refused(f"has a storage of {count:,} numbers of {size} bytes in {len(numbers):,} bytes")
    if code == "bf16":  # numpy has none
        return (np.frombuffer(numbers, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(numbers, code)


# By module and name. The names are only looked up here: nothing is imported by them.
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
    """Python's own, with names that are looked up in ALLOWED."""

    def __init__(self, file: BinaryIO | io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # of bytes that Python 2 pickled as text

    def find_class(self, module: str, name: str) -> Function:
        found = ALLOWED.get((module, name))
        if found is None:
            raise Refused(f"asks for {f'{module}.{name}'[:100]!r}")
        return found


class StorageUnpickler(Unpickler):
    """Reads which storage the older format of torch.save has next."""

    def persistent_load(self, identity: Any) -> tuple[str, str, int]:
        """Key, type and size of a storage."""
        word, kind, key, _, count, *part = identity
        if word != "storage" or type(kind) is not Function or kind.name not in TYPES or part not in ([], [None]):
            raise Refused("has a storage of an unknown type")
        return key, TYPES[kind.name], count


def load(file: BinaryIO) -> Any:
    """The value in a pickle or in a file of torch.save; tensors are numpy arrays."""
    if file.read(4) == ZIP:
        return _without_tensors(sys.modules["torch"].load(file.name, "cpu", weights_only=True))
    file.seek(0)
    value = Unpickler(file).load()
    if file.read(1):
        raise Refused("continues after its end")
    return value


def _without_tensors(value: Any) -> Any:
    torch = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        found = value.detach()
        return (found.float() if found.dtype == torch.bfloat16 else found).numpy()
    if type(value) in (list, tuple):
        return type(value)(map(_without_tensors, value))
    if isinstance(value, dict):
        return {key: _without_tensors(part) for key, part in value.items()}
    return value


# Columns


def as_id(value: Any) -> str:
    """An id as text that UTF-8 can hold: 12, 12.0, numpy's 12 and ' 12 ' are the same one."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes | bytearray):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, int) and value.bit_length() > 10_000:
        value = hex(value)  # Python does not write a number of this length in tens
    if not isinstance(value, str | int | float | complex | None):
        value = f"<{type(value).__name__}>"
    return str(value).encode("utf-8", "backslashreplace").decode().strip()


def as_numbers(value: Any, most: int) -> tuple[np.ndarray | None, str, float | None]:
    """An entry as float32, or why it cannot be used: the defect and how much of it; MemoryError above `most` bytes."""
    if value is None:
        return None, "empty_embedding", None
    if not _holds_numbers(value):
        return None, "not_numbers", None
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError):  # lists of several lengths, or too large a number
        return None, "not_numbers", None
    if found.size == 0:
        return None, "empty_embedding", None
    if found.dtype.kind not in "iuf":
        return None, "not_numbers", None
    if 4 * found.size > most:
        raise MemoryError
    with np.errstate(over="ignore"):  # it is infinite then, and not used
        found = found.astype(np.float32, copy=False)
    finite = np.isfinite(found)
    if finite.all():
        return found, "", None
    return None, "not_finite", int(found.size - finite.sum())


def _holds_numbers(value: Any, depth: int = 0) -> bool:
    """Whether all in lists within lists are numbers; checked before numpy makes room for the longest text."""
    if isinstance(value, np.ndarray):
        return value.size == 0 or value.dtype.kind in "biuf"
    if not isinstance(value, list | tuple) or depth > DEEPEST:
        return False
    return set(map(type, value)) <= NUMBERS or all(
        type(part) in NUMBERS or _holds_numbers(part, depth + 1) for part in value
    )


def read_columns(path: str, ids: str, columns: dict[str, str]) -> dict:
    """The ids, and for each column its entries: [frames, width], or [defect, how much].

    The numbers of a column, one entry after the other, go into the .npy file that `columns` gives for it.
    """
    with open(path, "rb") as file:
        value = load(file)
    most = most_bytes(os.path.getsize(path))
    names = [ids, *columns]
    if not isinstance(value, dict):
        raise Refused(f"holds {type(value).__name__}, not a dict of lists {names}")
    lacking = [name for name in names if not _is_list(value.get(name))]
    if lacking:
        raise Refused(f"has no lists {lacking}; it holds {str(list(value))[:100]}")
    lengths = [len(value[name]) for name in names]
    if len(set(lengths)) > 1:
        raise Refused(f"its lists {names} have {lengths} entries, which belong together")
    held = value[ids].tolist() if isinstance(value[ids], np.ndarray) else value[ids]
    answer: dict[str, Any] = {"ids": [as_id(each) for each in held], "columns": {}}
    for name, target in columns.items():
        parts, entries = [], []
        for each in value.pop(name):
            found, what, how_much = as_numbers(each, most)
            if found is None:
                entries.append([what, how_much])
                continue
            parts.append(found)
            most -= found.nbytes
            frames = len(found) if found.ndim > 1 else 1
            entries.append([frames, found.size // frames])
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
        raise OSError(error.errno, error.strerror, path) from None  # a full disk: nothing is wrong with the pickle


# Limits


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Take no more memory and processor time than a file of this size may: MemoryError, or the process is killed."""
    limits = {resource.RLIMIT_CPU: math.ceil(time.process_time()) + most_seconds(size)}
    if sys.platform == "linux":  # others do not say how much is in use, or keep no limit
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
    """The columns of one file as JSON, or why it is refused, or why the answer could not be written."""
    kind, size = "refused", 0
    try:
        with open(path, "rb") as file:
            if file.read(4) == ZIP:
                import torch  # noqa: F401  before the memory is limited: its import takes more than most files
        size = os.path.getsize(path)
        with limited(size):
            return json.dumps(read_columns(path, ids, columns))
    except Refused as error:
        said = str(error)
    except MemoryError:
        said = f"its values would take more than {most_bytes(size):,} bytes of memory"
    except OSError as error:
        kind, said = "refused" if error.filename in (None, path) else "failed", str(error)
    except Exception as error:  # the many errors that a damaged pickle can raise
        said = f"is damaged or no pickle ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return json.dumps({kind: said.encode("ascii", "backslashreplace").decode()})


def main() -> None:
    """Answer line by line, until the program that asks has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that program decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            sys.stdout.write(answer_to(**json.loads(line)) + "\n")
            sys.stdout.flush()
    os._exit(0)  # without a complaint about an answer that nobody reads


if __name__ == "__main__":
    main()
