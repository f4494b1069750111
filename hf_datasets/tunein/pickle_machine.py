"""Data out of old pickles, without ever running them.

    arrays = load_legacy_pickle("rf_text_embeddings.pkl")  # {"creative_id": [...], "embeddings": [array, ...]}

A pickle is a program for a small machine with a stack. This is such a machine that knows data alone: None, numbers,
str, bytes, list, tuple, dict, OrderedDict, set, numpy arrays and scalars (pickled by numpy 1 or 2), torch tensors and
storages, which become numpy arrays. Names of functions in a pickle are compared with a list and never imported; what
each of them means is written here. All else is a `LegacyPickleError`.

A value takes no more memory than a small multiple of its pickle, and no more when it is walked through: sizes that a
pickle declares are compared with its bytes, what it makes is counted, and lists that hold one list many times over,
or themselves, are refused.
"""

import codecs
import functools
import re
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

BASE_BYTES = 32 << 20  # that the values of the smallest pickle may take
TIMES = 32  # so many bytes more for each byte of the pickle: an int of 3 bytes takes 36, an empty list of 2 takes 164
DEEPEST = 64  # containers in one another
CONTAINER_BYTES = {list: 64, dict: 240, OrderedDict: 400, set: 224, frozenset: 224, tuple: 56}
ENTRY_BYTES = 104  # of a dict, a set or the memo, the table's free places included
PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
CONTENT = frozenset({bytes, bytearray, memoryview})  # of an array
TAKEN = "numbers, str, bytes, list, tuple, dict, set, numpy arrays and scalars, torch tensors and storages"
VIEWED = 512  # bytes; a copy of fewer takes less than a view of them
STATE = re.compile(rb"(?:\x94|q.|r.{4})?t(?:\x94|q.|r.{4})?b", re.DOTALL)  # TUPLE and BUILD: what ends an array
GET, INT = rb"(?:h(.)|j(.{4}))", rb"(?:K.|M..|J.{4})"
# An array after its function, as numpy writes all but the first: its class, letter and dtype are in the memo.
ARRAY = re.compile(
    GET + rb"K\x00\x85\x94" + GET + rb"\x87\x94R\x94\(K\x01"
    rb"((?:" + INT + rb"\x85|" + INT + rb"{2}\x86|" + INT + rb"{3}\x87))\x94" + GET + rb"\x89(?:C(.)|B(.{4}))",
    re.DOTALL,
)  # fmt: skip
ARRAY_BYTES = 1100  # that it takes beside its content, six places in the memo included
DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|O8?|[SU]\d{1,6}")
INT4, UINT2, UINT4, UINT8, DOUBLE = map(struct.Struct, ("<i", "<H", "<I", "<Q", ">d"))
ZIP = b"PK\x03\x04"  # what torch.save writes

# What a global of a pickle means here; never imported.
_NUMPY = {
    (f"numpy.{core}.{module}", name): name
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
_NUMPY |= {("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): "dtype"}
_PYTHON = {
    (module, name): name
    for module in ("builtins", "__builtin__")
    for name in ("set", "frozenset", "bytes", "bytearray", "complex")
}
_PYTHON |= {("collections", "OrderedDict"): "OrderedDict", ("_codecs", "encode"): "encode"}
STORAGES = {
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
_TORCH = {("torch", name): name for name in STORAGES}
_TORCH |= {
    ("torch._utils", "_rebuild_tensor_v2"): "_rebuild_tensor",
    ("torch._utils", "_rebuild_tensor"): "_rebuild_tensor",
    ("torch._utils", "_rebuild_parameter"): "_rebuild_parameter",
    ("torch.storage", "_load_from_bytes"): "_load_from_bytes",
    ("torch.storage", "UntypedStorage"): "ByteStorage",
    ("torch", "Size"): "Size",
}
ALLOWED: dict[tuple[str, str], str] = _NUMPY | _PYTHON | _TORCH


class LegacyPickleError(ValueError):
    """A pickle that is damaged, too big, or holds something else than data; names the file and what is taken."""


class Budget:
    """Bytes that may still be taken."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit

    def charge(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise LegacyPickleError(f"its values would take more than {self.limit:,} bytes of memory")


class Meaning:
    """A global of a pickle: a word for what it means, which does nothing by itself."""

    __slots__ = ("word",)

    def __init__(self, word: str) -> None:
        self.word = word


class Pending:
    """An array or dtype whose state comes later; `value` is what it is by now."""

    __slots__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value


class Machine:
    """One run over one pickle, from byte `at` on.

    Args:
        persistent: makes storages of torch.save's persistent ids.
        read_storage: reads a storage that torch pickled as bytes.
    """

    def __init__(
        self,
        data: bytes,
        budget: Budget,
        at: int = 0,
        persistent: Callable[[Any], Any] | None = None,
        read_storage: Callable[[bytes, Budget], np.ndarray] | None = None,
    ) -> None:
        self.data, self.budget, self.at, self.persistent = data, budget, at, persistent
        self.read_storage = read_storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Read until STOP; `at` is then the byte after it."""
        data, stack, memo, budget = self.data, self.stack, self.memo, self.budget
        while self.at < len(data):
            code = data[self.at]
            self.at += 1
            # Most of what an array is made of; the same as in OPERATIONS, but with fewer calls.
            if code == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
                budget.left -= ENTRY_BYTES
            elif code == 0x68:  # BINGET
                self.at += 1
                self.get(data[self.at - 1])
            elif code == 0x4B:  # BININT1
                stack.append(data[self.at])
                self.at += 1
            elif code == 0x28:  # MARK
                self.marks.append(len(stack))
            elif code == 0x2E:  # STOP
                value = _finished(stack.pop())
                if stack or self.marks:
                    raise LegacyPickleError("leaves values over at its end")
                return value
            else:
                operation = OPERATIONS.get(code)
                if operation is None:
                    raise LegacyPickleError(_refusal(code, self.at - 1))
                operation(self)
            if budget.left < 0:
                budget.charge(0)
        raise LegacyPickleError("is cut off: it has no end")

    # Reading

    def take(self, count: int) -> bytes:
        """The next bytes, as many as declared."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise LegacyPickleError(f"is cut off: {count:,} bytes are declared where {len(self.data) - self.at:,} are")
        part = self.data[self.at : end]
        self.at = end
        return part

    def push_bytes(self, count: int) -> None:
        """Push the next bytes; without a copy of them where an array is made of them alone."""
        end = self.at + count
        if count < VIEWED or end > len(self.data) or not STATE.match(self.data, end):
            return self.push(self.take(count))
        self.push(memoryview(self.data)[self.at : end])  # in an array at once, or refused
        self.at = end

    def number(self, form: struct.Struct) -> Any:
        """The next number."""
        start, self.at = self.at, self.at + form.size
        return form.unpack_from(self.data, start)[0]  # an error where there are not as many bytes

    def line(self) -> bytes:
        """The text up to the end of the line."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise LegacyPickleError("is cut off in a line")
        part = self.data[self.at : end]
        self.at = end + 1
        return part

    # The stack

    def push(self, value: Any) -> None:
        """Push a new value and count it."""
        self.budget.charge(sys.getsizeof(value, 64))
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """Take all that lies above the topmost mark, and the mark."""
        start = self.marks.pop()
        if start > len(self.stack):
            raise LegacyPickleError("takes more from its stack than there is")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, index: int) -> None:
        """Keep the topmost value."""
        if index not in self.memo:
            self.budget.charge(ENTRY_BYTES)
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        """Push a kept value once more, or all that begins with it."""
        value = self.memo[index]
        if type(value) is not Meaning or value.word != "_reconstruct" or not self.whole_array():
            self.stack.append(value if type(value) is not Pending else _finished(value))

    # Containers

    def container(self, value: Any) -> None:
        """Push a new container."""
        self.budget.charge(CONTAINER_BYTES[type(value)] + 8 * len(value))
        self.stack.append(value)

    def extend(self, items: list[Any]) -> None:
        """Add to the topmost list."""
        if type(self.stack[-1]) is not list:
            raise LegacyPickleError("adds to something that is no list")
        self.budget.charge(9 * len(items))
        self.stack[-1].extend(map(_finished, items))

    def set_items(self, items: list[Any]) -> None:
        """Set keys and values, in turn, of the topmost dict."""
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise LegacyPickleError("sets an item of something that is no dict")
        self.budget.charge(ENTRY_BYTES * (len(items) // 2))
        for i in range(0, len(items), 2):
            target[_key(items[i])] = _finished(items[i + 1])

    def add_items(self, items: list[Any]) -> None:
        """Add to the topmost set."""
        if type(self.stack[-1]) is not set:
            raise LegacyPickleError("adds to something that is no set")
        self.budget.charge(ENTRY_BYTES * len(items))
        self.stack[-1].update(map(_key, items))

    # What functions and states stand for

    def global_name(self, module: str, name: str) -> None:
        """Push what a global means; it is looked up in a list, nothing is imported."""
        word = ALLOWED.get((module, name))
        if word is None:
            raise LegacyPickleError(f"asks for {f'{module}.{name}'[:100]!r} (byte {self.at})")
        self.push(Meaning(word))

    def reduce(self) -> None:
        """A call: of a meaning alone."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Meaning or type(arguments) is not tuple:
            raise LegacyPickleError(f"calls something that is no function: {type(function).__name__}")
        make = CALLS.get(function.word)
        if make is None:
            raise LegacyPickleError(f"calls {function.word}, which is not to be called")
        made = make(self, *map(_finished, arguments))
        self.budget.charge(CONTAINER_BYTES.get(type(made), 128))
        self.stack.append(made)

    def build(self) -> None:
        """A state: of an array or a dtype that was just begun."""
        state, pending = self.stack.pop(), self.stack[-1]
        if type(pending) is not Pending or type(state) is not tuple:
            raise LegacyPickleError(f"sets the state of a {type(pending).__name__}")
        state = tuple(map(_finished, state))
        if pending.value is None:
            pending.value = self._array_of(state)
        elif isinstance(pending.value, np.dtype):
            pending.value = _with_state(pending.value, state)
        else:
            raise LegacyPickleError("sets the state of an array twice")
        self.stack[-1] = pending.value

    def _array_of(self, state: tuple) -> np.ndarray:
        if len(state) == 4:  # numpy before 1.0 wrote no version
            state = (1, *state)
        _, shape, dtype, fortran, content = state
        return self.array(content, dtype, shape, "F" if fortran else "C")

    def whole_array(self) -> bool:
        """Push an array as ARRAY has it, if one comes: what its 20 operations come to, in a third of their time."""
        found = ARRAY.match(self.data, self.at)
        if found is None:
            return False
        parts = found.groups()
        indices = (int.from_bytes(parts[i] or parts[i + 1], "little") for i in (0, 2, 5))
        kind, letter, dtype = (_finished(self.memo.get(index)) for index in indices)
        start = found.end()
        end = start + int.from_bytes(parts[7] or parts[8], "little")
        if (
            type(kind) is not Meaning
            or kind.word != "ndarray"
            or not isinstance(dtype, np.dtype)
            or dtype.hasobject
            or self.data[end : end + 4] != b"\x94t\x94b"
        ):
            return False
        shape = _shape(parts[4])
        content = memoryview(self.data)[start:end] if end - start >= VIEWED else self.data[start:end]
        made = self.array(content, dtype, shape, "C")
        for kept in ((0,), (kind, (0,), letter), made, shape, content, (1, shape, dtype, False, content)):
            self.memo[len(self.memo)] = kept
        self.budget.left -= ARRAY_BYTES
        self.stack.append(made)
        self.at = end + 4
        return True

    def array(self, content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
        """An array of exactly the bytes that are there, or of a list of values."""
        if not isinstance(dtype, np.dtype) or type(shape) is not tuple or len(shape) > 32:
            raise LegacyPickleError("has an array without a shape or a dtype")
        count = 1
        for length in shape:
            if type(length) is not int or length < 0:
                raise LegacyPickleError(f"has an array of shape {_short(shape)}")
            count *= length
        if dtype.hasobject:
            if type(content) is not list or len(content) != count:
                raise LegacyPickleError(f"has an array of shape {_short(shape)} without as many values")
            self.budget.charge(8 * count)
            made = np.empty(count, dtype)
            for i, value in enumerate(content):
                made[i] = _finished(value)
            return made.reshape(shape, order=order)
        content = content.encode("latin-1") if type(content) is str else content  # pickled by Python 2
        if type(content) not in CONTENT or len(content) != count * dtype.itemsize or not dtype.itemsize:
            there = len(content) if type(content) in CONTENT else 0
            raise LegacyPickleError(f"has an array of shape {_short(shape)} and type {dtype} in {there:,} bytes")
        return np.frombuffer(content, dtype).reshape(shape, order=order)


def _refusal(code: int, at: int) -> str:
    if code in REFUSED:
        return f"asks for {REFUSED[code]} (byte {at})"
    return f"is damaged or no pickle: 0x{code:02x} is no operation (byte {at})"


def _short(value: object) -> str:
    return repr(value)[:80]


@functools.lru_cache
def _shape(lengths: bytes) -> tuple[int, ...]:
    """The tuple that these operations make: INT, INT2 and INT1, then TUPLE."""
    found, at = [], 0
    while at < len(lengths) - 1:
        width = {0x4A: 4, 0x4B: 1, 0x4D: 2}[lengths[at]]
        found.append(int.from_bytes(lengths[at + 1 : at + 1 + width], "little", signed=width == 4))
        at += 1 + width
    return tuple(found)


def _finished(value: Any) -> Any:
    """What a pending value is by now."""
    return value.value if type(value) is Pending and value.value is not None else value


def _key(value: Any) -> Any:
    """A key that is hashed and compared at once: a plain value or a tuple of them.

    A tuple of a tuple of ..., each twice, would be hashed for ever, and so would long ints of one hash.
    """
    parts = value if type(value) is tuple else (value,)
    for part in parts:
        if type(part) not in PLAIN and not isinstance(part, np.number | np.bool_):
            raise LegacyPickleError(f"has a {type(part).__name__} for a key")
        if type(part) is int and part.bit_length() > 64:
            raise LegacyPickleError("has an int of more than 64 bits for a key")
    return value


def _with_state(dtype: np.dtype, state: tuple) -> np.dtype:
    """A dtype with the byte order of its state; (version, order, subdtype, names, fields, ...)."""
    order, *structure = state[1:5]
    if order not in ("<", ">", "|", "=") or any(part is not None for part in structure):
        raise LegacyPickleError("has an array of records")
    return dtype.newbyteorder(order) if order in "<>" else dtype


# What may be called


def _dtype(machine: Machine, code: Any, *flags: Any) -> Pending:
    code = code.decode("ascii") if type(code) is bytes else code
    if type(code) is not str or not DTYPE.fullmatch(code):
        raise LegacyPickleError(f"has an array of type {_short(code)}")
    return Pending(np.dtype(code))


def _reconstruct(machine: Machine, kind: Any, shape: Any, code: Any) -> Pending:
    if type(kind) is not Meaning or kind.word != "ndarray":
        raise LegacyPickleError("has an array of a class that is not numpy's own")
    return Pending()


def _scalar(machine: Machine, dtype: Any, content: Any = None) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise LegacyPickleError("has a numpy scalar that is an object")
    return machine.array(content, dtype, (1,), "C")[0]


def _frombuffer(machine: Machine, content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    if axes is not None and order == "K":
        return machine.array(content, dtype, shape, "C").transpose(axes)
    if order not in ("C", "F"):
        raise LegacyPickleError(f"has an array of order {_short(order)}")
    return machine.array(content, dtype, shape, order)


def _encode(machine: Machine, text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise LegacyPickleError("encodes something other than bytes")
    machine.budget.charge(len(text))
    return text.encode("latin-1")


def _bytes(machine: Machine, *arguments: Any) -> bytes:
    if not arguments:
        return b""
    if type(arguments[0]) is bytes and len(arguments) == 1:
        return arguments[0]
    return _encode(machine, *arguments)


def _complex(machine: Machine, real: Any = None, imaginary: Any = None) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise LegacyPickleError("has a complex number that is not of two floats")
    return complex(real, imaginary)


def _set(machine: Machine, items: Any = ()) -> set:
    if type(items) not in (list, tuple):
        raise LegacyPickleError("has a set of something that is no list")
    machine.budget.charge(ENTRY_BYTES * len(items))
    return set(map(_key, items))


def _ordered_dict(machine: Machine, items: Any = ()) -> OrderedDict:
    if type(items) not in (list, tuple):
        raise LegacyPickleError("has a dict of something that is no list")
    machine.budget.charge(4 * ENTRY_BYTES * len(items))
    return OrderedDict((_key(key), value) for key, value in items)


def _size(machine: Machine, lengths: Any = ()) -> tuple:
    if type(lengths) not in (list, tuple):
        raise LegacyPickleError("has a shape that is no list of lengths")
    machine.budget.charge(8 * len(lengths))
    return tuple(lengths)


def _tensor(machine: Machine, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
    """The numbers of a tensor, copied out of its storage; its size is counted first, for a stride may be 0."""
    if type(storage) is not np.ndarray or storage.ndim != 1 or type(shape) is not tuple or type(strides) is not tuple:
        raise LegacyPickleError("has a tensor without a storage, a shape or strides")
    steps = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(step) is not int or not 0 <= step < 1 << 48 for step in steps):
        raise LegacyPickleError(f"has a tensor of shape {_short(shape)} and strides {_short(strides)}")
    count = 1
    for length in shape:
        count *= length
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if count and last >= len(storage):
        raise LegacyPickleError(f"has a tensor of shape {_short(shape)} beyond its {len(storage):,} numbers")
    machine.budget.charge(count * storage.itemsize)
    if not count:
        return np.empty(shape, storage.dtype)
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def _parameter(machine: Machine, tensor: Any, *rest: Any) -> np.ndarray:
    if type(tensor) is not np.ndarray:
        raise LegacyPickleError("has a parameter that is no tensor")
    return tensor


def _load_from_bytes(machine: Machine, content: Any) -> Any:
    if type(content) is not bytes or machine.read_storage is None:
        raise LegacyPickleError("has a storage that is no bytes, or one in a storage")
    return machine.read_storage(content, machine.budget)


CALLS: dict[str, Callable[..., Any]] = {
    "dtype": _dtype,
    "_reconstruct": _reconstruct,
    "scalar": _scalar,
    "_frombuffer": _frombuffer,
    "encode": _encode,
    "bytes": _bytes,
    "bytearray": lambda machine, *arguments: bytearray(_bytes(machine, *arguments)),
    "complex": _complex,
    "set": _set,
    "frozenset": lambda machine, *items: frozenset(_set(machine, *items)),
    "OrderedDict": _ordered_dict,
    "Size": _size,
    "_rebuild_tensor": _tensor,
    "_rebuild_parameter": _parameter,
    "_load_from_bytes": _load_from_bytes,
}


# The operations of the machine, by their byte; pickletools describes them


def _tuple(machine: Machine, count: int) -> None:
    if len(machine.stack) < count:
        raise LegacyPickleError("takes more from its stack than there is")
    items = tuple(machine.stack[-count:])
    del machine.stack[-count:]
    machine.container(items)


def _dict(machine: Machine) -> None:
    items = machine.since_mark()
    machine.container({})
    machine.set_items(items)


def _list(machine: Machine) -> None:
    items = machine.since_mark()
    machine.container([])
    machine.extend(items)


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    machine.extend([value])


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _frozen_set(machine: Machine) -> None:
    items = machine.since_mark()
    machine.budget.charge(ENTRY_BYTES * len(items))
    machine.container(frozenset(map(_key, items)))


def _int_line(machine: Machine) -> None:
    line = machine.line()
    machine.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


def _string_line(machine: Machine) -> None:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise LegacyPickleError("has a string without quotes")
    machine.push(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise LegacyPickleError("asks for a global by something that is no name")
    machine.global_name(module, name)


def _global_lines(machine: Machine) -> None:
    module = machine.line().decode("utf-8")
    machine.global_name(module, machine.line().decode("utf-8"))


def _protocol(machine: Machine) -> None:
    protocol = machine.take(1)[0]
    if protocol > 5:
        raise LegacyPickleError(f"is of protocol {protocol}, which nobody knows")


def _frame(machine: Machine) -> None:
    size = machine.number(UINT8)
    if size > len(machine.data) - machine.at:
        raise LegacyPickleError(f"is cut off: a frame of {size:,} bytes where {len(machine.data) - machine.at:,} are")


def _persistent(machine: Machine) -> None:
    if machine.persistent is None:
        raise LegacyPickleError(f"asks for something kept outside of it, by a persistent id (byte {machine.at - 1})")
    machine.stack.append(machine.persistent(_finished(machine.stack.pop())))


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


OPERATIONS: dict[int, Callable[[Machine], Any]] = {
    ord(code): operation
    for code, operation in {
        "(": lambda m: m.marks.append(len(m.stack)),
        "0": lambda m: m.stack.pop(),
        "1": lambda m: m.since_mark(),
        "2": lambda m: m.stack.append(m.stack[-1]),
        "F": lambda m: m.push(float(m.line())),
        "I": _int_line,
        "J": lambda m: m.push(m.number(INT4)),
        "K": lambda m: m.push(m.take(1)[0]),
        "L": lambda m: m.push(int(m.line().rstrip(b"L"))),
        "M": lambda m: m.push(m.number(UINT2)),
        "N": lambda m: m.stack.append(None),
        "Q": _persistent,
        "R": Machine.reduce,
        "S": _string_line,
        "T": lambda m: m.push(m.take(m.number(INT4)).decode("latin-1")),
        "U": lambda m: m.push(m.take(m.take(1)[0]).decode("latin-1")),
        "V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        "X": lambda m: m.push(_text(m.take(m.number(UINT4)))),
        "a": _append,
        "b": Machine.build,
        "c": _global_lines,
        "d": _dict,
        "e": lambda m: m.extend(m.since_mark()),
        "g": lambda m: m.get(int(m.line())),
        "h": lambda m: m.get(m.take(1)[0]),
        "j": lambda m: m.get(m.number(UINT4)),
        "l": _list,
        "p": lambda m: m.put(int(m.line())),
        "q": lambda m: m.put(m.take(1)[0]),
        "r": lambda m: m.put(m.number(UINT4)),
        "s": _set_item,
        "t": lambda m: m.container(tuple(m.since_mark())),
        "u": lambda m: m.set_items(m.since_mark()),
        "]": lambda m: m.container([]),
        ")": lambda m: m.stack.append(()),
        "}": lambda m: m.container({}),
        "G": lambda m: m.push(m.number(DOUBLE)),
        "B": lambda m: m.push_bytes(m.number(UINT4)),
        "C": lambda m: m.push(m.take(m.take(1)[0])),
        "\x80": _protocol,
        "\x85": lambda m: _tuple(m, 1),
        "\x86": lambda m: _tuple(m, 2),
        "\x87": lambda m: _tuple(m, 3),
        "\x88": lambda m: m.stack.append(True),
        "\x89": lambda m: m.stack.append(False),
        "\x8a": lambda m: m.push(_integer(m.take(m.take(1)[0]))),
        "\x8b": lambda m: m.push(_integer(m.take(m.number(INT4)))),
        "\x8c": lambda m: m.push(_text(m.take(m.take(1)[0]))),
        "\x8d": lambda m: m.push(_text(m.take(m.number(UINT8)))),
        "\x8e": lambda m: m.push_bytes(m.number(UINT8)),
        "\x8f": lambda m: m.container(set()),
        "\x90": lambda m: m.add_items(m.since_mark()),
        "\x91": _frozen_set,
        "\x93": _stack_global,
        "\x94": lambda m: m.put(len(m.memo)),
        "\x95": _frame,
        "\x96": lambda m: m.push(bytearray(m.take(m.number(UINT8)))),
    }.items()
}
REFUSED = {
    ord("P"): "something kept outside of it, by a persistent id",
    ord("i"): "an object of a class, by INST",
    ord("o"): "an object of a class, by OBJ",
    0x81: "an object of a class, by NEWOBJ",
    0x92: "an object of a class, by NEWOBJ_EX",
    0x82: "a registered extension, by EXT1",
    0x83: "a registered extension, by EXT2",
    0x84: "a registered extension, by EXT4",
    0x97: "a buffer kept outside of it",
    0x98: "a buffer kept outside of it",
}
