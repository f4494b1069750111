"""MELD's tables are read in the formats of all copies, and malformed rows are reported with their line."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.meld.synthesize import table_text
from hf_datasets.meld.utterances import (
    EMOTIONS,
    IMPLIED,
    SENTIMENTS,
    clock_text,
    decode_table,
    parse_clock,
    read_utterances,
)
from tests.helpers.prepared_data import kinds
from tests.helpers.raw_trees.meld import build, line, parse, raw_kinds

# Synthetic tables


@given(st.integers(0, 10 * 3600 * 1000 - 1))
def test_times_survive_a_round_trip_to_the_millisecond(milliseconds):
    text = clock_text(milliseconds / 1000)
    assert parse_clock(text) == parse_clock(text.replace(",", ".")) == milliseconds / 1000
    assert parse_clock(f" 0{text}" if text[1] == ":" else text) == milliseconds / 1000


@pytest.mark.parametrize(
    "cell, seconds", [("0:16:21,731", 981.731), ("00:16:21.5", 981.5), ("1:00:00", 3600.0), ("01:02:03,004", 3723.004)]
)
def test_times_are_read_in_the_formats_of_all_copies(cell, seconds):
    assert parse_clock(cell) == seconds


@given(st.text("0123456789:,. -", max_size=14))
def test_any_other_cell_is_not_a_time(cell):
    if not re.fullmatch(r"\s*\d{1,2}:\d{1,2}:\d{1,2}([.,]\d{1,6})?\s*", cell):
        assert parse_clock(cell) is None
    assert parse_clock("0:61:00,000") is None
    assert parse_clock("nan") is None


@given(st.text("ab é’“”—…€ß", max_size=40))
def test_utf8_and_windows_1252_give_the_same_text(text):
    from_utf8, defects = decode_table(text.encode(), "t.csv")
    assert from_utf8 == text
    assert not defects
    from_cp1252, defects = decode_table(text.encode("cp1252"), "t.csv")
    if not text.isascii() and defects:  # without defects, the bytes happen to be valid UTF-8
        assert from_cp1252 == text
        assert [defect["what"] for defect in defects] == ["table_not_utf8"]


@given(st.binary(max_size=40))
def test_decoded_text_never_has_c1_control_characters(data):
    text, _ = decode_table(data.replace(b"\0", b""), "t.csv")
    assert not any("\x80" <= character < "\xa0" for character in text)
    assert text.count("\n") == data.count(b"\n")


def test_apostrophes_of_old_copies_are_decoded():
    data = "It’s\n".encode("cp1252") + "It’s\n".encode() + "It\x92s – é\n".encode() + b"\x81"
    text, defects = decode_table(data, "/raw/train_sent_emo.csv")
    assert text == "It’s\nIt’s\nIt’s – é\n\ufffd"
    assert [(defect["what"], defect["how_much"]) for defect in defects] == [
        ("table_not_utf8", 2),
        ("control_characters", 1),
    ]
    assert re.match(r"train_sent_emo\.csv: .*line 1$", defects[0]["detail"])
    assert decode_table(b"\xef\xbb\xbfSr No.", "t.csv") == ("Sr No.", [])


def test_turns_have_no_gaps_even_if_numbers_of_utterances_do():
    rows, _ = parse(line(0), line(3), line(0, Dialogue_ID=7), line(4))
    assert [(row.dialogue_id, row.number, row.turn) for row in rows] == [(0, 0, 0), (0, 3, 1), (7, 0, 0), (0, 4, 2)]


def test_names_of_columns_and_labels_may_differ_in_case_and_blanks():
    cells = line(Emotion=" Joy", Sentiment="POSITIVE ")
    text = table_text([cells]).replace("Utterance,", " utterance ,", 1)
    (row,), _ = read_utterances(text.encode(), "train", "t.csv")
    assert (row.emotion, row.sentiment, row.text) == ("joy", "positive", cells["Utterance"])


def test_the_first_of_rows_with_the_same_key_is_used_and_the_others_are_counted():
    rows, _ = parse(line(0), line(1), line(0, Emotion="joy", Sentiment="positive"), line(0))
    assert [(row.number, row.emotion) for row in rows] == [(0, "neutral"), (1, "neutral")]
    (defect,) = rows[0].defects
    assert (defect["what"], defect["how_much"]) == ("duplicate_utterance", 2)
    assert "line 4, 5" in defect["detail"]


@pytest.mark.parametrize("emotion", EMOTIONS)
@pytest.mark.parametrize("sentiment", SENTIMENTS)
def test_a_sentiment_that_never_occurs_with_its_emotion_is_a_defect(emotion, sentiment):
    (row,), _ = parse(line(Emotion=emotion, Sentiment=sentiment))
    assert bool(row.defects) == (sentiment not in IMPLIED[emotion])


def test_times_that_go_backwards_are_a_defect_within_a_dialogue_only():
    rows, _ = parse(line(5), line(2), line(1, Dialogue_ID=1), line(6, EndTime="0:00:01,000"))
    assert [[(d["what"], d["how_much"]) for d in row.defects] for row in rows] == [
        [],
        [("time_backwards", 9)],
        [],
        [("no_duration", -77)],
    ]


@pytest.mark.parametrize(
    "cells, message",
    [
        ({"Emotion": "hapy"}, "Emotion='hapy'.*anger, disgust"),
        ({"Sentiment": "2"}, "Sentiment='2'.*negative, neutral, positive"),
        ({"Dialogue_ID": "x"}, "Dialogue_ID='x'"),
        ({"Episode": ""}, "Episode=''"),
        ({"Speaker": "a\nb"}, ""),
    ],
)
def test_a_malformed_cell_is_an_error_with_its_line(cells, message):
    with pytest.raises(ValueError, match=rf"train_sent_emo\.csv line 2\b.*{message}"):
        parse(line(**cells))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("Emotion", "Feeling", 1), r"Emotion\b.*\bFeeling\b"),
        (lambda text: text.replace("Bo", '"Bo', 1), r"line 2\b.*quote"),
        (lambda text: text.replace("Bo", "Bo,Edda", 1), r"line 2\b.*\b12\b.*\b11\b"),
        (lambda text: text.replace(",Bo", "", 1), r"line 2\b.*\b10\b.*\b11\b"),
        (lambda text: text.encode("utf-16").decode("latin-1"), r"line 1\b"),
        (lambda text: "", "Utterance"),
    ],
)
def test_a_malformed_table_is_an_error_with_its_line(change, message):
    with pytest.raises(ValueError, match=f"^/raw/train_sent_emo.csv.*{message}"):
        read_utterances(change(table_text([line()])).encode("latin-1"), "train", "/raw/train_sent_emo.csv")


# The real tables


COUNTS = {  # rows per emotion, in the order of ORDER, and per sentiment, in the order of SENTIMENTS
    "train": ((4710, 1743, 1205, 1109, 683, 271, 268), (2945, 4710, 2334)),
    "dev": ((470, 163, 150, 153, 111, 22, 40), (406, 470, 233)),
    "test": ((1256, 402, 281, 345, 208, 68, 50), (833, 1256, 521)),
}
ORDER = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")


def test_the_real_tables_give_all_rows_and_the_published_counts_of_labels(real_data, tmp_path):
    if not (real_data / "meld").is_dir():
        pytest.skip("no real MELD tables")
    builder, rows = build(real_data / "meld", tmp_path)
    assert raw_kinds(builder) == {"no_clips": 3}
    assert len({row["utterance_id"] for row in rows}) == 13708
    for split, (emotions, sentiments) in COUNTS.items():
        of_split = [row for row in rows if row["split"] == split]
        counted = Counter(EMOTIONS[row["emotion"]] for row in of_split)
        assert tuple(counted[name] for name in ORDER) == emotions
        counted = Counter(SENTIMENTS[row["sentiment"]] for row in of_split)
        assert tuple(counted[name] for name in SENTIMENTS) == sentiments
        assert all(row["has_text"] and not row["has_audio"] for row in of_split)
        assert not of_split[0]["synthetic"]
    defects = Counter((row["split"], defect["what"]) for row in rows for defect in row["defects"])
    assert defects == {
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
