"""HKU956: every kind of defect is detected, replayed and skipped songs are kept, missing sounds are listed."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.defects import SIGNAL_DEFECTS
from hf_datasets.hku956.builder import Hku956Builder
from hf_datasets.hku956.raw import SIGNALS_FOLDER, find_root, read_signal, settle_rate
from hf_datasets.hku956.synthesize import synthesize
from hf_datasets.prepare import main
from tasks.eda.items import skin_temperature
from tests.helpers import prepared_data
from tests.helpers.prepared_data import kinds

SHORT = {"seconds": (15.0, 18.0), "num_participants": 4, "listeners_a_song": 3}
NOT_HKU = {  # kinds that only other data sets have, and one that test_odd_names.py tests
    "missing_dynamic_annotation", "missing_annotation_file", "clip_shorter_than_annotation",
    "chorus_duration_mismatch", "irregular_time", "duplicate_listener", "duplicate_metadata_row",
    "name_not_utf8",
}  # fmt: skip


def rows_of(raw: Path, **options: object) -> list[dict]:
    return prepared_data.rows_of(Hku956Builder(raw_dir=raw, cache_dir=raw / "cache", **options))


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    synthesize(folder, num_songs=3, defects="none", **SHORT)
    return folder


@pytest.fixture
def tree(clean, tmp_path) -> Path:
    """Return a copy of the root of a clean tree, which a test may damage."""
    return Path(shutil.copytree(clean / "HKU956", tmp_path / "HKU956"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> tuple[Path, list[dict], list[dict]]:
    """Return a tree with all damage, its rows, and the defects that belong to no row."""
    folder = tmp_path_factory.mktemp("damaged")
    synthesize(folder, num_songs=20, defects="all", **SHORT)
    builder = Hku956Builder(raw_dir=folder, cache_dir=folder / "cache")
    return folder / "HKU956", rows_of(folder), builder.raw_defects


@pytest.mark.parametrize(
    "song, expected",
    [
        (0, {"replayed_song"}),
        (1, {"not_in_metadata"}),
        (2, {"duplicate_annotation_row"}),
        (3, {"flat_eda", "few_levels"}),
        (4, {"nan_run"}),
        (6, {"unreadable_audio"}),
        (7, {"audio_missing"}),
        (8, {"empty_file"}),
        (9, {"unreadable_eda"}),
        (10, {"non_numeric_cell"}),
        (11, {"start_time_line"}),
        (12, {"unexpected_rate"}),
        (13, {"unclear_rate", "eda_longer_than_audio"}),
        (14, {"out_of_range", "steep_slope"}),
        (15, {"negative_eda"}),
        (16, {"signal_missing", "eda_missing"}),
        (17, {"too_short_trial", "eda_shorter_than_audio"}),
        (18, {"unusable_recording", "unexpected_rate"}),
        (19, {"missing_annotation"}),
    ],
)
def test_the_defects_of_a_damaged_song_are_detected(damaged, song, expected):
    assert expected <= kinds(damaged[1][song])


def test_every_kind_of_defect_is_synthesized_and_detected(damaged):
    _, rows, raw_defects = damaged
    detected = {defect["what"] for row in rows for defect in row["defects"]}
    assert detected | {defect["what"] for defect in raw_defects} == set(SIGNAL_DEFECTS) - NOT_HKU


def test_defects_that_belong_to_no_song_are_detected(damaged):
    detected = {(defect["what"], defect["listener"] or defect["detail"]) for defect in damaged[2]}
    assert ("unexpected_file", f"{SIGNALS_FOLDER}/participant1/EDA/notes.txt") in detected
    assert ("missing_personality", "hku1904") in detected


def test_a_clean_tree_has_only_skipped_and_replayed_songs(clean):
    assert {kind for row in rows_of(clean) for kind in kinds(row)} <= {"skipped_song", "replayed_song"}


def test_a_replay_is_another_trial(clean):
    first = rows_of(clean)[0]
    trials = [(trial["listener"], trial["song_no"]) for trial in first["trials"]]
    assert len(trials) == len(set(trials)) == 4
    assert len({listener for listener, _ in trials}) == 3
    assert len({trial["trial"] for trial in first["trials"]}) == 4
    listeners = [listener for listener, _ in trials]
    (replay,) = [defect for defect in first["defects"] if defect["what"] == "replayed_song"]
    assert replay["how_much"] == listeners.count(replay["listener"]) == 2


def test_signals_have_the_values_of_the_files(clean):
    root = find_root(clean)
    for row in rows_of(clean):
        for trial in row["trials"]:
            for column, kind in (("eda", "EDA"), ("bvp", "BVP"), ("hr", "HR"), ("temperature", "TEMP")):
                text = root.read(
                    f"{SIGNALS_FOLDER}/{trial['listener']}/{kind}/{trial['song_no']}_{row['song_id']}.csv"
                )
                expected = np.array(text.split(), float).astype(np.float32)
                np.testing.assert_array_equal(np.array(trial[column], np.float32), expected)


def test_a_skipped_song_keeps_the_length_of_its_eda(clean):
    skipped = [
        (row, trial)
        for row in rows_of(clean)
        for trial in row["trials"]
        if trial["play_duration"] < row["audio_seconds"] - 2
    ]
    assert skipped
    for row, trial in skipped:
        assert len(trial["eda"]) == round(trial["play_duration"] * row["eda_rate"])
        (defect,) = [d for d in row["defects"] if d["what"] == "skipped_song" and d["listener"] == trial["listener"]]
        assert defect["how_much"] == pytest.approx(row["audio_seconds"] - trial["play_duration"], abs=1e-5)


@given(rate=st.sampled_from([4.0, 1.0, 8.0, 32.0]), duration=st.floats(45, 320), excess=st.floats(-1.5, 1.5))
def test_the_rate_is_the_one_that_matches_the_listening_time(rate, duration, excess):
    samples = round(rate * (duration + excess))
    assert settle_rate(samples, duration, 4.0) == (rate, True)


def test_without_a_listening_time_or_a_matching_rate_the_usual_rate_is_used():
    assert settle_rate(100, None, 4.0) == (4.0, True)
    assert settle_rate(600, 100.0, 4.0) == (4.0, False)


@pytest.mark.parametrize(
    "text, values, start, texts",
    [
        (b"1.5\n2.5\n", [1.5, 2.5], None, []),
        (b"\xef\xbb\xbf1.5\r\n2.5,\r\n", [1.5, 2.5], None, []),
        (b"1546300800.0\n4.0\n0.3\n", [0.3], 1546300800.0, []),
        (b"1546300800\n0.3\n0.2\n", [0.3, 0.2], 1546300800.0, []),
        (b"1\n\n3\nx\n", [1, np.nan, 3, np.nan], None, ["x"]),
        (b"inf\n1\n", [np.nan, 1], None, ["inf"]),
        (
            "1e400\n1\n\N{ARABIC-INDIC DIGIT ONE}\n".encode(),
            [np.nan, 1, np.nan],
            None,
            ["1e400", "\N{ARABIC-INDIC DIGIT ONE}"],
        ),
        (b"", [], None, []),
    ],
)
def test_a_signal_is_one_value_per_line(text, values, start, texts):
    read_values, *rest = read_signal(text)
    np.testing.assert_array_equal(read_values, values)
    assert rest == [start, texts]


@given(st.binary(max_size=200))
def test_a_signal_of_any_bytes_is_read_or_is_a_value_error(data):
    try:
        values, _, _ = read_signal(data)
    except ValueError:
        return
    assert values.ndim == 1
    assert not np.isinf(values).any()


def test_sounds_are_read_from_audio_root_and_missing_ones_are_listed_with_their_link(tree, tmp_path, capsys):
    sounds = tree / "audio"
    elsewhere = tmp_path / "jamendo" / "deep"
    elsewhere.parent.mkdir()
    shutil.move(sounds, elsewhere)
    missing = sorted(elsewhere.iterdir())[0]
    missing.unlink()
    folders = ["--audio_root", tmp_path / "jamendo", "--output_dir", tmp_path / "out"]
    main(["hku956", "--raw_dir", *map(str, [tree, *folders])])
    with open(tmp_path / "out" / "missing_audio.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert listed == [{"song_id": missing.stem, "link": f"https://example.org/track/{missing.stem}"}]
    assert "audio_missing" in capsys.readouterr().out
    rows = rows_of(tree)  # without audio_root
    assert all("audio_missing" in kinds(row) for row in rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["hku956", "--raw_dir", "{tree}", "--audio_root", "{tree}/none"], "--audio_root={tree}/none: "),
        (["pmemo", "--raw_dir", "{tree}", "--audio_root", "{tree}"], "--audio_root={tree}: .*pmemo.* --raw_dir"),
        (["hku956", "--raw_dir", "{tree}/audio"], "--raw_dir={tree}/audio: .*'1. physiological_signals'"),
    ],
)
def test_wrong_folders_are_an_error_in_one_line(arguments, message, tree):
    with pytest.raises(SystemExit, match=message.format(tree=tree)):
        main([argument.format(tree=tree) for argument in arguments])


def test_two_trees_are_an_error_that_names_both(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "copy")
    with pytest.raises(ValueError, match=f"{tree}/?, {tmp_path / 'copy'}"):
        find_root(tmp_path)


def test_a_missing_table_is_a_defect(tree, tmp_path):
    (tree / "3. AV_ratings.csv").unlink()
    builder = Hku956Builder(raw_dir=tree, cache_dir=tmp_path / "cache")
    assert [d["what"] for d in builder.raw_defects] == ["missing_annotation_file"]


def test_temperature_is_interpolated_at_the_times_of_the_eda():
    trial = {"temperature": [30.0, 31.0, 32.0], "offset_seconds": 0.0}
    np.testing.assert_allclose(skin_temperature(trial, 4.0, 2.0), [30, 30.5, 31, 31.5, 32, 32])
    later = skin_temperature(trial | {"offset_seconds": 0.5}, 4.0, 4.0)
    np.testing.assert_allclose(later, [np.nan, np.nan, 30, 31, 32])
    assert skin_temperature({"offset_seconds": 0.0}, 4.0, 4.0) is None
    assert skin_temperature(trial | {"temperature": None}, 4.0, 4.0) is None
