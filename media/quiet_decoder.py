"""Keep libmpg123's messages off the terminal. soundfile bundles the library without a way to silence it.

libmpg123 writes to file descriptor 2, for two reasons. Windows are read by seeking, and the first frames after a seek
lack data from the frames before (`media.audio` drops these frames). And it reports damaged frames, which `media.audio`
reports itself, with the name of the file. PyAV writes no messages, but takes two to four times as long for an mp3.
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
MP3_BEGINNING = re.compile(rb"ID3|\xff[\xe0-\xff]")  # bytes for which libsndfile calls libmpg123
STDERR = 2  # file descriptor

_turn = threading.Lock()
_collected: FileIO | None = None  # output held back, one file per process


@contextlib.contextmanager
def without_decoder_messages() -> Iterator[None]:
    """Hold back the process's stderr inside the block, then write it without the lines of libmpg123.

    Only one thread at a time is inside, while a file or block decodes, and a fork waits for it. If the process is
    killed inside the block, its last output is lost. So is the stderr of a program started by another thread.
    """
    with _turn:
        try:
            terminal = os.dup(STDERR)
        except OSError:  # stderr is closed
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
                    with contextlib.suppress(OSError):  # the terminal is gone, which does not affect the audio
                        _write_other_lines(collected, terminal)
        finally:
            os.close(terminal)


def _collected_file() -> FileIO:
    global _collected
    if _collected is None:
        if hasattr(os, "memfd_create"):  # in memory: a full disk cannot make it fail
            _collected = FileIO(os.memfd_create("stderr"), "w+")
        else:
            _collected = cast(FileIO, tempfile.TemporaryFile(buffering=0))
    return _collected


def _write_other_lines(collected: FileIO, terminal: int) -> None:
    collected.seek(0)
    remaining = b"".join(line for line in collected if not DECODER_MESSAGE.match(line))
    collected.seek(0)
    collected.truncate()
    while remaining:  # os.write may write less than given
        remaining = remaining[os.write(terminal, remaining) :]


def _after_fork() -> None:
    global _collected
    _collected = None
    _turn.release()


# A fork while another thread holds the lock would leave it locked in the child forever. The child also needs its own
# file, because parent and child would share the position of an inherited one.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_turn.acquire, after_in_parent=_turn.release, after_in_child=_after_fork)
