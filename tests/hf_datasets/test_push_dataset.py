"""Data sets on the Hub: which may be pushed, the reason why others may not, and that the same rows come back."""

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
from hf_datasets.push_dataset import main, push_dataset, reason_not_to_share
from tests.conftest import REPOSITORY
from tests.helpers.hub_server import TOKEN, serve_hub

NAMES = data_set_names()
SHAREABLE = ["audioset"]  # if the rows do not contain the sounds


def prepared_folder(name: str, folder: Path, with_sound: bool = True) -> Path:
    """Return a folder as `prepare` writes it, with the sample's rows marked as not synthetic."""
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
def test_recorded_rows_are_refused_with_the_reason_and_samples_are_not(name: str, tmp_path: Path) -> None:
    builder = builder_class(name)
    folder = prepared_folder(name, tmp_path / name)
    reason = builder.REDISTRIBUTION or builder.REDISTRIBUTION_OF_SOUNDS
    with pytest.raises(ValueError, match="--i_have_the_right") as error:
        push_dataset(name, "tester/data", folder)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert reason_not_to_share(builder, sorted((folder / "sample").glob("*.parquet"))) is None
    assert (builder.REDISTRIBUTION is None) == (name in SHAREABLE)


def test_audioset_without_its_sounds_may_be_shared(tmp_path: Path) -> None:
    folder = prepared_folder("audioset", tmp_path / "audioset", with_sound=False)
    assert reason_not_to_share(builder_class("audioset"), sorted((folder / "data").glob("*.parquet"))) is None


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SHAREABLE) - {"folder"}))
def test_the_card_states_the_limits_of_redistribution(name: str) -> None:
    licence = " ".join((HERE / name / "README.md").read_text().split("## Licence")[1].split())
    assert "redistribut" in licence or "CC BY-NC" in licence


def test_errors_name_the_missing_data_set_card_or_config(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="'nothing': .*pmemo"):
        main(["nothing", "tester/data"])
    with pytest.raises(SystemExit, match=rf"{tmp_path}: .*README\.md"):
        main(["pmemo", "tester/data", "--folder", str(tmp_path)])
    folder = prepared_folder("folder", tmp_path / "unfinished")
    shutil.rmtree(folder / "data")
    with pytest.raises(SystemExit, match=rf"{folder}: .*\bfull\b"):
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
    folder = prepared_folder("audioset", tmp_path / "audioset", with_sound=False)
    mine = prepared_folder("folder", tmp_path / "mine")
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
    folders = {name: HERE / name for name in NAMES} | {"labels": folder, "mine": mine}
    for name, path in folders.items():
        local = datasets.load_dataset(str(path), "sample" if name in NAMES else "full", cache_dir=str(tmp_path / "c"))
        for split, rows in local.items():
            downloaded = pq.read_table(tmp_path / f"{name}-{split}.parquet")
            assert downloaded.column_names == rows.column_names
            assert len(downloaded) == len(rows) > 0
            assert repr(downloaded.to_pylist()) == repr(rows.data.table.to_pylist())  # NaN is not equal to itself
