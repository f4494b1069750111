"""Test the eda task on the committed sample: alignment, splits, scaling, caching and excluded trials."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset

from evaluation.descriptors import SAMPLING_RATE, describe
from launch.run import parse_run
from media.audio import read_audio
from media.biosignal import process_eda
from media.eda_settings import EdaSettings
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.layers import IGNORE_LABEL
from tasks.eda import items
from tasks.eda.collator import SignalCollator
from tasks.eda.data import EdaData
from tasks.eda.items import align_to_audio
from tasks.eda.settings import EdaTaskSettings
from tasks.eda.task import TASK
from tests.conftest import REPOSITORY
from training.build import build_model
from training.environment import version
from training.task import Run


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Return the first 12 songs of the positive control."""
    return load_dataset(str(REPOSITORY / "hf_datasets/pmemo"), "sample", split="train").select(range(12))


def make_run(*settings: str) -> Run[EdaTaskSettings]:
    """Return a run with fractions that suit twelve songs."""
    return parse_run(["configs/eda_tcn.json", "--test_fraction", "0.3", "--validation_fraction", "0.2", *settings])


def prepare(rows: Dataset, *settings: str) -> tuple[Run[EdaTaskSettings], AudioFeatureExtractor, EdaData]:
    """Return a run, its extractor and its data."""
    run = make_run(*settings)
    extractor = TASK.features(run)
    return run, extractor, TASK.prepare(rows, extractor, run)


def defect(name: str) -> dict[str, Any]:
    """Return an entry of the column `defects`."""
    return {"listener": None, "what": name, "how_much": None, "unit": "", "detail": ""}


def test_no_song_is_in_two_splits(rows: Dataset) -> None:
    *_, data = prepare(rows)
    songs = {side: set(data.sides[side].song_ids) for side in ("train", "validation", "test")}
    assert all(songs.values())
    assert not songs["train"] & songs["test"]
    assert not songs["train"] & songs["validation"]
    assert not songs["validation"] & songs["test"]


def test_features_and_labels_have_the_same_length_and_labels_convert_back_to_microsiemens(rows: Dataset) -> None:
    run, _, data = prepare(rows)
    recorded = {
        (row["song_id"], trial["listener"]): (trial["eda"], row["eda_rate"]) for row in rows for trial in row["trials"]
    }
    side = data.sides["all"]
    for index in range(len(side)):
        item = side[index]
        assert len(item["input_features"]) == len(item["labels"])
        samples, rate = recorded[side.song_ids[index], side.listeners[index]]
        expected = process_eda(np.asarray(samples), rate, run.settings.target)
        values = data.scaling.invert(item["labels"], side.listeners[index])
        scored = item["labels"][:, 0] != IGNORE_LABEL
        assert np.array_equal(scored, expected.mask[: len(scored)])
        np.testing.assert_allclose(values[scored], expected.values[: len(scored)][scored], atol=1e-5)


def test_listeners_of_a_song_share_its_features(rows: Dataset) -> None:
    *_, data = prepare(rows)
    assert len(data.tables.songs) == len(rows) < len(data.tables.trials)
    side = data.sides["all"]
    assert side.song_ids[0] == side.song_ids[1]
    assert np.shares_memory(side[0]["input_features"], side[1]["input_features"])


def test_training_windows_are_random_and_reproducible_from_their_seed(rows: Dataset) -> None:
    *_, data = prepare(rows, "--window_seconds", "5")
    starts = {data.train[0, seed]["labels"][:, 0].tobytes() for seed in range(20)}
    assert len(starts) > 5
    assert all(len(data.train[0, seed]["labels"]) == 20 for seed in range(20))
    assert data.train[0, 7]["labels"].tobytes() == data.train[0, 7]["labels"].tobytes()
    assert len(data.train[0]["labels"]) > 20  # without a seed: the whole trial


def test_the_target_scaling_is_fitted_on_training_trials_only(rows: Dataset) -> None:
    *_, data = prepare(rows, "--normalisation_scope", "global")
    labels = np.concatenate(data.train.labels)
    scored = labels[labels != IGNORE_LABEL]
    assert scored.mean() == pytest.approx(0, abs=0.02)
    assert scored.std() == pytest.approx(1, abs=0.02)
    test_labels = np.concatenate(data.sides["test"].labels)
    assert test_labels[test_labels != IGNORE_LABEL].std() != pytest.approx(1, abs=1e-4)


def test_the_input_scaling_comes_from_the_training_songs(rows: Dataset) -> None:
    run, extractor, data = prepare(rows)
    model = build_model(run, TASK.model_settings(data, extractor, run))
    TASK.initialise(model, data, new=True, resumed=False)
    frames = {song: data.train.input_features[i] for i, song in enumerate(data.train.song_ids)}
    mean = np.concatenate(list(frames.values())).mean(axis=0)
    # Not equal, because items are cropped to their target and the scaling uses whole songs, a frame longer.
    np.testing.assert_allclose(model.base_model.input_mean.numpy(), mean, atol=0.5)


def test_an_unreadable_song_is_excluded_and_counted(rows: Dataset) -> None:
    defective = rows.map(
        lambda row, i: {"defects": row["defects"] + [defect("unreadable_audio")] * (i == 3)}, with_indices=True
    )
    *_, data = prepare(defective)
    assert data.record()["songs_left_out"] == {"unreadable_audio": 1}
    assert len(data.tables.songs) == len(rows) - 1
    assert rows[3]["song_id"] not in data.sides["all"].song_ids


def test_all_songs_and_trials_are_counted(rows: Dataset) -> None:
    # One song without audio, whose trials are excluded with it, and one song without trials.
    defective = rows.map(
        lambda row, i: {
            "defects": row["defects"] + [defect("audio_missing")] * (i == 2),
            "trials": [] if i == 4 else row["trials"],
        },
        with_indices=True,
    )
    *_, data = prepare(defective, "--split_by", "random_pairs")
    record = data.record()
    assert record["songs_left_out"] == {"audio_missing": 1, "no_trial": 1}
    assert record["trials_rejected"]["song_left_out"] == len(rows[2]["trials"])
    assert record["trials"] == sum(record["trials_rejected"].values()) + len(data.sides["all"])


def test_rejected_trials_are_named_by_reason_up_to_a_limit(rows: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    # One song without audio, and a flat signal in the first trial of every song.
    defective = rows.map(
        lambda row, i: {
            "defects": row["defects"] + [defect("audio_missing")] * (i == 2),
            "trials": [trial | {"eda": [1.0] * len(trial["eda"])} for trial in row["trials"][:1]] + row["trials"][1:],
        },
        with_indices=True,
    )
    *_, data = prepare(defective, "--split_by", "random_pairs")
    record = data.record()
    all_trials = [f"{row['song_id']}/{trial['listener']}/{trial['trial']}" for row in rows for trial in row["trials"]]
    named = [name for names in record["rejected_trials"].values() for name in names]
    assert sorted([*named, *data.split.trials]) == sorted(all_trials)
    assert {reason: len(names) for reason, names in record["rejected_trials"].items()} == record["trials_rejected"]
    assert len(named) > len(rows)
    monkeypatch.setattr(items, "TRIALS_NAMED", 2)
    limited = prepare(defective, "--split_by", "random_pairs")[-1].record()
    assert limited["trials_rejected"] == record["trials_rejected"]
    assert limited["rejected_trials"] == {reason: names[:2] for reason, names in record["rejected_trials"].items()}


def test_the_cache_depends_on_the_versions_of_tables_and_libraries(
    rows: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprints() -> set[str]:
        tables = items.make_tables(rows.select(range(1)), AudioFeatureExtractor(), EdaSettings(), processes=1)
        return {tables.songs._fingerprint, tables.trials._fingerprint}

    before = fingerprints()
    assert fingerprints() == before
    with monkeypatch.context() as patch:
        patch.setattr(items, "TABLES_VERSION", items.TABLES_VERSION + 1)
        assert not fingerprints() & before
    monkeypatch.setattr(items, "version", lambda library: "0.1" if library == "soxr" else version(library))
    assert not fingerprints() & before


def test_tables_have_the_numbers_of_their_version(rows: Dataset) -> None:
    # If a change alters these numbers, raise TABLES_VERSION, so that old caches are not used.
    songs = items.make_features(rows[:2], items.extractor_settings(AudioFeatureExtractor()), made_by={})
    trials = items.process_trials(rows[:1], [0], asdict(EdaSettings(discard_seconds=2.0)), made_by={})
    features, descriptors = (np.concatenate(songs[name]) for name in ("input_features", "descriptors"))
    labels = np.concatenate(trials["labels"])
    assert items.TABLES_VERSION == 1
    assert (features.mean(), features.std()) == pytest.approx((-52.51737, 35.83515), rel=1e-4)
    assert descriptors.mean(axis=0) == pytest.approx([-31.32025, 0.683736, 5.306185, 0.0177637], rel=1e-4)
    assert (np.nanmean(labels), np.nanstd(labels)) == pytest.approx((7.917956, 2.829464), rel=1e-4)
    assert (len(features), len(labels), np.isfinite(labels).sum()) == (239, 684, 636)


def test_each_song_is_decoded_once(rows: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def count_reads(source: bytes, *arguments: Any, **keywords: Any) -> tuple[np.ndarray, int]:
        decoded.append(source)
        return read_audio(source, *arguments, **keywords)

    monkeypatch.setattr(items, "read_audio", count_reads)
    batch, extractor = rows[:2], AudioFeatureExtractor(sampling_rate=16000)
    tables = items.make_features(batch, items.extractor_settings(extractor), made_by={})
    assert decoded == [audio["bytes"] for audio in batch["audio"]]
    for source, features, descriptors in zip(decoded, tables["input_features"], tables["descriptors"], strict=True):
        expected = extractor(read_audio(source, 16000)[0], sampling_rate=16000)["input_features"][0]
        np.testing.assert_allclose(features, expected, atol=1e-4)
        assert np.array_equal(descriptors, describe(read_audio(source, SAMPLING_RATE)[0], 4.0))


def test_an_error_gives_the_reasons_if_no_trial_is_usable(rows: Dataset) -> None:
    with pytest.raises(ValueError, match="1 song: .*trials_rejected=.*too_short"):
        prepare(rows.select(range(1)), "--min_seconds", "500")


@pytest.mark.parametrize("target", ["raw", "tonic", "phasic", "both", "difference"])
@pytest.mark.parametrize("scope", ["global", "listener", "trial"])
def test_every_target_and_scope_gives_finite_batches_with_a_unit(rows: Dataset, target: str, scope: str) -> None:
    run, extractor, data = prepare(rows.select(range(6)), "--eda_target", target, "--normalisation_scope", scope)
    batch = SignalCollator()([data.train[0, 1], data.train[1, 2]])
    assert all(torch.isfinite(tensor).all() for tensor in batch.values())
    settings = TASK.model_settings(data, extractor, run)
    assert settings["output_size"] == batch["labels"].shape[2] == (2 if target == "both" else 1)
    assert settings["target_unit"].startswith("z (per trial)" if scope == "trial" else "uS")
    json.dumps(settings)


@pytest.mark.parametrize("split_by", ["listener", "song_listener"])
def test_listener_scaling_is_rejected_for_unseen_test_listeners(split_by: str) -> None:
    with pytest.raises(SystemExit, match=f"normalisation_scope=listener: .*split_by={split_by}"):
        make_run("--split_by", split_by, "--normalisation_scope", "listener")


def test_a_causal_run_has_a_causal_model_and_extractor(rows: Dataset) -> None:
    run, extractor, data = prepare(rows, "--causal", "true")
    model = build_model(run, TASK.model_settings(data, extractor, run))
    assert model.config.causal
    assert extractor.pooling == "past"
    with pytest.raises(ValueError, match="model_config.causal"):
        run = make_run("--causal", "true", "--model_config.causal", "false")
        build_model(run, TASK.model_settings(data, extractor, run))


def test_features_are_cached_until_a_feature_setting_changes(rows: Dataset) -> None:
    def fingerprint(*settings: str) -> str:
        return prepare(rows, *settings)[2].tables.songs._fingerprint

    assert fingerprint() == fingerprint() == fingerprint("--learning_rate", "0.1")
    assert fingerprint() != fingerprint("--feature_config.num_mel_bins", "32")


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0.0, [1, 2, 3, 4]), (0.5, [np.nan, 1, 2, 3, 4]), (-1.0, [3, 4]), (1.0, [np.nan, np.nan, 1, 2, 3, 4])],
)
def test_sample_zero_is_the_start_of_the_audio(offset: float, expected: list[float]) -> None:
    np.testing.assert_array_equal(align_to_audio(np.array([1, 2, 3, 4.0]), 2.0, offset), expected)


def test_the_record_is_json(rows: Dataset, tmp_path: Path) -> None:
    *_, data = prepare(rows)
    record = json.loads(json.dumps(data.record(), allow_nan=False))
    assert record["trials"] == sum(record["trials_rejected"].values()) + len(data.sides["all"])


def test_the_control_exchanges_audio_in_training_only(rows: Dataset) -> None:
    *_, plain = prepare(rows)
    *_, control = prepare(rows, "--shuffle_songs", "true")
    sounds = dict(zip(plain.train.song_ids, plain.train.input_features, strict=True))
    for song, sound, labels in zip(
        control.train.song_ids, control.train.input_features, control.train.labels, strict=True
    ):
        frames = min(len(sound), len(sounds[song]))
        assert not np.array_equal(sound[:frames], sounds[song][:frames])
        assert any(np.array_equal(sound, other[: len(sound)]) for other in sounds.values())
        assert len(sound) == len(labels)
    assert all(map(np.array_equal, plain.sides["test"].input_features, control.sides["test"].input_features))
    assert plain.record()["control"] is None
    assert "control" in control.record()["control"]
