"""Controls: mismatched sound separates effects of music from effects of time, and the ceiling measures agreement."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from evaluation.controls import agreement, detrended_correlation, mismatched_audio
from evaluation.verdict import decide


def smooth(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Return slow random curves of unit variance, similar to skin conductance."""
    curves = gaussian_filter1d(generator.normal(size=shape), 6, axis=-1)
    return curves / curves.std(axis=-1, keepdims=True)


def make_trials(
    songs: int, listeners: int, coupling: float, onset: float, seed: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions per song, the song of each trial, targets and masks.

    Args:
        coupling: how much of its song's prediction each target contains.
        onset: size of a response to the start of a song, the same in all predictions and targets.
    """
    generator = np.random.default_rng(seed)
    lengths = generator.integers(90, 160, songs)
    start = np.exp(-np.arange(160) / 20)
    of_songs = [smooth(generator, length) + onset * start[:length] for length in lengths]
    song_of_trial = np.repeat(np.arange(songs), listeners)
    mask = np.arange(160) < lengths[song_of_trial][:, None]
    targets = smooth(generator, len(song_of_trial), 160) + onset * start
    for trial, song in enumerate(song_of_trial):
        targets[trial, : lengths[song]] += coupling * (of_songs[song] - onset * start[: lengths[song]])
    return of_songs, song_of_trial, np.where(mask, targets, 0), mask


def test_a_real_effect_is_detected() -> None:
    null = mismatched_audio(*make_trials(12, 5, coupling=0.7, onset=0.0, seed=0))
    assert null.p <= 0.002
    assert null.score > null.high
    assert null.score > null.histogram.edges[-1]


def test_knowing_only_the_time_since_onset_is_no_effect() -> None:
    trials = [make_trials(10, 4, coupling=0.0, onset=6.0, seed=seed) for seed in range(40)]
    nulls = [mismatched_audio(*each, permutations=199) for each in trials]
    assert np.mean([null.score for null in nulls]) > 0.2  # good scores, but with any sound
    assert sum(null.p < 0.05 for null in nulls) <= 6  # of 40 at a level of 0.05; more have a probability below 2 %


def test_without_an_effect_p_is_uniform() -> None:
    # At a level of 0.05, 200 sets without an effect give 4 to 18 false alarms with a probability of 98 %.
    p = [mismatched_audio(*make_trials(8, 3, 0.0, 0.5, seed), permutations=199).p for seed in range(200)]
    assert 4 <= sum(value < 0.05 for value in p) <= 18
    assert 0.4 < np.mean(p) < 0.6


def test_a_single_song_has_a_p_of_1() -> None:
    null = mismatched_audio(*make_trials(1, 4, coupling=1.0, onset=0.0, seed=0))
    assert null.p == 1


def test_fully_masked_trials_change_nothing() -> None:
    of_songs, songs, targets, mask = make_trials(9, 4, coupling=0.5, onset=1.0, seed=3)
    more = np.vstack([targets, np.full((3, targets.shape[1]), 1e6)])
    padded = mismatched_audio(of_songs, np.append(songs, [0, 1, 2]), more, np.vstack([mask, np.zeros((3, 160), bool)]))
    alone = mismatched_audio(of_songs, songs, targets, mask)
    assert padded.histogram.counts == alone.histogram.counts
    assert padded.histogram.edges == pytest.approx(alone.histogram.edges)
    for name in ("score", "score_of_wrong", "low", "high", "p"):
        assert getattr(padded, name) == pytest.approx(getattr(alone, name)), name


def test_correlation_after_detrending_by_hand() -> None:
    zigzag = np.array([0.0, 1, 0, 1, 0, 1, 0])
    line = np.arange(7.0)
    predictions = np.stack([zigzag + 3 * line, -zigzag, line, zigzag])
    targets = np.stack([zigzag - line, zigzag + 9 * line, zigzag, line])
    scores = detrended_correlation(predictions, targets, np.ones((4, 7), bool))
    np.testing.assert_allclose(scores[:3], [1, -1, 0], atol=1e-9)  # the third prediction is a straight line: 0
    assert np.isnan(scores[3])  # the target is a straight line


def test_the_ceiling_measures_how_far_listeners_agree() -> None:
    generator = np.random.default_rng(0)
    songs = np.repeat(np.arange(30), 8)
    shared = smooth(generator, 30, 120)[songs]
    own = smooth(generator, 240, 120)
    mask = np.ones((240, 120), bool)
    same, mixed, strangers = (agreement(songs, targets, mask) for targets in (shared, shared + own, own))
    assert np.nanmin(same.leave_one_out) == pytest.approx(1)
    assert same.split_half == pytest.approx(1)
    # Means of n listeners have signal 1 and noise 1/n: r = 1 / sqrt(2 * (1 + 1/7)) and 8 / (8 + 1)
    assert np.nanmean(mixed.leave_one_out) == pytest.approx(np.sqrt(1 / (2 * (1 + 1 / 7))), abs=0.05)
    assert mixed.split_half == pytest.approx(8 / 9, abs=0.05)
    assert abs(np.nanmean(strangers.leave_one_out)) < 0.05
    assert abs(strangers.split_half) < 0.2


def test_a_song_with_one_listener_has_no_ceiling() -> None:
    generator = np.random.default_rng(1)
    result = agreement(np.array([0, 1, 1]), smooth(generator, 3, 80), np.ones((3, 80), bool))
    assert np.isnan(result.leave_one_out[0])
    assert np.isfinite(result.leave_one_out[1:]).all()
    assert result.split_half is None
    assert result.split_half_songs == 0


@pytest.mark.parametrize(
    ("gain_low", "p", "permutations", "songs", "expected", "missing"),
    [
        (0.01, 0.04, 199, 6, "effect", ""),
        (0.0, 0.01, 999, 9, "no effect", "lower bound is 0.000"),
        (0.2, 0.05, 999, 9, "no effect", "p = 0.050"),
        (0.2, 0.001, 198, 9, "no effect", "fewer than 199"),
        (0.2, 0.001, 999, 5, "no effect", "5 songs"),
        (None, 0.001, 999, 9, "no effect", "no interval"),
        (0.2, None, 999, 9, "no effect", "only one song"),
        (float("nan"), 0.001, 999, 9, "no effect", "lower bound is nan"),
    ],
)
def test_the_rule_for_an_effect(
    gain_low: float | None, p: float | None, permutations: int, songs: int, expected: str, missing: str
) -> None:
    verdict = decide(gain_low, p, permutations, songs)
    assert verdict.verdict == expected
    assert missing in " ".join(verdict.missing)


def test_controls_run_on_data_of_the_size_of_pmemo() -> None:
    trials = make_trials(794, 10, coupling=0.1, onset=1.0, seed=0)
    null = mismatched_audio(*trials, permutations=999)
    agreement(trials[1], trials[2], trials[3])
    assert null.permutations == 999
