"""`write_batches` writes complete and reproducible batches, with the same bytes on S3."""

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
from tests.helpers.programs import paused_after
from tests.helpers.raw_trees.tunein import WIDTH, prepare, read_batches, rows_of, split

# Batches


@pytest.mark.parametrize("missing", module.POLICIES)
def test_missing_embeddings_are_filled_in_as_set(missing, damaged, tmp_path):
    manifest = write_batches(damaged, tmp_path, Settings(missing=missing, batch_size=8))
    rows = {row["creative_id"]: row for row in rows_of(damaged)}
    texts = np.array([row["text"] for row in rows.values() if row["has_text"]])
    expected = {"zeros": np.zeros(384), "mean": texts.mean(axis=0)}.get(missing)
    filled_in = 0
    for ids, tensors in read_batches(tmp_path):
        for row, name in enumerate(ids):
            if tensors["present"][row, 0]:
                np.testing.assert_array_equal(tensors["text"][row], np.float32(rows[name]["text"]))
            else:
                filled_in += 1
                if expected is not None:
                    np.testing.assert_allclose(tensors["text"][row], expected, atol=1e-6)
    assert filled_in == manifest["missing_counts"]["text"] == (0 if missing == "drop" else 3)
    dropped = {name for name, row in rows.items() if row["target"] is None}
    if missing == "drop":
        dropped |= {name for name, row in rows.items() if not all(row[f"has_{kind}"] for kind in MODALITIES)}
    assert {entry["id"] for entry in manifest["dropped"]} == dropped
    assert all(e["lacks"] for e in manifest["dropped"])


def test_the_manifest_describes_the_files(damaged, tmp_path):
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


def test_other_settings_replace_all_batches_and_a_damaged_batch_is_written_again(damaged, tmp_path):
    write_batches(damaged, tmp_path / "a", Settings(batch_size=4))
    write_batches(damaged, tmp_path / "a", Settings(batch_size=16, missing="mean"))
    write_batches(damaged, tmp_path / "b", Settings(batch_size=16, missing="mean"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    damaged_batch = tmp_path / "a" / "latest_embeddings" / "batch_00001_00003.safetensors"
    damaged_batch.write_bytes(b"x")
    write_batches(damaged, tmp_path / "a", Settings(batch_size=16, missing="mean"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_segments_have_the_given_size_and_together_all_rows(damaged):
    from hf_datasets.output import open_location

    files = data_files(open_location(damaged))
    assert len(files) > 1
    sizes = [len(table) for table in read_segments(files, 37)]
    assert sum(sizes) == 300
    assert set(sizes[:-1]) == {37}


def test_bad_input_is_an_error_in_one_line(damaged, tmp_path):
    assert "--missing=none: " in complaint(module.main, "--output_dir", tmp_path, "--missing", "none")
    assert "--batch_size=0: " in complaint(module.main, "--output_dir", tmp_path, "--batch_size", "0")
    message = complaint(module.main, "--data_dir", tmp_path, "--output_dir", tmp_path)
    assert f"--data_dir={tmp_path}: " in message


# On S3


@pytest.mark.slow
def test_244_objects_are_downloaded_once_each_and_batches_on_s3_equal_local_ones(s3, tmp_path):
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
    objects = s3.contents("s3://lab/batches")
    assert objects == contents(tmp_path / "batches")
    manifest = json.loads(objects["latest_embeddings/manifest.json"])
    assert manifest["creatives"] == 244 * 3
    assert len(objects) == len(manifest["batches"]) + 1
    by_id = {row["creative_id"]: row for row in rows}
    for entry in manifest["batches"]:
        tensors = safetensors.numpy.load(objects[f"latest_embeddings/{entry['file']}"])
        for row, name in enumerate(entry["creative_ids"]):
            assert tensors["targets"][row] == np.float32(by_id[name]["target"])
            for kind in ("audio", "back_audio"):
                np.testing.assert_array_equal(split(tensors, kind)[row].ravel(), np.float32(by_id[name][kind]))


@pytest.mark.slow
@pytest.mark.parametrize("to_s3", [False, True])
def test_a_killed_run_continues_and_writes_the_same_files(s3, to_s3, damaged, tmp_path):
    settings = ["--data_dir", str(damaged), "--batch_size", "2", "--segment_size", "20"]
    module.main([*settings, "--output_dir", str(tmp_path / "uninterrupted")])
    s3.put("s3://lab/x", b"")
    output = "s3://lab/batches" if to_s3 else str(tmp_path / "batches")
    command = [sys.executable, "-m", "hf_datasets.tunein.write_batches", *settings, "--output_dir", output]

    def written() -> dict[str, bytes]:
        return s3.contents("s3://lab/batches") if to_s3 else contents(tmp_path / "batches")

    def count_finished() -> int:
        # By name only: the child may rename a file before it can be opened here.
        names = s3.contents("s3://lab/batches") if to_s3 else (tmp_path / "batches").rglob("*.*")
        return sum(not str(name).rpartition("/")[2].startswith(".") for name in names)

    if to_s3:
        s3.proxy.latency = 0.05
    child = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | paused_after("*", 30), start_new_session=True)
    while count_finished() < 20:
        assert child.poll() is None, "the child ended before it was killed"
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert "latest_embeddings/manifest.json" not in written()
    assert count_finished() < 150
    s3.proxy.latency = 0
    before = set(written())
    s3.proxy.forget()
    subprocess.run(command, check=True, cwd=REPOSITORY)
    assert written() == contents(tmp_path / "uninterrupted")
    if to_s3:  # finished batches are not uploaded again
        sent = {request.line.split()[1].rpartition("/")[2] for request in s3.proxy.requests if "PUT" in request.line}
        assert sent
        assert not sent & {name.rpartition("/")[2] for name in before}
