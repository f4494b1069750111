"""The tables of every data set are read completely, or the error has the number of the damaged line."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from hf_datasets.audioset import table_formats
from hf_datasets.audioset.own_lists import read_strong_list, read_weak_list
from hf_datasets.csv_tables import parse_number, read_columns
from hf_datasets.folder import recording, tables
from hf_datasets.hku956 import raw as hku956
from hf_datasets.meld.utterances import read_utterances
from hf_datasets.pmemo.raw import read_eda
from hf_datasets.prepare import main
from hf_datasets.tunein.raw import TARGET, read_index, read_labels
from hf_datasets.tunein.synthesize import synthesize
from media.audioset import Labels
from tests.helpers import prepared_data

WHERE = "table.csv"
ROWS = 6
DAMAGED = 4  # number of the line that is damaged, below the header
VOCABULARY = Labels(("/m/a", "/m/b"), ("A", "B"))


def lines(head: str, row: str, rows: int = ROWS) -> list[bytes]:
    """Return the lines of a table with their line ends; `{}` in `row` becomes the number of the row, two digits."""
    return [
        f"{line}\n".encode() for line in [*head.split("\n"), *(row.replace("{}", f"{i:02d}") for i in range(rows))]
    ]


MELD = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
ID = "aaaaaaaaa{}"
TABLES: dict[str, tuple[list[bytes], str, Callable[[bytes], int]]] = {  # lines, separator, function: data -> row count
    "pmemo, hku956": (lines("id,text", "{},b"), ",", lambda data: len(read_columns(data, WHERE, ("id",))[1])),
    "folder": (lines("id,text", "{},b"), ",", lambda data: len(tables.read_rows(data)) - 1),
    "folder, tabs": (lines("id\ttext", "{}\tb"), "\t", lambda data: len(tables.read_rows(data)) - 1),
    "folder, signal": (lines("time,eda", "{},1.5"), ",", lambda data: len(recording.read_signal(data, None).values)),
    "tunein, labels": (
        lines("creative_id,attention_data_completed", "c{},0.5"),
        ",",
        lambda data: len(read_labels(data, WHERE, [])[0]),
    ),
    "tunein, index": (lines("x,index", "{},c{}"), ",", lambda data: len(read_index(data, WHERE))),
    "meld": (
        lines(MELD, "Hi,Bo,joy,positive,0,{},1,1,0:00:01,0:00:02"),
        ",",
        lambda data: len(read_utterances(data, "train", WHERE)[0]),
    ),
    "pmemo, eda": (lines("time(s),101", "{},1.5"), ",", lambda data: len(read_eda(data)[1])),
    "audioset, labels": (
        [b"index,mid,display_name\n", *(b"%d,/m/%d,name\n" % (i, i) for i in range(ROWS))],
        ",",
        lambda data: len(table_formats.read_labels(data, WHERE).mids),
    ),
    "audioset, names": (
        lines("/m/other\tname", "/m/{}\tname"),
        "\t",
        lambda data: len(table_formats.read_labels(data, WHERE).mids) - 1,
    ),
    "audioset, weak": (
        lines("# comment", f'{ID}, 0.0, 10.0, "/m/a,/m/b"'),
        ", ",
        lambda data: len(table_formats.read_weak(data, VOCABULARY, WHERE)),
    ),
    "audioset, strong": (
        lines("segment_id\tstart_time_seconds\tend_time_seconds\tlabel", f"{ID}_0\t0.0\t1.0\t/m/a"),
        "\t",
        lambda data: len(table_formats.read_strong(data, WHERE)),
    ),
    "own events": (
        lines("filename,onset,offset,label", "{}.wav,0.0,1.0,Bell"),
        ",",
        lambda data: len(read_strong_list(data, WHERE)),
    ),
    "own clips": (lines("filename\tlabels", "{}.wav\tBell"), "\t", lambda data: len(read_weak_list(data, WHERE))),
}


def in_last_cell(before: bytes, after: bytes = b"") -> Callable[[bytes, bytes], bytes]:
    """Return a damage that puts bytes before and after the text of the last cell, and removes its quotes."""

    def damage(line: bytes, separator: bytes) -> bytes:
        first, last = line.rsplit(separator, 1)
        return first + separator + before + last.strip(b'\n"') + after + b"\n"

    return damage


DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "quote at the start": lambda line, separator: b'"' + line,
    "quote that is not closed": in_last_cell(b'"'),
    "line break": in_last_cell(b'"', b'\nmore"'),
    "two rows in one cell": in_last_cell(b'"', b'\nb,c"'),
    "cell too few": lambda line, separator: line.rsplit(separator, 1)[0] + b"\n",
    "cell too many": lambda line, separator: line.rstrip(b"\n") + separator + b"more\n",
    "zero byte": lambda line, separator: line[:1] + b"\0" + line[1:],
    "not UTF-8": lambda line, separator: line[:1] + b"\xff" + line[1:],
}
EXCEPTIONS = {  # tested elsewhere, or not a damage in this table
    ("folder", "cell too few"), ("folder", "cell too many"),
    ("folder, tabs", "cell too few"), ("folder, tabs", "cell too many"),
    ("meld", "not UTF-8"),  # read as Windows-1252, with a defect
    ("audioset, names", "quote at the start"), ("audioset, names", "quote that is not closed"),  # part of the text
    ("audioset, names", "line break"), ("audioset, names", "two rows in one cell"),  # an error with the next line
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_with_any_line_end_and_a_byte_order_mark(name):
    table, _, read = TABLES[name]
    assert read(b"".join(table)) == ROWS
    assert read(b"\xef\xbb\xbf" + b"".join(table).replace(b"\n", b"\r\n")) == ROWS


@pytest.mark.parametrize(
    ("name", "damage"), [(name, damage) for name in TABLES for damage in DAMAGES if (name, damage) not in EXCEPTIONS]
)
def test_the_error_for_a_damaged_line_has_its_number(name, damage):
    table, separator, read = TABLES[name]
    table = table[:]
    table[DAMAGED - 1] = DAMAGES[damage](table[DAMAGED - 1], separator.encode())
    with pytest.raises(ValueError, match=rf"line {DAMAGED}\b") as error:
        read(b"".join(table))
    assert "\n" not in str(error.value)


TOKENS = [
    b'"', b'"\n"', b",", b"\t", b"\n", b"\r", b"\0", b"\x0b", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b" ", b"_", b"=", b"-", b"[", b"...", b"nan", b"inf", b"1e999", b"9" * 20,
]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_table_with_random_damage_is_read_or_is_an_error_in_one_line(name):
    table, _, read = TABLES[name]
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        data = bytearray(b"".join(table))
        for _ in range(random.integers(1, 4)):
            position = random.integers(len(data) + 1)
            cut = random.integers(0, 4) if random.random() < 0.3 else 0
            data[position : position + cut] = TOKENS[random.integers(len(TOKENS))]
        try:
            read(bytes(data))
        except ValueError as error:
            assert type(error) is ValueError
            assert "\n" not in str(error)
            refused += 1
    assert refused > 40


WITHOUT_NAMES = ("folder", "folder, tabs", "pmemo, eda")  # readers that do not use names of columns


@pytest.mark.parametrize("name", [n for n in TABLES if n not in WITHOUT_NAMES and not n.startswith("audioset")])
def test_two_columns_with_one_name_are_refused(name):
    table, separator, read = TABLES[name]
    column = table[0].rstrip(b"\n").rsplit(separator.encode(), 1)[1]
    repeated = [
        line.rstrip(b"\n") + separator.encode() + (column if number == 0 else b"1") + b"\n"
        for number, line in enumerate(table)
    ]
    with pytest.raises(ValueError, match=f"{column.decode().lower()}|columns of values"):
        read(b"".join(repeated))


def test_a_stray_quote_in_labels_is_an_error_and_loses_no_creative(tmp_path, capsys):
    synthesize(tmp_path / "raw", num_creatives=600, seed=0)
    (labels,) = (tmp_path / "raw").rglob("labels.csv")
    text = labels.read_text()
    rows = text.split("\n")
    rows[5] = '"' + rows[5]
    labels.write_text("\n".join(rows))
    message = prepared_data.complaint(main, "tunein", "--raw_dir", tmp_path / "raw", "--output_dir", tmp_path / "out")
    assert "labels.csv line 6" in message
    assert not list((tmp_path / "out").rglob("*.parquet"))
    labels.write_text(text)
    main(["tunein", "--raw_dir", str(tmp_path / "raw"), "--output_dir", str(tmp_path / "out")])
    assert "600 creatives" in capsys.readouterr().out


@pytest.mark.parametrize(
    "cell", ["1_0", "1e1_0", "_1", "abc", "0x10", "1,5", "inf", "-Infinity", "1e400", "+nan", ".", "\u0661", "\uff11"]
)
def test_anything_but_a_plain_decimal_number_is_an_error(cell):
    with pytest.raises(ValueError, match=f"^{re.escape(repr(cell))} "):
        parse_number(cell)


@pytest.mark.parametrize("cell", ["inf", "1e400", "\u0661"])
def test_the_error_for_a_target_that_is_not_finite_has_its_line(cell):
    data = f"creative_id,{TARGET}\na,1.5\nb,{cell}\n".encode()
    with pytest.raises(ValueError, match=f"^{WHERE} line 3: {TARGET}='{cell}': "):
        read_labels(data, WHERE, [])


@pytest.mark.parametrize("cell", ["", " NaN", "n/a", None])
def test_empty_cells_and_words_for_a_missing_number_are_nan(cell):
    assert math.isnan(parse_number(cell))


def test_a_sample_with_an_underscore_is_text():
    values, _, texts = hku956.read_signal(b"1.0\n1_0\n2.0\n")
    np.testing.assert_array_equal(values, [1, np.nan, 2])
    assert texts == ["1_0"]


@pytest.mark.parametrize(
    "text", ['index\n"1,2\n3"\n4\n', 'index\n"[1 2]\n[3]"\n[4]\n', 'index\n"1 2\n3 4\n', 'index\n""[1]\n[2]"\n']
)
def test_rows_of_an_index_that_a_quote_merges_are_refused(text):
    with pytest.raises(ValueError, match="sound_indexes.csv line 2"):
        read_index(text.encode(), "sound_indexes.csv")


def test_a_list_over_several_lines_is_one_cell():
    assert read_index(b'index\n"[1 2\n 3]"\n"array([4,\n 5], dtype=object)"\n', WHERE) == {
        1: ["1", "2", "3"],
        2: ["4", "5"],
    }
