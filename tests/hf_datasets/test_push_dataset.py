"""Prepared data on the Hub: what may go there, what is refused and why, and that the same rows come back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hf_datasets.builders import builder_class
from hf_datasets.cards import split_card
from hf_datasets.names import HERE, data_set_names
from hf_datasets.push_dataset import main, push_dataset, refusal
from tests.conftest import REPOSITORY
from tests.helpers.hub_server import TOKEN, serve_hub

NAMES = data_set_names()
FREE = ["audioset"]  # as long as the rows hold no sound


def recorded(name: str, folder: Path, with_sound: bool = True) -> Path:
    """A folder as `prepare` leaves it, with rows that claim to be no program's."""
    shutil.copytree(HERE / name, folder, ignore=shutil.ignore_patterns("data", ".huggingface.yaml", "__pycache__"))
    sample = next(iter(split_card((folder / "README.md").read_text())[0]["configs"]))
    (folder / "data").mkdir()
    entries = []
    for entry in sample["data_files"]:
        table = pq.read_table(folder / entry["path"])
        columns = {"synthetic": pa.array([False] * len(table))}
        if not with_sound:
            columns["audio"] = pa.array(
                [{"bytes": None, "path": "a.flac"}] * len(table), table.schema.field("audio").type
            )
        for column, values in columns.items():
            table = table.set_column(table.column_names.index(column), table.schema.field(column), values)
        path = f"data/{entry['split']}-0123456789abcdef-00000-of-00001.parquet"
        pq.write_table(table, folder / path)
        entries.append({"split": entry["split"], "path": path.replace("00000-of-00001", "*")})
    full = {"config_name": "full", "default": True, "data_files": entries}
    (folder / ".huggingface.yaml").write_text(yaml.safe_dump({"configs": [full, sample | {"default": False}]}))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_what_was_recorded_is_refused_with_the_reason_and_samples_are_not(name: str, tmp_path: Path) -> None:
    builder = builder_class(name)
    folder = recorded(name, tmp_path / name)
    why = builder.REDISTRIBUTION or builder.REDISTRIBUTION_OF_SOUNDS
    with pytest.raises(ValueError, match="--i_have_the_right says so") as error:
        push_dataset(name, "tester/data", folder)
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert refusal(builder, sorted((folder / "sample").glob("*.parquet"))) is None
    assert (builder.REDISTRIBUTION is None) == (name in FREE)


def test_audioset_without_its_sounds_may_go(tmp_path: Path) -> None:
    folder = recorded("audioset", tmp_path / "audioset", with_sound=False)
    assert refusal(builder_class("audioset"), sorted((folder / "data").glob("*.parquet"))) is None


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(FREE) - {"folder"}))
def test_the_card_forbids_what_the_builder_refuses(name: str) -> None:
    licence = " ".join((HERE / name / "README.md").read_text().split("## Licence")[1].split())
    assert "redistribut" in licence or "CC BY-NC" in licence


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no data set 'nothing'; there are"):
        main(["nothing", "tester/data"])
    with pytest.raises(SystemExit, match="no README.md; give the folder that"):
        main(["pmemo", "tester/data", "--folder", str(tmp_path)])
    folder = recorded("folder", tmp_path / "half")
    shutil.rmtree(folder / "data")
    with pytest.raises(SystemExit, match="no rows of full; prepare it to its end first"):
        main(["folder", "tester/data", "--folder", str(folder)])


LOAD = """
import sys
import pyarrow.parquet as pq
from datasets import load_dataset

for name in sys.argv[2:]:
    for split, rows in load_dataset(name).items():
        pq.write_table(rows.data.table, f"{sys.argv[1]}/{name.split('/')[1]}-{split}.parquet")
"""
PUSH = """
import sys
from hf_datasets.push_dataset import main

for line in sys.argv[1:]:
    main(line.split())
"""


@pytest.mark.slow
def test_the_same_rows_come_back_from_the_hub(tmp_path: Path) -> None:
    folder = recorded("audioset", tmp_path / "audioset", with_sound=False)
    mine = recorded("folder", tmp_path / "mine")
    lines = [f"{name} tester/{name} --samples" for name in NAMES]
    lines += [f"audioset tester/labels --folder {folder}", f"folder tester/mine --folder {mine} --i_have_the_right"]
    with serve_hub() as hub:
        environment = os.environ | hub.environment(tmp_path / "home")
        command = [sys.executable, "-c", PUSH, *lines]
        pushed = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert pushed.returncode == 0, pushed.stderr[-3000:]
        assert TOKEN not in pushed.stdout + pushed.stderr
        names = [f"tester/{name}" for name in (*NAMES, "labels", "mine")]
        environment |= hub.environment(tmp_path / "elsewhere", token=None)
        command = [sys.executable, "-I", "-c", LOAD, str(tmp_path), *names]
        loaded = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert loaded.returncode == 0, loaded.stderr[-3000:]
        for name in names:
            assert not [path for path in hub.files("datasets", name) if path.endswith((".py", ".huggingface.yaml"))]
        assert "sample/labels.json" in hub.files("datasets", "tester/audioset")
    places = {name: HERE / name for name in NAMES} | {"labels": folder, "mine": mine}
    for name, place in places.items():
        here = datasets.load_dataset(str(place), "sample" if name in NAMES else "full", cache_dir=str(tmp_path / "c"))
        for split, rows in here.items():
            there = pq.read_table(tmp_path / f"{name}-{split}.parquet")
            assert there.column_names == rows.column_names
            assert len(there) == len(rows) > 0
            assert repr(there.to_pylist()) == repr(rows.data.table.to_pylist())  # NaN is not equal to itself
