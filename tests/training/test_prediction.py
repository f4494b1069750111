"""The CSV file of predictions is complete or absent, for all names and contents of recordings."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from media.audio import AudioError
from training.prediction import find_sounds, write_predictions


@dataclass(frozen=True)
class Level:
    """A prediction of one number for a recording."""

    file: Path
    value: float

    def header(self) -> list[str]:
        return ["file", "value"]

    def rows(self) -> Iterator[list[str]]:
        yield [str(self.file), f"{self.value:.3f}"]

    def join(self, others: list["Level"]) -> "Level":
        return self


def read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_file_names_are_escaped_and_never_become_formulas(tmp_path: Path) -> None:
    names = ["a.wav", os.fsdecode(b"caf\xe9.wav"), "=1+1.wav", "-a,b.wav", '@"x".wav', "line\nbreak.wav"]
    written, unreadable = write_predictions(
        lambda sound: iter([Level(sound, -0.5)]),
        [*map(Path, names)],
        tmp_path / "out.csv",
        keep=False,
        synthetic=False,
    )
    assert (len(written), unreadable) == (len(names), [])
    escaped = ["a.wav", "caf\\udce9.wav", "'=1+1.wav", "'-a,b.wav", '\'@"x".wav', "line\nbreak.wav"]
    assert read(tmp_path / "out.csv") == [["file", "value"], *([name, "-0.500"] for name in escaped)]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_sound_that_fails_at_its_end_has_no_rows_and_the_others_keep_theirs(tmp_path: Path) -> None:
    def predict(sound: Path) -> Iterator[Level]:
        yield Level(sound, 1.0)
        if "damaged" in sound.name:
            raise AudioError(f"{sound}: damaged")

    sounds = [Path(os.fsdecode(b"damaged-\xe9.wav")), Path("b.wav"), Path("damaged.wav"), Path("c.wav")]
    _, unreadable = write_predictions(predict, sounds, tmp_path / "out.csv", keep=True, synthetic=True)
    assert [row[0] for row in read(tmp_path / "out.csv")] == ["file", "b.wav", "c.wav"]
    assert [row[-1] for row in read(tmp_path / "out.csv")] == ["model_of_synthetic_data", "true", "true"]
    assert [text.encode() for text in unreadable] == [b"damaged-\\udce9.wav: damaged", b"damaged.wav: damaged"]


@pytest.mark.parametrize("error", [ValueError("listener"), KeyboardInterrupt(), MemoryError()])
def test_an_error_leaves_the_old_table_and_no_partial_file(tmp_path: Path, error: BaseException) -> None:
    def predict(sound: Path) -> Iterator[Level]:
        yield Level(sound, 1.0)
        if sound.name == "b.wav":
            raise error

    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(type(error)):
        write_predictions(predict, [Path("a.wav"), Path("b.wav")], tmp_path / "out.csv", keep=False, synthetic=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_a_folder_with_the_suffix_of_a_sound_is_not_a_recording(tmp_path: Path) -> None:
    (tmp_path / "album.wav").mkdir()
    (tmp_path / "album.wav" / "song.wav").touch()
    assert find_sounds([tmp_path]) == [tmp_path / "album.wav" / "song.wav"]
