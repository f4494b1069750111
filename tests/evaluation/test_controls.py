"""Controls: mismatched sound tells music from time, and the ceiling tells how far listeners agree."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from evaluation.controls import agreement, detrended_correlation, mismatched_audio
from evaluation.verdict import decide


def smooth(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Slow random curves of unit spread, as skin conductance is."""
    curves = gaussian_filter1d(generator.normal(size=shape), 6, axis=-1)
    return curves / curves.std(axis=-1, keepdims=True)


def make_trials(
    songs: int, listeners: int, coupling: float, onset: float, seed: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """What a model predicts of each song, and trials that share `coupling` with it and `onset` with each other.

    The model knows its song and the response to any beginning; the skin has both, and a life of its own.
    """
    generator = np.random.default_rng(seed)
    lengths = generator.integers(90, 160, songs)
    beginning = np.exp(-np.arange(160) / 20)
    of_songs = [smooth(generator, length) + onset * beginning[:length] for length in lengths]
    of = np.repeat(np.arange(songs), listeners)
    mask = np.arange(160) < lengths[of][:, None]
    targets = smooth(generator, len(of), 160) + onset * beginning
    for trial, song in enumerate(of):
        targets[trial, : lengths[song]] += coupling * (of_songs[song] - onset * beginning[: lengths[song]])
    return of_songs, of, np.where(mask, targets, 0), mask


def test_a_real_effect_is_found() -> None:
    null = mismatched_audio(*make_trials(12, 5, coupling=0.7, onset=0.0, seed=0))
    assert null.p <= 0.002
    assert null.score > null.high
    assert null.score > null.histogram.edges[-1]


def test_a_model_that_only_knows_the_time_since_onset_is_not_taken_for_an_effect() -> None:
    trials = [make_trials(10, 4, coupling=0.0, onset=6.0, seed=seed) for seed in range(40)]
    nulls = [mismatched_audio(*each, permutations=199) for each in trials]
    assert np.mean([null.score for null in nulls]) > 0.2  # it scores well, with any sound
    assert sum(null.p < 0.05 for null in nulls) <= 6  # of 40 at a level of 0.05: more has a chance below 2 %


def test_without_an_effect_p_is_uniform() -> None:
    """At a level of 0.05, 200 sets without an effect give 4 to 18 false alarms with 98 % probability."""
    p = [mismatched_audio(*make_trials(8, 3, 0.0, 0.5, seed), permutations=199).p for seed in range(200)]
    assert 4 <= sum(value < 0.05 for value in p) <= 18
    assert 0.4 < np.mean(p) < 0.6


def test_one_song_has_nothing_to_be_mismatched_with() -> None:
    null = mismatched_audio(*make_trials(1, 4, coupling=1.0, onset=0.0, seed=0))
    assert null.p == 1


def test_trials_without_a_frame_that_counts_change_nothing() -> None:
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
    np.testing.assert_allclose(scores[:3], [1, -1, 0], atol=1e-9)  # a straight prediction has no shape: 0
    assert np.isnan(scores[3])  # a straight target has none to be predicted


def test_listeners_who_agree_make_a_high_ceiling_and_others_none() -> None:
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


def test_a_lone_listener_has_no_ceiling_and_is_not_counted() -> None:
    generator = np.random.default_rng(1)
    found = agreement(np.array([0, 1, 1]), smooth(generator, 3, 80), np.ones((3, 80), bool))
    assert np.isnan(found.leave_one_out[0])
    assert np.isfinite(found.leave_one_out[1:]).all()
    assert found.split_half is None
    assert found.split_half_songs == 0


@pytest.mark.parametrize(
    ("gain_low", "p", "permutations", "songs", "expected", "missing"),
    [
        (0.01, 0.04, 199, 6, "effect", ""),
        (0.0, 0.01, 999, 9, "no effect", "may be nothing"),
        (0.2, 0.05, 999, 9, "no effect", "p = 0.050"),
        (0.2, 0.001, 198, 9, "no effect", "fewer than 199"),
        (0.2, 0.001, 999, 5, "no effect", "5 songs are fewer than 6"),
        (None, 0.001, 999, 9, "no effect", "no interval"),
        (0.2, None, 999, 9, "no effect", "no other song"),
        (float("nan"), 0.001, 999, 9, "no effect", "may be nothing"),
    ],
)
def test_the_rule(
    gain_low: float | None, p: float | None, permutations: int, songs: int, expected: str, missing: str
) -> None:
    verdict = decide(gain_low, p, permutations, songs)
    assert verdict.verdict == expected
    assert missing in " ".join(verdict.missing)


def test_controls_work_at_the_size_of_pmemo() -> None:
    trials = make_trials(794, 10, coupling=0.1, onset=1.0, seed=0)
    null = mismatched_audio(*trials, permutations=999)
    agreement(trials[1], trials[2], trials[3])
    assert null.permutations == 999
