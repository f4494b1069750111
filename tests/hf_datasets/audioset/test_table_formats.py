"""AudioSet's tables are read completely, and malformed rows are reported with their line."""

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.audioset.table_formats import read_labels, read_strong, read_weak
from media.audioset import Labels

TWO = Labels(("/m/09x0r", "/t/dd00002"), ("Speech", "Baby cry, infant cry"))
HEAD = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids={0}, num_segs={0}, num_unique_labels={1}, num_positive_labels={2}\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)
IDS = st.text("abcXYZ019_-", min_size=11, max_size=11)


@pytest.fixture(scope="module")
def tables(real_data: Path) -> Path:
    return real_data / "audioset" / "meta"


@pytest.fixture(scope="module")
def labels(tables: Path) -> Labels:
    return read_labels((tables / "class_labels_indices.csv").read_bytes(), "labels")


def test_labels_are_found_by_name_in_any_case_and_by_mid(labels):
    assert len(labels.mids) == 527
    speech, cry = "Male speech, man speaking", TWO.names[1]
    assert labels.mids[labels.names.index(speech)] == "/m/05zppz"
    assert labels.find(cry.lower()) == labels.find("/t/dd00002") == "/t/dd00002"
    with pytest.raises(ValueError, match=f"'cry'.*'{cry}'"):
        labels.find("cry")


def test_the_strong_vocabulary_has_456_labels_382_of_them_weak(tables, labels):
    strong = read_labels((tables / "mid_to_display_name.tsv").read_bytes(), "names")
    assert len(strong.mids) == 456
    assert len(set(strong.mids) & set(labels.mids)) == 382


@pytest.mark.parametrize(
    ("name", "rows", "positives", "underscores"),
    [("balanced", 22_160, 52_882, 0.1428), ("eval", 20_371, 51_804, 0.1472)],
)
def test_the_official_weak_tables_are_read_completely(tables, labels, name, rows, positives, underscores):
    table = read_weak(
        (tables / f"{name}_{'train_' if name == 'balanced' else ''}segments.csv").read_bytes(), labels, name
    )
    codes = table["labels"].combine_chunks()
    assert (len(table), len(codes.values)) == (rows, positives)
    ids = table["ytid"].to_pylist()
    assert len(set(ids)) == rows
    assert abs(sum("_" in ytid for ytid in ids) / rows - underscores) < 1e-3
    assert any(ytid.startswith("-") for ytid in ids)
    baby = labels.mids.index("/t/dd00002")
    assert codes.values.to_pylist().count(baby) == 60


@pytest.mark.slow
def test_the_unbalanced_table_is_read_completely(tables, labels):
    table = read_weak(
        lzma.decompress((tables / "unbalanced_train_segments.csv.xz").read_bytes()), labels, "unbalanced"
    )
    codes = table["labels"].combine_chunks()
    assert (len(table), len(codes.values)) == (2_041_789, 4_020_212)


@pytest.mark.parametrize(
    ("name", "rows", "clips"),
    [("bc_ov_train", 1703, 481), ("bc_nov_eval", 21, 11), ("gun_ov_train", 5178, 1757), ("bc_ov_framed", 259, 60)],
)
def test_strong_tables_are_read_completely(tables, name, rows, clips):
    table = read_strong((tables / "strong" / f"{name}.tsv").read_bytes(), name)
    assert len(table) == rows
    assert len(set(zip(table["ytid"].to_pylist(), table["clip_start_ms"].to_pylist(), strict=True))) == clips
    assert all(table["present"].to_pylist())


rows = st.tuples(IDS, st.integers(0, 500_000), st.integers(1, 10_000), st.sampled_from([(0,), (1,), (0, 1), (1, 0)]))


@given(st.lists(rows, min_size=1, max_size=20, unique_by=lambda row: row[0]), st.sampled_from(["\n", "\r\n"]))
def test_a_weak_table_survives_a_round_trip(written, end):
    text = HEAD.format(len(written), len({c for r in written for c in r[3]}), sum(len(r[3]) for r in written))
    for ytid, start, length, codes in written:
        mids = ",".join(TWO.mids[code] for code in codes)
        text += f'{ytid}, {start / 1000:.3f}, {(start + length) / 1000:.3f}, "{mids}"\n'
    table = read_weak(text.replace("\n", end).encode(), TWO, "table")
    expected = [(ytid, start / 1000, (start + length) / 1000, list(codes)) for ytid, start, length, codes in written]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected


@given(st.lists(st.tuples(IDS, st.integers(0, 10**6), st.booleans()), min_size=1, max_size=20))
def test_a_strong_table_survives_a_round_trip(written):
    text = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tpresent\n"
    for ytid, start, present in written:
        text += f"{ytid}_{start}\t0.5\t1.25\t/t/dd00138\t{'PRESENT' if present else 'NOT_PRESENT'}\n"
    table = read_strong(text.encode(), "table")
    expected = [(ytid, start, 0.5, 1.25, "/t/dd00138", present) for ytid, start, present in written]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected


def test_a_part_file_begins_with_three_lines_empty():
    table = read_weak(b'empty\nempty\nempty\n--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00002"\n', TWO, "part")
    assert table.to_pylist() == [{"ytid": "--PJHxphWEs", "start_seconds": 30.0, "end_seconds": 40.0, "labels": [0, 1]}]


GOOD = '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00002"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.format(2, 2, 4) + GOOD, r"num_ytids=2\b.*\b1\b"),
        (HEAD.format(1, 2, 3) + GOOD, r"num_positive_labels=3\b.*\b2\b"),
        (HEAD.format(1, 2, 2), "no rows"),
        (GOOD, "no comment lines"),
        (HEAD.format(2, 2, 4) + GOOD + 'short, 1.0, 2.0, "/m/09x0r"\n', "line 5: YTID='short'"),
        (HEAD.format(1, 1, 1) + '--PJHxphWEs, 30.0, 30.0, "/m/09x0r"\n', "line 4: .*30.0 to 30.0 s"),
        (HEAD.format(1, 1, 1) + '--PJHxphWEs, 30.0, 40.0, "/m/none"\n', "line 4: label='/m/none'"),
        (HEAD.format(1, 1, 1) + '--PJHxphWEs, x, 40.0, "/m/09x0r"\n', "line 4: 'x'.*YTID"),
        (HEAD.format(1, 1, 1) + "--PJHxphWEs, 30.0\n", "line 4: 2 cells.*YTID"),
    ],
)
def test_a_malformed_weak_table_is_refused_with_its_line(text, message):
    with pytest.raises(ValueError, match=f"segments.csv.*{message}"):
        read_weak(text.encode(), TWO, "segments.csv")


STRONG = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("segment_id\tonset\n", r"\['segment_id', 'onset'\]"),
        (f"{STRONG}\n--EnKcYsPas_210000\t1\t0.5\t/m/x\n", "line 2: .*1.0 to 0.5 s"),
        (f"{STRONG}\n--EnKcYsPas\t1\t2\t/m/x\n", "line 2: segment_id='--EnKcYsPas'"),
        (f"{STRONG}\tpresent\n--EnKcYsPas_0\t1\t2\t/m/x\tMAYBE\n", "present='MAYBE'"),
        (f"{STRONG}\n--EnKcYsPas_0\tone\t2\t/m/x\n", "line 2: 'one'"),
    ],
)
def test_a_malformed_strong_table_is_refused_with_its_line(text, message):
    with pytest.raises(ValueError, match=f"strong.tsv.*{message}"):
        read_strong(text.encode(), "strong.tsv")
