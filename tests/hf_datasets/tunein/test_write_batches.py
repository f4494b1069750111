"""Batches of TuneIn's rows: whole, reproducible, and the same on S3."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from hf_datasets.prepare import main as prepare_main
from hf_datasets.tunein import write_batches as module
from hf_datasets.tunein.raw import MODALITIES
from hf_datasets.tunein.synthesize import synthesize
from hf_datasets.tunein.write_batches import Settings, data_files, read_segments, write_batches
from tests.conftest import REPOSITORY
from tests.helpers.prepared_data import complaint, contents
from tests.helpers.programs import held
from tests.helpers.raw_trees.tunein import WIDTH, prepare, read_batches, rows_of, split

# Batches


@pytest.mark.parametrize("missing", module.POLICIES)
def test_what_stands_for_the_missing_is_what_was_asked_for(missing, damaged, tmp_path):
    manifest = write_batches(damaged, tmp_path, Settings(missing=missing, batch_size=8))
    rows = {row["creative_id"]: row for row in rows_of(damaged)}
    texts = np.array([row["text"] for row in rows.values() if row["has_text"]])
    expected = {"zeros": np.zeros(384), "mean": texts.mean(axis=0)}.get(missing)
    masked = 0
    for ids, tensors in read_batches(tmp_path):
        for row, name in enumerate(ids):
            if tensors["present"][row, 0]:
                np.testing.assert_array_equal(tensors["text"][row], np.float32(rows[name]["text"]))
            else:
                masked += 1
                if expected is not None:
                    np.testing.assert_allclose(tensors["text"][row], expected, atol=1e-6)
    assert masked == manifest["missing_counts"]["text"] == (0 if missing == "drop" else 3)
    lacking = {name for name, row in rows.items() if row["target"] is None}
    if missing == "drop":
        lacking |= {name for name, row in rows.items() if not all(row[f"has_{kind}"] for kind in MODALITIES)}
    assert {entry["id"] for entry in manifest["dropped"]} == lacking
    assert all(e["lacks"] for e in manifest["dropped"])


def test_the_manifest_says_what_the_files_hold(damaged, tmp_path):
    import hashlib

    manifest = write_batches(damaged, tmp_path, Settings(seed=4))
    assert manifest["missing"] == "random"
    assert manifest["seed"] == 4
    for entry, (ids, tensors) in zip(manifest["batches"], read_batches(tmp_path), strict=True):
        data = (tmp_path / "latest_embeddings" / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["bytes"] == len(data)
        assert entry["creative_ids"] == ids
        assert entry["tensors"] == {
            name: {"shape": list(value.shape), "dtype": str(value.dtype)} for name, value in tensors.items()
        }


def test_other_settings_replace_all_and_a_damaged_batch_is_written_again(damaged, tmp_path):
    write_batches(damaged, tmp_path / "a", Settings(batch_size=4))
    write_batches(damaged, tmp_path / "a", Settings(batch_size=16, missing="mean"))
    write_batches(damaged, tmp_path / "b", Settings(batch_size=16, missing="mean"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    spoilt = tmp_path / "a" / "latest_embeddings" / "batch_00001_00003.safetensors"
    spoilt.write_bytes(b"x")
    write_batches(damaged, tmp_path / "a", Settings(batch_size=16, missing="mean"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_segments_hold_no_more_rows_than_asked_for_and_all_of_them(damaged):
    from hf_datasets.output import place

    files = data_files(place(damaged))
    assert len(files) > 1
    sizes = [len(table) for table in read_segments(files, 37)]
    assert sum(sizes) == 300
    assert set(sizes[:-1]) == {37}


def test_bad_input_to_write_batches_is_one_line(damaged, tmp_path):
    assert "--missing none" in complaint(module.main, "--output_dir", tmp_path, "--missing", "none")
    assert "--batch_size 0" in complaint(module.main, "--output_dir", tmp_path, "--batch_size", "0")
    assert "holds no prepared creatives" in complaint(module.main, "--data_dir", tmp_path, "--output_dir", tmp_path)


# On S3


@pytest.mark.slow
def test_244_objects_are_downloaded_once_each_and_batches_come_back_equal(s3, tmp_path):
    synthesize(tmp_path / "raw", num_creatives=244 * 3, batch_size=3, defects="none", sound_width=WIDTH)
    s3.put_folder(tmp_path / "raw", "s3://lab/raw")
    s3.proxy.forget()
    prepare_main(["tunein", "--raw_dir", "s3://lab/raw", "--output_dir", "s3://lab/prepared"])
    for number in range(1, 245):
        assert s3.proxy.count(rf"^GET .*/embedding_batch_{number}\.pkl ") == 1, number
    for name in ("rf_text_embeddings.pkl", "rf_video_embeddings.pkl", "labels.csv", "sound_indexes.csv"):
        assert s3.proxy.count(rf"^GET .*/{name} ") == 1, name
    rows = prepare(tmp_path / "raw", tmp_path / "local")
    assert len(rows) == 244 * 3
    assert all(row[f"has_{kind}"] for row in rows for kind in MODALITIES)
    module.main(["--data_dir", "s3://lab/prepared", "--output_dir", "s3://lab/batches"])
    module.main(["--data_dir", str(tmp_path / "local"), "--output_dir", str(tmp_path / "batches")])
    there = s3.contents("s3://lab/batches")
    assert there == contents(tmp_path / "batches")
    manifest = json.loads(there["latest_embeddings/manifest.json"])
    assert manifest["creatives"] == 244 * 3
    assert len(there) == len(manifest["batches"]) + 1
    by_id = {row["creative_id"]: row for row in rows}
    for entry in manifest["batches"]:
        tensors = safetensors.numpy.load(there[f"latest_embeddings/{entry['file']}"])
        for row, name in enumerate(entry["creative_ids"]):
            assert tensors["targets"][row] == np.float32(by_id[name]["target"])
            for kind in ("audio", "back_audio"):
                np.testing.assert_array_equal(split(tensors, kind)[row].ravel(), np.float32(by_id[name][kind]))


@pytest.mark.slow
@pytest.mark.parametrize("to_s3", [False, True])
def test_a_killed_run_goes_on_and_ends_with_the_same_manifest(s3, to_s3, damaged, tmp_path):
    settings = ["--data_dir", str(damaged), "--batch_size", "2", "--segment_size", "20"]
    module.main([*settings, "--output_dir", str(tmp_path / "whole")])
    s3.put("s3://lab/x", b"")
    output = "s3://lab/batches" if to_s3 else str(tmp_path / "batches")
    command = [sys.executable, "-m", "hf_datasets.tunein.write_batches", *settings, "--output_dir", output]

    def there() -> dict[str, bytes]:
        return s3.contents("s3://lab/batches") if to_s3 else contents(tmp_path / "batches")

    def finished() -> int:
        """Count the files by their names: the child renames one while it is looked at."""
        names = s3.contents("s3://lab/batches") if to_s3 else (tmp_path / "batches").rglob("*.*")
        return sum(not str(name).rpartition("/")[2].startswith(".") for name in names)

    if to_s3:
        s3.proxy.latency = 0.05
    child = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | held("*", 30), start_new_session=True)
    while finished() < 20:
        assert child.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert "latest_embeddings/manifest.json" not in there()
    assert finished() < 150
    s3.proxy.latency = 0
    before = set(there())
    s3.proxy.forget()
    subprocess.run(command, check=True, cwd=REPOSITORY)
    assert there() == contents(tmp_path / "whole")
    if to_s3:  # what was there was not sent again
        sent = {request.line.split()[1].rpartition("/")[2] for request in s3.proxy.requests if "PUT" in request.line}
        assert sent
        assert not sent & {name.rpartition("/")[2] for name in before}
