"""Hand-written pickles, for tests of unsafe or damaged input."""

import struct


class Runs:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def program(*parts: bytes | str) -> bytes:
    return b"\x80\x04" + b"".join(part.encode() if isinstance(part, str) else part for part in parts) + b"."


def in_columns(data: bytes) -> bytes:
    """Return the pickle of a valid table in which one embedding is replaced by another pickle."""
    start = b"\x80\x04}(\x8c\x02id](K\x01K\x02K\x03e\x8c\x01e](]G" + struct.pack(">d", 0.5) + b"a"
    return start + data[:-1] + b"]G" + struct.pack(">d", 0.5) + b"aeu."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()
