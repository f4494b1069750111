"""libmpg123's messages stay off the terminal; any other output to stderr arrives."""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from media import audio
from media.audio import AudioError, read_audio, read_audio_blocks, read_window
from media.quiet_decoder import STDERR, without_decoder_messages
from tests.conftest import REPOSITORY

DECODER = b"[src/libmpg123/layer3.c:INT123_do_layer3():1841] error: dequantization failed!\n"
LINES = 400  # written by a thread during decoding


@pytest.fixture(scope="module")
def sounds() -> list[bytes]:
    """Mp3s of the detection sample, two of them truncated, and copies with some bytes replaced."""
    (path,) = (REPOSITORY / "hf_datasets/audioset/sample").glob("sample-train-*.parquet")
    cells = [cell for cell in pq.read_table(path, columns=["audio"])["audio"].to_pylist() if cell]
    intact = [cell["bytes"] for cell in cells if cell["path"].endswith(".mp3")][:20]
    rng, damaged = np.random.default_rng(0), []
    for sound in intact:
        changed = np.frombuffer(sound, np.uint8).copy()
        changed[rng.integers(0, len(changed), 20)] = rng.integers(0, 256, 20)
        damaged.append(changed.tobytes())
    return intact + damaged


def read_all(sounds: list[bytes]) -> int:
    """Read each sound with all functions. Return the number of successful reads."""
    readers: list[Callable[[bytes], Any]] = [
        read_audio,
        lambda sound: list(read_audio_blocks(sound)),
        lambda sound: read_window(sound, 2.5, 1.0, 16000),
        lambda sound: read_window(sound, 6.0, 1.0),
    ]
    successes = 0
    for sound, read in itertools.product(sounds, readers):
        with contextlib.suppress(AudioError):
            read(sound)
            successes += 1
    return successes


def test_no_message_of_the_decoder_reaches_stderr(
    sounds: list[bytes], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_all(sounds) >= 3 * len(sounds)
    assert capfd.readouterr().err == ""
    # Without the filter, the same sounds cause messages.
    monkeypatch.setattr(audio, "without_decoder_messages", contextlib.nullcontext)
    read_all(sounds)
    output = capfd.readouterr().err
    assert output.count("libmpg123") > 20
    assert output.count("Xing") > 1


def test_other_output_arrives_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    for end in ("", "\n"):
        with without_decoder_messages():
            os.write(STDERR, b"first\n" + DECODER + b"Note: Trying to resync...\n")
            os.write(STDERR, b"Note: of another library\n" + DECODER + b"a bar 50 %\rlast" + end.encode())
        os.write(STDERR, b"after\n")
        assert capfd.readouterr().err == f"first\nNote: of another library\na bar 50 %\rlast{end}after\n"


def test_stderr_is_restored_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), without_decoder_messages():
        os.write(STDERR, DECODER + b"before the error\n")
        raise ZeroDivisionError
    os.write(STDERR, b"after\n")
    assert capfd.readouterr().err == "before the error\nafter\n"


def test_threads_lose_no_line(sounds: list[bytes], capfd: pytest.CaptureFixture[str]) -> None:
    readers = [threading.Thread(target=read_all, args=(sounds[:10],)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(LINES):
        os.write(STDERR, f"line {number}\n".encode())
    for reader in readers:
        reader.join()
    lines = capfd.readouterr().err.splitlines()  # in any order, because two threads may write at once
    assert sorted(lines) == sorted(f"line {number}" for number in range(LINES))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_during_decoding_keeps_the_stderr_of_its_parent(capfd: pytest.CaptureFixture[str]) -> None:
    inside, end = threading.Event(), threading.Event()

    def stay() -> None:
        with without_decoder_messages():
            inside.set()
            end.wait(0.2)
            os.write(STDERR, DECODER)

    thread = threading.Thread(target=stay)
    thread.start()
    assert inside.wait(600)
    child = os.fork()
    if not child:
        with without_decoder_messages():
            os.write(STDERR, DECODER + b"inside the child\n")
        os.write(STDERR, b"of the child\n")
        os._exit(0)
    end.set()
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    assert capfd.readouterr().err == "inside the child\nof the child\n"


def test_a_process_without_stderr_can_read(sounds: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    assert len(read_window(sounds[0], 2.5, 1.0, 16000)) == 16000


def test_an_unreadable_mp3_is_not_reported_as_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(b"\xff\xfb" + b"\x01" * 2000)
    with pytest.raises(AudioError, match=r"song.mp3: 2002 bytes .*MP3") as caught:
        read_audio(path)
    assert "exist" not in str(caught.value)
