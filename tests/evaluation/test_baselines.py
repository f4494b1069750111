"""Baselines of signals: each picks up exactly the structure that it can represent."""

import librosa
import numpy as np
import pytest

from evaluation import signal_baselines as baselines
from evaluation.descriptors import DESCRIPTORS, SAMPLING_RATE, describe
from evaluation.signal_baselines import (
    BASELINES_WITH_SOUND,
    BASELINES_WITHOUT_SOUND,
    TrialsWithSound,
    bateman,
    lagged,
    mean_of_others,
    ridge,
)

RATE = 4.0  # Hz


def make_trials(songs: int, listeners: int, drive: float, drift: float, seed: int) -> TrialsWithSound:
    """Make songs of 100 to 160 frames whose loudness drives the target 2 s later, plus a drift shared by trials."""
    generator = np.random.default_rng(seed)
    descriptors = [generator.normal(size=(generator.integers(100, 160), len(DESCRIPTORS))) for _ in range(songs)]
    targets, masks, song_of_trial = [], [], []
    for song, sound in enumerate(descriptors):
        for _ in range(listeners):
            delayed = np.concatenate([np.zeros(8), sound[:-8, 0]])
            time = np.arange(len(sound))
            targets.append(drive * delayed + drift * time / 100 + generator.normal(0, 0.3, len(sound)))
            masks.append(generator.random(len(sound)) > 0.1)
            song_of_trial.append(song)
    return TrialsWithSound(targets, masks, song_of_trial, descriptors, RATE)


def correlation(predictions: list[np.ndarray], trials: TrialsWithSound) -> float:
    """Return the mean correlation within trials, over the frames that count."""
    pairs = zip(predictions, trials.targets, trials.masks, strict=True)
    return float(np.mean([np.corrcoef(prediction[mask], target[mask])[0, 1] for prediction, target, mask in pairs]))


def test_ridge_learns_the_sound_and_the_curves_learn_the_drift() -> None:
    train, test = make_trials(20, 4, drive=1.0, drift=0.0, seed=0), make_trials(8, 4, drive=1.0, drift=0.0, seed=1)
    assert correlation(ridge(train)(test), test) > 0.9
    assert correlation(baselines.time_curve(train)(test), test) < 0.2
    train, test = make_trials(20, 4, drive=0.0, drift=2.0, seed=0), make_trials(8, 4, drive=0.0, drift=2.0, seed=1)
    assert correlation(baselines.straight_line(train)(test), test) > 0.8
    assert correlation(baselines.time_curve(train)(test), test) > 0.8


def test_ridge_predicts_almost_a_constant_without_an_effect() -> None:
    train, test = make_trials(20, 4, drive=0.0, drift=0.0, seed=2), make_trials(20, 4, drive=0.0, drift=0.0, seed=3)
    assert abs(correlation(ridge(train)(test), test)) < 0.05
    assert np.concatenate(ridge(train)(test)).std() < 0.05


@pytest.mark.parametrize("name", [*BASELINES_WITHOUT_SOUND, *BASELINES_WITH_SOUND])
def test_masked_training_frames_are_ignored(name: str) -> None:
    fit = (BASELINES_WITHOUT_SOUND | BASELINES_WITH_SOUND)[name]
    train, test = make_trials(6, 2, drive=1.0, drift=1.0, seed=4), make_trials(2, 2, drive=1.0, drift=1.0, seed=5)
    changed = [np.where(mask, target, 1e9) for target, mask in zip(train.targets, train.masks, strict=True)]
    other = TrialsWithSound(changed, train.masks, train.songs, train.descriptors, RATE)
    for expected, prediction in zip(fit(train)(test), fit(other)(test), strict=True):
        np.testing.assert_array_equal(prediction, expected)


@pytest.mark.parametrize("name", [*BASELINES_WITHOUT_SOUND, *BASELINES_WITH_SOUND])
def test_trials_longer_than_the_training_are_predicted_to_the_end(name: str) -> None:
    fit = (BASELINES_WITHOUT_SOUND | BASELINES_WITH_SOUND)[name]
    train, test = make_trials(5, 2, drive=1.0, drift=1.0, seed=6), make_trials(2, 2, drive=1.0, drift=1.0, seed=7)
    longer = [np.append(target, np.zeros(200)) for target in test.targets]
    trials = TrialsWithSound(longer, [np.ones(len(t), bool) for t in longer], test.songs, test.descriptors, RATE)
    for prediction, target in zip(fit(train)(trials), longer, strict=True):
        assert prediction.shape == target.shape
        assert np.isfinite(prediction).all()


@pytest.mark.parametrize("name", BASELINES_WITHOUT_SOUND)
def test_baselines_without_sound_predict_the_same_for_every_song(name: str) -> None:
    train, test = make_trials(6, 2, drive=1.0, drift=1.0, seed=8), make_trials(3, 2, drive=1.0, drift=1.0, seed=9)
    predictions = BASELINES_WITHOUT_SOUND[name](train)(test)
    shortest = min(map(len, predictions))
    assert all(np.array_equal(prediction[:shortest], predictions[0][:shortest]) for prediction in predictions)


def test_the_mean_of_others_leaves_the_listener_out() -> None:
    trials = TrialsWithSound(
        [np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0, 8.0])], [np.ones(2, bool)] * 3, [0] * 3, [], RATE
    )
    np.testing.assert_array_equal(mean_of_others(trials), [[4, 6], [3, 5], [2, 3]])


def test_lags_never_look_ahead() -> None:
    click = np.zeros((60, 1))
    click[20] = 1
    design = lagged(click, RATE, kernel=False)
    assert design.shape == (60, 1 + 33)
    assert not design[:20, 1:].any()
    assert design[20:53, 1:].sum() == 33
    assert not design[53:, 1:].any()


def test_the_kernel_peaks_at_the_time_of_the_formula() -> None:
    # d/dt (exp(-t/2) - exp(-t/0.75)) = 0 at t = ln(2 / 0.75) / (1 / 0.75 - 1 / 2) = 1.18 s
    response = bateman(100.0)
    assert response.argmax() / 100 == pytest.approx(1.18, abs=0.01)
    assert response[0] == 0
    assert response[-1] < 0.01


@pytest.mark.parametrize("seconds", [0.3, 5.0, 7.26])
def test_descriptors_have_one_row_per_frame_and_are_finite(seconds: float) -> None:
    sound = np.zeros(int(seconds * SAMPLING_RATE), np.float32)
    described = describe(sound, RATE)
    assert described.shape == (int(len(sound) / SAMPLING_RATE * RATE) + 1, len(DESCRIPTORS))
    assert np.isfinite(described).all()
    assert described[0, 0] == pytest.approx(-100)  # dB of silence


def test_descriptors_measure_loudness_onsets_brightness_and_flux() -> None:
    time = np.arange(8 * SAMPLING_RATE) / SAMPLING_RATE
    low, high = np.sin(2 * np.pi * 200 * time), np.sin(2 * np.pi * 3200 * time)
    sound = np.where(time < 4, 0.01 * low, 0.1 * high).astype(np.float32)
    loudness, onset, brightness, flux = describe(sound, RATE).T
    assert np.median(loudness[20:30]) - np.median(loudness[2:12]) == pytest.approx(20, abs=0.5)
    assert np.median(brightness[20:30]) - np.median(brightness[2:12]) == pytest.approx(4, abs=0.3)  # octaves
    assert onset.argmax() == 16
    assert flux[1:].argmax() == 15


def test_loudness_agrees_with_librosa() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 4 * SAMPLING_RATE).astype(np.float32)
    expected = 20 * np.log10(librosa.feature.rms(y=sound).mean())
    assert describe(sound, RATE)[4:12, 0].mean() == pytest.approx(expected, abs=0.1)
