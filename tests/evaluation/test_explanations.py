"""Explanations find what was put in: a kernel, a band, a delay; and nothing where nothing is."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from evaluation.descriptors import DESCRIPTORS
from evaluation.explanations import occluded_bands, occluded_moments, temporal_response
from evaluation.signal_baselines import TrialsWithSound, bateman

RATE = 4.0  # Hz


def make_trials(songs: int, coupling: float) -> TrialsWithSound:
    """Skin that answers the loudness of a sound through the kernel of a response, and nothing else."""
    generator = np.random.default_rng(0)
    descriptors = [generator.normal(size=(160, len(DESCRIPTORS))) for _ in range(songs)]
    noise = generator.normal(0, 0.5, (songs, 160))
    targets = [
        coupling * np.convolve(sound[:, 0], bateman(RATE))[:160] + own
        for sound, own in zip(descriptors, noise, strict=True)
    ]
    return TrialsWithSound(targets, [np.ones(160, bool)] * songs, list(range(songs)), descriptors, RATE)


def test_the_response_over_lag_is_the_kernel_that_was_put_in() -> None:
    found = temporal_response(make_trials(30, coupling=1.0))
    json.dumps(asdict(found), allow_nan=False)
    lags = len(found.seconds)
    assert found.seconds[:2] == [0.0, 0.25]
    assert lags == 33
    loudness = found.descriptors["loudness"]
    assert loudness.weight == pytest.approx(bateman(RATE)[:lags], abs=0.1)
    assert np.argmax(loudness.weight) == pytest.approx(np.argmax(bateman(RATE)), abs=1)
    low, weight, high = map(np.array, (loudness.low, loudness.weight, loudness.high))
    assert (low <= weight).all()
    assert (weight <= high).all()


def test_intervals_of_what_has_no_influence_hold_zero() -> None:
    """About 95 % of them do; 4 descriptors x 33 lags, so that 90 % is a loose bound."""
    found = temporal_response(make_trials(30, coupling=0.0)).descriptors.values()
    held = [low <= 0 <= high for each in found for low, high in zip(each.low, each.high, strict=True)]
    assert len(held) == 132
    assert np.mean(held) > 0.9


def third_feature_a_second_ago(sounds: list[np.ndarray]) -> list[np.ndarray]:
    """A model that says what the third feature was four frames before."""
    return [np.concatenate([np.zeros(4), sound[:-4, 2]]) for sound in sounds]


def make_sounds(count: int) -> list[np.ndarray]:
    """Sounds (T, 8) of noise."""
    generator = np.random.default_rng(1)
    return [generator.normal(size=(80 + number, 8)).astype(np.float32) for number in range(count)]


def test_the_band_that_a_model_listens_to_is_found_and_the_others_cost_nothing() -> None:
    sounds = make_sounds(12)
    targets = third_feature_a_second_ago(sounds)
    masks = [np.ones(len(target), bool) for target in targets]
    songs, listeners = [f"{n // 2}" for n in range(12)], [f"{n % 2}" for n in range(12)]
    fill = np.zeros(8, np.float32)
    names = [f"{100 * n} Hz" for n in range(8)]
    found = occluded_bands(third_feature_a_second_ago, sounds, fill, names, targets, masks, songs, listeners, "both")
    json.dumps([asdict(band) for band in found], allow_nan=False)
    assert [(band.first, band.last) for band in found] == [(n, n) for n in range(8)]
    assert found[2].name == "200 Hz to 200 Hz"
    lost = [band.lost.mean for band in found]
    assert lost[2] == pytest.approx(1.0)
    assert lost[:2] + lost[3:] == [0.0] * 7
    assert np.abs(sounds[0]).min() > 0  # the sounds themselves are as they were


def test_a_missing_moment_is_missed_after_the_delay_of_the_model_and_at_no_other_time() -> None:
    found = occluded_moments(third_feature_a_second_ago, make_sounds(10), np.full(8, 9.0, np.float32), RATE)
    assert found is not None
    json.dumps(asdict(found), allow_nan=False)
    changed = [seconds for seconds, change in zip(found.seconds, found.change, strict=True) if change > 0]
    assert changed == [1.0, 1.25, 1.5, 1.75]  # the window of four frames, four frames later
    assert min(found.seconds) < -5
    assert max(found.windows) == 80


def test_sounds_shorter_than_a_moment_have_no_curve() -> None:
    assert occluded_moments(third_feature_a_second_ago, [np.zeros((4, 8))], np.zeros(8), RATE) is None
