"""Reading recordings for the pipelines: errors name the file and the actual fault."""

from pathlib import Path

import pytest

from modeling.recordings import read_sound
from system.text import MISLEADING


@pytest.mark.parametrize("content", [b"", bytes(2000), b"<html>" * 300, b"\xff\xfb\x90\x00" + bytes(400), b"RIFF" * 9])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_unreadable_bytes_are_not_reported_as_a_missing_file(content: bytes, as_bytes: bool, tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^bytes: " if as_bytes else rf"^{path}: ") as caught:
        read_sound(content if as_bytes else path, 16000)
    assert "no such file" not in str(caught.value)
    assert not any(phrase in str(caught.value) for phrase in MISLEADING)


def test_a_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="song.mp3: no such file"):
        read_sound(tmp_path / "song.mp3", 16000)
