"""TuneIn: what its older code did wrong is not done here, nothing is lost without a word, and batches are whole."""

import gc
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.prepare import main as prepare_main
from hf_datasets.tunein import write_batches as module
from hf_datasets.tunein.builder import TuneinBuilder
from hf_datasets.tunein.pickles import load_legacy_pickle
from hf_datasets.tunein.raw import MODALITIES, as_id, parse_ids, read_index, read_labels
from hf_datasets.tunein.synthesize import LAYOUTS, dump, index_cell, synthesize
from hf_datasets.tunein.write_batches import Settings, data_files, read_segments, write_batches
from system.storage import S3FileManager
from tests.conftest import REPOSITORY
from tests.helpers.s3_server import serve_s3

WIDTH = 8  # of the small trees' sounds


def prepare(raw: Path, output: Path, *options: str) -> list[dict]:
    """The rows of a raw tree, by way of the command."""
    prepare_main(["tunein", "--raw_dir", str(raw), "--output_dir", str(output), *options])
    return rows_of(output)


def rows_of(output: Path) -> list[dict]:
    return [row for path in sorted((output / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def complaint(run, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(list(map(str, arguments)))
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code


def missed(output: Path) -> list[list[str]]:
    header, *lines = (output / "missed_embeddings.csv").read_text().splitlines()
    assert header == "id,modality,reason,batch"
    return [line.split(",") for line in lines]


def vector(name: str, kind: str, width: int = WIDTH) -> np.ndarray:
    """An embedding that tells whose it is and of what."""
    return np.full((1, width), float(name) + MODALITIES.index(kind) / 8, np.float32)


def sound(name: str, kind: str) -> np.ndarray:
    frames = 1 + int(name) % 3
    return np.repeat(vector(name, kind), frames, axis=0) + np.arange(frames, dtype=np.float32)[:, None] / 32


class Tree:
    """A small raw tree whose files can be changed before they are written."""

    def __init__(self, ids: list[str], batches: list[list[str]]) -> None:
        self.ids, self.batches = ids, batches
        self.text = {name: vector(name, "text") for name in ids}
        self.video = {name: vector(name, "video") for name in ids}
        self.targets: dict[str, str] = {name: str(float(name) / 2) for name in ids}
        self.cells = [index_cell(group, "list") for group in batches]
        self.sounds = [
            {
                "id": list(group),
                "audio": [sound(name, "audio") for name in group],
                "backaudio": [sound(name, "back_audio") for name in group],
            }
            for group in batches
        ]
        self.with_ids = True

    def write(self, folder: Path) -> Path:
        (folder / "audio_embeddings").mkdir(parents=True)
        for kind in ("text", "video"):
            held = getattr(self, kind)
            dump(folder / f"rf_{kind}_embeddings.pkl", {"creative_id": [*held], "embeddings": [*held.values()]}, 4)
        for number, sounds in enumerate(self.sounds, start=1):
            dump(folder / "audio_embeddings" / f"embedding_batch_{number}.pkl", sounds, 4)
        head = "creative_id," if self.with_ids else ""
        lines = [f"{name},{cell}" if self.with_ids else cell or '""' for name, cell in self.targets.items()]
        (folder / "labels.csv").write_text("\n".join([f"{head}attention_data_completed", *lines]) + "\n")
        (folder / "sound_indexes.csv").write_text("index\n" + "".join(f'"{cell}"\n' for cell in self.cells))
        return folder


def small_tree() -> Tree:
    """Seven creatives in two batches, ids that are parts of others; text and video in orders of their own."""
    tree = Tree(["12", "112", "1", "1120", "5", "2", "7"], [["1120", "112", "5"], ["1", "7", "12", "2"]])
    tree.text = dict(sorted(tree.text.items()))
    tree.video = dict(reversed(tree.video.items()))
    return tree


def assert_right(row: dict) -> None:
    """Every embedding and the target of a row are those of its own id."""
    name = row["creative_id"]
    for kind in ("text", "video"):
        if row[f"has_{kind}"]:
            assert row[kind] == vector(name, kind)[0].tolist()
    for kind in ("audio", "back_audio"):
        if row[f"has_{kind}"]:
            frames = np.reshape(row[kind], (row[f"{kind}_frames"], -1))
            np.testing.assert_array_equal(frames, sound(name, kind))
        else:
            assert row[kind] is None
            assert row[f"{kind}_frames"] == 0
    assert row["target"] in (None, float(name) / 2)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The prepared small tree."""
    folder = tmp_path_factory.mktemp("tunein")
    prepare(small_tree().write(folder / "raw"), folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """A prepared tree with every kind of defect, of 300 creatives."""
    folder = tmp_path_factory.mktemp("damaged")
    synthesize(folder / "raw", num_creatives=300, seed=1, sound_width=WIDTH)
    prepare(folder / "raw", folder / "prepared")
    return folder / "prepared"


def read_batches(folder: Path) -> list[tuple[list[str], dict[str, np.ndarray]]]:
    """Ids and tensors of every batch, in the order of the manifest."""
    found = []
    for entry in json.loads((folder / "latest_embeddings" / "manifest.json").read_text())["batches"]:
        path = folder / "latest_embeddings" / entry["file"]
        with safetensors.safe_open(path, "numpy") as file:
            ids = json.loads(file.metadata()["creative_ids"])
        found.append((ids, safetensors.numpy.load_file(path)))
    return found


def split(tensors: dict[str, np.ndarray], kind: str) -> list[np.ndarray]:
    return np.split(tensors[kind], np.cumsum(tensors[f"{kind}_lengths"])[:-1])


# The fourteen defects of the older code, each excluded


def test_defect_1_modalities_are_joined_by_id_whatever_the_orders_of_the_files(built):
    rows = rows_of(built)
    assert sorted(row["creative_id"] for row in rows) == sorted(["12", "112", "1", "1120", "5", "2", "7"])
    for row in rows:
        assert all(row[f"has_{kind}"] for kind in MODALITIES)
        assert_right(row)


def test_defect_2_nothing_is_projected_or_drawn_anew_a_segment(built, tmp_path):
    for size in (2, 7):
        write_batches(built, tmp_path / str(size), Settings(segment_size=size, missing="zeros"))
        for ids, tensors in read_batches(tmp_path / str(size)):
            for kind in ("audio", "back_audio"):
                for name, frames in zip(ids, split(tensors, kind), strict=True):
                    np.testing.assert_array_equal(frames, sound(name, kind))


def test_defect_3_each_batch_of_each_segment_has_its_own_targets(built, tmp_path):
    write_batches(built, tmp_path, Settings(batch_size=2, segment_size=3))
    batches = read_batches(tmp_path)
    assert [len(ids) for ids, _ in batches] == [2, 1, 2, 1, 1]
    for ids, tensors in batches:
        assert tensors["targets"].tolist() == [float(name) / 2 for name in ids]


def test_defect_4_an_entry_that_cannot_be_read_leaves_nothing_of_the_one_before(tmp_path):
    tree = small_tree()
    for place, value in ((1, "noise"), (2, np.full((1, WIDTH), np.nan, np.float32))):
        tree.sounds[0]["audio"][place] = value
    rows = {row["creative_id"]: row for row in prepare(tree.write(tmp_path / "raw"), tmp_path / "out")}
    assert [rows[name]["audio"] for name in ("112", "5")] == [None, None]
    assert ["112", "audio", "not_numbers", "1"] in missed(tmp_path / "out")
    assert ["5", "audio", "not_finite", "1"] in missed(tmp_path / "out")
    for row in rows.values():
        assert_right(row)


def test_defect_5_an_id_that_the_text_file_lacks_has_no_text_and_keeps_its_video(tmp_path):
    tree = small_tree()
    first = next(iter(tree.text))
    del tree.text[first]
    (row,) = [row for row in prepare(tree.write(tmp_path / "raw"), tmp_path / "out") if row["creative_id"] == first]
    assert row["text"] is None
    assert not row["has_text"]
    assert row["has_video"]
    assert_right(row)
    assert missed(tmp_path / "out") == [[first, "text", "not_in_file", ""]]


def test_defect_6_random_is_noise_by_seed_id_and_modality_and_always_masked(damaged, tmp_path):
    def made_up(folder: Path, settings: Settings) -> dict[tuple[str, str], bytes]:
        write_batches(damaged, folder, settings)
        found = {}
        for ids, tensors in read_batches(folder):
            for place, kind in enumerate(MODALITIES):
                parts = split(tensors, kind) if f"{kind}_lengths" in tensors else list(tensors[kind])
                for row in np.flatnonzero(~tensors["present"][:, place]):
                    found[ids[row], kind] = parts[row].tobytes()
        return found

    noise = made_up(tmp_path / "a", Settings(seed=0))
    assert len(noise) > 50
    assert len(set(noise.values())) == len(noise)
    assert made_up(tmp_path / "b", Settings(seed=0, batch_size=5, segment_size=33)) == noise
    other = made_up(tmp_path / "c", Settings(seed=1))
    assert set(other) == set(noise)
    assert not set(other.values()) & set(noise.values())
    real = {row[kind] and np.float32(row[kind]).tobytes() for row in rows_of(damaged) for kind in ("text", "video")}
    assert not real & set(noise.values())
    everything = np.concatenate([np.frombuffer(value, np.float32) for value in noise.values()])
    assert abs(everything.mean()) < 0.1
    assert abs(everything.std() - 1) < 0.1


def test_defect_7_ids_are_compared_whole(built):
    assert parse_ids("112,1120") == ["112", "1120"]
    assert "12" not in parse_ids("112,1120")
    batches = {row["creative_id"]: row["batch"] for row in rows_of(built)}
    assert batches == {"1120": 1, "112": 1, "5": 1, "1": 2, "7": 2, "12": 2, "2": 2}


def test_defect_8_each_batch_of_sounds_is_read_once(tmp_path, monkeypatch):
    from hf_datasets.tunein import builder

    raw = small_tree().write(tmp_path / "raw")
    read = []
    load = builder.load_columns
    monkeypatch.setattr(
        builder, "load_columns", lambda data, name, columns: read.append(name) or load(data, name, columns)
    )
    prepare(raw, tmp_path / "out")
    assert read == [f"audio_embeddings/embedding_batch_{number}.pkl" for number in (1, 2)]


def test_defect_9_rows_can_be_had_one_by_one_in_any_order(built):
    import datasets

    rows = datasets.load_dataset(str(built), split="train")
    assert len(rows) == 7
    for place in (6, 0, 3, 6):
        assert_right(rows[place])


def test_defect_10_no_keys_are_taken_and_no_pickle_runs(tmp_path):
    for file in (REPOSITORY / "hf_datasets" / "tunein").glob("*.py"):
        source = file.read_text()
        assert not re.search(r"access_key|secret|pickle\.load\b|pickle\.loads|torch\.load|read_pickle", source), file
    raw = small_tree().write(tmp_path / "raw")
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    for name in ("audio_embeddings/embedding_batch_2.pkl", "rf_text_embeddings.pkl"):
        value = load_legacy_pickle(raw / name)
        dump(raw / name, {**value, "x": Hostile()}, 4)
        said = complaint(prepare_main, "tunein", "--raw_dir", raw, "--output_dir", tmp_path / "out")
        assert Path(name).name in said
        assert "asks for 'posix.system'" in said
        assert not marker.exists()
        assert not (tmp_path / "out" / "defects.csv").exists()
    dump(raw / "rf_text_embeddings.pkl", load_legacy_pickle(raw / "rf_video_embeddings.pkl"), 4)
    rows = prepare(raw, tmp_path / "kept", "--keep_unreadable")
    assert [row["has_audio"] for row in rows] == [True] * 3 + [False] * 4
    assert not marker.exists()
    assert ["12", "back_audio", "batch_unreadable", "2"] in missed(tmp_path / "kept")


def test_defect_11_none_is_never_in_a_batch(damaged, tmp_path):
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
        for place, kind in enumerate(MODALITIES):
            counts[kind] += int((~tensors["present"][:, place]).sum())
    assert counts == manifest["missing_counts"]
    assert manifest["creatives"] + len(manifest["dropped"]) == len(rows) == 300


def test_defect_12_names_sort_as_numbers_do_and_nothing_half_is_seen(damaged, tmp_path, monkeypatch):
    settings = Settings(batch_size=1, segment_size=25)
    manifest = write_batches(damaged, tmp_path / "whole", settings)
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
    half = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "latest_embeddings").glob("*.s*")}
    assert 80 < len(half) < 110
    assert not (tmp_path / "stopped" / "latest_embeddings" / "manifest.json").exists()
    monkeypatch.setattr(module, "_write_segment", write)
    write_batches(damaged, tmp_path / "stopped", settings)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    for name, stamp in half.items():  # not written again
        assert (tmp_path / "stopped" / "latest_embeddings" / name).stat().st_mtime_ns == stamp


def test_defect_13_numbers_are_as_stored_and_every_creative_is_in_one_batch(built, damaged, tmp_path):
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


# Joining


def test_vectors_wait_on_the_disk_and_go_with_who_reads_the_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tree = small_tree()
    tree.text["5"] = np.zeros((1, 3), np.float32)  # of another width
    builder = TuneinBuilder(raw_dir=tree.write(tmp_path / "raw"), cache_dir=str(tmp_path / "cache"))
    (folder,) = tmp_path.glob("feltsound-vectors-*")
    assert sorted(path.stat().st_size for path in folder.iterdir()) == [4 * (6 * WIDTH + 3), 4 * 7 * WIDTH]
    (batch,) = (batch for batch in builder.tree.batches if "12" in batch.ids)
    held = builder.tree.vectors["text"].take(batch.places["text"])
    assert [found.tolist() for found in held] == [vector(name, "text")[0].tolist() for name in batch.ids]
    del builder, batch
    gc.collect()
    assert not folder.exists()
    (tmp_path / "raw" / "labels.csv").write_text("creative_id\n12\n")
    with pytest.raises(ValueError, match="lacks the column"):
        TuneinBuilder(raw_dir=tmp_path / "raw", cache_dir=str(tmp_path / "cache"))
    assert not list(tmp_path.glob("feltsound-vectors-*"))


def test_labels_without_ids_are_those_of_the_video_file_in_its_order(tmp_path):
    tree = small_tree()
    tree.with_ids = False
    tree.targets = {name: tree.targets[name] for name in tree.video}
    gone = list(tree.video)[2]
    tree.targets[gone] = ""
    rows = prepare(tree.write(tmp_path / "raw"), tmp_path / "out")
    assert len(rows) == 7
    for row in rows:
        assert_right(row)
    assert [row["creative_id"] for row in rows if row["target"] is None] == [gone]
    assert [gone, "target", "target_missing", ""] in missed(tmp_path / "out")
    (tmp_path / "raw" / "labels.csv").write_text("attention_data_completed\n1\n2\n")
    said = complaint(prepare_main, "tunein", "--raw_dir", tmp_path / "raw", "--output_dir", tmp_path / "x")
    assert "no id column and 2 rows" in said
    assert "which row is whose" in said


def test_every_kind_of_defect_is_found_and_every_embedding_is_in_a_row_or_in_the_list(damaged):
    rows = rows_of(damaged)
    found = {defect["what"] for row in rows for defect in row["defects"]}
    raw = {line.split(",")[2] for line in (damaged / "defects.csv").read_text().splitlines()[1:]} - found
    assert found | raw | {"batch_unreadable", "batch_not_indexed"} == set(TuneinBuilder.DEFECTS)
    lines = missed(damaged)
    named = {(name, kind) for name, kind, reason, _ in lines if reason not in ("duplicate_id",)}
    for row in rows:
        for kind in MODALITIES:
            assert row[f"has_{kind}"] == (row[kind] is not None)
            assert row[f"has_{kind}"] or (row["creative_id"], kind) in named
    assert ["888888", "audio", "strangers_in_batch", "2"] in lines
    assert [
        "777777",
        "text",
        "undeclared_ids",
        "",
    ] in lines
    assert ["999999", "audio", "undeclared_ids", "1"] in lines


def test_the_sample_has_the_dependence_that_it_says(damaged):
    """Text and sound, by a sum and by a product that no linear model of both finds."""
    from hf_datasets.tunein.synthesize import SHOWN, _direction

    told, targets = [], []
    for row in rows_of(damaged):
        if row["has_text"] and row["has_audio"] and row["target"] is not None:
            frames = np.reshape(row["audio"], (row["audio_frames"], -1)).mean(axis=0)
            text, heard = np.float64(row["text"]), frames.astype(float)
            told.append([text @ _direction(1, 384) / SHOWN, heard @ _direction(1, WIDTH) / SHOWN])
            targets.append(row["target"])
    t, s = np.array(told).T
    linear = np.stack([np.ones_like(t), t, s], axis=1)
    for columns, low, high in ((linear, 0.3, 0.6), (np.column_stack([linear, t * s]), 0.85, 1.0)):
        fitted = columns @ np.linalg.lstsq(columns, targets, rcond=None)[0]
        assert low < np.corrcoef(fitted, targets)[0, 1] ** 2 < high


@given(st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), max_size=20), st.sampled_from(LAYOUTS))
def test_every_layout_of_the_index_gives_the_ids_back(ids, layout):
    assert parse_ids(index_cell(ids, layout)) == ids


@pytest.mark.parametrize(
    "text, expected",
    [
        ('index\n"[1, 12]"\n"112"\n', {1: ["1", "12"], 2: ["112"]}),
        ("index\n1,12\n112\n", {1: ["1", "12"], 2: ["112"]}),
        (",index\n0,\"['1' '12'\n '112']\"\n", {1: ["1", "12", "112"]}),
        ('﻿index\n" 1 ; 12 "\n""\n"2"\n', {1: ["1", "12"], 2: [], 3: ["2"]}),
    ],
)
def test_the_index_is_read_in_all_its_forms(text, expected):
    assert read_index(text.encode(), "sound_indexes.csv") == expected


def test_an_index_that_was_cut_short_is_refused():
    with pytest.raises(ValueError, match=r"row 1: a list of ids was cut short"):
        read_index(b"index\n\"['1' '2' ... '9']\"\n", "sound_indexes.csv")


@pytest.mark.parametrize("value", ["12", " 12 ", 12, 12.0, np.int64(12), np.str_("12"), np.float64(12), b"12"])
def test_an_id_is_the_same_in_every_type(value):
    assert as_id(value) == "12"


@pytest.mark.parametrize(
    "text, said",
    [
        ("creative_id,x\n1,2\n", "lacks the column 'attention_data_completed'"),
        ("creative_id,attention_data_completed\n1,high\n", "row 1: attention_data_completed is 'high'"),
        ("creative_id,attention_data_completed\n,2\n", "row 1 has no id"),
        ("", "is empty"),
    ],
)
def test_labels_that_cannot_be_read_are_an_error_that_says_where(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_labels(text.encode(), "labels.csv", [])


def test_a_sound_of_more_axes_is_frames_of_all_else_and_one_of_one_axis_is_a_frame(tmp_path):
    tree = small_tree()
    tree.sounds[0]["audio"][0] = np.repeat(vector("1120", "audio"), 2, axis=0).reshape(2, 2, WIDTH // 2)
    tree.sounds[0]["backaudio"][0] = vector("1120", "back_audio")[0]
    tree.video["5"] = vector("5", "video").reshape(1, 2, WIDTH // 2)
    rows = {row["creative_id"]: row for row in prepare(tree.write(tmp_path / "raw"), tmp_path / "out")}
    assert rows["1120"]["audio"] == [1120.25] * 2 * WIDTH
    assert rows["1120"]["audio_frames"] == 2
    assert rows["1120"]["back_audio_frames"] == 1
    assert rows["5"]["video"] == vector("5", "video")[0].tolist()


def test_files_that_are_no_dict_of_lists_are_an_error_that_names_them(tmp_path):
    raw = small_tree().write(tmp_path / "raw")
    for value, said in ((["x"], "holds list"), ({"creative_id": ["1"], "embeddings": []}, "have [1, 0] entries")):
        dump(raw / "rf_text_embeddings.pkl", value, 4)
        assert said in complaint(prepare_main, "tunein", "--raw_dir", raw, "--output_dir", tmp_path / "out")
    (raw / "rf_text_embeddings.pkl").unlink()
    assert "holds no rf_text_embeddings.pkl" in complaint(
        prepare_main, "tunein", "--raw_dir", raw, "--output_dir", tmp_path / "out"
    )


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


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


# On S3


@pytest.fixture
def s3(monkeypatch):
    with serve_s3() as server:
        monkeypatch.setattr(S3FileManager, "_shared", None)
        yield server
        if S3FileManager.live():
            S3FileManager.live().close()


def upload(s3, folder: Path, url: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            s3.put(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def objects(s3, prefix: str) -> dict[str, bytes]:
    pages = s3.boto.get_paginator("list_objects_v2").paginate(Bucket="lab", Prefix=f"{prefix}/")
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {key.removeprefix(f"{prefix}/"): s3.boto.get_object(Bucket="lab", Key=key)["Body"].read() for key in keys}


@pytest.mark.slow
def test_244_objects_are_downloaded_once_each_and_batches_come_back_equal(s3, tmp_path):
    synthesize(tmp_path / "raw", num_creatives=244 * 3, batch_size=3, defects="none", sound_width=WIDTH)
    upload(s3, tmp_path / "raw", "s3://lab/raw")
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
    there = objects(s3, "batches")
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
        return objects(s3, "batches") if to_s3 else contents(tmp_path / "batches")

    def finished() -> int:
        return sum(not name.rpartition("/")[2].startswith(".") for name in there())

    if to_s3:
        s3.proxy.latency = 0.05
    child = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)
    while finished() < 20:
        assert child.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
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


def test_a_tree_in_pickles_of_each_protocol_gives_the_same_rows(built, tmp_path):
    raw = small_tree().write(tmp_path / "raw")
    for protocol in (0, 2, 5):
        for path in raw.rglob("*.pkl"):
            dump(path, pickle.loads(path.read_bytes()), protocol)
        assert prepare(raw, tmp_path / str(protocol)) == rows_of(built)
        shutil.rmtree(tmp_path / str(protocol))
