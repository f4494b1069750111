"""MELD from raw tree to rows: no row is lost for its clip, and every known defect is handled by its rule."""

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

RAW_DEFECTS = {"split_missing", "split_count", "no_clips", "name_not_utf8"}  # those of trees that are not whole


# Every defect by its rule


def test_every_kind_of_defect_is_made_by_the_synthesizer_and_found_by_the_builder(damaged):
    _, builder, rows = damaged
    found = set().union(*(kinds(row) for some in rows.values() for row in some)) | set(raw_kinds(builder))
    assert found == set(UTTERANCE_DEFECTS) - RAW_DEFECTS


def test_no_row_is_lost_for_its_clip_and_a_row_has_the_text_of_its_line(damaged):
    root, _, rows = damaged
    assert {split: len(some) for split, some in rows.items()} == {"train": 48, "dev": 8, "test": 12}
    with open(root / "test_sent_emo.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [row["text"] for row in rows["test"]] == [line["Utterance"] for line in lines]
    assert [EMOTIONS[row["emotion"]] for row in rows["test"]] == [line["Emotion"] for line in lines]
    assert [SENTIMENTS[row["sentiment"]] for row in rows["test"]] == [line["Sentiment"] for line in lines]


@pytest.mark.parametrize(
    "split, place, expected, usable",
    [  # usable: text, sound, pictures
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
def test_a_damaged_row_shows_its_damage_and_what_is_left_of_it(damaged, split, place, expected, usable):
    row = damaged[2][split][place]
    assert kinds(row) - {"time_backwards"} == expected
    assert (row["has_text"], row["has_audio"], row["has_video"]) == usable


def test_defects_say_how_much(damaged):
    rows = damaged[2]

    def amount(split: str, place: int) -> float:
        (defect,) = rows[split][place]["defects"]
        return defect["how_much"]

    assert amount("train", 2) == len(rows["train"][2]["clip"]["bytes"]) > 0
    assert amount("train", 5) == rows["train"][5]["clip_seconds"] == pytest.approx(13, abs=0.1)
    assert amount("train", 8) == pytest.approx(0.12, abs=0.01)
    assert amount("train", 17) == 6
    assert amount("train", 26) == 0
    assert amount("train", 38) == pytest.approx(41)
    assert rows["train"][2]["clip_seconds"] is None
    assert rows["dev"][3]["clip"] is None


def test_of_a_twin_the_corrected_clip_is_taken_and_the_wrong_one_never(damaged, tmp_path):
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


def test_clips_without_a_row_and_side_files_are_counted_by_folder_and_are_no_rows(damaged, tmp_path, capsys):
    root, builder, rows = damaged
    ids = {row["utterance_id"] for some in rows.values() for row in some}
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
    assert "all: 68 utterances; usable: text 67, sound 63, pictures 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    "clip, row, expected",
    [
        (3.0, 1.0, False),
        (12.0, 1.0, True),
        (11.0, 1.0, False),  # not more than 10 s more
        (17.0, 6.0, False),  # not more than three times
        (29.9, 28.5, False),  # the longest real one that is cut rightly
        (30.1, 28.5, True),
        (305.0, 305.0, True),  # test dia38_utt4: its row says the same
        (29.0, None, False),
        (31.0, None, True),
    ],
)
def test_a_clip_is_too_long_by_its_row_or_by_any_row(clip, row, expected):
    assert is_too_long(clip, row) is expected


def test_a_clip_of_minutes_a_clip_of_nothing_and_a_text_file_are_flagged_without_being_decoded(tmp_path):
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


def test_a_broken_container_is_a_video_error_that_names_the_clip():
    with pytest.raises(VideoError, match="dia1_utt2.mp4"):
        probe_clip(b"no moov atom in here", name="dia1_utt2.mp4")


# The tree


def moved(root: Path, places: dict[str, str]) -> None:
    for old, new in places.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)


@pytest.mark.parametrize(
    "places",
    [
        {},
        {"train/train_splits": "train_splits", "train/train_sent_emo.csv": "train_sent_emo.csv"},
        {"train/train_splits": "train/train/train_splits", "test_sent_emo.csv": "test/test_sent_emo.csv"},
        {"test/output_repeated_splits_test": "test_splits", "dev_sent_emo.csv": "data/MELD/dev_sent_emo.csv"},
        {"dev/dev_splits_complete": "dev/videos", "dev_sent_emo.csv": "dev/dev_sent_emo.csv"},
        {"train": "MELD.Raw/MELD.Raw/train", "dev": "MELD.Raw/dev"},
    ],
)
def test_tables_and_clips_are_found_in_every_layout(tiny, tmp_path, places):
    moved(tiny, places)
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


def test_a_split_without_a_table_is_counted_and_the_others_go_on(tiny, tmp_path):
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
    assert "train.tar.gz is to be unpacked" in builder.raw_defects[0]["detail"]
    assert not any(map(kinds, rows))
    assert all(row["has_text"] and row["clip"] is None for row in rows)
    assert not any(row["has_audio"] or row["has_video"] for row in rows)


def test_no_table_and_tables_that_differ_are_errors_of_one_line(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds none of train_sent_emo.csv" in complaint(main, "meld", "--raw_dir", tmp_path / "empty")
    assert "does not exist" in complaint(main, "meld", "--raw_dir", tmp_path / "nowhere")
    copy = tiny / "copy" / "dev_sent_emo.csv"
    copy.parent.mkdir()
    shutil.copy(tiny / "dev_sent_emo.csv", copy)
    assert len(build(tiny, tmp_path)[1]) == 12  # the same table twice says nothing new
    copy.write_bytes(copy.read_bytes().replace(b"neutral", b"joy"))
    assert "holds several dev_sent_emo.csv that differ" in complaint(main, "meld", "--raw_dir", tiny)
    copy.write_bytes((tiny / "dev_sent_emo.csv").read_bytes().split(b"\n")[0])
    (tiny / "dev_sent_emo.csv").unlink()
    assert {row["split"] for row in build(tiny, tmp_path)[1]} == {"train", "test"}


def test_counts_are_compared_with_those_of_the_real_data_alone(tiny, tmp_path):
    assert "split_count" not in raw_kinds(build(tiny, tmp_path)[0])
    (tiny / "SYNTHETIC").unlink()
    builder, rows = build(tiny, tmp_path)
    assert [d["detail"] for d in builder.raw_defects] == [
        "train: MELD has 9989",
        "dev: MELD has 1109",
        "test: MELD has 2610",
    ]
    assert not any(row["synthetic"] for row in rows)


def test_check_only_prints_the_table_of_defects_and_writes_nothing(damaged, capsys):
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


def test_the_digest_tells_changed_clips_and_moved_ones_where_rows_hold_paths(tiny, tmp_path):
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
    moved = tuple(build(elsewhere, tmp_path, embed_clips=embed)[0].hash for embed in (False, True))
    assert moved[0] != after[0]
    assert moved[1] == after[1]


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


def test_a_tree_on_s3_has_the_same_rows_with_urls_for_paths(damaged, tmp_path, monkeypatch):
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
