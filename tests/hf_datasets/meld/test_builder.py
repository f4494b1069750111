"""MELD from raw tree to rows: rows without a clip are kept, and every known defect is handled by its rule."""

import csv
import re
import shutil
from multiprocessing import forkserver
from pathlib import Path

import datasets
import pytest

from hf_datasets.defects import UTTERANCE_DEFECTS
from hf_datasets.meld.builder import is_too_long
from hf_datasets.meld.synthetic_clips import write_clip
from hf_datasets.meld.utterances import EMOTIONS, SENTIMENTS
from hf_datasets.prepare import main
from media.video import VideoError, probe_clip
from system.storage import S3FileManager
from tests.helpers.prepared_data import complaint, kinds
from tests.helpers.raw_trees.meld import CLIP, build, make_tree, raw_kinds
from tests.helpers.s3_server import serve_s3

RAW_DEFECTS = {"split_missing", "split_count", "no_clips", "name_not_utf8"}  # need an incomplete tree


# Defects


def test_every_kind_of_defect_is_synthesized_and_detected(damaged):
    _, builder, rows = damaged
    detected = set().union(*(kinds(row) for of_split in rows.values() for row in of_split)) | set(raw_kinds(builder))
    assert detected == set(UTTERANCE_DEFECTS) - RAW_DEFECTS


def test_every_line_of_the_tables_becomes_a_row(damaged):
    root, _, rows = damaged
    assert {split: len(of_split) for split, of_split in rows.items()} == {"train": 48, "dev": 8, "test": 12}
    with open(root / "test_sent_emo.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [row["text"] for row in rows["test"]] == [line["Utterance"] for line in lines]
    assert [EMOTIONS[row["emotion"]] for row in rows["test"]] == [line["Emotion"] for line in lines]
    assert [SENTIMENTS[row["sentiment"]] for row in rows["test"]] == [line["Sentiment"] for line in lines]


@pytest.mark.parametrize(
    "split, number, expected, usable",
    [  # usable: text, audio, video
        ("train", 0, set(), (True, True, True)),
        ("train", 2, {"video_unreadable"}, (True, False, False)),
        ("train", 5, {"cut_too_long"}, (True, False, False)),
        ("train", 8, {"cut_too_short"}, (True, False, True)),
        ("train", 11, {"no_sound_track"}, (True, False, True)),
        ("train", 14, {"no_pictures"}, (True, True, False)),
        ("train", 17, {"many_channels"}, (True, True, True)),
        ("train", 20, {"empty_text"}, (False, True, True)),
        ("train", 23, {"sentiment_mismatch"}, (True, True, True)),
        ("train", 26, {"no_duration"}, (True, True, True)),
        ("train", 32, {"duplicate_utterance"}, (True, True, True)),
        ("train", 35, {"unreadable_time"}, (True, True, True)),
        ("train", 38, {"long_by_table"}, (True, True, True)),
        ("train", 41, set(), (True, True, True)),
        ("dev", 3, {"video_missing"}, (True, False, False)),
        ("test", 2, {"twin_clip"}, (True, True, True)),
        ("test", 6, {"prefixed_clip"}, (True, True, True)),
        ("test", 7, {"double_clip"}, (True, True, True)),
    ],
)
def test_a_damaged_row_has_its_defect_and_what_is_usable(damaged, split, number, expected, usable):
    row = damaged[2][split][number]
    assert kinds(row) - {"time_backwards"} == expected
    assert (row["has_text"], row["has_audio"], row["has_video"]) == usable


def test_defects_have_amounts(damaged):
    rows = damaged[2]

    def amount(split: str, number: int) -> float:
        (defect,) = rows[split][number]["defects"]
        return defect["how_much"]

    assert amount("train", 2) == len(rows["train"][2]["clip"]["bytes"]) > 0
    assert amount("train", 5) == rows["train"][5]["clip_seconds"] == pytest.approx(13, abs=0.1)
    assert amount("train", 8) == pytest.approx(0.12, abs=0.01)
    assert amount("train", 17) == 6
    assert amount("train", 26) == 0
    assert amount("train", 38) == pytest.approx(41)
    assert rows["train"][2]["clip_seconds"] is None
    assert rows["dev"][3]["clip"] is None


def test_of_twin_clips_only_the_corrected_one_is_ever_used(damaged, tmp_path):
    root, _, rows = damaged
    folder = root / "test" / "output_repeated_splits_test"
    for row in rows["test"][2:5]:
        right, wrong = (folder / f"{prefix}{row['utterance_id'][5:]}.mp4" for prefix in ("final_videos_test", ""))
        assert row["clip"]["bytes"] == right.read_bytes() != wrong.read_bytes()
        assert row["clip"]["path"] == right.name
    clips = {"final_videos_testdia0_utt0.mp4": b"broken", "dia0_utt0.mp4": CLIP}
    _, (row,) = build(make_tree(tmp_path / "raw", clips), tmp_path)
    assert kinds(row) == {"twin_clip", "video_unreadable"}
    assert not row["has_audio"]


def test_clips_without_a_row_and_side_files_are_counted_by_folder(damaged, tmp_path, capsys):
    root, builder, rows = damaged
    ids = {row["utterance_id"] for of_split in rows.values() for row in of_split}
    assert not ids & {"dev_dia900_utt9", "test_dia901_utt2"}
    assert builder.tree.orphans == [
        ("train", "MELD.Raw/train/train_splits/trailer.mp4", "no clip's name"),
        ("dev", "MELD.Raw/dev/dev_splits_complete/dia900_utt9.mp4", "no row"),
        ("test", "MELD.Raw/test/output_repeated_splits_test/dia901_utt2.mp4", "no row"),
    ]
    (side,) = [defect for defect in builder.raw_defects if defect["what"] == "side_files"]
    assert side["how_much"] == 2
    assert "._dia" in side["detail"]
    assert ".1.mp4" in side["detail"]
    main(["meld", "--raw_dir", str(root), "--output_dir", str(tmp_path / "out")])
    orphans = (tmp_path / "out" / "orphan_clips.csv").read_text().splitlines()
    assert orphans[0] == "split,file,why"
    assert len(orphans) == 4
    (line,) = re.findall(r"^all: .*", capsys.readouterr().out, re.MULTILINE)
    assert re.findall(r"\d+", line) == ["68", "67", "63", "64"]  # utterances; usable text, audio and video


@pytest.mark.parametrize(
    "clip, row, expected",
    [
        (3.0, 1.0, False),
        (12.0, 1.0, True),
        (11.0, 1.0, False),  # not more than 10 s longer
        (17.0, 6.0, False),  # not more than three times as long
        (29.9, 28.5, False),  # the longest correct real one
        (30.1, 28.5, True),
        (305.0, 305.0, True),  # test dia38_utt4, whose row repeats the wrong length
        (29.0, None, False),
        (31.0, None, True),
    ],
)
def test_a_clip_is_too_long_compared_with_its_row_or_in_absolute_terms(clip, row, expected):
    assert is_too_long(clip, row) is expected


def test_an_empty_clip_a_text_file_and_a_clip_of_minutes_are_not_usable(tmp_path):
    still = CLIP[0][:1].repeat(300, axis=0)
    clips = {"dia0_utt0.mp4": b"", "dia0_utt1.mp4": b"<html>not found</html>"}
    raw = make_tree(tmp_path / "raw", clips, lines=3)
    write_clip(raw / "output_repeated_splits_test" / "dia0_utt2.mp4", still, None, rate=1)
    _, rows = build(raw, tmp_path)
    assert [kinds(row) for row in rows[:2]] == [{"video_unreadable"}] * 2
    assert kinds(rows[2]) == {"cut_too_long", "no_sound_track"}
    assert rows[2]["clip_seconds"] == 300
    assert [row["has_text"] for row in rows] == [True] * 3
    assert not any(row["has_video"] for row in rows)


def test_a_broken_container_raises_a_video_error_with_the_name_of_the_clip():
    with pytest.raises(VideoError, match="dia1_utt2.mp4"):
        probe_clip(b"no moov atom in here", name="dia1_utt2.mp4")


# The tree


def move(root: Path, paths: dict[str, str]) -> None:
    for old, new in paths.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)


@pytest.mark.parametrize(
    "paths",
    [
        {},
        {"train/train_splits": "train_splits", "train/train_sent_emo.csv": "train_sent_emo.csv"},
        {"train/train_splits": "train/train/train_splits", "test_sent_emo.csv": "test/test_sent_emo.csv"},
        {"test/output_repeated_splits_test": "test_splits", "dev_sent_emo.csv": "data/MELD/dev_sent_emo.csv"},
        {"dev/dev_splits_complete": "dev/videos", "dev_sent_emo.csv": "dev/dev_sent_emo.csv"},
        {"train": "MELD.Raw/MELD.Raw/train", "dev": "MELD.Raw/dev"},
    ],
)
def test_tables_and_clips_are_found_in_every_layout(tiny, tmp_path, paths):
    move(tiny, paths)
    builder, rows = build(tiny.parent, tmp_path)
    assert len(rows) == 12
    assert not builder.raw_defects
    assert not any(map(kinds, rows))
    for row in rows:
        assert row["clip"]["bytes"] is None
        assert Path(row["clip"]["path"]).is_absolute()
        assert Path(row["clip"]["path"]).name == f"{row['utterance_id'].split('_', 1)[1]}.mp4"
        assert row["split"] in row["clip"]["path"].removeprefix(str(tmp_path))
        assert row["has_audio"]


def test_a_split_without_a_table_is_left_out_and_reported(tiny, tmp_path):
    (tiny / "dev_sent_emo.csv").unlink()
    builder, rows = build(tiny, tmp_path)
    assert {row["split"] for row in rows} == {"train", "test"}
    assert raw_kinds(builder) == {"split_missing": 1, "orphan_clips": 1}
    assert len(builder.tree.orphans) == 4


def test_tables_alone_make_a_data_set_of_text(tiny, tmp_path):
    for folder in ("train/train_splits", "dev", "test"):
        shutil.rmtree(tiny / folder)
    (tiny / "train.tar.gz").write_bytes(b"")
    builder, rows = build(tiny, tmp_path)
    assert raw_kinds(builder) == {"no_clips": 3}
    assert "train.tar.gz" in builder.raw_defects[0]["detail"]
    assert not any(map(kinds, rows))
    assert all(row["has_text"] and row["clip"] is None for row in rows)
    assert not any(row["has_audio"] or row["has_video"] for row in rows)


def test_a_tree_without_tables_or_with_different_copies_of_one_is_refused(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    assert re.search(r"/empty: .*\btrain_sent_emo\.csv", complaint(main, "meld", "--raw_dir", tmp_path / "empty"))
    assert f"{tmp_path}/nowhere" in complaint(main, "meld", "--raw_dir", tmp_path / "nowhere")
    copy = tiny / "copy" / "dev_sent_emo.csv"
    copy.parent.mkdir()
    shutil.copy(tiny / "dev_sent_emo.csv", copy)
    assert len(build(tiny, tmp_path)[1]) == 12  # identical copies are accepted
    copy.write_bytes(copy.read_bytes().replace(b"neutral", b"joy"))
    message = complaint(main, "meld", "--raw_dir", tiny)
    assert re.search(r": dev_sent_emo\.csv, copy/dev_sent_emo\.csv\b", message)
    copy.write_bytes((tiny / "dev_sent_emo.csv").read_bytes().split(b"\n")[0])
    (tiny / "dev_sent_emo.csv").unlink()
    assert {row["split"] for row in build(tiny, tmp_path)[1]} == {"train", "test"}


def test_numbers_of_rows_are_checked_for_real_data_only(tiny, tmp_path):
    assert "split_count" not in raw_kinds(build(tiny, tmp_path)[0])
    (tiny / "SYNTHETIC").unlink()
    builder, rows = build(tiny, tmp_path)
    assert [(d["what"], d["how_much"]) for d in builder.raw_defects] == [("split_count", 4)] * 3
    details = [re.match(r"(\w+): .*\b(\d+)$", d["detail"]).groups() for d in builder.raw_defects]
    assert details == [("train", "9989"), ("dev", "1109"), ("test", "2610")]
    assert not any(row["synthetic"] for row in rows)


def test_check_only_prints_a_table_of_defects_and_writes_nothing(damaged, capsys):
    root, builder, _ = damaged
    before = sorted(root.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(["meld", "--raw_dir", str(root), "--check_only"])
    printed = re.findall(r"^ +(\d+) +\d+  (\w+)", capsys.readouterr().out, re.MULTILINE)
    assert stopped.value.code == 0
    assert sorted(root.rglob("*")) == before
    assert {what for _, what in printed} == set(UTTERANCE_DEFECTS) - RAW_DEFECTS
    assert ("3", "twin_clip") in printed
    assert ("1", "video_missing") in printed
    assert ("3", "orphan_clips") in printed


def test_the_hash_changes_with_clips_and_unless_embedded_with_their_location(tiny, tmp_path):
    def digests() -> tuple[str, str]:
        return tuple(build(tiny, tmp_path, embed_clips=embed)[0].hash for embed in (False, True))

    before = digests()
    assert before == digests()
    assert before[0] != before[1]
    clip = min((tiny / "dev").rglob("*.mp4"))
    clip.write_bytes(clip.read_bytes() + b"\0")
    after = digests()
    assert after[0] != before[0]
    assert after[1] != before[1]
    elsewhere = shutil.copytree(tiny, tmp_path / "elsewhere")
    after_moving = tuple(build(elsewhere, tmp_path, embed_clips=embed)[0].hash for embed in (False, True))
    assert after_moving[0] != after[0]
    assert after_moving[1] == after[1]


@pytest.mark.parametrize("embed", [False, True])
def test_prepared_rows_load_without_torchcodec_and_their_clips_open(tiny, tmp_path, embed):
    option = ["--embed_clips"] if embed else []
    main(["meld", "--raw_dir", str(tiny), "--output_dir", str(tmp_path / "out"), *option])
    splits = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(splits) == ["train", "validation", "test"]
    assert splits["train"].features["emotion"].names == list(EMOTIONS)
    assert set(splits["validation"]["split"]) == {"dev"}
    for row in splits["validation"]:
        facts = probe_clip(row["clip"]["bytes"] if embed else row["clip"]["path"])
        assert max(facts.video_seconds, facts.audio_seconds) == row["clip_seconds"]
        assert abs(row["clip_seconds"] - (row["end_seconds"] - row["start_seconds"])) < 0.1
        assert (row["clip"]["bytes"] is None) != embed


def test_a_tree_on_s3_gives_the_same_rows_with_urls(damaged, tmp_path, monkeypatch):
    root, _, _ = damaged
    with serve_s3() as s3:
        monkeypatch.setattr(S3FileManager, "_shared", None)
        forkserver._forkserver._stop()
        for path in root.rglob("*"):
            if path.is_file():
                s3.put(f"s3://corpora/MELD.Raw/{path.relative_to(root).as_posix()}", path.read_bytes())
        builder, rows = build("s3://corpora/MELD.Raw", tmp_path)
        S3FileManager.live().close()
    local, expected = build(root, tmp_path)
    assert builder.raw_defects == local.raw_defects
    for row in expected:
        if row["clip"]:
            row["clip"]["path"] = row["clip"]["path"].replace(str(root), "s3://corpora/MELD.Raw")
    assert rows == expected
