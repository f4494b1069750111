"""AudioSet's strong labels become events of rows, and the target uses both weak and strong labels."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.audioset.clips import _covered_by_events
from hf_datasets.prepare import main
from tests.helpers.raw_trees.audioset import (
    CRY,
    CRYING,
    LABELS,
    TONE,
    WHIMPER,
    by_id,
    complaint,
    kinds,
    rows_of,
    run,
    strong_table,
    weak_table,
    write_wav,
)


def test_events_of_several_tables_are_joined_sorted_and_unique(raw, tmp_path):
    rows = [("-found_dash_30000", 1.5, 1.75, CRY), ("-found_dash_30000", 0.25, 2.0, TONE)]
    framed = [
        ("-found_dash_30000", 0.0, 0.96, WHIMPER, "NOT_PRESENT"),
        ("-found_dash_30000", 1.5, 1.75, CRY, "PRESENT"),
    ]
    metadata = raw / "metadata"
    (metadata / "audioset_train_strong.tsv").write_text(strong_table(rows))
    (metadata / "cry_train.tsv").write_text(strong_table([*rows[:1], ("_under_scor_30000", 0, 1, CRY)]))
    (metadata / "cry_framed_train.tsv").write_text(strong_table(framed, present=True))
    clips = by_id(rows_of(raw, tmp_path))
    names = [*LABELS, TONE]
    events = [
        (names[e["label"]], e["start_seconds"], e["end_seconds"], e["present"]) for e in clips["-found_dash"]["events"]
    ]
    assert events == [(WHIMPER, 0.0, np.float32(0.96), False), (TONE, 0.25, 2.0, True), (CRY, 1.5, 1.75, True)]
    assert [e["end_seconds"] for e in clips["_under_scor"]["events"]] == [1.0]
    # Only a table with all events of its clips makes a clip strongly labelled.
    assert [ytid for ytid, row in clips.items() if row["strongly_labelled"]] == ["-found_dash"]


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 2, st.integers(0, 8), st.integers(1, 4), *[st.booleans()] * 2)))
def test_a_present_frame_is_covered_if_an_event_of_its_label_overlaps(rows):
    clip, code, begin, length, present, frame = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0, int),) * 6
    )
    start, end = begin.astype(np.float32), (begin + length).astype(np.float32)
    covered = _covered_by_events(
        clip.astype(np.int64), start, end, code.astype(np.int64), present.astype(bool), frame > 0
    )
    for i, (c, k, b, n, p, f) in enumerate(rows):
        overlapping = [o for o in rows if o[:2] == (c, k) and o[4] and not o[5] and o[2] < b + n and o[2] + o[3] > b]
        assert covered[i] == (p and f and bool(overlapping))


def test_a_clip_whose_strong_table_names_another_excerpt_is_not_used(raw, tmp_path):
    rows = [("found_plain_35000", 0, 1, CRY), ("-found_dash_30000", 3.5, 4, CRY)]
    (raw / "metadata" / "audioset_train_strong.tsv").write_text(strong_table(rows))
    clips = by_id(rows_of(raw, tmp_path))
    plain = clips["found_plain"]
    assert (kinds(plain), plain["audio"], plain["events"], plain["strongly_labelled"]) == (
        ["other_excerpt"],
        None,
        [],
        False,
    )
    assert plain["defects"][0]["how_much"] == 5.0
    assert kinds(clips["-found_dash"]) == ["event_outside"]
    assert len(clips["-found_dash"]["events"]) == 1


def test_clips_in_strong_tables_only_are_rows_too(raw, tmp_path):
    (raw / "metadata" / "audioset_train_strong.tsv").write_text(strong_table([("new_clip_01_12000", 0, 1, CRY)]))
    (raw / "metadata" / "bc_eval.tsv").write_text(strong_table([("new_clip_02_12000", 0, 1, "/m/unknown")]))
    write_wav(raw / "audio" / "new_clip_01_12000.wav")
    clips = by_id(rows_of(raw, tmp_path))
    new = clips["new_clip_01"]
    assert (new["subset"], new["start_seconds"], new["end_seconds"], new["labels"]) == ("list", 12.0, None, [])
    assert new["audio"] is not None
    assert new["strongly_labelled"]
    other = clips["new_clip_02"]
    assert (other["subset"], other["strongly_labelled"], kinds(other)) == ("eval", False, ["clip_missing"])
    assert other["events"][0]["label"] == len(LABELS) + 1  # after the strong labels with names


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("audioset_train_strong.tsv", [("much_longer_30000", 0, 1, CRY)]),  # an id of the eval table
        ("bc_ov_train.tsv", [("much_longer_30000", 0, 1, CRY)]),
        ("audioset_eval_strong.tsv", [("found_plain_30000", 0, 1, CRY)]),  # an id of the table for training
    ],
)
def test_an_id_in_both_train_and_eval_tables_is_refused(raw, file, rows):
    (raw / "metadata" / file).write_text(strong_table(rows))
    message = complaint("--raw_dir", raw / "metadata")
    assert re.search(rf"\b1 clip\b.*{rows[0][0][:11]}", message)
    assert file in message


def test_an_id_in_two_weak_tables_is_refused(raw):
    table = raw / "metadata" / "balanced_train_segments.csv"
    table.write_text(weak_table([("no_sound_at", 30.0, [CRY]), ("found_plain", 30.0, [CRY])]))
    message = complaint("--raw_dir", raw / "metadata")
    assert re.search(r"unbalanced_train_segments\.csv, .*/balanced_train_segments\.csv: 1 id\b.*found_plain", message)


def test_negatives_exclude_the_target_and_related_labels_by_weak_and_strong_labels(raw, tmp_path, capsys):
    output = tmp_path / "output"
    strong = [("-found_dash_30000", 0, 1, CRY), ("found_plain_30000", 0, 1, CRY), ("stereo48kHz_30000", 0, 1, CRYING)]
    framed = [("much_longer_30000", 0, 0.96, CRY, "PRESENT"), ("much_longer_30000", 0.96, 1.92, CRYING, "NOT_PRESENT")]
    (raw / "metadata" / "audioset_train_strong.tsv").write_text(strong_table(strong))
    (raw / "metadata" / "audioset_eval_strong_framed_posneg.tsv").write_text(strong_table(framed, present=True))
    target = ["--target", "baby cry, infant cry"]
    run("--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", output, *target)
    record = json.loads((output / "target.json").read_text())
    assert [one["mid"] for one in record["target"]] == [CRY]
    assert [one["mid"] for one in record["related"]] == [CRYING]
    assert [one["mid"] for one in record["siblings"]] == [WHIMPER]
    # Six weak cries; -found_dash and much_longer by events only; stereo48kHz by its parent; found_plain by both.
    assert [rule["clips"] for rule in record["rules"]] == [6, 2, 0, 1]
    assert record["negatives"] == 3
    printed = capsys.readouterr().out
    assert f"{LABELS[CRY]} ({CRY}), 6 clips" in printed
    counts = [rule["clips"] for rule in record["rules"]] + [record["negatives"]]
    assert [int(count) for count in re.findall(r"^ *(\d+) clips?: ", printed, re.MULTILINE)] == counts


def test_a_target_must_be_a_label_and_needs_the_ontology(raw, tmp_path):
    arguments = ["--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", tmp_path / "output"]
    message = complaint(*arguments, "--target", "cry")
    assert "--target='cry'" in message
    assert all(repr(LABELS[mid]) in message for mid in (CRYING, CRY))
    (raw / "metadata" / "ontology.json").unlink()
    assert re.search(r"--raw_dir=.*ontology\.json.*--target", complaint(*arguments, "--target", CRY))
    run(*arguments)  # without a target it is a warning
    assert "missing_table" in (tmp_path / "output" / "defects.csv").read_text()
    (raw / "metadata" / "class_labels_indices.csv").unlink()
    assert re.search(r"--raw_dir=.*class_labels_indices\.csv", complaint(*arguments))


def test_a_folder_without_tables_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("")
    assert f"--raw_dir={tmp_path}/raw: " in complaint("--raw_dir", tmp_path / "raw")
    assert f"--raw_dir={tmp_path}/nowhere: " in complaint("--raw_dir", tmp_path / "nowhere")
    with pytest.raises(SystemExit, match=r"--target\b.*\bpmemo\b"):
        main(["pmemo", "--raw_dir", str(tmp_path), "--target", "x"])
