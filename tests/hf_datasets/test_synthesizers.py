"""Every synthesizer: a first try that is too small names the option that makes it work, and a bar is shown."""

import importlib
import re
from pathlib import Path

import pytest

from hf_datasets.names import data_set_names

SMALL = {  # data set -> fewer than all kinds of damage need
    "audioset": ["--num_train", "10", "--num_eval", "5"],
    "folder": ["--num_songs", "1", "--num_listeners", "1"],
    "hku956": ["--num_songs", "6", "--seconds", "15", "16"],
    "hku956, few songs": ["--num_songs", "1", "--num_participants", "3", "--listeners_a_song", "1"],
    "meld": ["--num_train", "12", "--num_dev", "8", "--num_test", "12"],
    "pmemo": ["--num_songs", "1", "--num_listeners", "1"],
    "tunein": ["--num_creatives", "3"],
}
DAMAGED = [name for name in SMALL if name != "folder"]  # those that can make damaged trees


def synthesize(name: str, *arguments: str | Path) -> None:
    importlib.import_module(f"hf_datasets.{name.partition(',')[0]}.synthesize").main([*map(str, arguments)])


def test_all_synthesizers_are_here() -> None:
    assert {name.partition(",")[0] for name in SMALL} == set(data_set_names())


@pytest.mark.parametrize("name", DAMAGED)
def test_too_few_for_all_damage_names_the_option_that_works(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        synthesize(name, "--output_dir", tmp_path, *SMALL[name])
    (advised,) = re.findall(r"add (--defects \w+)\.", str(ended.value))
    synthesize(name, "--output_dir", tmp_path, *SMALL[name], *advised.split())
    assert "synthesizing" in capsys.readouterr().err
    assert any(tmp_path.rglob("*"))


def test_a_folder_of_ones_own_shows_its_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesize("folder", "--output_dir", tmp_path, *SMALL["folder"])
    assert "synthesizing" in capsys.readouterr().err
