"""Your own data: files are loaded unchanged, and every problem is reported with file and line."""

import csv
import io
import math
import re
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.folder.builder import FolderBuilder
from hf_datasets.folder.metadata import COLUMNS, read_folder
from hf_datasets.folder.recording import read_signal
from hf_datasets.folder.synthesize import RATE, synthesize
from hf_datasets.folder.tables import read_number, read_rows
from hf_datasets.names import HERE
from hf_datasets.prepare import main
from launch.run import parse_run
from tasks.eda.task import TASK
from tests.helpers.prepared_data import rows_of

SECONDS = 12.0  # of every sound
SAMPLES = 60  # of every signal, at 5 Hz
HEADER = "audio,signal,listener,rate\n"
ROWS = ["a.wav,a1.csv,ada,5\n", "a.wav,a2.csv,bo,5\n", "b.wav,b1.csv,ada,5\n", "b.wav,b2.csv,bo,5\n"]


def values(seed: int, samples: int = SAMPLES) -> np.ndarray:
    return (20 + np.cumsum(np.random.default_rng(seed).uniform(-1, 1, samples))).round(3)


def column(numbers: np.ndarray) -> str:
    return "".join(f"{number}\n" for number in numbers)


@pytest.fixture
def mine(tmp_path) -> Path:
    """Write two sounds and the signals of two listeners: four files of one column, at 5 Hz."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(folder / name, np.random.default_rng(0).uniform(-0.5, 0.5, round(SECONDS * 8000)), 8000)
    for seed, name in enumerate(("a1.csv", "a2.csv", "b1.csv", "b2.csv")):
        (folder / name).write_text(column(values(seed)))
    (folder / "metadata.csv").write_text(HEADER + "".join(ROWS))
    return folder


def build(folder: Path, cache: Path) -> tuple[list[dict], list[dict]]:
    """Return the rows, and the defects of no row."""
    builder = FolderBuilder(raw_dir=folder, cache_dir=str(cache))
    return rows_of(builder), builder.raw_defects


def problems(folder: Path, capsys) -> str:
    """Return the output of --check_only for a folder with problems."""
    with pytest.raises(SystemExit) as stopped:
        main(["folder", "--raw_dir", str(folder), "--check_only"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 1 or isinstance(stopped.value.code, str)
    return printed if stopped.value.code == 1 else stopped.value.code


def set_rows(folder: Path, *rows: str, header: str = HEADER) -> None:
    (folder / "metadata.csv").write_text(header + "".join(rows))


# Valid folders


def test_prepared_rows_have_the_content_of_the_files(tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "output"
    synthesize(raw, num_songs=3, num_listeners=2, seconds=(12.0, 13.0))
    main(["folder", "--raw_dir", str(raw), "--output_dir", str(output)])
    rows = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.features == datasets.load_dataset(str(HERE / "pmemo"), "sample", split="train").features
    with open(raw / "metadata.csv", newline="") as file:
        metadata = list(csv.DictReader(file))
    assert sum(len(row["trials"]) for row in rows) == len(metadata) == 6
    recordings = iter(metadata)
    for row in rows:
        for trial in row["trials"]:
            cells = next(recordings)
            with open(raw / cells["signal"], newline="") as file:
                table = list(csv.DictReader(file))
            expected = np.array([line[cells["column"] or "eda"] for line in table], dtype=np.float32)
            np.testing.assert_array_equal(np.array(trial["eda"], np.float32), expected)
            assert trial["listener"] == cells["listener"]
            assert trial["offset_seconds"] == float(cells["offset_seconds"] or 0)
        assert row["song_id"] == cells["audio"].removesuffix(".mp3")
        assert row["title"] == cells["title"]
        assert row["audio"]["bytes"] == (raw / cells["audio"]).read_bytes()
        assert row["eda_rate"] == pytest.approx(RATE)
        assert row["synthetic"]


def test_the_eda_task_accepts_a_prepared_folder(tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "output"
    synthesize(raw, num_listeners=2)
    main(["folder", "--raw_dir", str(raw), "--output_dir", str(output)])
    rows = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))["train"]
    run = parse_run(["configs/eda_tcn.json", "--test_fraction", "0.15"])
    data = TASK.prepare(rows, TASK.features(run), run)
    assert {side: len(trials) for side, trials in data.sides.items()} == dict(train=8, validation=2, test=2, all=12)
    item = data.train[0]
    assert len(item["labels"]) == len(item["input_features"]) > 40
    assert np.isfinite(item["labels"]).all()


def test_ratings_offsets_trials_and_artists_are_in_the_row(mine, tmp_path):
    header = "audio,signal,listener,rate,offset_seconds,song_id,trial,artist,arousal_mean,x_age\n"
    set_rows(mine, "a.wav,a1.csv,ada,5,-1.5,s,,,0.25,31\n", "a.wav,a2.csv,ada,5,2,s,,Nina,,31\n", header=header)
    ((row,), _) = build(mine, tmp_path / "cache")
    assert (row["song_id"], row["artist"], row["arousal_mean"], row["valence_mean"]) == ("s", "Nina", 0.25, None)
    assert [(trial["trial"], trial["offset_seconds"]) for trial in row["trials"]] == [
        ("s_ada_0", -1.5),
        ("s_ada_1", 2),
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1\n2\n3\n", [1, 2, 3]),
        ("eda\n1\n2\n3", [1, 2, 3]),
        ("\ufeffµS\r\n1\r\n2\r\n", [1, 2]),
        ("1\r2\r3\r", [1, 2, 3]),
        ("Time (s);EDA\n0;1.5\n0.5;2.5\n", [1.5, 2.5]),
        ("eda\tt\n1.5\t0\n2.5\t0.5\n", [1.5, 2.5]),
        ('"time", "skin, left"\n0, 1\n\n1, 2\n', [1, 2]),
        ("1\n\n3\nnan\n\n\n", [1, math.nan, 3, math.nan]),  # empty lines at the end are not samples
        ('eda\n1\n""\n', [1, math.nan]),
        ("  1e-3 \n+.5\n", [0.001, 0.5]),
    ],
)
def test_a_signal_is_read_in_every_csv_dialect(text, expected):
    signal = read_signal(text.encode(), None)
    np.testing.assert_array_equal(signal.values, expected)
    assert not signal.bad_cells


@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=20),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "\ufeff"]),
    st.booleans(),
)
def test_every_csv_dialect_gives_the_same_numbers(numbers, separator, newline, mark, quoted):
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=separator, lineterminator=newline, quoting=quoting)
    writer.writerows([["time", "eda"], *([i / 4, number] for i, number in enumerate(numbers))])
    signal = read_signal((mark + text.getvalue()).encode(), None)
    np.testing.assert_array_equal(signal.values, numbers)
    np.testing.assert_array_equal(signal.times, np.arange(len(numbers)) / 4)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_signal_or_a_short_error(data):
    try:
        signal = read_signal(data, None)
    except ValueError as error:
        assert 0 < len(str(error)) < 400
    else:
        assert len(signal.values) == len(signal.lines) > 0
        assert not np.isinf(signal.values).any()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_with_umlauts_blanks_quotes_and_backslashes_are_found(mine, tmp_path, separator, form):
    (mine / "Töne, laut").mkdir()
    (mine / "a.wav").rename(mine / "Töne, laut" / "Für Elise.wav")
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\r\n")
    writer.writerow(["audio", "signal", "listener", "rate", "title"])
    writer.writerow(
        [unicodedata.normalize(form, "Töne, laut\\Für Elise.wav"), "./a1.csv", "Jörg", 5, 'Für "Elise", 1']
    )
    (mine / "metadata.csv").write_bytes(("\ufeff" + text.getvalue()).encode())
    ((row,), _) = build(mine, tmp_path / "cache")
    assert row["song_id"] == "Töne, laut/Für Elise"
    assert row["title"] == 'Für "Elise", 1'
    assert row["trials"][0]["listener"] == "Jörg"
    assert len(row["trials"][0]["eda"]) == SAMPLES


def test_one_recording_may_span_songs_at_different_offsets(mine, tmp_path):
    header = "audio,signal,listener,rate,offset_seconds\n"
    (mine / "long.csv").write_text(column(values(9, 200)))
    set_rows(mine, "a.wav,long.csv,ada,5,-2\n", "b.wav,long.csv,ada,5,-20\n", header=header)
    rows, _ = build(mine, tmp_path / "cache")
    assert [row["trials"][0]["offset_seconds"] for row in rows] == [-2, -20]


def test_the_time_column_gives_rate_and_offset_unless_metadata_gives_an_offset(mine, tmp_path):
    (mine / "a1.csv").write_text("time,eda\n" + "".join(f"{3 + i / 8},{2 + i % 7}\n" for i in range(80)))
    header = "audio,signal,listener,offset_seconds\n"
    set_rows(mine, "a.wav,a1.csv,ada,\n", header=header)
    ((row,), _) = build(mine, tmp_path / "cache")
    assert row["eda_rate"] == 8
    assert row["trials"][0]["offset_seconds"] == 3
    set_rows(mine, "a.wav,a1.csv,ada,0.5\n", header=header)
    ((row,), _) = build(mine, tmp_path / "cache")
    assert row["trials"][0]["offset_seconds"] == 0.5


def test_defects_have_listener_line_and_file(mine, tmp_path):
    (mine / "b2.csv").write_text(column(np.full(SAMPLES, 2.0)))
    rows, _ = build(mine, tmp_path / "cache")
    assert rows[0]["defects"] == []
    defects = {defect["what"]: (defect["listener"], defect["detail"]) for defect in rows[1]["defects"]}
    assert defects["flat_eda"] == ("bo", "metadata.csv line 5: b2.csv")


def test_files_in_no_row_are_reported_except_hidden_ones(mine, tmp_path):
    (mine / "notes.txt").write_text("mine")
    (mine / ".DS_Store").write_text("")
    _, defects = build(mine, tmp_path / "cache")
    assert [(defect["what"], defect["detail"]) for defect in defects] == [("unexpected_file", "notes.txt")]


def test_the_digest_covers_only_the_files_in_metadata(mine):
    before = read_folder(mine).digest
    (mine / "notes.txt").write_text("mine")
    assert read_folder(mine).digest == before
    (mine / "b2.csv").write_text(column(values(77)))
    assert read_folder(mine).digest != before


# Problems


@pytest.mark.parametrize(
    "text, expected",
    [
        ("audio,signal\na.wav,a1.csv\n", r"\['listener'\].*\['audio', 'signal'\]"),
        ("", r"\['audio', 'signal', 'listener'\].*\[\]"),
        (HEADER, "no rows"),
        ("audio,signal,listener,sampling_rate\n", r"\['sampling_rate'\].*'rate'.*\bx_"),
        ("audio,signal,listener,rate,rate\n", r"repeated.*\['rate'\]"),
        (HEADER + 'a.wav,"a1.csv,ada,5\n', r"line 2\b.*quote"),
        (HEADER + "a.wav,c.csv,ada,5\n", "line 2: signal='c.csv'"),
    ],
)
def test_an_unreadable_table_is_refused_in_one_line(mine, capsys, text, expected):
    (mine / "metadata.csv").write_text(text)
    message = problems(mine, capsys)
    assert re.search(rf"metadata\.csv\b.*{expected}", message)
    assert "\n" not in message


@pytest.mark.parametrize(
    "data, line",
    [((HEADER + ROWS[0] + "a.wav,a2.csv,Jörg,5\n").encode("latin-1"), 3), ((HEADER + ROWS[0]).encode("utf-16-le"), 1)],
)
def test_text_in_another_encoding_is_refused_with_its_line(mine, capsys, data, line):
    (mine / "metadata.csv").write_bytes(data)
    assert re.search(rf"metadata\.csv: line {line}\b.*UTF-8", problems(mine, capsys))


def test_a_wrong_folder_is_refused_and_similar_ones_are_named(mine, capsys, tmp_path):
    assert re.search(r"--raw_dir.*/nowhere\b", problems(tmp_path / "nowhere", capsys))
    assert re.search(r"--raw_dir.*/mine/a\.wav\b", problems(mine / "a.wav", capsys))
    assert re.search(rf"--raw_dir={mine.parent}: .*\bmine/metadata\.csv", problems(mine.parent, capsys))


@pytest.mark.parametrize(
    "row, expected",
    [
        ("a.wav,a2.csv,,5\n", "listener=''"),
        (",a2.csv,bo,5\n", "audio=''"),
        ("c.wav,a2.csv,bo,5\n", "audio='c.wav'"),
        ("sounds/A.WAV,a2.csv,bo,5\n", "audio='sounds/A.WAV'.*'a.wav'"),
        ("../a.wav,a2.csv,bo,5\n", "audio='../a.wav'.*outside"),
        ("C:\\data\\a.wav,a2.csv,bo,5\n", "audio='C:.*outside"),
        ("a.wav,a2.csv,bo,fast\n", "rate='fast'"),
        ('a.wav,a2.csv,bo,"4,5"\n', "rate='4,5'.*4.5"),
        ("a.wav,a2.csv,bo,0\n", "rate=0"),
        ("a.wav,a2.csv,bo,-4\n", "rate=-4"),
        ("a.wav,a2.csv,Simon, Paul,5\n", r"5 cells\b.*\b4\b"),
        ("a.wav,a2.csv,bo\n", r"3 cells\b.*\b4\b"),
        ("a.wav,a2.csv,bo,\n", "a2.csv: .*rate=None"),
        ("a.wav,a1.csv,bo,5\n", r"signal='a1.csv'.*line 2\b"),
        ("a.wav,a2.csv,bo,4\n", r"a2.csv: 4 Hz\b.*a1.csv\b.*\b5 Hz\b"),
    ],
)
def test_an_unusable_row_is_reported_with_its_line_and_the_others_are_kept(mine, capsys, tmp_path, row, expected):
    set_rows(mine, ROWS[0], row, ROWS[2])
    assert re.search(f"metadata.csv line 3: {expected}", problems(mine, capsys))
    rows, _ = build(mine, tmp_path / "cache")
    assert [[trial["trial"] for trial in row["trials"]] for row in rows] == [["a_ada_0"], ["b_ada_0"]]


@pytest.mark.parametrize(
    "cells, expected",
    [
        ("a.wav,a2.csv,bo,s2,,,", r"song_id='s2'.*'s1' in line 2\b"),
        ("b.wav,a2.csv,bo,s1,,,", r"audio='b.wav'.*'s1'.*'a.wav' in line 2\b"),
        ("a.wav,a2.csv,ada,s1,1,,", r"listener='ada'.*trial.*line 2\b"),
        ("a.wav,a2.csv,bo,s1,,Other,", "artist='Other'.*'Nina'"),
        ("a.wav,a2.csv,bo,s1,,,0.75", "arousal_mean=0.75.*0.5"),
    ],
)
def test_contradicting_rows_are_reported(mine, capsys, cells, expected):
    header = "audio,signal,listener,song_id,trial,artist,arousal_mean,rate\n"
    set_rows(mine, "a.wav,a1.csv,ada,s1,1,Nina,0.5,5\n", cells + ",5\n", header=header)
    assert re.search(f"metadata.csv line 3: {expected}", problems(mine, capsys))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "empty file"),
        ("eda\n", "no values"),
        ("1,5\n2,5\n", r"line 1: 2 cells\b.*'1, 5'"),
        ("eda\n1,5\n2,5\n", r"line 2: 2 cells\b.*\b1\b.*'1, 5'"),
        ("time;eda\n0,25;1\n0,5;2\n", r"line 2: time='0,25'.*\b0\.25\b"),
        ("time;eda\n0;1,5\n1;2,5\n", r"line 2: '1,5'.*\b1\.5\b"),
        ("time,eda\n0,1\n,2\n", "line 3: time=''"),
        ("time,eda\n0,1\n1,2,3\n", r"line 3: 3 cells\b.*\b2\b"),
        ("time,eda\n1,1\n0,2\n", r"1\.0 to 0\.0 s"),
        ("time,eda\n0,1\n", r"rate.*\b1\b"),
        ("time,eda\n0,1\n1,2\n2,2\n9,3\n10,3\n11,3\n", r"line 4: time=2: 2\.4 s\b.*\b0\.45455 Hz"),
        ("time,t,eda\n0,0,1\n", "2 time columns"),
        ("time\n0\n1\n", r"\['time'\]"),
        ("time,left,right\n0,1,2\n", r"\b2\b.*\['left', 'right'\].*`column`"),
        ("1600000000.5\n4.0\n1\n2\n", r"line 1: 1600000000\b.*\bE4\b.*`rate`"),
        ('eda\n"1\n2\n', r"line 2\b.*quote"),
        ("eda\n1\nhigh\n2\n#NUM!\n", "line 3: 'high'"),
        ("eda\n1\ninf\n", "line 3: 'inf'"),
        ("time,eda\n" + "".join(f"{1.6e9 + i / 5},{i}\n" for i in range(60)), r"\b0 to 12 s\b.*`offset_seconds`"),
    ],
)
def test_an_unusable_signal_is_reported_and_prevents_publishing(mine, capsys, tmp_path, text, expected):
    (mine / "a2.csv").write_text(text)
    assert re.search(rf"a \w+ \(metadata\.csv line 3: a2\.csv: .*{expected}", problems(mine, capsys))
    output = tmp_path / "output"
    with pytest.raises(SystemExit, match=r"\d inputs?\b.*a2\.csv.*--keep_unreadable"):
        main(["folder", "--raw_dir", str(mine), "--output_dir", str(output)])
    assert not (output / "defects.csv").exists()


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("right", "time,left,Right\n0,1,2\n1,1,2\n", r"column='right': 0 .*\['left', 'Right'\]"),
        ("left", "time,left,left\n0,1,2\n1,1,2\n", r"column='left': 2 .*\['left', 'left'\]"),
        ("left", "1\n2\n3\n", "column='left': .*no header"),
    ],
)
def test_a_missing_or_repeated_column_is_refused(name, text, expected):
    with pytest.raises(ValueError, match=expected):
        read_signal(text.encode(), name)


def test_the_named_column_is_read():
    text = b"time,101,102\n0,1,2\n1,3,4\n"
    np.testing.assert_array_equal(read_signal(text, "102").values, [2, 4])


def test_one_check_reports_all_problems_of_a_folder(mine, capsys):
    (mine / "b.wav").write_bytes(b"no sound at all" * 50)
    (mine / "b2.csv").write_text("eda\n")
    set_rows(mine, *ROWS, "c.wav,c.csv,,5\n", "a.wav,b2.csv,bo,x\n")
    lines = [line for line in problems(mine, capsys).splitlines() if "metadata.csv line" in line]
    expected = [
        "metadata.csv line 6: listener=''",
        "metadata.csv line 6: audio='c.wav'",
        "metadata.csv line 6: signal='c.csv'",
        "metadata.csv line 7: rate='x'",
        "b unreadable_audio (metadata.csv line 4: b.wav: ",
        "b unreadable_eda (metadata.csv line 5: b2.csv: ",
    ]
    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))


def test_keep_unreadable_publishes_the_usable_recordings_and_lists_the_others(mine, tmp_path):
    set_rows(mine, *ROWS, "b.wav,c.csv,cy,5\n")
    (mine / "a2.csv").write_text("eda\n")
    output = tmp_path / "output"
    main(["folder", "--raw_dir", str(mine), "--output_dir", str(output), "--keep_unreadable"])
    rows = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))["train"]
    assert [len(row["trials"]) for row in rows] == [1, 2]
    with open(output / "defects.csv", newline="") as file:
        defects = {row["what"]: row for row in csv.DictReader(file)}
    assert defects["unusable_recording"]["detail"].startswith("metadata.csv line 6: signal='c.csv'")
    unreadable = defects["unreadable_eda"]
    assert (unreadable["song"], unreadable["listener"]) == ("a", "bo")
    assert (unreadable["how_much"], unreadable["unit"]) == ("4.0", "bytes")
    assert unreadable["detail"].startswith("metadata.csv line 3: a2.csv: ")


# Numbers, tables, card and synthesizer


@pytest.mark.parametrize("cell", ["1_000", "1,5", "inf", "-inf", "1e39", "abc", "1.234,5", "0x10"])
def test_cells_other_than_plain_decimal_numbers_are_refused(cell):
    with pytest.raises(ValueError, match=f"^{re.escape(repr(cell))}: "):
        read_number(cell)


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=5), min_size=2)))
def test_quoted_cells_are_read_with_their_first_line_number(table):
    text, lines = io.StringIO(newline=""), []
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for row in [["a", "b"], *table]:
        lines.append(1 + len(list(io.StringIO(text.getvalue(), newline=""))))
        writer.writerow(row)
    rows = read_rows(text.getvalue().encode())
    assert [cells for _, cells in rows[1:]] == [[cell.strip() for cell in cells] for cells in table]
    assert [line for line, _ in rows] == lines


def test_the_card_lists_every_column_of_metadata():
    card = (HERE / "folder" / "README.md").read_text()
    section = card.split("## Layout of the folder")[1].split("\n## ")[0]
    listed = [
        name for line in section.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(", ")
    ]
    assert {name.strip() for name in listed} >= set(COLUMNS)


@pytest.mark.parametrize("options", [{"num_songs": 0}, {"coupling": 2.0}, {"seconds": (4.0, 3.0)}])
def test_impossible_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        synthesize(tmp_path, **options)
