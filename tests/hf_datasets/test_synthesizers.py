"""All synthesizers: an error about too few items names the option that helps, and a progress bar is shown."""

import importlib
import re
from pathlib import Path

import pytest

from hf_datasets.names import data_set_names

SMALL = {  # options with too few items for all kinds of damage, by data set
    "audioset": ["--num_train", "10", "--num_eval", "5"],
    "folder": ["--num_songs", "1", "--num_listeners", "1"],
    "hku956": ["--num_songs", "6", "--seconds", "15", "16"],
    "hku956, few songs": ["--num_songs", "1", "--num_participants", "3", "--listeners_a_song", "1"],
    "meld": ["--num_train", "12", "--num_dev", "8", "--num_test", "12"],
    "pmemo": ["--num_songs", "1", "--num_listeners", "1"],
    "tunein": ["--num_creatives", "3"],
}
DAMAGED = [name for name in SMALL if name != "folder"]  # the synthesizers with damage


def synthesize(name: str, *arguments: str | Path) -> None:
    importlib.import_module(f"hf_datasets.{name.partition(',')[0]}.synthesize").main([*map(str, arguments)])


def test_the_list_has_every_synthesizer() -> None:
    assert {name.partition(",")[0] for name in SMALL} == set(data_set_names())


@pytest.mark.parametrize("name", DAMAGED)
def test_the_error_for_too_few_items_names_an_option_that_works(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        synthesize(name, "--output_dir", tmp_path, *SMALL[name])
    (option,) = re.findall(r"add (--defects \w+)\.", str(error.value))
    synthesize(name, "--output_dir", tmp_path, *SMALL[name], *option.split())
    assert "synthesizing" in capsys.readouterr().err
    assert any(tmp_path.rglob("*"))


def test_the_synthesizer_of_folders_shows_a_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesize("folder", "--output_dir", tmp_path, *SMALL["folder"])
    assert "synthesizing" in capsys.readouterr().err
