"""Explanations recover the kernel, band and delay of synthetic data, and show nothing without an effect."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from evaluation.descriptors import DESCRIPTORS
from evaluation.explanations import occluded_bands, occluded_moments, temporal_response
from evaluation.signal_baselines import TrialsWithSound, bateman

RATE = 4.0  # Hz


def make_trials(songs: int, coupling: float) -> TrialsWithSound:
    """Make targets that respond to loudness alone, through the kernel of a skin conductance response."""
    generator = np.random.default_rng(0)
    descriptors = [generator.normal(size=(160, len(DESCRIPTORS))) for _ in range(songs)]
    noise = generator.normal(0, 0.5, (songs, 160))
    targets = [
        coupling * np.convolve(sound[:, 0], bateman(RATE))[:160] + noise_of_trial
        for sound, noise_of_trial in zip(descriptors, noise, strict=True)
    ]
    return TrialsWithSound(targets, [np.ones(160, bool)] * songs, list(range(songs)), descriptors, RATE)


def test_the_response_over_lag_is_the_kernel_of_the_data() -> None:
    response = temporal_response(make_trials(30, coupling=1.0))
    json.dumps(asdict(response), allow_nan=False)
    lags = len(response.seconds)
    assert response.seconds[:2] == [0.0, 0.25]
    assert lags == 33
    loudness = response.descriptors["loudness"]
    assert loudness.weight == pytest.approx(bateman(RATE)[:lags], abs=0.1)
    assert np.argmax(loudness.weight) == pytest.approx(np.argmax(bateman(RATE)), abs=1)
    low, weight, high = map(np.array, (loudness.low, loudness.weight, loudness.high))
    assert (low <= weight).all()
    assert (weight <= high).all()


def test_intervals_contain_zero_without_an_effect() -> None:
    weights = temporal_response(make_trials(30, coupling=0.0)).descriptors.values()
    contain_zero = [low <= 0 <= high for each in weights for low, high in zip(each.low, each.high, strict=True)]
    assert len(contain_zero) == 132  # 4 descriptors x 33 lags
    assert np.mean(contain_zero) > 0.9  # 95 % are expected


def third_feature_a_second_ago(sounds: list[np.ndarray]) -> list[np.ndarray]:
    """Predict the third feature of four frames before."""
    return [np.concatenate([np.zeros(4), sound[:-4, 2]]) for sound in sounds]


def make_sounds(count: int) -> list[np.ndarray]:
    """Make sounds (T, 8) of noise."""
    generator = np.random.default_rng(1)
    return [generator.normal(size=(80 + number, 8)).astype(np.float32) for number in range(count)]


def test_only_the_band_that_the_model_uses_has_a_loss() -> None:
    sounds = make_sounds(12)
    targets = third_feature_a_second_ago(sounds)
    masks = [np.ones(len(target), bool) for target in targets]
    songs, listeners = [f"{n // 2}" for n in range(12)], [f"{n % 2}" for n in range(12)]
    fill = np.zeros(8, np.float32)
    names = [f"{100 * n} Hz" for n in range(8)]
    bands = occluded_bands(third_feature_a_second_ago, sounds, fill, names, targets, masks, songs, listeners, "both")
    json.dumps([asdict(band) for band in bands], allow_nan=False)
    assert [(band.first, band.last) for band in bands] == [(n, n) for n in range(8)]
    assert bands[2].name == "200 Hz to 200 Hz"
    lost = [band.lost.mean for band in bands]
    assert lost[2] == pytest.approx(1.0)
    assert lost[:2] + lost[3:] == [0.0] * 7
    assert np.abs(sounds[0]).min() > 0  # the input sounds were not modified


def test_an_occluded_moment_changes_the_prediction_after_the_delay_of_the_model() -> None:
    moments = occluded_moments(third_feature_a_second_ago, make_sounds(10), np.full(8, 9.0, np.float32), RATE)
    assert moments is not None
    json.dumps(asdict(moments), allow_nan=False)
    changed = [seconds for seconds, change in zip(moments.seconds, moments.change, strict=True) if change > 0]
    assert changed == [1.0, 1.25, 1.5, 1.75]  # the window of four frames, four frames later
    assert min(moments.seconds) < -5
    assert max(moments.windows) == 80


def test_sounds_shorter_than_a_window_have_no_curve() -> None:
    assert occluded_moments(third_feature_a_second_ago, [np.zeros((4, 8))], np.zeros(8), RATE) is None
