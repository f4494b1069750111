"""MELD: no row is lost for its clip, every known defect is handled by its rule, the sample holds what it claims."""

import csv
import io
import re
import shutil
from collections import Counter
from multiprocessing import forkserver
from pathlib import Path

import av
import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.defects import UTTERANCE_DEFECTS
from hf_datasets.meld.builder import SPLIT_NAMES, MeldBuilder, is_too_long
from hf_datasets.meld.synthesize import COLUMNS, synthesize, table_text
from hf_datasets.meld.synthetic_clips import show, sing, write_clip
from hf_datasets.meld.utterances import (
    EMOTIONS,
    IMPLIED,
    SENTIMENTS,
    clock_text,
    decode_table,
    parse_clock,
    read_utterances,
)
from hf_datasets.prepare import main
from media.video import VideoError, probe_clip
from system.storage import S3FileManager
from tests.conftest import REPOSITORY
from tests.helpers.s3_server import serve_s3

SAMPLE = REPOSITORY / "hf_datasets" / "meld" / "sample"
RAW_DEFECTS = {"split_missing", "split_count", "no_clips"}  # those of trees that are not whole
CLIP = show(np.random.default_rng(0), "joy", 0.4), sing(np.random.default_rng(0), "joy", 0.4)


def build(raw_dir: Path | str, cache: Path, **options) -> tuple[MeldBuilder, list[dict]]:
    builder = MeldBuilder(raw_dir=raw_dir, cache_dir=str(cache), **options)
    rows = []
    for split in builder._split_generators(None):
        for _, table in builder._generate_tables(**split.gen_kwargs):
            rows += table.to_pylist()
    return builder, rows


def kinds(row: dict) -> set[str]:
    return {defect["what"] for defect in row["defects"]}


def raw_kinds(builder: MeldBuilder) -> Counter:
    return Counter(defect["what"] for defect in builder.raw_defects)


def line(number: int = 0, **cells) -> dict:
    """A line of a table."""
    values = [number, "So, the kettle again.", "Bo", "neutral", "neutral", 0, number, 1, 2]
    times = [clock_text(60 + 3 * number), clock_text(61.5 + 3 * number)]
    return dict(zip(COLUMNS, values + times, strict=True)) | cells


def parse(*lines: dict) -> tuple[list, list[dict]]:
    return read_utterances(table_text(list(lines)).encode(), "train", "/raw/train_sent_emo.csv")


def make_tree(folder: Path, clips: dict[str, object], lines: int = 1) -> Path:
    """A folder of one short table of the test split, and clips by name: (pictures, sound) or bytes."""
    place = folder / "output_repeated_splits_test"
    place.mkdir(parents=True)
    (folder / "SYNTHETIC").write_text("")
    (folder / "test_sent_emo.csv").write_bytes(table_text([line(number) for number in range(lines)]).encode())
    for name, clip in clips.items():
        if isinstance(clip, bytes):
            (place / name).write_bytes(clip)
        else:
            write_clip(place / name, *clip)
    return folder


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> tuple[Path, MeldBuilder, dict[str, list[dict]]]:
    """A tree with every kind of damage, and its rows by split."""
    folder = tmp_path_factory.mktemp("damaged")
    synthesize(folder / "raw", num_train=48, num_dev=8, num_test=12)
    builder, rows = build(folder / "raw", folder / "cache", embed_clips=True)
    by_split = {split: [row for row in rows if row["split"] == split] for split in SPLIT_NAMES}
    return folder / "raw" / "MELD.Raw", builder, by_split


@pytest.fixture
def tiny(tmp_path) -> Path:
    """The root of an undamaged tree of four utterances a split."""
    synthesize(tmp_path / "raw", num_train=4, num_dev=4, num_test=4, defects="none")
    return tmp_path / "raw" / "MELD.Raw"


def complaint(*arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["meld", *map(str, arguments)])
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code


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


# The tables


@given(st.integers(0, 10 * 3600 * 1000 - 1))
def test_a_time_as_tables_write_it_comes_back_to_the_millisecond(milliseconds):
    text = clock_text(milliseconds / 1000)
    assert parse_clock(text) == parse_clock(text.replace(",", ".")) == milliseconds / 1000
    assert parse_clock(f" 0{text}" if text[1] == ":" else text) == milliseconds / 1000


@pytest.mark.parametrize(
    "cell, seconds", [("0:16:21,731", 981.731), ("00:16:21.5", 981.5), ("1:00:00", 3600.0), ("01:02:03,004", 3723.004)]
)
def test_times_of_all_copies_are_read(cell, seconds):
    assert parse_clock(cell) == seconds


@given(st.text("0123456789:,. -", max_size=14))
def test_any_other_cell_is_no_time(cell):
    if not re.fullmatch(r"\s*\d{1,2}:\d{1,2}:\d{1,2}([.,]\d{1,6})?\s*", cell):
        assert parse_clock(cell) is None
    assert parse_clock("0:61:00,000") is None
    assert parse_clock("nan") is None


@given(st.text("ab é’“”—…€ß", max_size=40))
def test_text_of_any_encoding_is_the_same_text(text):
    expected, found = decode_table(text.encode(), "t.csv")
    assert expected == text
    assert not found
    as_cp1252, found = decode_table(text.encode("cp1252"), "t.csv")
    if not text.isascii() and found:  # else it happens to be UTF-8 too
        assert as_cp1252 == text
        assert [defect["what"] for defect in found] == ["table_not_utf8"]


@given(st.binary(max_size=40))
def test_whatever_a_table_holds_no_control_character_is_left_in_its_text(data):
    text, _ = decode_table(data.replace(b"\0", b""), "t.csv")
    assert not any("\x80" <= character < "\xa0" for character in text)
    assert text.count("\n") == data.count(b"\n")


def test_no_apostrophe_is_lost_in_old_copies():
    data = "It’s\n".encode("cp1252") + "It’s\n".encode() + "It\x92s – é\n".encode() + b"\x81"
    text, found = decode_table(data, "/raw/train_sent_emo.csv")
    assert text == "It’s\nIt’s\nIt’s – é\n\ufffd"
    assert [(defect["what"], defect["how_much"]) for defect in found] == [
        ("table_not_utf8", 2),
        ("control_characters", 1),
    ]
    assert found[0]["detail"] == "train_sent_emo.csv: first in line 1"
    assert decode_table(b"\xef\xbb\xbfSr No.", "t.csv") == ("Sr No.", [])


def test_turns_count_rows_and_not_numbers_of_utterances():
    rows, _ = parse(line(0), line(3), line(0, Dialogue_ID=7), line(4))
    assert [(row.dialogue_id, row.number, row.turn) for row in rows] == [(0, 0, 0), (0, 3, 1), (7, 0, 0), (0, 4, 2)]


def test_names_of_columns_and_labels_may_differ_in_case_and_blanks():
    text = table_text([line(Emotion=" Joy", Sentiment="POSITIVE ")]).replace("Utterance,", " utterance ,", 1)
    (row,), _ = read_utterances(text.encode(), "train", "t.csv")
    assert (row.emotion, row.sentiment, row.text) == ("joy", "positive", "So, the kettle again.")


def test_of_rows_with_one_key_the_first_is_taken_and_the_others_are_counted():
    rows, _ = parse(line(0), line(1), line(0, Emotion="joy", Sentiment="positive"), line(0))
    assert [(row.number, row.emotion) for row in rows] == [(0, "neutral"), (1, "neutral")]
    (defect,) = rows[0].defects
    assert (defect["what"], defect["how_much"]) == ("duplicate_utterance", 2)
    assert "line 4, 5" in defect["detail"]


@pytest.mark.parametrize("emotion", EMOTIONS)
@pytest.mark.parametrize("sentiment", SENTIMENTS)
def test_a_sentiment_that_its_emotion_never_has_is_noted(emotion, sentiment):
    (row,), _ = parse(line(Emotion=emotion, Sentiment=sentiment))
    assert bool(row.defects) == (sentiment not in IMPLIED[emotion])


def test_times_that_go_backwards_are_noted_within_a_dialogue_alone():
    rows, _ = parse(line(5), line(2), line(1, Dialogue_ID=1), line(6, EndTime="0:00:01,000"))
    assert [[(d["what"], d["how_much"]) for d in row.defects] for row in rows] == [
        [],
        [("time_backwards", 9)],
        [],
        [("no_duration", -77)],
    ]


@pytest.mark.parametrize(
    "cells, said",
    [
        ({"Emotion": "hapy"}, r"train_sent_emo.csv line 2: Emotion is 'hapy'; it takes one of anger, disgust"),
        ({"Sentiment": "2"}, r"line 2: Sentiment is '2'; it takes one of negative, neutral, positive"),
        ({"Dialogue_ID": "x"}, r"line 2: Dialogue_ID is 'x'; it takes a whole number"),
        ({"Episode": ""}, r"line 2: Episode is ''; it takes a whole number"),
        ({"Speaker": "a\nb"}, r"line 3: 11 cells under 11 names.*mend its commas and quotes"),
    ],
)
def test_a_cell_that_cannot_be_meant_is_an_error_that_names_its_line(cells, said):
    with pytest.raises(ValueError, match=said):
        parse(line(**cells))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda text: text.replace("Emotion", "Feeling", 1), r"lacks the columns \['Emotion'\]"),
        (lambda text: text.replace("Bo", '"Bo', 1), "look for a quote that is not closed"),
        (lambda text: text.replace("Bo", "Bo,Edda", 1), "12 cells under 11 names"),
        (lambda text: text.replace(",Bo", "", 1), "10 cells under 11 names"),
        (lambda text: text.encode("utf-16").decode("latin-1"), "zero bytes"),
        (lambda text: "", "lacks the columns"),
    ],
)
def test_a_table_that_is_not_of_its_form_is_an_error_that_says_where(change, said):
    with pytest.raises(ValueError, match=f"^/raw/train_sent_emo.csv.*{said}"):
        read_utterances(change(table_text([line()])).encode("latin-1"), "train", "/raw/train_sent_emo.csv")


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
    assert "holds none of train_sent_emo.csv" in complaint("--raw_dir", tmp_path / "empty")
    assert "does not exist" in complaint("--raw_dir", tmp_path / "nowhere")
    copy = tiny / "copy" / "dev_sent_emo.csv"
    copy.parent.mkdir()
    shutil.copy(tiny / "dev_sent_emo.csv", copy)
    assert len(build(tiny, tmp_path)[1]) == 12  # the same table twice says nothing new
    copy.write_bytes(copy.read_bytes().replace(b"neutral", b"joy"))
    assert "holds several dev_sent_emo.csv that differ" in complaint("--raw_dir", tiny)
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


# The sample


def sample(split: str) -> list[dict]:
    (path,) = SAMPLE.glob(f"sample-{split}-*.parquet")
    return pq.read_table(path).to_pylist()


def decoded(row: dict) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (frames, height, width, 3) and the mean of the sound's channels (samples,)."""
    with av.open(io.BytesIO(row["clip"]["bytes"])) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray().mean(0) for frame in container.decode(audio=0)])
    return pictures.astype(float), sound


def described(row: dict, words: list[str]) -> list[np.ndarray]:
    """Its words, the colour of its disc, and its spectrum, in a few numbers each."""
    pictures, sound = decoded(row)
    colour = (pictures - pictures[:, :4, :4].mean((1, 2), keepdims=True)).mean((0, 1, 2))  # without the ground
    spectra = np.abs(np.fft.rfft(sound[: len(sound) // 1024 * 1024].reshape(-1, 1024)))[:, :512] ** 2
    bands = spectra.mean(0).reshape(32, 16).sum(1)
    spoken = re.findall(r"\w+|[?!]", row["text"].lower())
    return [
        np.array([word in spoken for word in words], float),
        colour / np.abs(colour).max(),
        np.log(bands / bands.sum() + 1e-4),
    ]


def test_text_pictures_and_sound_each_tell_some_emotions_and_together_more():
    train, test = (
        [row for row in sample(split) if row["has_text"] and row["has_audio"] and row["has_video"]]
        for split in ("train", "test")
    )
    words = sorted({word for row in train for word in re.findall(r"\w+|[?!]", row["text"].lower())})
    of_train, of_test = ([described(row, words) for row in rows] for rows in (train, test))
    wanted = np.eye(7)[[row["emotion"] for row in train]]
    scores = []
    for one, other in zip(zip(*of_train, strict=True), zip(*of_test, strict=True), strict=True):
        x, y = np.stack(one), np.stack(other)  # (rows, numbers), of which a ridge regression makes scores
        middle, spread = x.mean(0), x.std(0) + 1e-6
        x, y = ((part - middle) / spread for part in (x, y))
        weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (wanted - wanted.mean(0)))
        scores.append(y @ weights + wanted.mean(0))
    truth = np.array([row["emotion"] for row in test])
    alone = [np.mean(score.argmax(1) == truth) for score in scores]
    together = np.mean(sum(scores).argmax(1) == truth)
    most_common = np.bincount(truth).max() / len(truth)
    assert all(most_common + 0.2 < share < 0.92 for share in alone), alone
    assert together > max(alone), (together, alone)


def test_sentiment_follows_emotion_and_speakers_take_turns_in_dialogues_of_four_to_eight():
    rows = [row for split in ("train", "validation", "test") for row in sample(split)]
    wrong = [row for row in rows if SENTIMENTS[row["sentiment"]] not in IMPLIED[EMOTIONS[row["emotion"]]]]
    assert [kinds(row) for row in wrong] == [{"sentiment_mismatch"}]
    surprised = {SENTIMENTS[row["sentiment"]] for row in rows if EMOTIONS[row["emotion"]] == "surprise"}
    assert surprised == {"positive", "negative"}
    turns = Counter(row["dialogue"] for row in rows)
    assert set(turns.values()) <= set(range(4, 9))
    assert len(turns) > 50
    assert {row["emotion"] for row in sample("test")} == set(range(7))


def test_the_same_seed_gives_the_same_tree_and_another_one_another(tmp_path):
    def content(folder: str, seed: int) -> dict[str, bytes]:
        synthesize(tmp_path / folder, num_train=4, num_dev=4, num_test=4, seed=seed, defects="none")
        paths = [path for path in (tmp_path / folder).rglob("*") if path.suffix in (".csv", ".mp4")]
        return {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in paths}

    first = content("a", 1)
    assert len(first) == 15
    assert first == content("b", 1) != content("c", 2)
    with pytest.raises(ValueError, match="num_train = 10: give at least 48"):
        synthesize(tmp_path, num_train=10)


def test_without_coupling_the_labels_stay_and_the_text_tells_nothing_of_them(tmp_path):
    def table(coupling: float) -> list[dict[str, str]]:
        synthesize(tmp_path / f"{coupling}", num_train=120, num_dev=4, num_test=4, defects="none", coupling=coupling)
        path = tmp_path / f"{coupling}" / "MELD.Raw" / "train" / "train_sent_emo.csv"
        return list(csv.DictReader(path.read_text().splitlines()))

    told, null = table(1.0), table(0.0)
    assert [row["Emotion"] for row in told] == [row["Emotion"] for row in null]
    for rows, low, high in ((told, 0.7, 1.0), (null, 0.0, 0.35)):  # "scared" and the like in rows of their emotion
        marked = [row for row in rows if any(word in row["Utterance"] for word in ("scared", "terrified", "afraid"))]
        assert marked
        assert low <= np.mean([row["Emotion"] == "fear" for row in marked]) <= high
    with pytest.raises(ValueError, match="coupling = 2: give 0"):
        synthesize(tmp_path, coupling=2)


# The real tables

COUNTS = {  # neutral, joy, surprise, anger, sadness, disgust, fear; negative, neutral, positive
    "train": ((4710, 1743, 1205, 1109, 683, 271, 268), (2945, 4710, 2334)),
    "dev": ((470, 163, 150, 153, 111, 22, 40), (406, 470, 233)),
    "test": ((1256, 402, 281, 345, 208, 68, 50), (833, 1256, 521)),
}
ORDER = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")


def test_the_real_tables_have_every_row_and_the_known_counts_of_labels(real_data, tmp_path):
    if not (real_data / "meld").is_dir():
        pytest.skip("no real MELD tables")
    builder, rows = build(real_data / "meld", tmp_path)
    assert raw_kinds(builder) == {"no_clips": 3}
    assert len({row["utterance_id"] for row in rows}) == 13708
    for split, (emotions, sentiments) in COUNTS.items():
        some = [row for row in rows if row["split"] == split]
        counted = Counter(EMOTIONS[row["emotion"]] for row in some)
        assert tuple(counted[name] for name in ORDER) == emotions
        counted = Counter(SENTIMENTS[row["sentiment"]] for row in some)
        assert tuple(counted[name] for name in SENTIMENTS) == sentiments
        assert all(row["has_text"] and not row["has_audio"] for row in some)
        assert not some[0]["synthetic"]
    found = Counter((row["split"], defect["what"]) for row in rows for defect in row["defects"])
    assert found == {
        ("train", "time_backwards"): 23,
        ("dev", "time_backwards"): 4,
        ("test", "time_backwards"): 4,
        ("train", "long_by_table"): 1,
        ("test", "long_by_table"): 2,
        ("test", "no_duration"): 1,
    }
    assert {row["utterance_id"] for row in rows if "long_by_table" in kinds(row)} == {
        "train_dia309_utt0",
        "test_dia38_utt4",
        "test_dia220_utt0",
    }
