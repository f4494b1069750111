"""One test for each of the fourteen defects of an earlier TuneIn pipeline."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_datasets.prepare import main as prepare_main
from hf_datasets.tunein import write_batches as module
from hf_datasets.tunein.raw import MODALITIES, parse_ids
from hf_datasets.tunein.synthesize import dump
from hf_datasets.tunein.write_batches import Settings, write_batches
from tests.conftest import REPOSITORY
from tests.helpers.prepared_data import complaint, contents
from tests.helpers.raw_trees.tunein import (
    WIDTH,
    assert_right,
    missed,
    prepare,
    read_batches,
    rows_of,
    small_tree,
    sound,
    split,
)


def test_defect_1_modalities_are_joined_by_id_in_any_order_of_the_files(built):
    rows = rows_of(built)
    assert sorted(row["creative_id"] for row in rows) == sorted(["12", "112", "1", "1120", "5", "2", "7"])
    for row in rows:
        assert all(row[f"has_{kind}"] for kind in MODALITIES)
        assert_right(row)


def test_defect_2_stored_embeddings_are_written_unchanged_in_every_segment(built, tmp_path):
    for size in (2, 7):
        write_batches(built, tmp_path / str(size), Settings(segment_size=size, missing="zeros"))
        for ids, tensors in read_batches(tmp_path / str(size)):
            for kind in ("audio", "back_audio"):
                for name, frames in zip(ids, split(tensors, kind), strict=True):
                    np.testing.assert_array_equal(frames, sound(name, kind))


def test_defect_3_every_batch_has_the_targets_of_its_creatives(built, tmp_path):
    write_batches(built, tmp_path, Settings(batch_size=2, segment_size=3))
    batches = read_batches(tmp_path)
    assert [len(ids) for ids, _ in batches] == [2, 1, 2, 1, 1]
    for ids, tensors in batches:
        assert tensors["targets"].tolist() == [float(name) / 2 for name in ids]


def test_defect_4_an_unreadable_entry_does_not_get_the_values_of_the_previous_one(tmp_path):
    tree = small_tree()
    for position, value in ((1, "noise"), (2, np.full((1, WIDTH), np.nan, np.float32))):
        tree.sounds[0]["audio"][position] = value
    rows = {row["creative_id"]: row for row in prepare(tree.write(tmp_path / "raw"), tmp_path / "out")}
    assert [rows[name]["audio"] for name in ("112", "5")] == [None, None]
    assert ["112", "audio", "not_numbers", "1"] in missed(tmp_path / "out")
    assert ["5", "audio", "not_finite", "1"] in missed(tmp_path / "out")
    for row in rows.values():
        assert_right(row)


def test_defect_5_an_id_that_is_missing_from_the_text_file_keeps_its_video(tmp_path):
    tree = small_tree()
    first = next(iter(tree.text))
    del tree.text[first]
    (row,) = [row for row in prepare(tree.write(tmp_path / "raw"), tmp_path / "out") if row["creative_id"] == first]
    assert row["text"] is None
    assert not row["has_text"]
    assert row["has_video"]
    assert_right(row)
    assert missed(tmp_path / "out") == [[first, "text", "not_in_file", ""]]


def test_defect_6_random_noise_depends_on_seed_id_and_modality_and_is_not_present(damaged, tmp_path):
    def filled_in(folder: Path, settings: Settings) -> dict[tuple[str, str], bytes]:
        write_batches(damaged, folder, settings)
        values = {}
        for ids, tensors in read_batches(folder):
            for column, kind in enumerate(MODALITIES):
                parts = split(tensors, kind) if f"{kind}_lengths" in tensors else list(tensors[kind])
                for row in np.flatnonzero(~tensors["present"][:, column]):
                    values[ids[row], kind] = parts[row].tobytes()
        return values

    noise = filled_in(tmp_path / "a", Settings(seed=0))
    assert len(noise) > 50
    assert len(set(noise.values())) == len(noise)
    assert filled_in(tmp_path / "b", Settings(seed=0, batch_size=5, segment_size=33)) == noise
    other_seed = filled_in(tmp_path / "c", Settings(seed=1))
    assert set(other_seed) == set(noise)
    assert not set(other_seed.values()) & set(noise.values())
    real = {row[kind] and np.float32(row[kind]).tobytes() for row in rows_of(damaged) for kind in ("text", "video")}
    assert not real & set(noise.values())
    numbers = np.concatenate([np.frombuffer(value, np.float32) for value in noise.values()])
    assert abs(numbers.mean()) < 0.1
    assert abs(numbers.std() - 1) < 0.1


def test_defect_7_ids_are_compared_whole(built):
    assert parse_ids("112,1120") == ["112", "1120"]
    assert "12" not in parse_ids("112,1120")
    batches = {row["creative_id"]: row["batch"] for row in rows_of(built)}
    assert batches == {"1120": 1, "112": 1, "5": 1, "1": 2, "7": 2, "12": 2, "2": 2}


def test_defect_8_each_batch_of_sounds_is_read_once(tmp_path, monkeypatch):
    from hf_datasets.tunein import builder

    raw = small_tree().write(tmp_path / "raw")
    read = []

    class Recorded(builder.SoundFile):
        @classmethod
        def read(cls, root, name):
            read.append(name)
            return super().read(root, name)

    monkeypatch.setattr(builder, "SoundFile", Recorded)
    prepare(raw, tmp_path / "out")
    assert read == [f"audio_embeddings/embedding_batch_{number}.pkl" for number in (1, 2)]


def test_defect_9_rows_can_be_read_one_by_one_in_any_order(built):
    import datasets

    rows = datasets.load_dataset(str(built), split="train")
    assert len(rows) == 7
    for number in (6, 0, 3, 6):
        assert_right(rows[number])


def test_defect_10_the_code_has_no_access_keys_and_runs_no_pickle(tmp_path):
    for file in (REPOSITORY / "hf_datasets" / "tunein").glob("*.py"):
        source = file.read_text()
        assert not re.search(r"access_key|secret|pickle\.load\b|pickle\.loads|torch\.load|read_pickle", source), file
        if file.name != "unpickling.py":  # the program of the child process
            assert not re.search(r"Unpickler|import torch", source), file
    raw = small_tree().write(tmp_path / "raw")
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    for name in ("audio_embeddings/embedding_batch_2.pkl", "rf_text_embeddings.pkl"):
        value = pickle.loads((raw / name).read_bytes())
        dump(raw / name, {**value, "x": Hostile()}, 4)
        message = complaint(prepare_main, "tunein", "--raw_dir", raw, "--output_dir", tmp_path / "out")
        assert Path(name).name in message
        assert "'posix.system'" in message
        assert not marker.exists()
        assert not (tmp_path / "out" / "defects.csv").exists()
    (raw / "rf_text_embeddings.pkl").write_bytes((raw / "rf_video_embeddings.pkl").read_bytes())
    rows = prepare(raw, tmp_path / "with unreadable", "--keep_unreadable")
    assert [row["has_audio"] for row in rows] == [True] * 3 + [False] * 4
    assert not marker.exists()
    assert ["12", "back_audio", "batch_unreadable", "2"] in missed(tmp_path / "with unreadable")


def test_defect_11_batches_have_numbers_for_missing_embeddings(damaged, tmp_path):
    rows = {row["creative_id"]: row for row in rows_of(damaged)}
    assert sum(row["audio"] is None for row in rows.values()) > 10
    manifest = write_batches(damaged, tmp_path, Settings(batch_size=7))
    counts = dict.fromkeys(MODALITIES, 0)
    for ids, tensors in read_batches(tmp_path):
        assert all(np.isfinite(value).all() for value in tensors.values())
        assert tensors["present"].tolist() == [[rows[name][f"has_{kind}"] for kind in MODALITIES] for name in ids]
        for kind in ("audio", "back_audio"):
            assert (tensors[f"{kind}_lengths"] >= 1).all()
            assert tensors[f"{kind}_lengths"].sum() == len(tensors[kind])
        for column, kind in enumerate(MODALITIES):
            counts[kind] += int((~tensors["present"][:, column]).sum())
    assert counts == manifest["missing_counts"]
    assert manifest["creatives"] + len(manifest["dropped"]) == len(rows) == 300


def test_defect_12_names_sort_numerically_and_an_interrupted_run_has_no_manifest(damaged, tmp_path, monkeypatch):
    settings = Settings(batch_size=1, segment_size=25)
    manifest = write_batches(damaged, tmp_path / "uninterrupted", settings)
    names = [entry["file"] for entry in manifest["batches"]]
    assert names == sorted(names)
    assert names[0] == "batch_00001_00000.safetensors"
    assert len(names) > 100

    def stopped(*arguments):
        if arguments[1] == 5:
            raise KeyboardInterrupt
        return write(*arguments)

    write = module._write_segment
    monkeypatch.setattr(module, "_write_segment", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_batches(damaged, tmp_path / "stopped", settings)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "latest_embeddings").glob("*.s*")}
    assert 80 < len(times) < 110
    assert not (tmp_path / "stopped" / "latest_embeddings" / "manifest.json").exists()
    monkeypatch.setattr(module, "_write_segment", write)
    write_batches(damaged, tmp_path / "stopped", settings)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "uninterrupted")
    for name, time in times.items():  # not written again
        assert (tmp_path / "stopped" / "latest_embeddings" / name).stat().st_mtime_ns == time


def test_defect_13_numbers_are_unchanged_and_no_creative_is_in_two_batches(built, damaged, tmp_path):
    write_batches(damaged, tmp_path / "b", Settings(batch_size=5))
    ids = [name for ids, _ in read_batches(tmp_path / "b") for name in ids]
    assert len(ids) == len(set(ids))
    rows = {row["creative_id"]: row for row in rows_of(damaged)}
    for ids, tensors in read_batches(tmp_path / "b"):
        for row, name in enumerate(ids):
            if rows[name]["has_video"]:
                np.testing.assert_array_equal(tensors["video"][row], np.float32(rows[name]["video"]))


def test_defect_14_all_embeddings_are_float32(built, tmp_path):
    write_batches(built, tmp_path)
    ((_, tensors),) = read_batches(tmp_path)
    assert {tensors[kind].dtype for kind in (*MODALITIES, "targets")} == {np.dtype(np.float32)}
    schema = pq.read_schema(next((built / "data").glob("*.parquet")))
    assert all(schema.field(kind).type.value_type == pa.float32() for kind in MODALITIES)
    assert schema.field("target").type == pa.float32()
