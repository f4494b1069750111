"""TuneIn from raw files to rows: modalities are joined by id, and every embedding is in a row or listed as missing."""

import csv
import gc
import pickle
import re
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.prepare import main as prepare_main
from hf_datasets.tunein.builder import TuneinBuilder
from hf_datasets.tunein.raw import MODALITIES, SOUNDS, TARGET, parse_ids, read_index, read_labels
from hf_datasets.tunein.synthesize import LAYOUTS, dump, index_cell
from hf_datasets.tunein.unpickling import as_id
from tests.helpers.prepared_data import complaint
from tests.helpers.raw_trees.tunein import WIDTH, assert_right, missed, prepare, rows_of, small_tree, vector


def test_vectors_are_in_a_temporary_folder_that_is_deleted_with_the_builder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tree = small_tree()
    tree.text["5"] = np.zeros((1, 3), np.float32)  # of another width
    builder = TuneinBuilder(raw_dir=tree.write(tmp_path / "raw"), cache_dir=str(tmp_path / "cache"))
    (folder,) = tmp_path.glob("feltsound-scratch-*/*/vectors-*")
    assert sorted(path.stat().st_size for path in folder.iterdir()) == [
        128 + 4 * (6 * WIDTH + 3),  # the header of a .npy file, and the numbers
        128 + 4 * 7 * WIDTH,
    ]
    (batch,) = (batch for batch in builder.tree.batches if "12" in batch.ids)
    vectors = builder.tree.vectors["text"].take(batch.starts["text"])
    assert [numbers.tolist() for numbers in vectors] == [vector(name, "text")[0].tolist() for name in batch.ids]
    del builder, batch
    gc.collect()
    assert not folder.exists()
    (tmp_path / "raw" / "labels.csv").write_text("creative_id\n12\n")
    with pytest.raises(ValueError, match=f"labels.csv: .*'{TARGET}'"):
        TuneinBuilder(raw_dir=tmp_path / "raw", cache_dir=str(tmp_path / "cache"))
    assert not list(tmp_path.glob("feltsound-scratch-*/*/vectors-*"))


def test_labels_without_ids_are_in_the_order_of_the_video_file(tmp_path):
    tree = small_tree()
    tree.with_ids = False
    tree.targets = {name: tree.targets[name] for name in tree.video}
    unlabelled = list(tree.video)[2]
    tree.targets[unlabelled] = ""
    rows = prepare(tree.write(tmp_path / "raw"), tmp_path / "out")
    assert len(rows) == 7
    for row in rows:
        assert_right(row)
    assert [row["creative_id"] for row in rows if row["target"] is None] == [unlabelled]
    assert [unlabelled, "target", "target_missing", ""] in missed(tmp_path / "out")
    labels = tmp_path / "raw" / "labels.csv"
    labels.write_text("attention_data_completed\n1\n2\n")
    message = complaint(prepare_main, "tunein", "--raw_dir", tmp_path / "raw", "--output_dir", tmp_path / "x")
    assert re.search(rf"{re.escape(str(labels))}: .* 2 rows.* 7 .*'creative_id'", message)


def test_every_kind_of_defect_is_detected_and_every_embedding_is_in_a_row_or_in_the_list(damaged):
    rows = rows_of(damaged)
    in_rows = {defect["what"] for row in rows for defect in row["defects"]}
    in_no_row = {line.split(",")[2] for line in (damaged / "defects.csv").read_text().splitlines()[1:]} - in_rows
    elsewhere = {"batch_unreadable", "batch_not_indexed", "name_not_utf8"}  # kinds that other tests make
    assert in_rows | in_no_row | elsewhere == set(TuneinBuilder.DEFECTS)
    lines = missed(damaged)
    listed = {(name, kind) for name, kind, reason, _ in lines if reason not in ("duplicate_id",)}
    for row in rows:
        for kind in MODALITIES:
            assert row[f"has_{kind}"] == (row[kind] is not None)
            assert row[f"has_{kind}"] or (row["creative_id"], kind) in listed
    assert ["888888", "audio", "strangers_in_batch", "2"] in lines
    assert ["777777", "text", "undeclared_ids", ""] in lines
    assert ["999999", "audio", "undeclared_ids", "1"] in lines


def test_attention_depends_on_text_and_sound_through_a_sum_and_a_product(damaged):
    from hf_datasets.tunein.synthesize import SIGNAL, _direction

    strengths, targets = [], []
    for row in rows_of(damaged):
        if row["has_text"] and row["has_audio"] and row["target"] is not None:
            frames = np.reshape(row["audio"], (row["audio_frames"], -1)).mean(axis=0)
            text, audio = np.float64(row["text"]), frames.astype(float)
            strengths.append([text @ _direction(1, 384) / SIGNAL, audio @ _direction(1, WIDTH) / SIGNAL])
            targets.append(row["target"])
    t, s = np.array(strengths).T
    linear = np.stack([np.ones_like(t), t, s], axis=1)
    for columns, low, high in ((linear, 0.3, 0.6), (np.column_stack([linear, t * s]), 0.85, 1.0)):
        fitted = columns @ np.linalg.lstsq(columns, targets, rcond=None)[0]
        assert low < np.corrcoef(fitted, targets)[0, 1] ** 2 < high


@given(st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), max_size=20), st.sampled_from(LAYOUTS))
def test_ids_are_read_from_every_layout_of_the_index(ids, layout):
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
def test_the_index_is_read_in_all_its_formats(text, expected):
    assert read_index(text.encode(), "sound_indexes.csv") == expected


def test_a_shortened_list_in_the_index_is_an_error():
    with pytest.raises(ValueError, match=r"sound_indexes\.csv line 2: .*\.\.\."):
        read_index(b"index\n\"['1' '2' ... '9']\"\n", "sound_indexes.csv")


@pytest.mark.parametrize("value", ["12", " 12 ", 12, 12.0, np.int64(12), np.str_("12"), np.float64(12), b"12"])
def test_an_id_is_the_same_in_every_type(value):
    assert as_id(value) == "12"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("creative_id,x\n1,2\n", r"labels\.csv: .*'attention_data_completed'.*\['creative_id', 'x'\]"),
        ("creative_id,attention_data_completed\n1,high\n", r"labels\.csv line 2: attention_data_completed='high': "),
        ("creative_id,attention_data_completed\n,2\n", r"labels\.csv line 2: .*\bid\b"),
        ("", r"labels\.csv: .*empty"),
    ],
)
def test_the_error_for_unreadable_labels_has_file_and_line(text, expected):
    with pytest.raises(ValueError, match=expected):
        read_labels(text.encode(), "labels.csv", [])


def test_the_first_axis_of_a_sound_is_frames_and_a_sound_with_one_axis_is_one_frame(tmp_path):
    tree = small_tree()
    tree.sounds[0]["audio"][0] = np.repeat(vector("1120", "audio"), 2, axis=0).reshape(2, 2, WIDTH // 2)
    tree.sounds[0]["backaudio"][0] = vector("1120", "back_audio")[0]
    tree.video["5"] = vector("5", "video").reshape(1, 2, WIDTH // 2)
    rows = {row["creative_id"]: row for row in prepare(tree.write(tmp_path / "raw"), tmp_path / "out")}
    assert rows["1120"]["audio"] == [1120.25] * 2 * WIDTH
    assert rows["1120"]["audio_frames"] == 2
    assert rows["1120"]["back_audio_frames"] == 1
    assert rows["5"]["video"] == vector("5", "video")[0].tolist()


def test_the_error_for_a_file_that_is_not_a_dict_of_lists_names_it(tmp_path):
    raw = small_tree().write(tmp_path / "raw")
    path = raw / "rf_text_embeddings.pkl"
    for value, expected in ((["x"], r"\blist\b"), ({"creative_id": ["1"], "embeddings": []}, r"\[1, 0\]")):
        dump(path, value, 4)
        message = complaint(prepare_main, "tunein", "--raw_dir", raw, "--output_dir", tmp_path / "out")
        assert re.search(f"{re.escape(str(path))}: .*{expected}", message)
    path.unlink()
    message = complaint(prepare_main, "tunein", "--raw_dir", raw, "--output_dir", tmp_path / "out")
    assert f"{raw}: no {path.name}" in message


def test_pickles_of_every_protocol_give_the_same_rows(built, tmp_path):
    raw = small_tree().write(tmp_path / "raw")
    for protocol in (0, 2, 5):
        for path in raw.rglob("*.pkl"):
            dump(path, pickle.loads(path.read_bytes()), protocol)
        assert prepare(raw, tmp_path / str(protocol)) == rows_of(built)
        shutil.rmtree(tmp_path / str(protocol))


def odd_columns() -> dict[str, dict]:
    """Return batches of sounds that cannot be used, by their problem."""
    frames = [np.ones((1, WIDTH), np.float32)] * 4
    return {
        "no axes": {"id": np.array("1"), "audio": np.array(1.0), "backaudio": np.array(1.0)},
        "ids beyond Unicode": {"id": np.frombuffer(b"\xff" * 32, "U2"), "audio": frames, "backaudio": frames},
        "one column": {"id": ["1"]},
    }


@pytest.mark.parametrize("name", odd_columns())
def test_an_unreadable_batch_is_a_defect_and_the_other_batches_are_used(name, tmp_path):
    raw = small_tree().write(tmp_path / "raw")
    dump(raw / "audio_embeddings" / "embedding_batch_1.pkl", odd_columns()[name], 4)
    message = complaint(prepare_main, "tunein", "--raw_dir", raw, "--output_dir", tmp_path / "out")
    assert "embedding_batch_1.pkl" in message
    output = tmp_path / "with unreadable"
    rows = {row["creative_id"]: row for row in prepare(raw, output, "--keep_unreadable")}
    assert {name for name, row in rows.items() if row["has_audio"]} == {"1", "7", "12", "2"}
    unreadable = [line[0] for line in missed(output) if line[2] == "batch_unreadable"]
    assert sorted(unreadable) == sorted(["1120", "112", "5"] * 2)


def test_odd_ids_are_escaped_and_listed_and_do_not_affect_other_rows(tmp_path):
    tree = small_tree()
    odd = {b"\xff": r"\xff", "\udce9": r"\udce9", 10**5000: hex(10**5000), "c1\nx  y'z": "c1\nx  y'z"}
    for name in odd:
        for column, value in zip(tree.sounds[0].values(), (name, np.ones((1, WIDTH)), []), strict=True):
            column.append(value)
    tree.text |= {name: np.ones((1, WIDTH)) for name in odd}
    rows = prepare(tree.write(tmp_path / "raw"), tmp_path / "out")
    assert len(rows) == 7
    for row in rows:
        assert_right(row)
        assert row["has_text"]
        assert row["has_audio"]
    with open(tmp_path / "out" / "missed_embeddings.csv", newline="") as file:
        lines = list(csv.reader(file))[1:]
    strangers = [line for line in lines if line[2] == "strangers_in_batch"]
    assert strangers == [[name, kind, "strangers_in_batch", "1"] for name in odd.values() for kind in SOUNDS]
    assert [line[0] for line in lines if line[2] == "undeclared_ids"] == [*odd.values()]
    assert "strangers_in_batch,4.0" in (tmp_path / "out" / "defects.csv").read_text().replace(",,", ",")


def test_an_entry_of_texts_is_a_defect_and_does_not_affect_other_rows(tmp_path):
    tree = small_tree()
    texts = ["x" * 1_000_000] + [""] * 4000
    tree.sounds[0]["audio"][1] = texts
    tree.text["12"] = texts
    rows = {row["creative_id"]: row for row in prepare(tree.write(tmp_path / "raw"), tmp_path / "out")}
    assert missed(tmp_path / "out") == [["112", "audio", "not_numbers", "1"], ["12", "text", "not_numbers", ""]]
    assert [name for name, row in rows.items() if not row["has_audio"]] == ["112"]
    assert [name for name, row in rows.items() if not row["has_text"]] == ["12"]


@pytest.mark.parametrize(
    "read, text, expected",
    [
        (read_labels, "creative_id,creative_id,attention_data_completed\n1,2,3\n", "'creative_id'"),
        (read_labels, "creative_id,attention_data_completed,attention_data_completed\n1,2,3\n", f"'{TARGET}'"),
        (read_labels, f"creative_id,{TARGET}\n1,1_0\n", "'1_0'"),
        (lambda *arguments: read_index(*arguments[:2]), "index,index\n1,2\n", "'index'"),
    ],
)
def test_the_error_for_a_repeated_column_or_a_number_with_an_underscore_names_it(read, text, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        read(text.encode(), "labels.csv", [])
