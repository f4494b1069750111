"""Pickles written by hand, operation by operation."""

import struct


class Runs:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def program(*parts: bytes | str) -> bytes:
    return b"\x80\x04" + b"".join(part.encode() if isinstance(part, str) else part for part in parts) + b"."


def in_columns(data: bytes) -> bytes:
    """A pickle whose one embedding is what another pickle makes, among good ones."""
    start = b"\x80\x04}(\x8c\x02id](K\x01K\x02K\x03e\x8c\x01e](]G" + struct.pack(">d", 0.5) + b"a"
    return start + data[:-1] + b"]G" + struct.pack(">d", 0.5) + b"aeu."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()
