"""A raw file whose name is not UTF-8 becomes a defect with its escaped name and does not change the rows."""

import csv
import os
from pathlib import Path

import pytest

from hf_datasets.prepare import main
from tests.helpers import prepared_data
from tests.helpers.prepared_data import SMALL, raw_options, synthesize

ODD = os.fsdecode(b"caf\xe9.mp3")  # é in Latin-1, as in the archives of old zip programs
ESCAPED = "caf\\xe9.mp3"
FOLDERS = {  # that get a file, by data set
    "pmemo": ("", "chorus"),
    "hku956": ("", "audio"),
    "meld": ("", "train_splits"),
    "audioset": ("", "eval_segments"),
}


def add_odd_files(name: str, raw: Path) -> int:
    """Add files with odd names at the top and next to the sounds, and return their number."""
    root = next(iter(sorted(path for path in raw.iterdir() if path.is_dir())), raw) if name != "folder" else raw
    folders = [root / "audio"] if name == "audioset" else [root]
    wanted = FOLDERS.get(name, ("",))[-1]
    folders += [path for path in root.rglob(wanted) if path.is_dir()][:1] if wanted else []
    assert len(folders) == 1 + (name in FOLDERS)
    for folder in folders:
        (folder / ODD).write_bytes(b"no sound")
    return len(folders)


@pytest.mark.parametrize("name", SMALL)
def test_a_file_whose_name_is_not_utf8_is_a_defect_and_changes_no_row(name, tmp_path, capsys):
    raw, plain, odd = (tmp_path / part for part in ("raw", "plain", "odd"))
    synthesize(name, raw)
    main([name, *raw_options(name, raw), "--output_dir", str(plain)])
    count = add_odd_files(name, raw)
    capsys.readouterr()
    main([name, *raw_options(name, raw), "--output_dir", str(odd)])
    prepared = capsys.readouterr().out
    assert f"{count:>7}      1  name_not_utf8" in prepared
    with open(odd / "defects.csv", newline="") as file:
        details = [row["detail"] for row in csv.DictReader(file) if row["what"] == "name_not_utf8"]
    assert len(details) == count
    assert all(detail.endswith(ESCAPED) for detail in details)
    written, expected = prepared_data.contents(odd), prepared_data.contents(plain)
    assert {path: data for path, data in written.items() if path.startswith("data/")} == {
        path: data for path, data in expected.items() if path.startswith("data/")
    }
    with pytest.raises(SystemExit) as stopped:
        main([name, *raw_options(name, raw), "--check_only"])
    assert stopped.value.code == 0
    assert f"{count:>7}      1  name_not_utf8" in capsys.readouterr().out


def test_a_raw_folder_whose_path_is_not_utf8_is_an_error_in_one_line(tmp_path):
    raw = tmp_path / os.fsdecode(b"caf\xe9")
    raw.mkdir()
    for name in SMALL:
        message = prepared_data.complaint(main, name, "--raw_dir", raw, "--output_dir", tmp_path / "out")
        assert "caf\\xe9: " in message
        assert "UTF-8" in message
