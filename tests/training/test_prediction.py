"""The table of predictions: whole or not there, for all names and contents of recordings."""

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
    """A part that a model could have said."""

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


def test_names_of_all_kinds_have_their_rows_and_no_formula(tmp_path: Path) -> None:
    names = ["a.wav", os.fsdecode(b"caf\xe9.wav"), "=1+1.wav", "-a,b.wav", '@"x".wav', "line\nbreak.wav"]
    written, unreadable = write_predictions(
        lambda sound: iter([Level(sound, -0.5)]),
        [*map(Path, names)],
        tmp_path / "out.csv",
        keep=False,
        synthetic=False,
    )
    assert (len(written), unreadable) == (len(names), [])
    shown = ["a.wav", "caf\\udce9.wav", "'=1+1.wav", "'-a,b.wav", '\'@"x".wav', "line\nbreak.wav"]
    assert read(tmp_path / "out.csv") == [["file", "value"], *([name, "-0.500"] for name in shown)]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_sound_that_fails_at_its_end_has_no_rows_and_costs_no_other_its_own(tmp_path: Path) -> None:
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
def test_an_error_leaves_the_table_of_before_and_nothing_half(tmp_path: Path, error: BaseException) -> None:
    def predict(sound: Path) -> Iterator[Level]:
        yield Level(sound, 1.0)
        if sound.name == "b.wav":
            raise error

    (tmp_path / "out.csv").write_text("of before")
    with pytest.raises(type(error)):
        write_predictions(predict, [Path("a.wav"), Path("b.wav")], tmp_path / "out.csv", keep=False, synthetic=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "of before"


def test_a_folder_that_is_named_like_a_sound_is_none(tmp_path: Path) -> None:
    (tmp_path / "album.wav").mkdir()
    (tmp_path / "album.wav" / "song.wav").touch()
    assert find_sounds([tmp_path]) == [tmp_path / "album.wav" / "song.wav"]
