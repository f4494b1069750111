"""Keep the messages of libmpg123 off the terminal. It is inside soundfile's wheel, where nothing can silence it.

It writes to file descriptor 2 for windows that are read by seeking, since the first frames after a seek lack data
that stand before them (`media.audio` drops these frames), and for damaged frames. `media.audio` reports damage itself,
with the name of the sound. PyAV writes no messages, but takes two to four times as long for an mp3.
"""

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from io import FileIO
from typing import cast

DECODER_MESSAGE = re.compile(
    rb"\[src/libmpg123/|Warning: Xing stream size|Note: (Trying to resync|Skipped |Illegal Audio-MPEG-Header|Hit end"
    rb"|Junk at the beginning|Looks like a RIFF|Could be a BMP|Input data end|Xing|broken frame|free format frame)"
)
MP3_BEGINNING = re.compile(rb"ID3|\xff[\xe0-\xff]")  # what makes libsndfile call libmpg123
STDERR = 2  # file descriptor

_turn = threading.Lock()
_collected: FileIO | None = None  # what came meanwhile; each process has its own


@contextlib.contextmanager
def without_decoder_messages() -> Iterator[None]:
    """Hold back what the process writes to stderr meanwhile; then write all of it but the lines of libmpg123.

    One thread at a time is inside, for as long as a file or block decodes, and a fork waits until it has left. What a
    process says last that is killed meanwhile is lost, and the stderr of a program that another thread starts.
    """
    with _turn:
        try:
            terminal = os.dup(STDERR)
        except OSError:  # a process may have closed it
            yield
            return
        collected = _collected_file()
        try:
            try:
                os.dup2(collected.fileno(), STDERR)
                yield
            finally:
                os.dup2(terminal, STDERR)
                if collected.tell():
                    with contextlib.suppress(OSError):  # of a terminal that is gone, not of the sound
                        _write_others(collected, terminal)
        finally:
            os.close(terminal)


def _collected_file() -> FileIO:
    global _collected
    if _collected is None:
        if hasattr(os, "memfd_create"):  # no file that a full disk could refuse
            _collected = FileIO(os.memfd_create("stderr"), "w+")
        else:
            _collected = cast(FileIO, tempfile.TemporaryFile(buffering=0))
    return _collected


def _write_others(collected: FileIO, terminal: int) -> None:
    collected.seek(0)
    others = b"".join(line for line in collected if not DECODER_MESSAGE.match(line))
    collected.seek(0)
    collected.truncate()
    while others:
        others = others[os.write(terminal, others) :]


def _after_fork() -> None:
    global _collected
    _collected = None
    _turn.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_turn.acquire, after_in_parent=_turn.release, after_in_child=_after_fork)
