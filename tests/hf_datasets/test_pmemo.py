"""PMEmo: the raw tree is read unchanged, every defect is detected, and the synthetic samples are valid controls."""

import csv
import errno
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import detrend

from hf_datasets.defects import SIGNAL_DEFECTS
from hf_datasets.pmemo.builder import PmemoBuilder
from hf_datasets.pmemo.raw import find_root, parse_clock, read_eda, read_tree
from hf_datasets.pmemo.synthesize import EDA_RATE, bateman_kernel, synthesize
from hf_datasets.song_rows import check_ends, check_time, check_trial
from media.audio import read_audio
from tests.conftest import REPOSITORY
from tests.helpers.prepared_data import kinds, rows_of

SAMPLE = REPOSITORY / "hf_datasets" / "pmemo" / "sample"


def build(raw_dir: Path, cache: Path) -> tuple[PmemoBuilder, list[dict]]:
    builder = PmemoBuilder(raw_dir=raw_dir, cache_dir=str(cache))
    return builder, rows_of(builder)


NOT_PMEMO = {  # kinds that only other data sets have, and one that test_odd_names.py tests
    "unusable_recording", "unclear_rate", "start_time_line", "skipped_song", "replayed_song", "empty_file",
    "signal_missing", "missing_personality", "name_not_utf8",
}  # fmt: skip


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> tuple[Path, PmemoBuilder, list[dict]]:
    folder = tmp_path_factory.mktemp("damaged")
    synthesize(folder / "raw", num_songs=20, num_listeners=3, seconds=(16.0, 17.0), defects="all")
    return folder / "raw" / "PMEmo2019", *build(folder / "raw", folder / "cache")


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Return the root of an undamaged tree of three short songs."""
    synthesize(tmp_path / "raw", num_songs=3, num_listeners=2, seconds=(5.0, 6.0), defects="none")
    return tmp_path / "raw" / "PMEmo2019"


# The raw tree


def test_every_kind_of_defect_is_synthesized_and_detected(damaged):
    _, builder, rows = damaged
    detected = set().union(*map(kinds, rows)) | {defect["what"] for defect in builder.raw_defects}
    assert detected == set(SIGNAL_DEFECTS) - NOT_PMEMO


@pytest.mark.parametrize(
    "song, expected",
    [
        (2, {"clip_shorter_than_annotation", "missing_annotation", "missing_dynamic_annotation"}),
        (3, {"flat_eda", "few_levels"}),
        (4, {"negative_eda"}),
        (5, {"nan_run"}),
        (6, {"unreadable_audio"}),
        (7, {"unreadable_eda"}),
        (8, {"non_numeric_cell"}),
        (9, {"audio_missing"}),
        (10, {"eda_missing"}),
        (11, {"missing_dynamic_annotation"}),
        (12, {"irregular_time"}),
        (13, {"unexpected_rate", "eda_shorter_than_audio"}),
        (14, {"out_of_range", "steep_slope"}),
        (15, {"duplicate_listener", "odd_listener_id", "stray_blanks_in_header"}),
        (16, {"not_in_metadata"}),
        (17, {"duplicate_metadata_row"}),
        (18, {"too_short_trial", "eda_shorter_than_audio"}),
        (19, {"duplicate_annotation_row"}),
    ],
)
def test_the_defects_of_a_damaged_song_are_detected(damaged, song, expected):
    assert expected <= kinds(damaged[2][song])


def test_clean_songs_have_only_the_defects_of_all_published_songs(damaged):
    rows = damaged[2]
    assert kinds(rows[0]) == kinds(rows[1]) == {"eda_longer_than_audio", "chorus_duration_mismatch"}


def test_how_much_of_a_defect_is_measured(damaged):
    rows = damaged[2]
    gap = next(defect for defect in rows[5]["defects"] if defect["what"] == "nan_run")
    assert (gap["how_much"], gap["unit"], gap["listener"]) == (2.0, "s", rows[5]["trials"][2]["listener"])
    low = next(defect for defect in rows[4]["defects"] if defect["what"] == "negative_eda")
    assert low["how_much"] == pytest.approx(-0.8)
    assert low["how_much"] == pytest.approx(min(rows[4]["trials"][2]["eda"]), abs=1e-5)
    excess = next(defect for defect in rows[0]["defects"] if defect["what"] == "eda_longer_than_audio")
    length = len(rows[0]["trials"][0]["eda"]) / EDA_RATE
    assert excess["how_much"] == pytest.approx(length - rows[0]["audio_seconds"], abs=1e-6)


def test_an_unreadable_input_keeps_its_row_and_its_bytes(damaged):
    root, _, rows = damaged
    song = rows[6]
    assert song["audio"]["bytes"] == (root / "chorus" / f"{song['song_id']}.mp3").read_bytes()
    assert song["audio_seconds"] is None
    assert len(song["trials"]) == 3
    assert rows[7]["trials"] == []
    assert rows[7]["eda_rate"] is None
    assert rows[7]["audio_seconds"] > 15


def test_a_text_cell_becomes_nan_and_nothing_else_changes(damaged):
    root, _, rows = damaged
    eda = np.array(rows[8]["trials"][0]["eda"])
    assert np.flatnonzero(np.isnan(eda)).tolist() == [99]
    with open(root / "EDA" / f"{rows[8]['song_id']}_EDA.csv") as file:
        cells = [row[1] for row in csv.reader(file)][1:]
    assert cells[99] == "#NUM!"
    np.testing.assert_array_equal(eda[100:], np.array(cells[100:], dtype=np.float32))


def test_all_columns_of_a_repeated_listener_are_kept_under_different_trial_names(damaged):
    trials = damaged[2][15]["trials"]
    assert trials[0]["listener"] == trials[1]["listener"]
    assert len({trial["trial"] for trial in trials}) == 3


def test_eda_has_the_values_of_the_file(tiny, tmp_path):
    _, rows = build(tiny, tmp_path / "cache")
    for row in rows:
        with open(tiny / "EDA" / f"{row['song_id']}_EDA.csv") as file:
            header, *lines = csv.reader(file)
        table = np.array(lines, dtype=float)
        assert [trial["listener"] for trial in row["trials"]] == header[1:]
        np.testing.assert_array_equal(
            np.array([trial["eda"] for trial in row["trials"]]).T, table[:, 1:].astype(np.float32)
        )
        assert row["eda_rate"] == (len(table) - 1) / (table[-1, 0] - table[0, 0]) == pytest.approx(50)


def test_annotations_keep_their_times_and_have_mean_and_std(damaged):
    root, _, rows = damaged
    with open(root / "annotations" / "dynamic_annotations.csv") as file:
        expected = [row for row in csv.DictReader(file) if row["musicId"] == rows[0]["song_id"]]
    dynamic = rows[0]["dynamic"]
    assert [(rating["time_seconds"], rating["arousal_mean"]) for rating in dynamic] == [
        (float(row["frameTime"]), float(row["Arousal(mean)"])) for row in expected
    ]
    assert dynamic[0]["arousal_std"] is None  # that file is missing from this tree
    assert rows[0]["arousal_std"] > 0
    assert rows[2]["arousal_mean"] is None


def test_songs_are_in_numeric_order(damaged):
    ids = [int(row["song_id"]) for row in damaged[2]]
    assert ids == sorted(ids)
    assert len(set(ids)) == 20


@pytest.mark.parametrize("nesting", ["", "PMEmo", "PMEmo/again/deeper"])
def test_the_root_is_found_at_any_depth(tiny, tmp_path, nesting):
    shutil.copytree(tiny, tmp_path / "nested" / nesting / "PMEmo2019")
    assert find_root(tmp_path / "nested").location == str(tmp_path / "nested" / nesting / "PMEmo2019")
    assert find_root(tiny).location == str(tiny)


def test_a_wav_replaces_a_missing_mp3_and_annotations_may_be_in_the_root(tiny, tmp_path):
    mp3 = sorted(tiny.glob("chorus/*.mp3"))[0]
    audio, rate = read_audio(mp3)
    (tiny / "chorus" / "wav").mkdir()
    soundfile.write(tiny / "chorus" / "wav" / f"{mp3.stem}.wav", audio, rate)
    mp3.unlink()
    for path in (tiny / "annotations").iterdir():
        shutil.move(path, tiny / path.name)
    builder, rows = build(tiny, tmp_path / "cache")
    row = next(row for row in rows if row["song_id"] == mp3.stem)
    assert row["audio"]["path"] == f"{mp3.stem}.wav"
    assert row["audio_seconds"] == len(audio) / rate
    assert builder.raw_defects == []


def test_a_recording_that_is_not_in_metadata_gets_a_row(tiny, tmp_path):
    shutil.copy(next(tiny.glob("EDA/*.csv")), tiny / "EDA" / "999_EDA.csv")
    shutil.copy(next(tiny.glob("chorus/*.mp3")), tiny / "chorus" / "998.mp3")
    _, rows = build(tiny, tmp_path / "cache")
    by_id = {row["song_id"]: row for row in rows}
    assert len(by_id) == 5
    assert {"not_in_metadata", "audio_missing"} <= kinds(by_id["999"])
    assert {"not_in_metadata", "eda_missing"} <= kinds(by_id["998"])


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "columns"),
        (b"time(s),100101\n", "no rows"),
        (b"time(s),100101\n0.0,1.0\n", "too few"),
        (b"time(s),100101\n0.0,1.0\nsoon,1.1\n", "not a number"),
        (b"time(s),100101\n0.0,1.0\n0.02\n", "line 3: 1 cell "),
        (b"time(s),100101\n0.02,1.0\n0.0,1.1\n", "goes from"),
        (b"\xff\xfe\x00\x01\n1,2\n", "line 1 is not UTF-8"),
        (b"time(s),100101\n0.0,1.0\n0.02,\xff\xff\n", "line 3 is not UTF-8"),
        (b"time(s);100101\n0,0;1,0\n0,02;1,1\n", "commas"),
        (b"time(s),100101\r0.0,1.0\r0.02,1.1\r", "line 1 "),
        (b",time(s),100101\n0,0.0,1.0\n1,0.02,1.1\n", "column is ''"),
        (b"100101,time(s)\n1.0,0.0\n1.1,0.02\n", "column is '100101'"),
        (b"0.0,1.0\n0.02,1.1\n0.04,1.1\n", "column is '0.0'"),
    ],
)
def test_an_unreadable_eda_file_is_a_defect_and_the_song_stays(tiny, tmp_path, content, expected):
    path = sorted(tiny.glob("EDA/*.csv"))[0]
    path.write_bytes(content)
    _, rows = build(tiny, tmp_path / "cache")
    assert len(rows) == 3
    (defect,) = [d for row in rows for d in row["defects"] if d["what"] == "unreadable_eda"]
    assert path.name in defect["detail"]
    assert expected in defect["detail"]
    assert "\n" not in defect["detail"]


def edit_metadata(root: Path, old: str, new: str) -> None:
    path = root / "metadata.csv"
    assert old in path.read_text()
    path.write_bytes(path.read_text().replace(old, new).encode())


@pytest.mark.parametrize("title", ['"Björk, ""Jóga"""', "Don't; stop"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_quoted_title_is_read_with_any_line_ends(tiny, tmp_path, title, newline):
    edit_metadata(tiny, "Synthetic song 1", title)
    edit_metadata(tiny, "\n", newline)
    _, rows = build(tiny, tmp_path / "cache")
    assert [row["title"] for row in rows] == [
        next(csv.reader([title]))[0],
        "Synthetic song 2",
        "Synthetic song 3",
    ]
    assert len({row["artist"] for row in rows}) == 2


@pytest.mark.parametrize("title", ["Hello, World", '"Heroes'])
def test_a_title_that_would_shift_columns_or_merge_lines_is_an_error(tiny, title):
    edit_metadata(tiny, "Synthetic song 1", title)
    with pytest.raises(ValueError, match=r"metadata.csv line 2: ") as error:
        read_tree(tiny)
    assert "\n" not in str(error.value)


def test_blank_rows_and_trailing_commas_add_no_songs(tiny):
    edit_metadata(tiny, "\n", ",\n")
    path = tiny / "metadata.csv"
    path.write_text(path.read_text() + ",,,,,,,,\n  , \n\n")
    assert len(read_tree(tiny).songs) == 3


def test_ids_saved_as_floats_are_the_same_songs(tiny, tmp_path):
    before = build(tiny, tmp_path / "cache")[1]
    for path in (tiny / "metadata.csv", *(tiny / "annotations").iterdir()):
        path.write_text(re.sub(r"^(\d+),", r"\1.0,", path.read_text(), flags=re.MULTILINE))
    assert build(tiny, tmp_path / "cache")[1] == before


def test_eda_in_a_subfolder_is_used_unless_the_song_has_a_file_already(tiny, tmp_path):
    first, second, _ = sorted(tiny.glob("EDA/*.csv"))
    (tiny / "EDA" / "0").mkdir()
    shutil.copy(second, tiny / "EDA" / "0" / second.name)
    shutil.move(first, tiny / "EDA" / "0" / first.name)
    builder, rows = build(tiny, tmp_path / "cache")
    assert len(rows) == 3
    assert not any("eda_missing" in kinds(row) for row in rows)
    assert [(d["what"], d["detail"]) for d in builder.raw_defects] == [("unexpected_file", f"EDA/0/{second.name}")]


def test_a_folder_that_cannot_be_opened_is_an_error(tiny, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "chorus":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="chorus"):
        read_tree(tiny)


def test_files_that_cannot_be_opened_are_defects_and_change_the_digest(tiny, tmp_path):
    digest = read_tree(tiny).digest
    for path in (sorted(tiny.glob("EDA/*.csv"))[0], sorted(tiny.glob("chorus/*.mp3"))[0]):
        path.unlink()
        path.symlink_to(tmp_path / "an unmounted disk")
    _, rows = build(tiny, tmp_path / "cache")
    details = {d["what"]: d["detail"] for row in rows for d in row["defects"] if d["what"].startswith("unreadable")}
    assert details.keys() == {"unreadable_eda", "unreadable_audio"}
    assert all(os.strerror(errno.ENOENT) in detail for detail in details.values())
    assert read_tree(tiny).digest != digest


def test_the_hash_depends_on_the_content_but_not_on_the_folder_of_the_tree(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "elsewhere" / "deep")
    before = PmemoBuilder(raw_dir=tiny, cache_dir=str(tmp_path / "cache")).hash
    assert PmemoBuilder(raw_dir=tmp_path / "elsewhere", cache_dir=str(tmp_path / "cache")).hash == before
    path = sorted(tiny.glob("EDA/*.csv"))[0]
    text = path.read_text()
    path.write_text(text[:-2] + ("1" if text[-2] != "1" else "2") + "\n")  # the same size
    assert PmemoBuilder(raw_dir=tiny, cache_dir=str(tmp_path / "cache")).hash != before


def test_the_builder_works_without_prepare_and_detects_a_changed_value(tiny, tmp_path):
    def value() -> float:
        builder = PmemoBuilder(raw_dir=tiny, cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        dataset = builder.as_dataset(split="train")
        assert len(dataset) == 3
        assert dataset.features == builder.info.features
        return dataset[0]["trials"][0]["eda"][0]

    before = value()
    path = min(tiny.glob("EDA/*.csv"), key=lambda path: int(path.stem.split("_")[0]))
    lines = path.read_text().splitlines()
    time, _, *rest = lines[1].split(",")
    path.write_text("\n".join([lines[0], ",".join([time, "1.25", *rest]), *lines[2:]]) + "\n")
    assert before != 1.25
    assert value() == 1.25


# Parsing and checks


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=width + 1, max_size=width + 1),
            min_size=1,
            max_size=8,
        )
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_numbers_are_read_as_written(table, newline):
    names = [f"{100101 + i}" for i in range(len(table[0]) - 1)]
    text = newline.join([",".join(["time(s)", *names]), *(",".join(map(repr, row)) for row in table)]) + newline
    listeners, columns, defects = read_eda(text.encode())
    assert listeners == names
    assert not defects
    np.testing.assert_array_equal(columns, np.array(table))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error_in_one_line(data):
    try:
        listeners, columns, _ = read_eda(data)
    except ValueError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert columns.shape[1] == len(listeners) + 1


@pytest.mark.parametrize(
    "cell, seconds", [("75.5", 75.5), ("01:15.5", 75.5), ("0:01:15.5", 75.5), ("", None), ("0", 0.0)]
)
def test_chorus_times_are_seconds_or_clock_times(cell, seconds):
    assert parse_clock(cell) == seconds


def test_the_rate_is_computed_from_steps_not_samples():
    rate, defects = check_time(np.arange(1610) * 0.02, 50.0)
    assert rate == pytest.approx(50.0, rel=1e-12)
    assert not defects
    rate, defects = check_time(np.arange(100) * 0.005, 50.0)
    assert rate == pytest.approx(200.0)
    assert [defect["what"] for defect in defects] == ["unexpected_rate"]


@pytest.mark.parametrize(
    "samples, audio_seconds, expected",
    [
        (1610, 32.2, None),
        (1610, 32.191, None),
        (1610, 32.03, "eda_longer_than_audio"),
        (1500, 32.2, "eda_shorter_than_audio"),
    ],
)
def test_ends_may_differ_by_half_a_sample(samples, audio_seconds, expected):
    defects = check_ends(0.0, samples, 50.0, audio_seconds)
    assert [defect["what"] for defect in defects] == ([expected] if expected else [])


@pytest.mark.parametrize(
    "eda, expected",
    [
        (np.full(600, np.nan), {"nan_run", "too_short_trial"}),
        (np.full(600, 5.0), {"flat_eda", "few_levels"}),
        (np.linspace(1, 2, 600), set()),
        (np.linspace(1, 2, 400), {"too_short_trial"}),
        (np.linspace(-1, 2, 600), {"negative_eda"}),
        (np.linspace(55, 65, 600), {"out_of_range"}),
        (np.where(np.arange(600) == 300, 3.0, np.linspace(1, 2, 600)), {"steep_slope"}),
    ],
)
def test_the_defects_of_a_trial_are_detected(eda, expected):
    assert {defect["what"] for defect in check_trial(eda, 50.0, "100101")} == expected


# The synthetic controls


def trial_correlations(rows: list[dict]) -> np.ndarray:
    """Return the correlation per trial on the last 6 songs of a ridge regression fitted on the first 14.

    Inputs are 10 s of lags of the loudness (RMS and dB), at 4 Hz; targets are EDA, detrended and scaled per trial.
    """
    train, test = [], []
    for i, row in enumerate(rows):
        audio, rate = read_audio(row["audio"]["bytes"])
        frames = audio[: len(audio) // (rate // 4) * (rate // 4)].reshape(-1, rate // 4)
        rms = np.sqrt((frames**2).mean(1))
        features = np.stack([rms, 20 * np.log10(rms + 1e-4)], axis=1)
        padded = np.concatenate([np.tile(features.mean(0), (40, 1)), features])
        lagged = np.concatenate([padded[40 - lag : 40 - lag + len(features)] for lag in range(40)], axis=1)
        for trial in row["trials"]:
            eda = np.nan_to_num(np.array(trial["eda"]), nan=np.nanmean(trial["eda"]))
            samples = (np.arange(len(features)) * row["eda_rate"] / 4).astype(int)
            target = detrend(eda[samples[samples < len(eda)]])
            (train if i < 14 else test).append((lagged[: len(target)], target / target.std()))
    inputs, targets = (np.concatenate(parts) for parts in zip(*train, strict=True))
    mean, std = inputs.mean(0), inputs.std(0)
    inputs = (inputs - mean) / std
    weights = np.linalg.solve(inputs.T @ inputs + 300 * np.eye(inputs.shape[1]), inputs.T @ targets)
    return np.array([np.corrcoef((x - mean) / std @ weights, y)[0, 1] for x, y in test])


def sample_rows(config: str) -> list[dict]:
    (path,) = SAMPLE.glob(f"{config}-train-*.parquet")
    return pq.read_table(path).to_pylist()


def test_eda_of_the_coupled_sample_can_be_predicted_from_the_sound():
    correlations = trial_correlations(sample_rows("sample"))
    assert correlations.mean() > 0.6
    assert np.median(correlations) > 0.6


def test_eda_of_the_null_sample_cannot_be_predicted_from_the_sound():
    correlations = trial_correlations(sample_rows("sample_null"))
    by_song = correlations.reshape(6, 6).mean(1)
    assert abs(correlations.mean()) < 0.12
    assert abs(by_song.mean()) < 2.5 * by_song.std(ddof=1) / math.sqrt(6)


def test_both_samples_have_the_same_sound_and_a_similar_spread_of_eda():
    coupled, null = sample_rows("sample"), sample_rows("sample_null")
    assert [row["audio"] for row in coupled] == [row["audio"] for row in null]

    def spread(rows: list[dict]) -> np.ndarray:
        return np.array([detrend(trial["eda"]).std() for row in rows[6:] for trial in row["trials"]])

    assert np.median(spread(coupled)) == pytest.approx(np.median(spread(null)), rel=0.2)


def test_the_bateman_kernel_peaks_where_its_derivative_is_zero():
    kernel = bateman_kernel(1000.0)
    peak = math.log(2.0 / 0.75) / (1 / 0.75 - 1 / 2.0)  # s
    assert kernel.max() == 1
    assert np.argmax(kernel) / 1000 == pytest.approx(peak, abs=1e-3)
    assert kernel[0] == 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    def content(folder: str, seed: int) -> dict[str, bytes]:
        synthesize(tmp_path / folder, num_songs=2, num_listeners=1, seconds=(5.0, 5.0), defects="none", seed=seed)
        root = tmp_path / folder / "PMEmo2019"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    first = content("a", 0)
    assert content("b", 0) == first
    assert content("c", 1) != first


@pytest.mark.parametrize(
    "options", [{"coupling": 1.5}, {"num_songs": 0}, {"seconds": (30.0, 20.0)}, {"num_songs": 5, "defects": "all"}]
)
def test_the_error_for_an_impossible_option_names_it(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        synthesize(tmp_path, **options)


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e400", "\u0661"])
def test_infinity_and_digits_of_other_scripts_are_a_defect(cell):
    _, columns, defects = read_eda(f"time(s),100101\n0.0,{cell}\n0.02,1.5\n".encode())
    np.testing.assert_array_equal(columns, [[0, np.nan], [0.02, 1.5]])
    assert [(defect["what"], defect["how_much"]) for defect in defects] == [("non_numeric_cell", 1)]
