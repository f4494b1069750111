"""Recordings that travel with a model: files that cannot be read say so by their own name and fault."""

from pathlib import Path

import pytest

from modeling.recordings import read_sound
from system.text import MISLEADING


@pytest.mark.parametrize("content", [b"", bytes(2000), b"<html>" * 300, b"\xff\xfb\x90\x00" + bytes(400), b"RIFF" * 9])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_bytes_that_are_no_sound_are_not_called_a_missing_file(content: bytes, as_bytes: bool, tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable sound") as caught:
        read_sound(content if as_bytes else path, 16000)
    assert not any(words in str(caught.value) for words in MISLEADING)


def test_a_missing_file_is_called_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="song.mp3: no such file"):
        read_sound(tmp_path / "song.mp3", 16000)
