"""HKU956: every kind of defect is found where it is, replays and skips stay as they are, missing sounds are listed."""

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
NOT_HKU = {  # kinds that only other data sets can have, and one of all that test_odd_names.py makes
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
    """A copy of the root of a clean tree, to be damaged."""
    return Path(shutil.copytree(clean / "HKU956", tmp_path / "HKU956"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> tuple[Path, list[dict], list[dict]]:
    """A tree with all damage, its rows, and the defects that belong to none."""
    folder = tmp_path_factory.mktemp("damaged")
    synthesize(folder, num_songs=20, defects="all", **SHORT)
    builder = Hku956Builder(raw_dir=folder, cache_dir=folder / "cache")
    return folder / "HKU956", rows_of(folder), builder.raw_defects


@pytest.mark.parametrize(
    "place, expected",
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
def test_a_damaged_song_shows_its_damage(damaged, place, expected):
    assert expected <= kinds(damaged[1][place])


def test_every_kind_of_defect_that_can_be_here_is_made_and_found(damaged):
    _, rows, others = damaged
    found = {defect["what"] for row in rows for defect in row["defects"]} | {defect["what"] for defect in others}
    assert found == set(SIGNAL_DEFECTS) - NOT_HKU


def test_what_belongs_to_no_song_is_told_too(damaged):
    found = {(defect["what"], defect["listener"] or defect["detail"]) for defect in damaged[2]}
    assert ("unexpected_file", f"{SIGNALS_FOLDER}/participant1/EDA/notes.txt") in found
    assert ("missing_personality", "hku1904") in found


def test_a_clean_tree_has_only_what_listeners_do(clean):
    assert {kind for row in rows_of(clean) for kind in kinds(row)} <= {"skipped_song", "replayed_song"}


def test_a_replay_is_a_trial_of_its_own(clean):
    first = rows_of(clean)[0]
    trials = [(trial["listener"], trial["song_no"]) for trial in first["trials"]]
    assert len(trials) == len(set(trials)) == 4
    assert len({listener for listener, _ in trials}) == 3
    assert len({trial["trial"] for trial in first["trials"]}) == 4
    listeners = [listener for listener, _ in trials]
    (again,) = [defect for defect in first["defects"] if defect["what"] == "replayed_song"]
    assert again["how_much"] == listeners.count(again["listener"]) == 2


def test_signals_are_what_the_files_say(clean):
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


@given(rate=st.sampled_from([4.0, 1.0, 8.0, 32.0]), duration=st.floats(45, 320), beside=st.floats(-1.5, 1.5))
def test_the_rate_is_the_one_that_lasts_as_long_as_the_person_listened(rate, duration, beside):
    samples = round(rate * (duration + beside))
    assert settle_rate(samples, duration, 4.0) == (rate, True)


def test_without_a_listening_time_or_a_rate_that_fits_the_usual_one_is_taken():
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
def test_a_signal_is_one_value_a_line(text, values, start, texts):
    got, began, odd = read_signal(text)
    np.testing.assert_array_equal(got, values)
    assert (began, odd) == (start, texts)


@given(st.binary(max_size=200))
def test_a_signal_of_any_bytes_is_read_or_refused(data):
    try:
        values, _, _ = read_signal(data)
    except ValueError:
        return
    assert values.ndim == 1
    assert not np.isinf(values).any()


def test_sounds_come_from_any_folder_and_what_is_missing_is_listed_with_its_link(tree, tmp_path, capsys):
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
    rows = rows_of(tree)  # without the folder
    assert all("audio_missing" in kinds(row) for row in rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["hku956", "--raw_dir", "{tree}", "--audio_root", "{tree}/none"], "--audio_root .*none does not exist; give"),
        (["pmemo", "--raw_dir", "{tree}", "--audio_root", "{tree}"], "the sounds of pmemo lie in its --raw_dir"),
        (["hku956", "--raw_dir", "{tree}/audio"], "should hold '1. physiological_signals'"),
    ],
)
def test_wrong_folders_are_one_line(arguments, message, tree):
    with pytest.raises(SystemExit, match=message):
        main([argument.format(tree=tree) for argument in arguments])


def test_two_trees_or_a_missing_table_are_told(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "copy")
    with pytest.raises(ValueError, match="holds several trees"):
        find_root(tmp_path)
    (tree / "3. AV_ratings.csv").unlink()
    builder = Hku956Builder(raw_dir=tree, cache_dir=tmp_path / "cache")
    assert [d["what"] for d in builder.raw_defects] == ["missing_annotation_file"]


def test_temperature_is_brought_to_the_times_of_the_eda():
    trial = {"temperature": [30.0, 31.0, 32.0], "offset_seconds": 0.0}
    np.testing.assert_allclose(skin_temperature(trial, 4.0, 2.0), [30, 30.5, 31, 31.5, 32, 32])
    later = skin_temperature(trial | {"offset_seconds": 0.5}, 4.0, 4.0)
    np.testing.assert_allclose(later, [np.nan, np.nan, 30, 31, 32])
    assert skin_temperature({"offset_seconds": 0.0}, 4.0, 4.0) is None
    assert skin_temperature(trial | {"temperature": None}, 4.0, 4.0) is None
